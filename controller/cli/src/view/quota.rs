//! How much a tenant may have and has.

use kapok_proto::fabric::v1 as wire;
use kapok_types::{Bytes, MemoryMib};
use serde::Serialize;

use super::word;
use crate::{human::dash, output::columns};

/// How much a tenant may have and has.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TenantQuota {
    tenant: String,
    quota: Limits,
    reserved: Amounts,
    usage: Usage,
    overcommitted: Vec<Overcommitted>,
    etag: String,
}

/// How much there may be; null where there is no limit.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Limits {
    pub(super) vcpus: Option<u64>,
    pub(super) memory_mib: Option<u64>,
    pub(super) instances: Option<u64>,
    pub(super) volumes: Option<u64>,
    pub(super) volume_bytes: Option<u64>,
    pub(super) addresses: Option<u64>,
    pub(super) gpus: Option<u64>,
}

/// An amount of each.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Amounts {
    pub(super) vcpus: u64,
    pub(super) memory_mib: u64,
    pub(super) instances: u64,
    pub(super) volumes: u64,
    pub(super) volume_bytes: u64,
    pub(super) addresses: u64,
    pub(super) gpus: u64,
}

/// How much there is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Usage {
    own: Amounts,
    used: Amounts,
    /// What counts against the limit.
    pub(super) held: Amounts,
}

/// How much too much there is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Overcommitted {
    /// As the field is called.
    dimension: String,
    amount: u64,
}

/// Shows an amount of one dimension.
type Show = fn(u64) -> String;

/// One dimension, for people.
struct Row {
    what: &'static str,
    show: Show,
    used: u64,
    held: u64,
    limit: Option<u64>,
    kept: u64,
}

impl From<wire::Quota> for Limits {
    fn from(quota: wire::Quota) -> Self {
        Self {
            vcpus: quota.vcpus,
            memory_mib: quota.memory_mib,
            instances: quota.instances,
            volumes: quota.volumes,
            volume_bytes: quota.volume_bytes,
            addresses: quota.addresses,
            gpus: quota.gpus,
        }
    }
}

impl From<wire::Amounts> for Amounts {
    fn from(amounts: wire::Amounts) -> Self {
        Self {
            vcpus: amounts.vcpus,
            memory_mib: amounts.memory_mib,
            instances: amounts.instances,
            volumes: amounts.volumes,
            volume_bytes: amounts.volume_bytes,
            addresses: amounts.addresses,
            gpus: amounts.gpus,
        }
    }
}

impl From<wire::TenantUsage> for Usage {
    fn from(usage: wire::TenantUsage) -> Self {
        let amounts =
            |amounts: Option<wire::Amounts>| amounts.map(Amounts::from).unwrap_or_default();
        Self {
            own: amounts(usage.own),
            used: amounts(usage.used),
            held: amounts(usage.held),
        }
    }
}

impl From<wire::Overcommitted> for Overcommitted {
    fn from(over: wire::Overcommitted) -> Self {
        Self {
            dimension: word!(wire::Dimension, "DIMENSION_", over.dimension).replace('-', "_"),
            amount: over.amount,
        }
    }
}

impl std::fmt::Display for Overcommitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let amount = self.amount;
        match self.dimension.as_str() {
            "vcpus" => write!(f, "{amount} vCPUs"),
            "memory_mib" => write!(f, "{} of memory", memory(amount)),
            "volume_bytes" => write!(f, "{} of volumes", size(amount)),
            "gpus" => write!(f, "{amount} GPUs"),
            other => write!(f, "{amount} {other}"),
        }
    }
}

impl TenantQuota {
    /// What a tenant says of it, if it says so to this caller.
    pub(crate) fn of(tenant: wire::Tenant) -> Option<Self> {
        Some(Self {
            tenant: tenant.name,
            quota: tenant.quota?.into(),
            reserved: tenant.reserved?.into(),
            usage: tenant.usage?.into(),
            overcommitted: tenant
                .overcommitted
                .into_iter()
                .map(Overcommitted::from)
                .collect(),
            etag: tenant.etag,
        })
    }

    /// A line for each dimension, for people.
    pub(crate) fn table(&self) -> String {
        let headers = [
            "",
            "USED",
            "HELD",
            "LIMIT",
            "FREE",
            "RESERVED FOR IT",
            "TOO MUCH",
        ];
        let Usage { used, held, .. } = &self.usage;
        let (quota, kept) = (&self.quota, &self.reserved);
        let row = |what, show, used, held, limit, kept| Row {
            what,
            show,
            used,
            held,
            limit,
            kept,
        };
        let rows = [
            row(
                "vCPUs",
                number,
                used.vcpus,
                held.vcpus,
                quota.vcpus,
                kept.vcpus,
            ),
            row(
                "memory",
                memory,
                used.memory_mib,
                held.memory_mib,
                quota.memory_mib,
                kept.memory_mib,
            ),
            row(
                "instances",
                number,
                used.instances,
                held.instances,
                quota.instances,
                kept.instances,
            ),
            row(
                "volumes",
                number,
                used.volumes,
                held.volumes,
                quota.volumes,
                kept.volumes,
            ),
            row(
                "volume size",
                size,
                used.volume_bytes,
                held.volume_bytes,
                quota.volume_bytes,
                kept.volume_bytes,
            ),
            row(
                "addresses",
                number,
                used.addresses,
                held.addresses,
                quota.addresses,
                kept.addresses,
            ),
            row("GPUs", number, used.gpus, held.gpus, quota.gpus, kept.gpus),
        ];
        columns(&headers, rows.map(|row| row.cells()))
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let Self {
            show, held, limit, ..
        } = *self;
        let some = |amount: u64| if amount == 0 { dash() } else { show(amount) };
        vec![
            self.what.to_owned(),
            show(self.used),
            show(held),
            limit.map_or_else(dash, show),
            limit.map_or_else(dash, |limit| show(limit.saturating_sub(held))),
            some(self.kept),
            limit.map_or_else(dash, |limit| some(held.saturating_sub(limit))),
        ]
    }
}

/// An amount as `HELD/LIMIT`, or alone where there is no limit.
pub(super) fn of_limit(held: u64, limit: Option<u64>, show: Show) -> String {
    match limit {
        Some(limit) => format!("{}/{}", show(held), show(limit)),
        None => show(held),
    }
}

pub(super) fn number(amount: u64) -> String {
    amount.to_string()
}

pub(super) fn memory(mib: u64) -> String {
    MemoryMib(mib).to_string()
}

pub(super) fn size(bytes: u64) -> String {
    Bytes(bytes).to_string()
}
