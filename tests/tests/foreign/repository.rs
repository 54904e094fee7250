//! What holds of the repository itself.

use std::process::Command;

use kapok_lab::places;

/// The names of all crates that a package is built from.
fn crates(arguments: &[&str]) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(arguments)
        .current_dir(places::workspace())
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

#[test]
fn what_needs_no_libvirt_links_none() {
    let links = |crates: &[String]| {
        crates
            .iter()
            .any(|name| name == "virt" || name == "virt-sys")
    };
    for simulated in [
        &["-p", "xtask"][..],
        &["-p", "kapok-agent", "--no-default-features"],
        &["-p", "kapok-tests", "--no-default-features"],
        &["-p", "kapok-controller"],
        &["-p", "kapok"],
    ] {
        assert!(!links(&crates(simulated)), "{simulated:?} links libvirt");
    }
    let of_xtask = crates(&["-p", "xtask"]);
    assert!(
        !of_xtask.iter().any(|name| name == "kapok-agent"),
        "xtask links the agent"
    );
    // The same look does find it where it is.
    assert!(links(&crates(&["-p", "kapok-agent"])));
}

#[test]
fn buf_has_nothing_to_say() {
    let buf = places::target().join("buf/node_modules/.bin/buf");
    if !buf.exists() {
        println!(
            "SKIP buf lint: {} is missing; `cargo xtask setup --dev` brings it",
            buf.display()
        );
        return;
    }
    let output = Command::new(buf)
        .arg("lint")
        .current_dir(places::workspace().join("proto"))
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
