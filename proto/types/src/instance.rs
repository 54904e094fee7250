//! An instance's intent: what people asked for, in the numbers an agent needs.
//!
//! The controller writes it, the log and the domain's metadata keep it, the agent follows it.
//! Counters instead of commands: a start, a restart or a reset is a number that grew, so none is
//! lost when a message is, and none is repeated when a message is.

use serde::{Deserialize, Serialize};

use crate::{
    Assignment, Bytes, Digest, Epoch, Generation, IncarnationId, InstanceId, MemoryMib, Name,
    Needs, NodeId, OperationId, Vcpus, Violation,
    quantity::{GIB, MIB},
};

/// Most virtual CPUs that one instance may have.
pub const MAX_VCPUS: u32 = 512;
/// Least guest memory, in MiB: below it no firmware starts.
pub const MIN_MEMORY_MIB: u64 = 16;
/// Most guest memory, in MiB (16 TiB).
pub const MAX_MEMORY_MIB: u64 = 16 * 1024 * 1024;
/// Largest root disk and largest image (virtual size), in bytes (64 TiB).
pub const MAX_DISK_BYTES: u64 = 64 * 1024 * GIB;

/// A processor architecture, by the kernel's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// The name that kernel, libvirt and people use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// How a blob's bytes are laid out. Always stated, never probed from content (FAULTS 9, 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// The bytes are the disk.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl DiskFormat {
    /// The name that libvirt and QEMU use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Whether an instance is meant to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    Running,
    /// It is off; its disks stay.
    Stopped,
}

/// What the guest's own end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPolicy {
    /// A shutdown from inside becomes intent *stopped*; a crash restarts with back-off.
    #[default]
    RestartOnCrash,
    /// Whatever ended it, it is started again (with back-off).
    Always,
}

/// A root disk: a copy-on-write child of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDisk {
    /// The image's content.
    pub image: Digest,
    /// The image's layout, from the controller's record.
    pub image_format: DiskFormat,
    /// Size of the image's blob, which agents pull.
    pub image_bytes: Bytes,
    /// The disk's size as the guest sees it; at least the image's virtual size.
    pub size: Bytes,
}

/// What an instance is, in numbers that no later change of a flavor can touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The architecture its image was built for.
    pub arch: Arch,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: MemoryMib,
    /// The disk it starts from.
    pub root: RootDisk,
    /// What the guest's own end means.
    pub run_policy: RunPolicy,
    /// What it needs of its node besides amounts.
    #[serde(default, skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
}

