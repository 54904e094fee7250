//! What the server is made of: by this a cloned disk or a swapped board is noticed.
//!
//! The fingerprint never identifies a node, its id does; a change of it asks for a `node rebind`.
//! What can't be read is left out, never guessed: serial numbers, for one, only root may read, so
//! `join` knows more of them than the agent does. Whoever compares two fingerprints compares the
//! parts that both have.
//!
//! Absent on purpose: parts that come and go by themselves (USB, virtual functions, addresses that
//! somebody has set).

use std::{collections::BTreeMap, fs, path::Path};

/// Longest value, in bytes.
const MAX_VALUE: usize = 256;
/// Most MAC addresses that are told: as many as a value has room for.
const MAX_MACS: usize = 14;

/// Files that hold one part each, below the root.
const FILES: [(&str, &str); 4] = [
    ("product_uuid", "sys/class/dmi/id/product_uuid"),
    ("product_serial", "sys/class/dmi/id/product_serial"),
    ("board_serial", "sys/class/dmi/id/board_serial"),
    ("machine_id", "etc/machine-id"),
];

/// What makers write where they should have written a number.
const PLACEHOLDERS: [&str; 9] = [
    "default string",
    "none",
    "not applicable",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
    "uninitialized",
    "unknown",
    "0123456789",
];

/// What a server is made of, by part: `product_uuid`, `product_serial`, `board_serial`,
/// `machine_id`, `macs` (lowest first, with commas between).
pub type Fingerprint = BTreeMap<String, String>;

/// Reads the fingerprint of the server whose file system begins at `root`.
pub fn read(root: &Path) -> Fingerprint {
    let mut parts: Fingerprint = FILES
        .iter()
        .filter_map(|(part, file)| Some(((*part).into(), value(&root.join(file))?)))
        .collect();
    let macs = macs(&root.join("sys/class/net"));
    if !macs.is_empty() {
        parts.insert("macs".into(), macs.join(","));
    }
    parts
}

/// A file's only line, if it says anything.
fn value(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let text = text.trim().to_lowercase();
    let says_something = text
        .chars()
        .any(|c| !matches!(c, '0' | '-' | 'f' | '.' | ' '));
    let legal = text.len() <= MAX_VALUE && !text.contains(char::is_control);
    (says_something && legal && !PLACEHOLDERS.contains(&text.as_str())).then_some(text)
}

/// The addresses that network cards were made with.
fn macs(interfaces: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(interfaces) else {
        return Vec::new();
    };
    let mut macs: Vec<_> = entries
        .flatten()
        .filter_map(|entry| mac(&entry.path()))
        .collect();
    macs.sort();
    macs.dedup();
    macs.truncate(MAX_MACS);
    macs
}

