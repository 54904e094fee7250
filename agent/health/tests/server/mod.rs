//! The server of `tree.toml`, made in a temporary folder.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;
use toml::{Table, Value};

/// Makes the tree; `text` may change what a file holds.
pub(crate) fn make(text: impl Fn(&Path, &str) -> String) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let tree: Table = toml::from_str(include_str!("tree.toml")).unwrap();
    for (folder, files) in &tree {
        for (file, value) in files.as_table().unwrap() {
            let path = Path::new(folder).join(file);
            let place = root.path().join(&path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            match value {
                Value::String(content) => fs::write(place, text(&path, content)).unwrap(),
                link => symlink(link["link"].as_str().unwrap(), place).unwrap(),
            }
        }
    }
    root
}

/// As it stands.
pub(crate) fn sound() -> TempDir {
    make(|_, text| format!("{text}\n"))
}
