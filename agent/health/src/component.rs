//! The parts of a server that readings and verdicts speak of.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a component, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// A part of a server: its kind, and its name among those. Written "disk/nvme0n1", or as its kind
/// alone where a server has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    kind: Kind,
    name: String,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal,)*) => {
        /// What sort of part.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// A processor package or thread: "cpu/package0".
    Cpu = "cpu",
    /// A memory controller, row or module: "memory/mc0", "memory/mc0/csrow2", "`memory/DIMM_A1`".
    Memory = "memory",
    /// A disk: "disk/nvme0n1".
    Disk = "disk",
    /// A network card's port: "nic/eth0".
    Nic = "nic",
    /// Ports that act as one: "bond/bond0".
    Bond = "bond",
    /// A power supply: "psu/PSU1".
    Psu = "psu",
    /// A fan: "fan/FAN1".
    Fan = "fan",
    /// A sensor of temperature, voltage, current or power: "sensor/coretemp.0/Package id 0".
    Sensor = "sensor",
    /// A PCI device: "pci/0000:3b:00.0".
    Pci = "pci",
    /// A graphics card or another accelerator: "gpu/0000:3b:00.0".
    Gpu = "gpu",
    /// The server's management controller: "bmc".
    Bmc = "bmc",
    /// The chassis as a whole, by its management controller's word: "chassis".
    Chassis = "chassis",
    /// A file system that Kapok needs: "filesystem/state".
    Filesystem = "filesystem",
    /// A storage pool of guests' disks: "pool/kapok".
    Pool = "pool",
    /// Disks that act as one (md, LVM, ZFS, Ceph): "array/md0".
    Array = "array",
    /// The clock: "clock".
    Clock = "clock",
    /// The kernel: "kernel".
    Kernel = "kernel",
    /// Pressure on a resource: "pressure/memory".
    Pressure = "pressure",
    /// libvirt, or one of its lanes: "hypervisor", "hypervisor/monitor".
    Hypervisor = "hypervisor",
    /// A guest's QEMU: "instance/UUID".
    Instance = "instance",
    /// The node's certificate: "certificate".
    Certificate = "certificate",
    /// What a site's own probe speaks of: "site/NAME".
    Site = "site",
    /// Whatever a source could not be asked about: "source/smartctl".
    Source = "source",
}

impl Component {
    /// A part by its name among those of its kind. Control characters become spaces, and what is
    /// too long is cut: names come from firmware.
    pub fn new(kind: Kind, name: impl AsRef<str>) -> Self {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let mut name: String = name.as_ref().trim().chars().map(clean).collect();
        while name.len() > MAX_NAME_BYTES {
            name.pop();
        }
        Self { kind, name }
    }

    /// The only part of its kind.
    pub const fn only(kind: Kind) -> Self {
        let name = String::new();
        Self { kind, name }
    }

    /// What sort of part.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name among those of its kind; empty for the only one.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name } = self;
        if name.is_empty() {
            return f.write_str(kind.as_str());
        }
        write!(f, "{}/{name}", kind.as_str())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no component: it is KIND or KIND/NAME, such as \"disk/sda\"")]
pub struct Unknown(String);

impl FromStr for Component {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let (kind, name) = text.split_once('/').unwrap_or((text, ""));
        let kind = Kind::ALL.iter().find(|it| it.as_str() == kind);
        let kind = kind.ok_or_else(|| Unknown(text.to_owned()))?;
        Ok(Self::new(*kind, name))
    }
}

impl Serialize for Component {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_read_as_it_is_written() {
        for text in [
            "clock",
            "disk/nvme0n1",
            "memory/mc0/csrow2",
            "sensor/a/Package id 0",
        ] {
            assert_eq!(text.parse::<Component>().unwrap().to_string(), text);
        }
        assert!("disc/sda".parse::<Component>().is_err());
        let hostile = Component::new(Kind::Fan, format!("FAN\n{}", "é".repeat(100)));
        assert!(hostile.name().len() <= MAX_NAME_BYTES && hostile.name().starts_with("FAN é"));
    }
}