fn mac(interface: &Path) -> Option<String> {
    let device = interface.join("device");
    // Bridges, bonds and the like have no device; a virtual function points at its card.
    if !device.exists() || device.join("physfn").exists() {
        return None;
    }
    let bus = fs::canonicalize(&device).ok()?;
    if bus.to_string_lossy().contains("/usb") {
        return None;
    }
    // In a bond every card has the bond's address; its own is kept beside.
    if let Some(own) = value(&interface.join("bonding_slave/perm_hwaddr")) {
        return Some(own);
    }
    let given = value(&interface.join("addr_assign_type")).is_some_and(|kind| kind != "0");
    if given {
        return None;
    }
    value(&interface.join("address"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A server's file system, as far as it matters.
    struct Root(tempfile::TempDir);

    impl Root {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        /// An interface as sysfs shows it: a link to a folder below its bus.
        fn interface(&self, name: &str, bus: &str, files: &[(&str, &str)]) -> &Self {
            let device = self.0.path().join("sys/devices").join(bus);
            let home = device.join("net").join(name);
            fs::create_dir_all(&home).unwrap();
            for (file, text) in files {
                fs::create_dir_all(home.join(file).parent().unwrap()).unwrap();
                fs::write(home.join(file), text).unwrap();
            }
            if !bus.starts_with("virtual") {
                symlink(&device, home.join("device")).unwrap();
            }
            let class = self.0.path().join("sys/class/net");
            fs::create_dir_all(&class).unwrap();
            symlink(&home, class.join(name)).unwrap();
            self
        }

        fn read(&self) -> Vec<(String, String)> {
            read(self.0.path()).into_iter().collect()
        }
    }

    fn parts(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(part, value): &(&str, &str)| ((*part).into(), (*value).into());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn a_server_with_a_bond() {
        let root = Root::new();
        root.file("sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510\n")
            .file("sys/class/dmi/id/product_serial", "7B5F1X3\n")
            .file("sys/class/dmi/id/board_serial", ".7B5F1X3.CN\n")
            .file("etc/machine-id", "bd2a4c0e5c6f4d6f8f0e1d2c3b4a5968\n");
        let bonded = |own| {
            [
                ("address", "aa:aa:aa:aa:aa:01\n"),
                ("addr_assign_type", "3\n"),
                ("bonding_slave/perm_hwaddr", own),
            ]
        };
        root.interface("eno2", "pci0/1", &bonded("aa:aa:aa:aa:aa:02\n"))
            .interface("eno1", "pci0/0", &bonded("aa:aa:aa:aa:aa:01\n"))
            .interface("bond0", "virtual/0", &[("address", "aa:aa:aa:aa:aa:01\n")]);
        let expected = [
            ("board_serial", ".7b5f1x3.cn"),
            ("machine_id", "bd2a4c0e5c6f4d6f8f0e1d2c3b4a5968"),
            ("macs", "aa:aa:aa:aa:aa:01,aa:aa:aa:aa:aa:02"),
            ("product_serial", "7b5f1x3"),
            ("product_uuid", "4c4c4544-0042-3510"),
        ];
        assert_eq!(root.read(), parts(&expected));
    }

    #[test]
    fn what_comes_and_goes_is_left_out() {
        let root = Root::new();
        let address = |address| [("address", address), ("addr_assign_type", "0\n")];
        root.interface("eth0", "pci0/0", &address("02:00:00:00:00:01\n"))
            .interface("usb0", "pci0/usb1/1-1", &address("02:00:00:00:00:02\n"))
            .interface("tap0", "virtual/1", &address("02:00:00:00:00:03\n"))
            .interface("lo", "virtual/2", &address("00:00:00:00:00:00\n"))
            .interface("vf0", "pci0/9", &address("02:00:00:00:00:04\n"))
            .interface(
                "set0",
                "pci0/8",
                &[("address", "02:00:00:00:00:05"), ("addr_assign_type", "3")],
            );
        symlink(
            root.0.path().join("sys/devices/pci0/0"),
            root.0.path().join("sys/devices/pci0/9/physfn"),
        )
        .unwrap();
        assert_eq!(root.read(), parts(&[("macs", "02:00:00:00:00:01")]));
    }

    #[test]
    fn what_says_nothing_or_cannot_be_read_is_absent() {
        let root = Root::new();
        assert_eq!(root.read(), []);
        root.file("sys/class/dmi/id/product_uuid", "00000000-0000-0000\n")
            .file("sys/class/dmi/id/product_serial", "Not Specified\n")
            .file("sys/class/dmi/id/board_serial", "\n")
            .file("etc/machine-id", &"x".repeat(300));
        assert_eq!(root.read(), []);
        // A folder can't be read as a file.
        fs::remove_file(root.0.path().join("etc/machine-id")).unwrap();
        fs::create_dir(root.0.path().join("etc/machine-id")).unwrap();
        assert_eq!(root.read(), []);
    }

    #[test]
    fn many_cards_fit_a_value() {
        let root = Root::new();
        for card in 0..40 {
            let mac = format!("02:00:00:00:00:{card:02x}");
            root.interface(
                &format!("eth{card}"),
                &format!("pci0/{card}"),
                &[("address", &mac)],
            );
        }
        let macs = read(root.0.path()).remove("macs").unwrap();
        assert!(macs.len() <= MAX_VALUE, "{} bytes", macs.len());
        assert!(macs.starts_with("02:00:00:00:00:00,02:00:00:00:00:01"));
    }
}
