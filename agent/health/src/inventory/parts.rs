//! Parts: what a server is made of in one line each, and what differs from what was accepted.
//!
//! **Invariants:**
//! - What couldn't be read now is no change, nor is what couldn't be read when the parts were
//!   accepted: only kinds are compared that were read then and now, and in the same way. Firmware
//!   and drivers call the same place by different names.
//! - What comes and goes by itself is no part: USB, virtual functions, disks of other servers. Nor
//!   does a line hold what changes by itself: firmware, drivers, names that people give.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Disk, Inventory, nics};
use crate::{Component, Host, Kind};

/// Memory modules as the firmware's tables tell.
pub(super) const BY_FIRMWARE: &str = "firmware";
/// Memory modules as the controllers' drivers tell.
pub(super) const BY_DRIVER: &str = "driver";
/// Whatever is read in one way only.
const BY_KERNEL: &str = "kernel";
/// Most parts that are told.
const MAX_PARTS: usize = 1024;

/// Parts by name, and how each kind of them was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Part (`memory/DIMM_A1`, "disk/S3Z9NB0K") to what it is.
    pub lines: BTreeMap<String, String>,
    /// Kind of part ("memory") to how it was read; a kind that couldn't be isn't there.
    pub ways: BTreeMap<String, String>,
}

/// A part that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartChange {
    /// Which.
    pub part: String,
    /// What it was; empty for a new one.
    pub before: String,
    /// What it is; empty for one that is gone.
    pub after: String,
}

impl Parts {
    /// What differs now from these, which were accepted.
    pub fn changes(&self, now: &Self) -> Vec<PartChange> {
        let names: BTreeSet<&String> = self.lines.keys().chain(now.lines.keys()).collect();
        let compared = names
            .into_iter()
            .filter(|part| self.is_comparable(now, part));
        let changes = compared.filter_map(|part| {
            let [before, after] = [self, now].map(|it| it.lines.get(part));
            (before != after).then(|| PartChange {
                part: part.clone(),
                before: before.cloned().unwrap_or_default(),
                after: after.cloned().unwrap_or_default(),
            })
        });
        changes.collect()
    }

    /// Takes in kinds of parts that these, which were accepted, say nothing of: they couldn't be
    /// read so far. Whether there were any.
    pub fn learn(&mut self, now: &Self) -> bool {
        let news: Vec<_> = now
            .ways
            .iter()
            .filter(|(kind, _)| !self.ways.contains_key(*kind))
            .collect();
        for (kind, way) in &news {
            self.ways.insert((*kind).clone(), (*way).clone());
            let theirs = now.lines.iter().filter(|(part, _)| kind_of(part) == *kind);
            self.lines
                .extend(theirs.map(|(part, line)| (part.clone(), line.clone())));
        }
        !news.is_empty()
    }

    /// These, with what `before` says of the kinds that can't be read now, or only in another way.
    #[must_use]
    pub fn over(mut self, before: &Self) -> Self {
        let Self { lines, ways } = &mut self;
        ways.retain(|kind, way| before.ways.get(kind).is_none_or(|it| it == way));
        lines.retain(|part, _| ways.contains_key(kind_of(part)));
        self.learn(before);
        self
    }

    /// Parts of hardware that these, which were accepted, should have, and whether they are there
    /// now; none where their kind can't be read now. Those that are read in another way now are
    /// left out.
    pub fn presence(&self, now: &Self) -> Vec<(Component, Option<bool>)> {
        let kinds = [Kind::Cpu, Kind::Memory, Kind::Disk, Kind::Nic, Kind::Gpu];
        let parts = self.lines.keys().filter_map(|part| {
            let component: Component = part.parse().ok()?;
            if !kinds.contains(&component.kind()) {
                return None;
            }
            if !now.ways.contains_key(kind_of(part)) {
                return Some((component, None));
            }
            let there = now.lines.contains_key(part);
            self.is_comparable(now, part)
                .then_some((component, Some(there)))
        });
        parts.collect()
    }

