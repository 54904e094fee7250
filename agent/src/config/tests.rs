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
        "libvirt.virt_type",
        "libvirt.probe_kernel",
        "libvirt.probe_initrd",
        "libvirt.probe_seconds",
        "timing.call_deadline",
        "timing.shutdown_grace",
        "timing.observe_every",
        "health.off",
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
