//! Python's grpcio, with stubs that it makes itself from our `.proto` files.

use std::process::Command;

use kapok_lab::places;

#[test]
fn a_python_client_creates_watches_and_deletes() {
    let python = places::target().join("venv/bin/python");
    if !python.exists() {
        println!(
            "SKIP the Python client: {} is missing; `cargo xtask setup --dev` makes it",
            python.display()
        );
        return;
    }
    let fabric = crate::processes();
    let root = places::workspace();
    let output = Command::new(python)
        .arg(root.join("tests/foreign/client.py"))
        .arg(root.join("proto"))
        .arg(fabric.folder().join("stubs"))
        .arg(fabric.kapok().server())
        .arg(fabric.kapok().credential())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("all done"),
        "{said}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        fabric.last_words()
    );
}
