//! How the server does and what it is made of, towards the wire.
//!
//! Everything that came from firmware or tools is bounded here once more: an answer must fit into a
//! message.

use std::time::Duration;

use kapok_health::{
    Assessment, Condition, Held, Inventory, Outcome, Read, SourceState, Verdict,
    inventory::{self, PartChange},
};
use kapok_proto::{agent::v1 as wire, common::v1 as common, convert};
use tonic::Status;

use super::{Services, node::epoch, status};
use crate::{
    driver::Facts,
    health::{self, Health, HealthNews, PartNews, Stock},
    watch::{Item, Key},
};

/// Most verdicts that are told.
const MAX_VERDICTS: usize = 256;
/// Most components that are told.
const MAX_COMPONENTS: usize = 4096;
/// Most readings that are told.
const MAX_READINGS: usize = 20_000;
/// Most changes of parts that are told.
const MAX_CHANGES: usize = 1024;

impl Services {
    /// The latest assessment.
    pub(super) fn judged(
        &self,
        request: wire::GetHealthRequest,
    ) -> Result<wire::GetHealthResponse, Status> {
        let unjudged = || status::health(&health::Error::Unjudged);
        let health = self.health.as_ref().ok_or_else(unjudged)?;
        let assessment = health.assessment().borrow().clone();
        let assessment = assessment.ok_or_else(unjudged)?;
        Ok(wire::GetHealthResponse {
            health: Some(whole(&assessment, health, request.readings)),
        })
    }

    /// The latest inventory, with what the hypervisor offers.
    pub(super) fn stocked(&self) -> Result<wire::GetInventoryResponse, Status> {
        let unread = || status::health(&health::Error::Unread);
        let health = self.health.as_ref().ok_or_else(unread)?;
        let stock = health.stock().borrow().clone().ok_or_else(unread)?;
        let node = self.hub.get(Key::Node);
        let facts = match node.as_deref() {
            Some(Item::Node(node)) => Some(&node.driver),
            _ => None,
        };
        Ok(wire::GetInventoryResponse {
            inventory: Some(inventory(&stock, facts, &health.changes())),
        })
    }

    /// Accepts the server's present parts.
    pub(super) async fn take_parts(
        &self,
        request: &wire::AcceptPartsRequest,
    ) -> Result<wire::AcceptPartsResponse, Status> {
        let epoch = epoch(request.epoch)?;
        let unread = || status::health(&health::Error::Unread);
        let health = self.health.as_ref().ok_or_else(unread)?;
        // Nobody's change is to wait for a disk that is looked at, or that the word is written to.
        health.read_again().await;
        let entered = self.changes.enter(epoch).await;
        entered.map_err(status::refused)?;
        let accepted = health.accept().await;
        accepted.map_err(|error| status::health(&error))?;
        Ok(wire::AcceptPartsResponse {})
    }
}

/// What subscribers hear.
pub(super) fn news(news: &HealthNews) -> common::NodeHealth {
    common::NodeHealth {
        condition: condition(news.condition).into(),
        verdicts: verdicts(&news.verdicts),
        judge_time: Some(convert::timestamp(news.at)),
        ..common::NodeHealth::default()
    }
}

/// What subscribers hear of parts.
pub(super) fn parts(news: &PartNews) -> wire::PartList {
    wire::PartList {
        parts: news.parts.clone(),
        changes: changes(&news.changes),
    }
}

fn whole(assessment: &Assessment, health: &Health, with_readings: bool) -> common::NodeHealth {
    let components = assessment.components.iter().take(MAX_COMPONENTS);
    let components = components.map(|(component, how)| common::ComponentHealth {
        component: component.to_string(),
        condition: condition(*how).into(),
    });
    let sources = assessment.sources.iter();
    let sources = sources.map(|it| source(it, health.cadence(&it.name)));
    let readings = assessment.readings.iter().take(MAX_READINGS);
    common::NodeHealth {
        condition: condition(assessment.condition).into(),
        verdicts: verdicts(&assessment.verdicts),
        components: components.collect(),
        sources: sources.collect(),
        readings: if with_readings {
            readings.map(reading).collect()
        } else {
            Vec::new()
        },
        judge_time: Some(convert::timestamp(assessment.at)),
    }
}

