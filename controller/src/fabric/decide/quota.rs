//! Whether quotas have room: on the whole way from a tenant to the root.
//!
//! Decided by the ledger together with what needs the room, so that the last of it has one taker
//! (FAULTS 27).

use kapok_scheduler::NodeView;
use kapok_types::{Name, equipment::is_gpu};

use super::Context;
use crate::fabric::{
    Amounts, Denied, Dimension, Fabric, Quota, Tenant,
    quota::{Rise, Short},
};

/// Refuses to let a tenant's instances use more than quotas have room for.
///
/// # Errors
///
/// The first quota on the way up that is too small; its numbers only for whoever reaches its
/// tenant (FAULTS 25).
pub(super) fn room(context: Context<'_>, tenant: &Name, more: Amounts) -> Result<(), Denied> {
    let fabric = context.fabric;
    let rises = fabric.usage.rises(&fabric.tenants, tenant, more);
    rises
        .iter()
        .try_for_each(|rise| fits(context, tenant, rise))
}

/// Refuses to reserve more for a tenant than those above it may have, or than the fabric has.
pub(super) fn reserve(
    context: Context<'_>,
    tenant: &Tenant,
    reserved: Amounts,
) -> Result<(), Denied> {
    let fabric = context.fabric;
    let rises = fabric
        .usage
        .rises_by_reserving(&fabric.tenants, tenant, reserved);
    for rise in &rises {
        fits(context, &tenant.name, rise)?;
    }
    let Some(root) = rises.last() else {
        return Ok(());
    };
    let short = capacity(fabric, &root.tenant).short(root);
    if short.is_empty() {
        return Ok(());
    }
    Err(refusal(
        context,
        &tenant.name,
        &root.tenant,
        short,
        |_, short| Denied::OverCapacity { short },
    ))
}

fn fits(context: Context<'_>, asking: &Name, rise: &Rise) -> Result<(), Denied> {
    let tenant = context.fabric.tenants.get(&rise.tenant);
    let short = tenant.map_or_else(Vec::new, |tenant| tenant.quota.short(rise));
    if short.is_empty() {
        return Ok(());
    }
    Err(refusal(
        context,
        asking,
        &rise.tenant,
        short,
        |tenant, short| Denied::OverQuota { tenant, short },
    ))
}

/// The refusal with its numbers, for whoever may know them.
fn refusal(
    context: Context<'_>,
    asking: &Name,
    refusing: &Name,
    short: Vec<Short>,
    with_numbers: impl FnOnce(Name, Vec<Short>) -> Denied,
) -> Denied {
    if context.covers(refusing) {
        return with_numbers(refusing.clone(), short);
    }
    Denied::OverQuotaAbove {
        tenant: asking.clone(),
        dimensions: short.iter().map(|one| one.dimension).collect(),
    }
}

/// What the nodes have, as a quota, in the dimensions in which the root has none of its own: a
/// share of what isn't there can't be kept for anybody.
fn capacity(fabric: &Fabric, root: &Name) -> Quota {
    let own = fabric.tenants.get(root).map(|root| root.quota);
    let own = own.unwrap_or_default();
    let sum = |of: fn(&NodeView<'_>) -> u64| {
        let nodes = fabric.fleet.nodes();
        Some(nodes.fold(0, |sum: u64, node| sum.saturating_add(of(&node))))
    };
    Quota::each(|dimension| match dimension {
        _ if own.get(dimension).is_some() => None,
        // Dedicated vCPUs and huge pages come beside what is shared.
        Dimension::Vcpus => sum(|node| {
            let cells = node.node().equipment.cells.iter();
            let dedicated: u64 = cells.map(|cell| count(cell.dedicated.len())).sum();
            u64::from(node.vcpu_limit().get()).saturating_add(dedicated)
        }),
        Dimension::MemoryMib => sum(|node| {
            let cells = node.node().equipment.cells.iter();
            let pages = cells.flat_map(|cell| &cell.pages);
            let huge = pages.map(|(size, count)| size.mib().saturating_mul(*count));
            huge.fold(node.memory_limit().get(), u64::saturating_add)
        }),
        Dimension::Gpus => sum(|node| {
            let devices = node.node().equipment.devices.iter();
            count(devices.filter(|device| is_gpu(&device.class)).count())
        }),
        Dimension::Instances
        | Dimension::Volumes
        | Dimension::VolumeBytes
        | Dimension::Addresses => None,
    })
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
