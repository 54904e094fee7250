//! What must build without libvirt does.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;

/// The names of all crates that a package is built from.
fn crates(arguments: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(arguments)
        .current_dir(root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn links_libvirt(crates: &[String]) -> bool {
    crates
        .iter()
        .any(|name| name == "virt" || name == "virt-sys")
}

#[test]
fn xtask_links_neither_libvirt_nor_the_agent() {
    let crates = crates(&["-p", "xtask"]);
    assert!(crates.iter().any(|name| name == "kapok-lab"), "{crates:?}");
    assert!(!links_libvirt(&crates), "{crates:?}");
    assert!(
        !crates.iter().any(|name| name == "kapok-agent"),
        "{crates:?}"
    );
}

#[test]
fn the_simulated_build_links_no_libvirt() {
    let agent = ["-p", "kapok-agent", "--no-default-features"];
    assert!(!links_libvirt(&crates(&agent)));
    // The same look does find it where it is.
    assert!(links_libvirt(&crates(&["-p", "kapok-agent"])));
}