const fn condition(condition: Condition) -> common::Condition {
    match condition {
        Condition::Healthy => common::Condition::Healthy,
        Condition::Degraded => common::Condition::Degraded,
        Condition::Unknown => common::Condition::Unknown,
        Condition::Failing => common::Condition::Failing,
    }
}

fn verdicts(verdicts: &[Verdict]) -> Vec<common::Verdict> {
    verdicts.iter().take(MAX_VERDICTS).map(verdict).collect()
}

fn verdict(verdict: &Verdict) -> common::Verdict {
    common::Verdict {
        code: verdict.code.to_string(),
        condition: condition(verdict.condition).into(),
        component: verdict.component.to_string(),
        summary: verdict.summary.clone(),
        evidence: verdict.evidence.iter().map(reading).collect(),
        first_seen_time: Some(convert::timestamp(verdict.first_seen)),
        last_seen_time: Some(convert::timestamp(verdict.last_seen)),
        remedy: verdict.remedy.clone().into_owned(),
    }
}

fn source(state: &SourceState, cadence: Option<Duration>) -> common::SourceHealth {
    use common::source_health::Outcome as Wire;
    let outcome = match &state.outcome {
        Outcome::Read(count) => Wire::Readings(u32::try_from(*count).unwrap_or(u32::MAX)),
        Outcome::Absent(what) => Wire::Absent(what.clone()),
        Outcome::Unreadable(reason) => Wire::Unreadable(reason.clone()),
    };
    let cadence = cadence.unwrap_or_default().as_millis();
    common::SourceHealth {
        name: state.name.to_string(),
        read_time: Some(convert::timestamp(state.at)),
        cadence_ms: u64::try_from(cadence).unwrap_or(u64::MAX),
        outcome: Some(outcome),
    }
}

fn reading(held: &Held) -> common::Reading {
    use common::reading::Read as Wire;
    let read = match &held.reading.read {
        Read::Value(value) => Wire::Value(*value),
        Read::Unreadable(reason) => Wire::Unreadable(reason.clone()),
        Read::Absent => Wire::Absent(true),
    };
    common::Reading {
        component: held.reading.component.to_string(),
        quantity: held.reading.quantity.name.to_string(),
        unit: held.reading.quantity.unit.as_str().to_owned(),
        source: held.source.to_string(),
        read_time: Some(convert::timestamp(held.at)),
        read: Some(read),
    }
}

fn changes(changes: &[PartChange]) -> Vec<common::PartChange> {
    let changes = changes.iter().take(MAX_CHANGES);
    let changes = changes.map(|it| common::PartChange {
        part: it.part.clone(),
        before: it.before.clone(),
        after: it.after.clone(),
    });
    changes.collect()
}

fn inventory(stock: &Stock, facts: Option<&Facts>, changed: &[PartChange]) -> common::Inventory {
    let it = &stock.inventory;
    common::Inventory {
        system: Some(system(&it.system)),
        processors: it.processors.iter().map(processor).collect(),
        numa_cells: it.numa_cells.iter().map(numa_cell).collect(),
        memory_modules: it.memory_modules.iter().map(memory_module).collect(),
        disks: it.disks.iter().map(disk).collect(),
        nics: it.nics.iter().map(nic).collect(),
        pci_devices: it.pci_devices.iter().map(pci_device).collect(),
        gpus: it.gpus.iter().map(gpu).collect(),
        software: Some(software(&it.software, facts)),
        virtualization: Some(virtualization(it, facts)),
        unreadable: it.unreadable.clone(),
        read_time: Some(convert::timestamp(stock.at)),
        changes: changes(changed),
    }
}

