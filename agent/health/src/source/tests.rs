//! What the sources' tests share: small trees, readings as text, and garbage.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use proptest::{prelude::*, sample::Index};
use tempfile::TempDir;

use super::*;
use crate::Read;

/// A server made of a few files.
pub(crate) struct Tree {
    folder: TempDir,
    host: Host,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path());
        Self { folder, host }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        fs::write(self.at(path), format!("{text}\n")).unwrap();
        self
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.at(path)).unwrap();
        self
    }

    /// A tool that says this on standard output.
    pub(crate) fn tool(mut self, name: &str, says: &str, status: i32) -> Self {
        let (program, answer) = (self.at(&format!("tools/{name}")), self.at("tools/answer"));
        let answer = answer.with_file_name(format!("{name}.answer"));
        fs::write(&answer, says).unwrap();
        let script = format!("#!/bin/sh\ncat {}\nexit {status}\n", answer.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        self.host = self.host.with_tool(name, program);
        self
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        path
    }
}

/// A line a reading: component, quantity, value.
pub(crate) fn render(readings: &[Reading]) -> String {
    let line = |reading: &Reading| {
        let read = match &reading.read {
            Read::Value(value) => value.to_string(),
            Read::Unreadable(reason) => format!("unreadable: {reason}"),
            Read::Absent => "absent".to_owned(),
        };
        format!("{} {} {read}\n", reading.component, reading.quantity.name)
    };
    readings.iter().map(line).collect()
}

/// Anything, or something that looks right and is broken in one place.
pub(crate) fn near(sample: &'static str) -> impl Strategy<Value = String> {
    let broken = (
        any::<Index>(),
        any::<Index>(),
        "[0-9a-zé:,=\\[\\]() \n\t-]{0,12}",
    )
        .prop_map(move |(from, to, put)| {
            let mut chars: Vec<char> = sample.chars().collect();
            let (a, b) = (from.index(chars.len() + 1), to.index(chars.len() + 1));
            chars.splice(a.min(b)..a.max(b), put.chars());
            chars.into_iter().collect()
        });
    prop_oneof![any::<String>(), broken]
}

#[test]
fn numbers_are_exact_or_none() {
    assert_eq!(decimal("-12.5"), Some(-12.5));
    for word in ["inf", "NaN", "1e999", "", "0x10", "12 "] {
        assert_eq!(decimal(word), None, "{word}");
    }
    assert_eq!(float(9_007_199_254_740_991).to_string(), "9007199254740991");
    assert_eq!(number_of("mc12", "mc"), Some(12));
    assert_eq!(number_of("mc", "mc"), None);
    assert_eq!(number_of("mc+1", "mc"), None);
}
