//! Two servers as trees of files: what is read of each, as goldens.

use std::{os::unix::fs::symlink, path::Path};

use super::*;

/// A server's file system, written from a text: "PATH = CONTENT", "PATH -> TARGET", "PATH 0x HEX".
fn tree(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let place = |path: &str| {
            let place = root.path().join(path.trim().trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            place
        };
        if let Some((path, target)) = line.split_once(" -> ") {
            let target = root.path().join(target.trim().trim_start_matches('/'));
            fs::create_dir_all(&target).unwrap();
            symlink(target, place(path)).unwrap();
        } else if let Some((path, hex)) = line.split_once(" 0x ") {
            let byte = |pair: &str| u8::from_str_radix(pair, 16).unwrap();
            let bytes: Vec<u8> = hex.split_whitespace().map(byte).collect();
            fs::write(place(path), bytes).unwrap();
        } else {
            let (path, content) = line.split_once(" = ").expect(line);
            fs::write(
                place(path),
                content.replace("\\n", "\n").replace("\\t", "\t") + "\n",
            )
            .unwrap();
        }
    }
    root
}

async fn read(host: &Host) -> String {
    serde_json::to_string_pretty(&Inventory::read(host).await).unwrap()
}

#[tokio::test]
async fn a_server_with_two_sockets() {
    let root = tree(include_str!("fixtures/two_sockets.txt"));
    let ethtool = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inventory/fixtures/ethtool");
    let host = Host::new(root.path()).with_tool("ethtool", ethtool);
    insta::assert_snapshot!(read(&host).await);
}

#[tokio::test]
async fn a_small_virtual_machine() {
    let root = tree(include_str!("fixtures/small_vm.txt"));
    insta::assert_snapshot!(read(&Host::new(root.path())).await);
}

/// Nothing is there: nothing is wrong, and nothing is made up.
#[tokio::test]
async fn an_empty_tree() {
    let root = tempfile::tempdir().unwrap();
    let inventory = Inventory::read(&Host::new(root.path())).await;
    assert_eq!(inventory.unreadable, BTreeMap::new());
    assert!(inventory.parts.lines.is_empty());
}
