//! From a record to the domain's document. What isn't in the record follows from it.

use kapok_libvirt::xml::{
    domain::{
        CacheMode, CpuMode, DiskConfig, DiskSource, DomainConfig, DomainDoc, NicConfig, VirtType,
    },
    metadata::Metadata,
    topology::HostCell,
};
use kapok_types::{
    Intent, Vcpus,
    instance::{Arch, DiskFormat},
};

use super::{Options, names, placement};
use crate::driver::{Error, Record};

/// How many times the vCPUs that it is started with a guest can be given while it runs.
const MOST_TIMES: u32 = 4;
/// Most vCPUs that room is left for: beyond 255 a guest needs an IOMMU.
const MOST_WITH_ROOM: u32 = 240;

/// Builds the document of an incarnation whose root disk lies in the folder of the pool, with its
/// record already written as metadata, on a host with these cells.
///
/// # Errors
///
/// If the record can't be written as a domain.
pub(super) fn of(
    options: &Options,
    record: &Record,
    pool_path: &str,
    host: &[HostCell],
    metadata: Metadata,
) -> Result<DomainDoc, Error> {
    let failed = |reason: String| Error::Failed {
        call: "writing the domain's document",
        reason,
    };
    let intent = &record.intent;
    let virt_type = virt_type(&record.virt_type).ok_or_else(|| {
        let word = &record.virt_type;
        failed(format!("the record's virt_type {word:?} is unknown"))
    })?;
    DomainDoc::new(&DomainConfig {
        incarnation: intent.incarnation,
        title: Some(intent.name.to_string()),
        memory: intent.spec.memory,
        vcpus: intent.spec.vcpus,
        most_vcpus: most_vcpus(intent),
        arch: intent.spec.arch,
        machine: record.machine.clone(),
        virt_type,
        cpu: match virt_type {
            VirtType::Kvm => CpuMode::HostModel,
            VirtType::Qemu => CpuMode::Maximum,
            VirtType::Test => CpuMode::HypervisorDefault,
        },
        root: DiskConfig {
            source: DiskSource::File(root_path(pool_path, record)),
            format: DiskFormat::Qcow2,
            cache: if options.pool_shared {
                CacheMode::None
            } else {
                CacheMode::Writeback
            },
        },
        placement: placement::of(&options.offering.dedicated, host, intent),
        nic: Some(NicConfig {
            network: network(options, intent).to_owned(),
            mac: names::mac(intent.incarnation),
        }),
        metadata,
    })
    .map_err(|error| failed(error.to_string()))
}

/// The vCPUs that a guest can be given while it runs. Room for more costs next to nothing: some
/// table entries, and what the guest's kernel keeps for each processor that may come.
fn most_vcpus(intent: &Intent) -> Vcpus {
    let vcpus = intent.spec.vcpus;
    // A guest that is bound to cells gets new ones with its vCPUs, and QEMU adds none on Arm.
    let fixed = !intent.assignment.cells.is_empty() || intent.spec.arch != Arch::X86_64;
    if fixed {
        return vcpus;
    }
    let most = vcpus.get().saturating_mul(MOST_TIMES).min(MOST_WITH_ROOM);
    vcpus.max(Vcpus(most))
}

/// The network that it is plugged into.
pub(super) fn network<'a>(options: &'a Options, intent: &'a Intent) -> &'a str {
    let named = intent.spec.needs.network.as_ref();
    named.map_or(&options.network, |name| name.as_str())
}

/// Where the incarnation's root disk is.
pub(super) fn root_path(pool_path: &str, record: &Record) -> String {
    let volume = names::root_volume(record.intent.incarnation);
    format!("{}/{volume}", pool_path.trim_end_matches('/'))
}

/// The record's word as libvirt's.
pub(super) fn virt_type(word: &str) -> Option<VirtType> {
    [VirtType::Kvm, VirtType::Qemu, VirtType::Test]
        .into_iter()
        .find(|known| known.as_str() == word)
}