    fn is_comparable(&self, now: &Self, part: &str) -> bool {
        let kind = kind_of(part);
        let way = self.ways.get(kind);
        way.is_some() && way == now.ways.get(kind)
    }
}

fn kind_of(part: &str) -> &str {
    part.split_once('/').map_or(part, |(kind, _)| kind)
}

/// The parts of a server; memory was read in this way.
pub(super) fn of(inventory: &Inventory, memory_way: Option<&str>, host: &Host) -> Parts {
    let mut parts = Parts::default();
    let mut add = |kind: &str, way: Option<&str>, lines: Vec<(String, String)>| {
        let Some(way) = way else { return };
        parts.ways.insert(kind.into(), way.into());
        for (name, line) in lines {
            let name = if name.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind}/{name}")
            };
            if parts.lines.len() < MAX_PARTS {
                parts.lines.insert(name, line);
            }
        }
    };
    // What a topic lacks in part is compared no more than what it lacks as a whole.
    let read = |topic: &str| (!inventory.unreadable.contains_key(topic)).then_some(BY_KERNEL);
    let modules = inventory.memory_modules.iter().filter(|it| it.size_mib > 0);
    let modules = modules.map(|it| {
        let size = it.size_mib.to_string() + " MiB";
        (
            it.slot.clone(),
            words(&[&size, &it.kind, &it.vendor, &it.part, &it.serial]),
        )
    });
    add("memory", memory_way, modules.collect());
    let some = |read: Option<&'static str>, any: bool| read.filter(|_| any);
    // Not its threads: some may be switched off.
    let cpus = inventory.processors.iter();
    let cpus: Vec<_> = cpus
        .map(|it| (it.package.to_string(), it.model.clone()))
        .collect();
    add("cpu", some(read("processors"), !cpus.is_empty()), cpus);
    let disks = inventory.disks.iter().filter_map(disk);
    add("disk", read("disks"), disks.collect());
    let ports = inventory
        .nics
        .iter()
        .filter(|nic| nics::is_built_in(host, &nic.name));
    let ports = ports.map(|nic| {
        let numbers = numbers(inventory, &nic.pci);
        (nic.mac.clone(), words(&[&numbers, &nic.pci]))
    });
    add("nic", read("nics"), ports.collect());
    let gpus = inventory.gpus.iter();
    let gpus = gpus.map(|gpu| (gpu.pci.clone(), numbers(inventory, &gpu.pci)));
    add("gpu", read("pci_devices"), gpus.collect());
    let system = &inventory.system;
    let bios = words(&[&system.bios_vendor, &system.bios_version, &system.bios_date]);
    let told = !bios.is_empty();
    add(
        "bios",
        told.then_some(BY_KERNEL),
        vec![(String::new(), bios)],
    );
    parts
}

/// A disk by its serial number; by its name where it has none.
fn disk(it: &Disk) -> Option<(String, String)> {
    if ["usb", "iscsi", "fc", "fabrics"].contains(&it.transport.as_str()) {
        return None;
    }
    let name = if it.serial.is_empty() {
        &it.name
    } else {
        &it.serial
    };
    let size = format!("{} bytes", it.size_bytes);
    Some((name.clone(), words(&[&it.model, &size])))
}

/// A PCI device's numbers. Its names are the distribution's, and change with it.
fn numbers(inventory: &Inventory, address: &str) -> String {
    let device = inventory
        .pci_devices
        .iter()
        .find(|it| it.address == address);
    let numbers = device.map(|it| format!("{}:{}", it.vendor_id, it.device_id));
    numbers.unwrap_or_default()
}

