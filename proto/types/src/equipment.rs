//! What a node is equipped with beyond amounts, what an instance needs of it, and what it is given.
//!
//! Three words. [`Equipment`] is a node's, by its agent's word. [`Needs`] is an instance's, people's
//! intent. [`Assignment`] is an incarnation's: which host threads, cells and devices are its own,
//! decided together with its placement and held with its claim.
//!
//! Two kinds of threads and of memory never mix, so that no sum of one can eat the other: threads
//! that the node's configuration sets aside are for dedicated vCPUs only and none of its shared
//! capacity, and huge pages are none of its common memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{MemoryMib, Name, Vcpus, Violation};

/// Most cells that an instance may be split over.
pub const MAX_CELLS: u8 = 8;
/// Most devices of one instance.
pub const MAX_DEVICES: u32 = 16;
/// Most CPU features that an instance may ask for, and bytes of one's name.
pub const MAX_FEATURES: usize = 64;
const MAX_FEATURE_BYTES: usize = 32;
/// Most labels that an instance may ask for, and bytes of a value.
pub const MAX_LABELS: usize = 16;
/// Longest value of a label, in bytes.
pub const MAX_LABEL_BYTES: usize = 63;

/// The size of a huge page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PageSize {
    /// 2 MiB.
    #[serde(rename = "2MiB")]
    Mib2,
    /// 1 GiB.
    #[serde(rename = "1GiB")]
    Gib1,
}

impl PageSize {
    /// All sizes, ascending.
    pub const ALL: [Self; 2] = [Self::Mib2, Self::Gib1];

    /// The size in MiB.
    pub const fn mib(self) -> u64 {
        match self {
            Self::Mib2 => 2,
            Self::Gib1 => 1024,
        }
    }

    /// "2MiB" or "1GiB".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mib2 => "2MiB",
            Self::Gib1 => "1GiB",
        }
    }
}

impl FromStr for PageSize {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let known = Self::ALL.into_iter().find(|size| size.as_str() == text);
        known.ok_or_else(|| {
            Violation::new("huge_pages", format!("is {text:?}; must be 2MiB or 1GiB"))
        })
    }
}

/// A processor's feature by libvirt's name, `[a-z0-9._-]{1,32}`: "avx2".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Feature(String);

impl Feature {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Feature {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let fits = (1..=MAX_FEATURE_BYTES).contains(&text.len())
            && (text.bytes()).all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        let reason =
            format!("is {text:?}; must be 1 to {MAX_FEATURE_BYTES} of a-z, 0-9, '.', '_', '-'");
        Err(Violation::new("cpu_features", reason))
    }
}

impl TryFrom<String> for Feature {
    type Error = Violation;

    fn try_from(text: String) -> Result<Self, Violation> {
        text.parse()
    }
}

impl From<Feature> for String {
    fn from(feature: Feature) -> Self {
        feature.0
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A PCI function: "0000:65:00.1".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            slot,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function}")
    }
}

impl FromStr for PciAddress {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let read = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            let address = Self {
                domain: u16::from_str_radix(domain, 16).ok()?,
                bus: u8::from_str_radix(bus, 16).ok()?,
                slot: u8::from_str_radix(slot, 16).ok()?,
                function: u8::from_str_radix(function, 16).ok()?,
            };
            // One spelling an address.
            (address.slot < 32 && address.function < 8 && address.to_string() == text)
                .then_some(address)
        };
        read().ok_or_else(|| {
            let reason = format!("is {text:?}; must be a PCI address such as 0000:65:00.1");
            Violation::new("address", reason)
        })
    }
}

impl TryFrom<String> for PciAddress {
    type Error = Violation;

    fn try_from(text: String) -> Result<Self, Violation> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

/// What a node has beyond amounts, by its agent's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Equipment {
    /// Its NUMA cells with what is set aside in them, by id; empty where nothing is.
    pub cells: Vec<Cell>,
    /// Processor features that its guests can have.
    pub cpu_features: BTreeSet<Feature>,
    /// Devices that its configuration offers to guests, by address.
    pub devices: Vec<Device>,
    /// Storage pools that it reaches.
    pub pools: BTreeSet<Name>,
    /// Networks that it reaches.
    pub networks: BTreeSet<Name>,
}

/// What is set aside in one NUMA cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// The host's number for it.
    pub id: u16,
    /// Host threads for dedicated vCPUs; siblings of one core stand together.
    pub dedicated: Vec<u16>,
    /// Huge pages by size: how many there are, used or not.
    pub pages: BTreeMap<PageSize, u64>,
}

/// A device that can be given to a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// Where it is.
    pub address: PciAddress,
    /// What instances ask for, a word of the node's configuration: "gpu-a100".
    pub class: Name,
    /// The cell that it is near to, if one is.
    pub cell: Option<u16>,
}

/// What an instance needs of its node besides amounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Needs {
    /// Whether each vCPU has a host thread of its own.
    pub dedicated_cpus: bool,
    /// Huge pages of this size carry all of its memory.
    pub huge_pages: Option<PageSize>,
    /// Over how many cells it may be split evenly if one is too small; 0 and 1 mean: not at all. Says
    /// something only along with dedicated CPUs or huge pages.
    pub cells: u8,
    /// Processor features that it must find.
    pub cpu_features: BTreeSet<Feature>,
    /// Devices, by class.
    pub devices: BTreeMap<Name, u32>,
    /// The storage pool for its disks; none means the node's own.
    pub pool: Option<Name>,
    /// The network for its NIC; none means the node's own.
    pub network: Option<Name>,
    /// Labels that its node must have, with these values.
    pub labels: BTreeMap<Name, String>,
}

