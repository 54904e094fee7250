//! `kapok-agent doctor` as people and programs call it.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

fn doctor(config: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let state = folder.path().join("state");
    let state = format!("state_dir = \"{}\"\n", state.display());
    // With a libvirt that isn't there.
    let libvirt = "\n[libvirt]\nuri = \"qemu+unix:///system?socket=/nowhere\"\n";
    fs::write(&file, state + config + libvirt).unwrap();
    Command::new(env!("CARGO_BIN_EXE_kapok-agent"))
        .args(["doctor", "--config"])
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_server_without_libvirt_is_not_fit() {
    let told = doctor("", &["-o", "json"]);
    assert_eq!(told.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&told.stderr), "");
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(report["condition"], "failing");
    let findings = report["findings"].as_array().unwrap();
    let of = |check: &str| findings.iter().find(|it| it["check"] == check).unwrap();
    assert_eq!(of("configuration")["condition"], "healthy");
    assert_eq!(of("libvirt")["condition"], "failing");
    assert!(
        of("libvirt")["found"]
            .as_str()
            .unwrap()
            .contains("/nowhere")
    );
    assert_eq!(of("certificate")["condition"], "degraded");
    for finding in findings {
        let healthy = finding["condition"] == "healthy";
        assert_eq!(finding.get("advice").is_none(), healthy, "{finding}");
    }

    let told = doctor("", &[]);
    assert_eq!(told.status.code(), Some(1));
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(text.starts_with("healthy   configuration"), "{text}");
    assert!(text.contains("\nfailing   libvirt"), "{text}");
}

/// It still looks at the rest.
#[test]
fn a_configuration_that_is_wrong_is_found() {
    let told = doctor("lisen = 7\n", &["--skip-guest", "-o", "json"]);
    assert_eq!(told.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    let first = &report["findings"][0];
    assert_eq!(first["condition"], "failing");
    let found = first["found"].as_str().unwrap();
    assert!(
        found.contains("agent.toml:2: lisen: unknown field"),
        "{found}"
    );
    assert!(report["findings"].as_array().unwrap().len() > 5);
}