fn system(it: &inventory::System) -> common::System {
    let it = it.clone();
    common::System {
        vendor: it.vendor,
        model: it.model,
        serial: it.serial,
        uuid: it.uuid,
        board: it.board,
        board_serial: it.board_serial,
        bios_vendor: it.bios_vendor,
        bios_version: it.bios_version,
        bios_date: it.bios_date,
        bmc_firmware: it.bmc_firmware,
        tpm_version: it.tpm_version,
    }
}

fn processor(it: &inventory::Processor) -> common::Processor {
    let it = it.clone();
    common::Processor {
        package: it.package,
        model: it.model,
        vendor: it.vendor,
        microcode: it.microcode,
        cores: it.cores,
        threads: it.threads,
        max_mhz: it.max_mhz,
        flags: it.flags,
    }
}

fn numa_cell(it: &inventory::NumaCell) -> common::NumaCell {
    let pages = it.huge_pages.iter().map(|pages| common::HugePages {
        size_kib: pages.size_kib,
        total: pages.total,
        free: pages.free,
    });
    common::NumaCell {
        cell: it.cell,
        memory_mib: it.memory_mib,
        cpus: it.cpus.clone(),
        distances: it.distances.clone(),
        huge_pages: pages.collect(),
    }
}

fn memory_module(it: &inventory::MemoryModule) -> common::MemoryModule {
    let it = it.clone();
    common::MemoryModule {
        slot: it.slot,
        size_mib: it.size_mib,
        vendor: it.vendor,
        part: it.part,
        serial: it.serial,
        kind: it.kind,
        speed_mts: it.speed_mts,
    }
}

fn disk(it: &inventory::Disk) -> common::Disk {
    let it = it.clone();
    common::Disk {
        name: it.name,
        model: it.model,
        serial: it.serial,
        firmware: it.firmware,
        rotational: it.rotational,
        size_bytes: it.size_bytes,
        transport: it.transport,
    }
}

fn nic(it: &inventory::Nic) -> common::Nic {
    let it = it.clone();
    common::Nic {
        name: it.name,
        mac: it.mac,
        driver: it.driver,
        firmware: it.firmware,
        speed_mbps: it.speed_mbps,
        pci: it.pci,
        vfs: it.vfs,
        max_vfs: it.max_vfs,
        bond: it.bond,
    }
}

fn pci_device(it: &inventory::PciDevice) -> common::PciDevice {
    let it = it.clone();
    common::PciDevice {
        address: it.address,
        vendor_id: it.vendor_id,
        device_id: it.device_id,
        vendor: it.vendor,
        device: it.device,
        class: it.class,
        driver: it.driver,
        iommu_group: it.iommu_group,
        numa_cell: it.numa_cell,
    }
}

fn gpu(it: &inventory::Gpu) -> common::Gpu {
    let it = it.clone();
    common::Gpu {
        pci: it.pci,
        name: it.name,
        driver: it.driver,
    }
}

fn software(it: &inventory::Software, facts: Option<&Facts>) -> common::Software {
    let version = |name: &str| {
        let found = facts?
            .versions
            .iter()
            .find(|(component, _)| component == name);
        found.map(|(_, version)| version.clone())
    };
    common::Software {
        kernel: it.kernel.clone(),
        os: it.os.clone(),
        libvirt: version("libvirt").unwrap_or_default(),
        qemu: version("qemu").unwrap_or_default(),
        agent: env!("CARGO_PKG_VERSION").into(),
        clock_source: it.clock_source.clone(),
        vulnerabilities: it.vulnerabilities.clone(),
    }
}

fn virtualization(it: &Inventory, facts: Option<&Facts>) -> common::Virtualization {
    let facts = facts.cloned();
    let offers = facts
        .as_ref()
        .map(|facts| facts.offers.as_ref().clone())
        .unwrap_or_default();
    let (virt_type, check) = facts
        .map(|facts| (facts.virt_type, facts.virt_reason))
        .unwrap_or_default();
    common::Virtualization {
        virt_type,
        check,
        machine_types: offers.machines,
        cpu_models: offers.cpu_models,
        iommu: it.iommu,
        nested: it.nested,
    }
}
