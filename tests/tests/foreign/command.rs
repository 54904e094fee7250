//! `kapok` as people use it, end to end.

use std::{
    fs::File,
    process::Output,
    time::{Duration, Instant},
};

use kapok_tests::process::Processes;
use serde_json::Value;

#[track_caller]
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[track_caller]
fn json(fabric: &Processes, line: &str) -> Vec<Value> {
    let text = said(&fabric.kapok(&format!("{line} -o json")).output().unwrap());
    match serde_json::from_str(&text).unwrap() {
        Value::Array(items) => items,
        other => vec![other],
    }
}

fn wait_for_nodes(fabric: &Processes) {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let nodes = json(fabric, "node ls");
        if nodes.len() == 4 && nodes.iter().all(|node| node["state"] == "ready") {
            return;
        }
        assert!(Instant::now() < end, "{nodes:?}\n{}", fabric.last_words());
        #[expect(
            clippy::disallowed_methods,
            reason = "a poll within a bound, in real time"
        )]
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_command_goes_the_whole_way() {
    let fabric = crate::processes();
    wait_for_nodes(&fabric);
    let image = fabric.folder().join("image.raw");
    File::create(&image).unwrap().set_len(4 << 20).unwrap();
    said(
        &fabric
            .kapok(&format!("image import {} --name blank", image.display()))
            .output()
            .unwrap(),
    );
    assert_eq!(json(&fabric, "image ls")[0]["name"], "blank");

    for name in ["web", "db"] {
        let create = format!("instance create {name} --image blank --memory 256MiB --wait");
        said(&fabric.kapok(&create).output().unwrap());
    }
    let instances = json(&fabric, "instance ls");
    assert_eq!(instances.len(), 2);
    for instance in &instances {
        assert_eq!(
            (&instance["phase"], &instance["power"]),
            (&"running".into(), &"running".into())
        );
    }
    let table = said(&fabric.kapok("instance ls").output().unwrap());
    assert!(
        table.contains("web") && table.contains("running"),
        "{table}"
    );

    let explained = said(&fabric.kapok("instance explain web").output().unwrap());
    assert!(
        (1..=4).all(|number| explained.contains(&format!("sim-{number}"))),
        "{explained}"
    );
    let refused = fabric
        .kapok("instance create big --image blank --memory 1024GiB")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        (1..=4).all(|number| why.contains(&format!("sim-{number}"))),
        "{why}"
    );
    assert_eq!(
        fabric
            .kapok("instance show nothing")
            .output()
            .unwrap()
            .status
            .code(),
        Some(3)
    );

    said(&fabric.kapok("instance stop web --wait").output().unwrap());
    assert_eq!(json(&fabric, "instance show web")[0]["phase"], "stopped");
    said(
        &fabric
            .kapok("instance rm web db --yes --wait")
            .output()
            .unwrap(),
    );
    assert_eq!(json(&fabric, "instance ls"), Vec::<Value>::new());
    assert!(
        json(&fabric, "op ls")
            .iter()
            .all(|operation| operation["state"] == "succeeded")
    );
    let events = said(&fabric.kapok("events").output().unwrap());
    for word in ["web", "db", "controller leads"] {
        assert!(events.contains(word), "{events}");
    }
}
