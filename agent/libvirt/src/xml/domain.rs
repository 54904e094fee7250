//! The domain that an incarnation gets: from typed numbers to libvirt's document.
//!
//! Everything that libvirt or QEMU would otherwise choose or probe is stated: machine type, disk
//! format, cache mode, what each end of the guest means. A disk's format always comes from our
//! record, never from what a disk's bytes look like (FAULTS 10).

use std::{fmt, str::FromStr};

use super::{
    Error,
    document::Document,
    line,
    metadata::Metadata,
    placement::{self, Placement},
};
use kapok_types::{
    IncarnationId, MemoryMib, Vcpus,
    instance::{Arch, DiskFormat},
};

/// How the guest's processors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VirtType {
    /// Hardware virtualization.
    Kvm,
    /// QEMU's translation (TCG): slow, works anywhere.
    Qemu,
    /// libvirt's own test driver: nothing runs.
    Test,
}

impl VirtType {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
            Self::Test => "test",
        }
    }
}

/// Which processor the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuMode {
    /// The hypervisor's default model: slow, but the same everywhere.
    #[default]
    HypervisorDefault,
    /// The nearest named model to the host's. For KVM.
    HostModel,
    /// The host's own. For KVM; forbids migration between unlike hosts.
    HostPassthrough,
    /// All that the hypervisor can give. For TCG.
    Maximum,
}

impl CpuMode {
    pub(super) const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::HypervisorDefault => None,
            Self::HostModel => Some("host-model"),
            Self::HostPassthrough => Some("host-passthrough"),
            Self::Maximum => Some("maximum"),
        }
    }
}

/// How QEMU caches a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Through the host's page cache; flushes are honoured. Works on any file system.
    #[default]
    Writeback,
    /// Around the host's page cache (`O_DIRECT`); tmpfs can't do it. Needed for safe migration
    /// on shared file systems.
    None,
}

impl CacheMode {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
        }
    }
}

/// Where a disk's bytes are, as libvirt's storage API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    File(String),
    /// A block device.
    Block(String),
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// The volume, from [`crate::storage::Volume::disk_source`].
    pub source: DiskSource,
    /// The layout, from our record.
    pub format: DiskFormat,
    /// How it is cached.
    pub cache: CacheMode,
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// A guest's address made from five bytes of the caller's choice: locally administered and
    /// unicast, so it can't meet a vendor's.
    pub const fn local(bytes: [u8; 5]) -> Self {
        Self([0x52, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || Error::field("mac", "must be six pairs of hex digits with colons");
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() {
            Err(refused())
        } else {
            Ok(Self(bytes))
        }
    }
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicConfig {
    /// Name of a libvirt network of the node.
    pub network: String,
    /// The card's address.
    pub mac: MacAddress,
}

/// All that a domain is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainConfig {
    /// The incarnation: its UUID is the domain's, and the domain's name is made from it.
    pub incarnation: IncarnationId,
    /// A line for people who look with libvirt's tools; not an identity.
    pub title: Option<String>,
    /// Guest memory.
    pub memory: MemoryMib,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Virtual CPUs that it can be given while it runs; at least as many.
    pub most_vcpus: Vcpus,
    /// Architecture.
    pub arch: Arch,
    /// A versioned machine type, for example `pc-q35-7.2`; never an alias, which would change
    /// under the guest when QEMU is upgraded.
    pub machine: String,
    /// How it runs.
    pub virt_type: VirtType,
    /// Which processor it sees.
    pub cpu: CpuMode,
    /// The disk it boots from.
    pub root: DiskConfig,
    /// Where it is on the host, and what is its own there.
    pub placement: Placement,
    /// Its network card.
    pub nic: Option<NicConfig>,
    /// Kapok's record, kept with the domain.
    pub metadata: Metadata,
}

/// The name of an incarnation's domain.
pub fn domain_name(incarnation: IncarnationId) -> String {
    format!("kapok-{incarnation}")
}

/// A finished document; can only be made from a [`DomainConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDoc(String);

impl DomainDoc {
    /// Checks `config` and writes it. The same config gives the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Field`] naming what can't be written.
    pub fn new(config: &DomainConfig) -> Result<Self, Error> {
        check(config)?;
        super::write("domain", &Document::of(config)).map(Self)
    }

    /// The document's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(config: &DomainConfig) -> Result<(), Error> {
    if let Some(title) = &config.title {
        line("title", title, 1024)?;
    }
    machine_type(&config.machine)?;
    let (DiskSource::File(path) | DiskSource::Block(path)) = &config.root.source;
    line("root.path", path, 4096)?;
    if !path.starts_with('/') {
        return Err(Error::field("root.path", "is not absolute"));
    }
    if let Some(nic) = &config.nic {
        line("network", &nic.network, 255)?;
    }
    if config.memory == MemoryMib::ZERO {
        return Err(Error::field("memory", "is zero"));
    }
    if config.vcpus == Vcpus::ZERO {
        return Err(Error::field("vcpus", "is zero"));
    }
    if config.most_vcpus < config.vcpus {
        return Err(Error::field("most_vcpus", "is below vcpus"));
    }
    placement::check(config)
}

/// Checks a machine type: letters, digits, `-`, `.` and `_`, with a version in it.
pub(crate) fn machine_type(machine: &str) -> Result<(), Error> {
    line("machine", machine, 64)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !machine.chars().all(legal) || !machine.chars().any(|c| c.is_ascii_digit()) {
        return Err(Error::field(
            "machine",
            "must be a versioned machine type like pc-q35-7.2",
        ));
    }
    // `q35` and `pc` are aliases; every canonical name ends in its version.
    let version = machine.rsplit('-').next().unwrap_or_default();
    if !version.contains('.') {
        return Err(Error::field(
            "machine",
            "is an alias; state the version, as in pc-q35-7.2",
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "domain_tests.rs"]
pub(crate) mod tests;
