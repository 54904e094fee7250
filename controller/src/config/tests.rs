use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("controller.toml")).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let error = parse(text).unwrap_err();
    for part in ["controller.toml: "].iter().chain(parts) {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

/// The shipped example is sound, and its commented values are the defaults, except those that
/// have none: addresses, files of the site, and the identity provider.
#[test]
fn the_shipped_example_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/controller.toml");
    let text = fs::read_to_string(&path).unwrap();
    let default = parse("").unwrap();
    assert_eq!(Config::load(&path).unwrap(), default);
    let uncommented: String = text
        .lines()
        .filter(|line| !line.starts_with("#metrics_token_file ="))
        .map(|line| match line.strip_prefix('#') {
            Some(value) if !value.starts_with(' ') => format!("{value}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mut shown = parse(&uncommented).unwrap();
    assert_eq!(shown.advertise, "10.0.0.1:7700");
    assert_eq!(shown.https.advertise, "10.0.0.1:7780");
    assert_eq!(
        shown.policies.take().unwrap().to_str(),
        Some("/etc/kapok/policies.d")
    );
    let etcd = shown.store.etcd.take().unwrap();
    assert_eq!(etcd.endpoints.len(), 3);
    let least = parse(CLEAR_ETCD).unwrap().store.etcd.unwrap();
    assert_eq!(
        (etcd.prefix, etcd.lease, etcd.deadline),
        (least.prefix, least.lease, least.deadline)
    );
    assert_eq!(shown.oidc.take().unwrap().client_id, "kapok");
    let endpoint = shown.telemetry.otlp_endpoint.take().unwrap();
    assert_eq!(endpoint, "http://127.0.0.1:4317");
    shown.advertise.clone_from(&default.advertise);
    shown.https.advertise.clone_from(&default.https.advertise);
    assert_eq!(shown, default);
}

#[test]
fn a_laboratory_is_read() {
    let config = parse(
        r#"
        listen = "10.9.0.1:7700"
        default_vcpu_overcommit = 1.5
        [https]
        listen = "0.0.0.0:7780"
        metrics = "token"
        metrics_token_file = "/etc/kapok/metrics.token"
        [trust]
        node_life = "60s"
        [scheduler]
        goal = "spread"
        headroom = "rack"
        [timing]
        heartbeat = "500ms"
        "#,
    )
    .unwrap();
    assert_eq!(config.default_vcpu_overcommit_permille, 1500);
    assert_eq!(config.trust.node, Duration::from_mins(1));
    assert_eq!(config.trust.person, Duration::from_hours(12));
    assert_eq!(config.timing.heartbeat, Duration::from_millis(500));
    assert_eq!(config.timing.lost_after, Duration::from_secs(10));
    assert_eq!(config.advertise, "10.9.0.1:7700");
    assert_eq!(config.https.advertise, "10.9.0.1:7780");
    assert_eq!(config.https.metrics, Access::Token);
    // A port on every address is reached by this host's name.
    let host = parse("").unwrap().advertise;
    assert!(
        host.ends_with(":7700") && !host.starts_with("0.0.0.0"),
        "{host}"
    );
}

const CLEAR_ETCD: &str = "store.etcd.endpoints = [\"http://127.0.0.1:2379\"]\n";

#[test]
fn etcd_is_reached_in_the_clear_on_loopback_only() {
    let backend = "store.backend = \"etcd\"\n";
    let config = parse(&format!("{backend}{CLEAR_ETCD}")).unwrap();
    assert_eq!(config.store.backend, store::Backend::Etcd);
    // To be moved to.
    assert_eq!(
        parse(CLEAR_ETCD).unwrap().store.backend,
        store::Backend::Redb
    );
    let files = "store.etcd.ca_file = \"/ca\"\nstore.etcd.certificate_file = \"/c\"\n\
        store.etcd.key_file = \"/k\"\n";
    let at = |endpoint: &str| format!("store.etcd.endpoints = [{endpoint:?}]\n");
    parse(&(at("https://10.0.0.1:2379") + files)).unwrap();
    parse(&at("http://[::1]:2379")).unwrap();
    let key = "store.etcd.endpoints: ";
    refused(backend, &[key, "is missing"]);
    refused("store.etcd.endpoints = []", &[key, "is empty"]);
    refused(&at("http://10.0.0.1:2379"), &[key, "only loopback"]);
    refused(&at("https://10.0.0.1:2379"), &[key, "needs ca_file"]);
    refused(&at("10.0.0.1:2379"), &[key, "must begin with https://"]);
    refused(&(at("https://10.0.0.1") + files), &[key, "HOST:PORT"]);
    refused(
        &(at("http://127.0.0.1:1") + files),
        &[key, "write https://"],
    );
    let clear = |line: &str| format!("{CLEAR_ETCD}store.etcd.{line}\n");
    refused(
        &clear("prefix = \"/kapok\""),
        &["store.etcd.prefix", "slash"],
    );
    refused(
        &clear("lease = \"1s\""),
        &["store.etcd.lease: 1s", "2s to 1m"],
    );
    refused(&clear("deadline = \"1ms\""), &["store.etcd.deadline: 1ms"]);
    refused(&clear("user = \"kapok\""), &["store.etcd.password_file"]);
    let relative = files.replace("/k", "k");
    refused(
        &(at("https://10.0.0.1:2379") + &relative),
        &["store.etcd.key_file", "absolute"],
    );
    refused(&clear("members = 3"), &["unknown field `members`"]);
}

/// A file of a former version says what came in place of its keys.
#[test]
fn what_is_gone_is_explained() {
    refused(
        "insecure_listen = true",
        &["insecure_listen: is gone", "kapok-controller init"],
    );
    refused(
        "[[nodes]]\nname = \"node-1\"\naddress = \"127.0.0.1:7701\"",
        &["nodes: ", "kapok node token create", "kapok-agent join"],
    );
    refused(
        "advertise = \"http://10.0.0.1:7700\"",
        &["advertise: ", "\"HOST:PORT\""],
    );
}

#[test]
fn mistakes_are_named_with_file_and_key() {
    refused("listne = 1", &["unknown field `listne`", "line 1"]);
    refused("listen = \"here\"", &["listen", "line 1"]);
    for address in [
        "a",
        "0.0.0.0:1",
        "[::]:1",
        "a:0",
        "a:99999",
        "a:1/x",
        "u@a:1",
        ":1",
    ] {
        refused(
            &format!("advertise = {address:?}"),
            &["advertise: ", "\"HOST:PORT\""],
        );
    }
    refused("state_dir = \"x\"", &["state_dir: x must be absolute"]);
    refused(
        "max_image_bytes = \"64GB\"",
        &["max_image_bytes", "\"64GB\" is no size"],
    );
    refused(
        "max_image_bytes = \"65TiB\"",
        &["max_image_bytes: 65 TiB", "1 MiB to 64 TiB"],
    );
    refused("default_vcpu_overcommit = 65.0", &["1.0 to 64.0"]);
    refused("timing.heartbeat = \"1\"", &["heartbeat", "is no duration"]);
    refused(
        "timing.heartbeat = \"2m\"",
        &["timing.heartbeat: 2m", "100ms to 1m"],
    );
    refused(
        "timing.lost_after = \"2s\"",
        &["timing.lost_after: 2s", "3s to 1h"],
    );
    refused(
        "trust.node_life = \"5s\"",
        &["trust.node_life: 5s", "10s to "],
    );
    refused(
        "trust.person_life = \"91days\"",
        &["trust.person_life: ", "to "],
    );
    refused("trust.ca_life = \"1y\"", &["unknown field `ca_life`"]);
    refused(
        "audit.retention = \"179d\"",
        &["audit.retention: ", "is out of its limits"],
    );
    refused(
        "limits.requests_per_second = 0",
        &["limits.requests_per_second: 0", "1 to 100000"],
    );
    refused("health.quiet = \"0s\"", &["health.quiet: 0s", "1s to 1day"]);
    refused(
        "health.brake_percent = 0",
        &["health.brake_percent: 0", "1 to 100"],
    );
    refused("health.drain = \"degraded\"", &["health.drain: must be"]);
    refused(
        "health.quarantine = \"off\"\nhealth.drain = \"failing\"",
        &["health.drain: ", "health.quarantine is \"off\""],
    );
    refused("health.quarantine = \"on\"", &["unknown variant `on`"]);
    refused("scheduler.goal = \"stack\"", &["unknown variant `stack`"]);
    refused("scheduler.level = 1", &["unknown field `level`"]);
    refused("https.healthz = \"token\"", &["https.healthz: must be"]);
    refused(
        "https.metrics = \"token\"",
        &["https.metrics_token_file: is missing"],
    );
    refused(
        "https.metrics_token_file = \"/x\"",
        &["https.metrics_token_file: is for"],
    );
    refused("https.metrics = \"all\"", &["metrics", "unknown variant"]);
    let absent = Config::load(Path::new("/nonexistent/controller.toml")).unwrap_err();
    assert!(absent.to_string().contains("name another with --config"));
}
