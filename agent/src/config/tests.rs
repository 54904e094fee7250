//! The shipped file, and what is refused.

use super::*;

fn refused(text: &str) -> String {
    Config::parse(text, Path::new("agent.toml"))
        .unwrap_err()
        .to_string()
}

/// The shipped file parses, also with every commented key in force, and states the defaults.
#[test]
fn the_shipped_file_states_the_defaults() {
    let file = Path::new("agent.toml");
    assert_eq!(Config::parse(SHIPPED, file).unwrap(), Config::default());
    let uncommented: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                rest.to_owned() + "\n"
            }
            _ => line.to_owned() + "\n",
        })
        .collect();
    let all = Config::parse(&uncommented, file).unwrap();
    let mut expected = Config::default();
    expected
        .libvirt
        .probe_kernel
        .clone_from(&all.libvirt.probe_kernel);
    expected
        .libvirt
        .probe_initrd
        .clone_from(&all.libvirt.probe_initrd);
    expected.http.token_file.clone_from(&all.http.token_file);
    let endpoint = &all.telemetry.otlp_endpoint;
    expected.telemetry.otlp_endpoint.clone_from(endpoint);
    assert!(endpoint.is_some());
    assert_eq!(all, expected);
    assert!(all.libvirt.probe_kernel.is_some());
    // Every key is shown.
    for key in [
        "listen",
        "state_dir",
        "reserved_memory_mib",
        "dedicated_cpus",
        "site_power_loss_start",
        "http.listen",
        "http.healthz",
        "http.metrics",
        "http.token_file",
        "metrics.sample_every",
        "metrics.max_series",
        "metrics.compat",
        "libvirt.uri",
        "libvirt.pool",
        "libvirt.pool_shared",
        "libvirt.network",
        "libvirt.networks",
        "libvirt.virt_type",
        "libvirt.probe_kernel",
        "libvirt.probe_initrd",
        "libvirt.probe_seconds",
        "timing.call_deadline",
        "timing.shutdown_grace",
        "timing.observe_every",
        "health.off",
        "health.helper",
        "health.every",
        "health.deadline",
        "health.filesystems",
        "health.tools",
        "health.ipmi.arguments",
        "health.probe.folder",
        "telemetry.otlp_endpoint",
        "telemetry.sample_ratio",
    ] {
        assert_ne!(line_of(&uncommented, key), 0, "{key} isn't shown");
    }
}

#[test]
fn errors_name_file_line_and_key() {
    let text = refused("[libvirt]\nuri = \"qemu:///system\"\nemulator = \"/tmp/x\"\n");
    assert!(text.starts_with("agent.toml:3: "), "{text}");
    assert!(
        text.contains("emulator") && text.contains("probe_kernel"),
        "{text}"
    );
    let text = refused("listen = \"[::1]:1\"\n[timing]\ncall_deadline = \"soon\"\n");
    assert!(
        text.starts_with("agent.toml:3: timing.call_deadline: \"soon\" isn't a duration"),
        "{text}"
    );
    let text = refused("reserved_memory_mib = -1\n");
    assert!(
        text.starts_with("agent.toml:1: reserved_memory_mib: "),
        "{text}"
    );
    let text = refused("\n[timing]\ncall_deadline = \"0s\"\n");
    assert_eq!(
        text,
        "agent.toml:3: timing.call_deadline: must be 1 s to 600 s"
    );
    let text = refused("[http]\nmetrics = \"token\"\n");
    assert!(text.contains("token_file"), "{text}");
    let text = refused("[http]\nmetrics = \"nobody\"\n");
    assert!(text.starts_with("agent.toml:2: http.metrics: "), "{text}");
    let text = refused("[metrics]\ncompat = [\"zabbix\"]\n");
    assert!(text.starts_with("agent.toml:2: metrics.compat: "), "{text}");
    let text = refused("listen = \n");
    assert!(text.starts_with("agent.toml:1: "), "{text}");
    let text = refused("[libvirt]\nprobe_kernel = \"/boot/vmlinuz\"\n");
    assert!(
        text.starts_with("agent.toml:2: libvirt.probe_kernel: needs"),
        "{text}"
    );
    let text = refused("[health]\noff = [\"smartclt\"]\n");
    assert!(
        text.starts_with("agent.toml:2: health.off: \"smartclt\" is no source"),
        "{text}"
    );
    let text = refused("[health.rules.FAN_SLOWLY]\nenabled = false\n");
    assert!(text.contains("health.rules.FAN_SLOWLY"), "{text}");
    assert!(
        Config::load(Path::new("/nonexistent/agent.toml"))
            .unwrap_err()
            .to_string()
            .starts_with("/nonexistent/agent.toml")
    );
}

/// There is no way to listen without TLS: the key of old is refused like any other unknown one.
#[test]
fn there_is_no_plaintext() {
    let text = refused("insecure_listen = true\n");
    assert!(text.contains("insecure_listen"), "{text}");
}

/// What single instances can have, as the shipped file shows it, and what is wrong in it.
#[test]
fn equipment_is_offered_by_name() {
    let shown: String = SHIPPED
        .lines()
        .skip_while(|line| *line != "# [[devices]]")
        .map_while(|line| line.strip_prefix("# "))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let text = format!("dedicated_cpus = \"4-15,20\"\n{shown}[libvirt]\nnetworks = [\"dmz\"]\n");
    let offering = Config::parse(&text, Path::new("agent.toml"))
        .unwrap()
        .offering();
    assert_eq!(offering.dedicated.to_string(), "4-15,20");
    assert_eq!(offering.networks, ["dmz".parse().unwrap()].into());
    let [gpu] = &offering.devices[..] else {
        panic!("{offering:?}");
    };
    assert_eq!(gpu.class.as_str(), "gpu-a100");
    assert_eq!((gpu.vendor, gpu.product), (0x10de, 0x20b0));

    let text = refused("dedicated_cpus = \"4-\"\n");
    assert!(
        text.starts_with("agent.toml:1: dedicated_cpus: \"4-\" isn't a list of threads"),
        "{text}"
    );
    let device = |class: &str, vendor: &str| {
        format!("[[devices]]\nclass = \"{class}\"\nvendor = \"{vendor}\"\nproduct = \"20b0\"\n")
    };
    let text = refused(&device("gpu", "0x10de"));
    assert!(text.starts_with("agent.toml:3: devices.vendor: "), "{text}");
    let text = refused(&device("GPU A100", "10de"));
    assert!(text.starts_with("agent.toml:2: devices.class: "), "{text}");
}