fn words(words: &[&str]) -> String {
    let said: Vec<&str> = words
        .iter()
        .copied()
        .filter(|word| !word.is_empty())
        .collect();
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(kinds: &[(&str, &str)], lines: &[(&str, &str)]) -> Parts {
        let own = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()));
            owned.collect()
        };
        Parts {
            lines: own(lines),
            ways: own(kinds),
        }
    }

    fn told(changes: &[PartChange]) -> Vec<String> {
        let line = |it: &PartChange| format!("{}: {:?} -> {:?}", it.part, it.before, it.after);
        changes.iter().map(line).collect()
    }

    #[test]
    fn what_is_gone_new_or_another() {
        let kinds = [("memory", "firmware"), ("disk", "kernel")];
        let accepted = parts(
            &kinds,
            &[("memory/A1", "x"), ("memory/A2", "x"), ("disk/S1", "y")],
        );
        let now = parts(
            &kinds,
            &[("memory/A1", "z"), ("disk/S1", "y"), ("disk/S2", "y")],
        );
        let expected = [
            r#"disk/S2: "" -> "y""#,
            r#"memory/A1: "x" -> "z""#,
            r#"memory/A2: "x" -> """#,
        ];
        assert_eq!(told(&accepted.changes(&now)), expected);
        let gone: Vec<_> = accepted
            .presence(&now)
            .into_iter()
            .filter(|(_, there)| *there == Some(false))
            .collect();
        assert_eq!(gone, [("memory/A2".parse().unwrap(), Some(false))]);
        assert!(accepted.changes(&accepted).is_empty());
    }

    #[test]
    fn what_could_not_be_read_is_no_change() {
        let kinds = [("memory", "firmware"), ("disk", "kernel")];
        let accepted = parts(&kinds, &[("memory/A1", "x"), ("disk/S1", "y")]);
        let blind = parts(&[("disk", "kernel")], &[("disk/S1", "y")]);
        assert!(accepted.changes(&blind).is_empty());
        let unknown = accepted.presence(&blind);
        assert_eq!(unknown[1], ("memory/A1".parse().unwrap(), None));
        let by_driver = parts(
            &[("memory", "driver"), ("disk", "kernel")],
            &[("memory/mc0", "x"), ("disk/S1", "y")],
        );
        assert_eq!(accepted.presence(&by_driver).len(), 1);
        assert!(
            accepted.changes(&by_driver).is_empty(),
            "another way calls it otherwise"
        );
    }

    #[test]
    fn what_can_not_be_read_now_is_as_before() {
        let before = parts(
            &[("memory", "firmware"), ("disk", "kernel")],
            &[("memory/A1", "x"), ("disk/S1", "y"), ("disk/S2", "y")],
        );
        let blind = parts(&[("memory", "firmware")], &[("memory/A2", "x")]);
        let told = parts(
            &[("memory", "firmware"), ("disk", "kernel")],
            &[("memory/A2", "x"), ("disk/S1", "y"), ("disk/S2", "y")],
        );
        assert_eq!(blind.over(&before), told);
        let otherwise = parts(
            &[("memory", "driver"), ("disk", "kernel"), ("cpu", "kernel")],
            &[("memory/mc0", "x"), ("disk/S1", "y"), ("cpu/0", "z")],
        );
        let told = parts(
            &[
                ("memory", "firmware"),
                ("disk", "kernel"),
                ("cpu", "kernel"),
            ],
            &[("memory/A1", "x"), ("disk/S1", "y"), ("cpu/0", "z")],
        );
        assert_eq!(otherwise.over(&before), told);
    }

    #[test]
    fn what_was_unknown_is_learned() {
        let mut accepted = parts(&[("disk", "kernel")], &[("disk/S1", "y")]);
        let now = parts(
            &[("memory", "driver"), ("disk", "kernel")],
            &[("memory/A1", "x"), ("disk/S1", "y"), ("disk/S2", "y")],
        );
        assert!(accepted.learn(&now));
        assert!(!accepted.learn(&now));
        assert_eq!(told(&accepted.changes(&now)), [r#"disk/S2: "" -> "y""#]);
    }
}