impl Spec {
    /// Checks every number against its limit.
    ///
    /// # Errors
    ///
    /// All violations at once, with fields as in `kapok.common.v1.InstanceSpec`.
    pub fn validate(&self) -> Result<(), Vec<Violation>> {
        let mut wrong = check_size(self.vcpus, self.memory);
        let needs = self.needs.check(self.vcpus, self.memory).into_iter();
        wrong.extend(needs.map(|violation| violation.under("needs")));
        wrong.extend(check_disk("root.size_bytes", self.root.size));
        if !(1..=MAX_DISK_BYTES).contains(&self.root.image_bytes.get()) {
            wrong.push(Violation::new(
                "root.image_bytes",
                format!(
                    "is {}; must be 1 to {MAX_DISK_BYTES}",
                    self.root.image_bytes.get()
                ),
            ));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// Checks vCPUs and guest memory against their limits: all violations, none if both are fine.
pub fn check_size(vcpus: Vcpus, memory: MemoryMib) -> Vec<Violation> {
    let mut wrong = Vec::new();
    if !(1..=MAX_VCPUS).contains(&vcpus.get()) {
        let reason = format!("is {vcpus}; must be 1 to {MAX_VCPUS}");
        wrong.push(Violation::new("vcpus", reason));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory.get()) {
        let reason = format!(
            "is {}; must be {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}",
            memory.get()
        );
        wrong.push(Violation::new("memory_mib", reason));
    }
    wrong
}

/// Checks a root disk's size against its limits.
pub fn check_disk(field: &str, size: Bytes) -> Option<Violation> {
    let fits = (MIB..=MAX_DISK_BYTES).contains(&size.get());
    (!fits).then(|| {
        let reason = format!("is {}; must be {MIB} to {MAX_DISK_BYTES}", size.get());
        Violation::new(field, reason)
    })
}

/// The memory that an instance takes from its node: the guest's own and QEMU's beside it.
///
/// The parts are kept apart because `explain` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryClaim {
    /// What the guest sees.
    pub guest: MemoryMib,
    /// Page tables and dirty bitmaps: 1/256 of the guest's memory, rounded up.
    pub tables: MemoryMib,
    /// Stacks and buffers: 8 MiB a vCPU.
    pub vcpus: MemoryMib,
    /// QEMU's text, heap, firmware and device state: 128 MiB.
    pub fixed: MemoryMib,
}

impl MemoryClaim {
    /// The claim of an instance with this much memory and this many vCPUs.
    pub fn of(memory: MemoryMib, vcpus: Vcpus) -> Self {
        Self {
            guest: memory,
            tables: MemoryMib(memory.get().div_ceil(256)),
            vcpus: MemoryMib(8 * u64::from(vcpus.get())),
            fixed: MemoryMib(128),
        }
    }

    /// The whole claim (saturating; limits keep it far from that).
    pub fn total(self) -> MemoryMib {
        self.guest
            .saturating_add(self.tables)
            .saturating_add(self.vcpus)
            .saturating_add(self.fixed)
    }

    /// QEMU's share of the claim.
    pub fn overhead(self) -> MemoryMib {
        self.total().saturating_sub(self.guest)
    }
}

/// Counters that stand for one-time acts. Each only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Times that people turned it on; the first is 1.
    pub starts: u64,
    /// Times that people asked for a restart (shutdown, then start).
    pub restarts: u64,
    /// Times that people asked for a reset (as the button on the case).
    pub resets: u64,
}

/// The whole intent for one incarnation: what `ApplyInstance` carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The incarnation that this is about. An agent refuses one that it has released.
    pub incarnation: IncarnationId,
    /// Its instance.
    pub instance: InstanceId,
    /// The node it lives on; an agent refuses another's.
    pub node: NodeId,
    /// The instance's name, for people; not an identity.
    pub name: Name,
    /// What it is.
    pub spec: Spec,
    /// Whether it is meant to run.
    pub power: Power,
    /// One-time acts so far.
    pub counters: Counters,
    /// Which change of the instance's intent this is.
    pub generation: Generation,
    /// The leadership that sent it.
    pub epoch: Epoch,
    /// The operation that caused this change, if it still runs.
    pub operation: Option<OperationId>,
    /// What is its own on the node.
    #[serde(default, skip_serializing_if = "Assignment::is_none")]
    pub assignment: Assignment,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            arch: Arch::X86_64,
            vcpus: Vcpus(1),
            memory: MemoryMib(256),
            root: RootDisk {
                image: Digest::of(b"image"),
                image_format: DiskFormat::Qcow2,
                image_bytes: Bytes(13 * MIB),
                size: Bytes(GIB),
            },
            run_policy: RunPolicy::default(),
            needs: Needs::default(),
        }
    }

    /// FAULTS 28: zero and overflowing sizes are refused with the field and its limit.
    #[test]
    fn every_bad_number_is_named() {
        assert_eq!(spec().validate(), Ok(()));
        let mut wrong = spec();
        wrong.vcpus = Vcpus(0);
        wrong.memory = MemoryMib(u64::MAX);
        wrong.root.size = Bytes(0);
        let fields: Vec<_> = wrong
            .validate()
            .unwrap_err()
            .into_iter()
            .map(|violation| violation.field)
            .collect();
        assert_eq!(fields, ["vcpus", "memory_mib", "root.size_bytes"]);
    }

    #[test]
    fn the_claim_shows_its_parts() {
        let claim = MemoryClaim::of(MemoryMib(4096), Vcpus(2));
        assert_eq!((claim.tables, claim.vcpus), (MemoryMib(16), MemoryMib(16)));
        assert_eq!(claim.total(), MemoryMib(4096 + 16 + 16 + 128));
        assert_eq!(
            MemoryClaim::of(MemoryMib(u64::MAX), Vcpus(1)).total(),
            MemoryMib(u64::MAX)
        );
    }
}
