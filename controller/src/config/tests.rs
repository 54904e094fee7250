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

/// The shipped example is sound, and its commented values are the defaults.
#[test]
fn the_shipped_example_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/controller.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(Config::load(&path).unwrap(), parse("").unwrap());
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(value) if !value.starts_with(' ') => format!("{value}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let shown = parse(&uncommented).unwrap();
    assert_eq!(shown.nodes.len(), 1);
    assert_eq!(
        Config {
            nodes: Vec::new(),
            ..shown
        },
        parse("").unwrap()
    );
}

#[test]
fn a_laboratory_is_read() {
    let config = parse(
        r#"
        listen = "0.0.0.0:7700"
        insecure_listen = true
        advertise = "http://10.9.0.1:7700"
        [[nodes]]
        name = "node-1"
        address = "10.9.0.2:7701"
        vcpu_overcommit = 1.5
        [[nodes]]
        name = "node-2"
        address = "[fd00::2]:7701"
        [timing]
        heartbeat = "500ms"
        "#,
    )
    .unwrap();
    let ratios: Vec<_> = config
        .nodes
        .iter()
        .map(|node| node.vcpu_overcommit_permille)
        .collect();
    assert_eq!(ratios, [1500, 4000]);
    assert_eq!(config.timing.heartbeat, Duration::from_millis(500));
    assert_eq!(config.timing.lost_after, Duration::from_secs(10));
    assert_eq!(config.advertise, "http://10.9.0.1:7700");
}

#[test]
fn mistakes_are_named_with_file_and_key() {
    refused("listne = 1", &["unknown field `listne`", "line 1"]);
    refused("listen = \"here\"", &["listen", "line 1"]);
    refused(
        "listen = \"10.0.0.1:7700\"",
        &["listen: 10.0.0.1:7700", "insecure_listen = true"],
    );
    refused(
        "insecure_listen = true\nlisten = \"0.0.0.0:7700\"",
        &["advertise: is missing"],
    );
    for url in [
        "https://a:1",
        "http://a",
        "http://a:1/x",
        "a:1",
        "http://u@a:1",
    ] {
        refused(
            &format!("advertise = {url:?}"),
            &["advertise: ", "http://HOST:PORT"],
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
    refused("timing.heartbeat = \"1\"", &["heartbeat", "is no duration"]);
    refused(
        "timing.heartbeat = \"2m\"",
        &["timing.heartbeat: 2m", "100ms to 1m"],
    );
    refused(
        "timing.lost_after = \"2s\"",
        &["timing.lost_after: 2s", "3s to 1h"],
    );
    let node = |rest: &str| format!("[[nodes]]\nname = \"node-1\"\n{rest}\n");
    refused(
        &node("address = \"10.0.0.1:7701\""),
        &["nodes.node-1.address", "insecure_listen"],
    );
    for address in [
        "x",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:1/x",
        "u@localhost:1",
    ] {
        refused(&node(&format!("address = {address:?}")), &["\"HOST:PORT\""]);
    }
    refused(
        &node("address = \"localhost:1\"\nvcpu_overcommit = 65.0"),
        &["0.1 to 64.0"],
    );
    let twice = |other: &str| node("address = \"localhost:1\"") + other;
    refused(
        &twice(&node("address = \"localhost:2\"")),
        &["nodes.node-1: is there twice"],
    );
    refused(
        &twice("[[nodes]]\nname = \"node-2\"\naddress = \"localhost:1\""),
        &["nodes.node-2.address: localhost:1 is another node's"],
    );
    refused(
        "[[nodes]]\nname = \"Node 1\"\naddress = \"localhost:1\"",
        &["name", "hyphen"],
    );
    let absent = Config::load(Path::new("/nonexistent/controller.toml")).unwrap_err();
    assert!(absent.to_string().contains("name another with --config"));
}
