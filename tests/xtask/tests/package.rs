//! The packages can be made, and hold what they should: `cargo xtask package` is its own judge
//! (lintian, the files that people look for, every shipped configuration read), and this runs it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, which say why they skip"
)]

use std::process::Command;

use kapok_lab::{packages, places, run};

/// With the build that the other suites make: what is packed is the same.
#[test]
fn packages_are_made_and_sound() {
    let missing = packages::missing(packages::PACKAGE).unwrap_or_default();
    let cargo_deb = places::target().join("tools/bin/cargo-deb");
    if !missing.is_empty() || !cargo_deb.exists() || !run::has_program("dpkg-deb") {
        println!("SKIP packages: cargo xtask setup --dev installs lintian and cargo-deb");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["package", "--profile", "dev"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("lintian: no errors"), "{said}");
    for name in [
        "kapok_",
        "kapok-agent_",
        "kapok-controller_",
        "kapok-helper_",
    ] {
        assert!(said.contains(&format!("/{name}")), "no {name} in {said}");
    }
}
