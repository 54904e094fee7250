//! From a record to the domain's document. What isn't in the record follows from it.

use kapok_libvirt::xml::{
    domain::{
        CacheMode, CpuMode, DiskConfig, DiskSource, DomainConfig, DomainDoc, NicConfig, VirtType,
    },
    metadata::Metadata,
};
use kapok_types::instance::DiskFormat;

use super::{Options, names};
use crate::driver::{Error, Record};

/// Builds the document of an incarnation whose root disk lies in the folder of the pool, with its
/// record already written as metadata.
///
/// # Errors
///
/// If the record can't be written as a domain.
pub(super) fn of(
    options: &Options,
    record: &Record,
    pool_path: &str,
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
        nic: Some(NicConfig {
            network: options.network.clone(),
            mac: names::mac(intent.incarnation),
        }),
        metadata,
    })
    .map_err(|error| failed(error.to_string()))
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
