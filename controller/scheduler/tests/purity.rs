//! The scheduler stays pure: no runtime, no wire, no clock among its dependencies.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, path::Path, process::Command};

/// Names of the packages that the scheduler links, up to `depth` steps away.
fn linked(depth: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--package",
            "kapok-scheduler",
        ])
        .args([
            "--edges", "normal", "--prefix", "none", "--format", "{lib}", "--depth", depth,
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect()
}

#[test]
fn no_runtime_and_no_wire_are_linked() {
    let all = linked("99");
    assert!(
        all.contains("kapok_types") && all.contains("imbl"),
        "the list is read wrongly: {all:?}"
    );
    for banned in [
        "tokio", "tonic", "prost", "hyper", "mio", "futures", "redb", "virt_sys",
    ] {
        assert!(!all.contains(banned), "{banned} is linked: {all:?}");
    }
}

/// A new direct dependency is a decision: this list changes with it.
#[test]
fn direct_dependencies_are_known() {
    let expected = [
        "good_lp",
        "imbl",
        "kapok_scheduler",
        "kapok_types",
        "microlp",
        "serde",
        "thiserror",
    ];
    assert_eq!(linked("1"), expected.map(String::from).into());
}

#[test]
fn no_source_names_the_outside() {
    let mut sources = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut read = 0;
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        read += 1;
        let outside = [
            "std::time",
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "Env",
            "Instant",
        ];
        for word in outside {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
    assert!(read >= 8, "only {read} files were read");
}