/// What an incarnation has for itself on its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The guest's cells in order; empty for an instance that isn't bound to any.
    pub cells: Vec<CellShare>,
    /// Huge pages of this size carry its memory, in the cells above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<PageSize>,
    /// Its devices, by address.
    pub devices: Vec<PciAddress>,
}

/// One of a guest's cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellShare {
    /// The host's cell.
    pub cell: u16,
    /// The guest's vCPUs in it.
    pub vcpus: Vcpus,
    /// A host thread for each of them; empty unless they are dedicated.
    pub threads: Vec<u16>,
    /// The guest's memory in it.
    pub memory: MemoryMib,
}

impl Needs {
    /// Whether it needs nothing of the kind.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is bound to cells.
    pub fn is_bound(&self) -> bool {
        self.dedicated_cpus || self.huge_pages.is_some()
    }

    /// The most cells that it may be split over, at least 1.
    pub fn most_cells(&self) -> u8 {
        self.cells.max(1)
    }

    /// Devices whose class is "gpu" or begins with "gpu-".
    pub fn gpus(&self) -> u32 {
        let gpus = self.devices.iter().filter(|(class, _)| is_gpu(class));
        gpus.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Checks it against its limits, for an instance of this size: all violations.
    pub fn check(&self, vcpus: Vcpus, memory: MemoryMib) -> Vec<Violation> {
        let mut wrong = Vec::new();
        let mut refuse = |field: &str, reason: String| wrong.push(Violation::new(field, reason));
        if self.cells > MAX_CELLS {
            refuse(
                "cells",
                format!("is {}; must be at most {MAX_CELLS}", self.cells),
            );
        }
        if self.cells > 1 && !self.is_bound() {
            let reason = "says something only with dedicated CPUs or huge pages";
            refuse("cells", reason.into());
        }
        if u32::from(self.most_cells()) > vcpus.get().max(1) {
            refuse(
                "cells",
                format!("is {}; there are {vcpus} vCPUs", self.cells),
            );
        }
        if let Some(size) = self.huge_pages
            && !memory.get().is_multiple_of(size.mib())
        {
            let reason = format!("is {}; {memory} isn't a multiple of it", size.as_str());
            refuse("huge_pages", reason);
        }
        if self.cpu_features.len() > MAX_FEATURES {
            refuse(
                "cpu_features",
                format!("has more than {MAX_FEATURES} features"),
            );
        }
        let devices = (self.devices.values()).fold(0, |sum: u32, one| sum.saturating_add(*one));
        if devices > MAX_DEVICES || self.devices.values().any(|count| *count == 0) {
            let reason = format!(
                "are {devices}; must be 1 or more of a class, {MAX_DEVICES} at most in all"
            );
            refuse("devices", reason);
        }
        wrong.extend(check_labels("labels", &self.labels));
        wrong
    }
}

impl Assignment {
    /// Whether its vCPUs have host threads of their own.
    pub fn has_threads(&self) -> bool {
        self.cells.iter().any(|share| !share.threads.is_empty())
    }

    /// Whether nothing is its own.
    pub fn is_none(&self) -> bool {
        self.cells.is_empty() && self.devices.is_empty()
    }
}

/// Whether devices of this class count as GPUs.
pub fn is_gpu(class: &Name) -> bool {
    let class = class.as_str();
    class == "gpu" || class.starts_with("gpu-")
}

/// Checks labels against their limits.
pub fn check_labels(field: &str, labels: &BTreeMap<Name, String>) -> Option<Violation> {
    let bad = |value: &String| value.len() > MAX_LABEL_BYTES || value.chars().any(char::is_control);
    if labels.len() > MAX_LABELS {
        let reason = format!(
            "has {} labels; at most {MAX_LABELS} are allowed",
            labels.len()
        );
        return Some(Violation::new(field, reason));
    }
    let (label, _) = labels.iter().find(|(_, value)| bad(value))?;
    let reason = format!(
        "has a value for {label} that isn't printable text of at most {MAX_LABEL_BYTES} bytes"
    );
    Some(Violation::new(field, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        let address: PciAddress = "0000:65:1f.7".parse().unwrap();
        assert_eq!((address.bus, address.slot, address.function), (0x65, 31, 7));
        for wrong in [
            "",
            "0:65:00.0",
            "0000:65:20.0",
            "0000:65:00.8",
            "0000:65:0.0",
            "0000:6A:00.0",
        ] {
            assert_eq!(wrong.parse::<PciAddress>().unwrap_err().field, "address");
        }
        let text = serde_json::to_string(&address).unwrap();
        assert_eq!(serde_json::from_str::<PciAddress>(&text).unwrap(), address);
    }

    #[test]
    fn needs_within_limits_are_fine_and_others_are_named() {
        let none = Needs::default();
        assert_eq!(none.check(Vcpus(1), MemoryMib(100)), []);
        assert_eq!(serde_json::from_str::<Needs>("{}").unwrap(), none);
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let wrong = Needs {
            cells: 9,
            huge_pages: Some(PageSize::Gib1),
            devices: [(name("gpu"), 17)].into(),
            labels: [(name("a"), "x\n".into())].into(),
            ..Needs::default()
        };
        let fields: Vec<_> = (wrong.check(Vcpus(4), MemoryMib(1000)).into_iter())
            .map(|violation| violation.field)
            .collect();
        assert_eq!(
            fields,
            ["cells", "cells", "huge_pages", "devices", "labels"]
        );
    }

    #[test]
    fn gpus_are_told_by_their_class() {
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let devices = [("gpu", 1), ("gpu-a100", 2), ("gpus", 4), ("vf", 8)];
        let needs = Needs {
            devices: devices.map(|(class, count)| (name(class), count)).into(),
            ..Needs::default()
        };
        assert_eq!(needs.gpus(), 3);
    }
}
