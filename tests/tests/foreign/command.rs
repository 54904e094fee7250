//! `kapok` as people use it, end to end.

use std::{fs::File, process::Output};

use kapok_lab::loopback::Loopback;
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
fn kapok(fabric: &Loopback, line: &str) -> Output {
    let words: Vec<&str> = line.split(' ').collect();
    fabric.kapok().output(&words).unwrap()
}

#[track_caller]
fn json(fabric: &Loopback, line: &str) -> Vec<Value> {
    let text = said(&kapok(fabric, &format!("{line} -o json")));
    match serde_json::from_str(&text).unwrap() {
        Value::Array(items) => items,
        other => vec![other],
    }
}

#[test]
fn the_command_goes_the_whole_way() {
    let fabric = crate::processes();
    assert_eq!(json(&fabric, "node ls").len(), 4);
    let image = fabric.folder().join("image.raw");
    File::create(&image).unwrap().set_len(4 << 20).unwrap();
    said(&kapok(
        &fabric,
        &format!("image import {} --name blank", image.display()),
    ));
    assert_eq!(json(&fabric, "image ls")[0]["name"], "blank");

    for name in ["web", "db"] {
        let create = format!("instance create {name} --image blank --memory 256MiB --wait");
        said(&kapok(&fabric, &create));
    }
    let instances = json(&fabric, "instance ls");
    assert_eq!(instances.len(), 2);
    for instance in &instances {
        assert_eq!(
            (&instance["phase"], &instance["power"]),
            (&"running".into(), &"running".into())
        );
    }
    let table = said(&kapok(&fabric, "instance ls"));
    assert!(
        table.contains("web") && table.contains("running"),
        "{table}"
    );

    let explained = said(&kapok(&fabric, "instance explain web"));
    assert!(
        (1..=4).all(|number| explained.contains(&format!("sim-{number}"))),
        "{explained}"
    );
    let refused = kapok(
        &fabric,
        "instance create big --image blank --memory 1024GiB",
    );
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        (1..=4).all(|number| why.contains(&format!("sim-{number}"))),
        "{why}"
    );
    assert_eq!(
        kapok(&fabric, "instance show nothing").status.code(),
        Some(3)
    );

    said(&kapok(&fabric, "instance stop web --wait"));
    assert_eq!(json(&fabric, "instance show web")[0]["phase"], "stopped");
    said(&kapok(&fabric, "instance rm web db --yes --wait"));
    assert_eq!(json(&fabric, "instance ls"), Vec::<Value>::new());
    assert!(
        json(&fabric, "op ls")
            .iter()
            .all(|operation| operation["state"] == "succeeded")
    );
    let events = said(&kapok(&fabric, "events"));
    for word in ["web", "db", "controller leads"] {
        assert!(events.contains(word), "{events}");
    }
}
