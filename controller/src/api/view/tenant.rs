//! Tenants as people see them.

use kapok_proto::fabric::v1 as wire;

use super::named;
use crate::fabric::{Amounts, Dimension, Quota, Tenant, Usage, tenant::State};

/// A tenant as people see it; how much it may have and has for whoever may know, to whom its usage
/// is given.
pub(in crate::api) fn tenant(tenant: &Tenant, usage: Option<Usage>) -> wire::Tenant {
    let parent = tenant.parent.as_ref();
    let seen = wire::Tenant {
        name: tenant.name.to_string(),
        display_name: tenant.display.clone(),
        parent: parent.map(ToString::to_string).unwrap_or_default(),
        contacts: tenant.contacts.clone(),
        state: state(tenant.state).into(),
        isolation: named(tenant.isolation.as_ref()),
        ..wire::Tenant::default()
    };
    let Some(usage) = usage else {
        return seen;
    };
    let overcommitted = tenant.quota.overcommitted(usage.held).into_iter();
    wire::Tenant {
        quota: Some(quota(&tenant.quota)),
        reserved: Some(amounts(tenant.reserved)),
        usage: Some(wire::TenantUsage {
            own: Some(amounts(usage.own)),
            used: Some(amounts(usage.used)),
            held: Some(amounts(usage.held)),
        }),
        overcommitted: overcommitted
            .map(|(of, amount)| wire::Overcommitted {
                dimension: dimension(of).into(),
                amount,
            })
            .collect(),
        // Made of the numbers, too: whoever may not know them could guess until it fits.
        etag: tenant.etag(),
        ..seen
    }
}

const fn state(state: State) -> wire::TenantState {
    match state {
        State::Active => wire::TenantState::Active,
        State::Suspended => wire::TenantState::Suspended,
        State::Closing => wire::TenantState::Closing,
    }
}

/// A quota's dimension.
pub(in crate::api) const fn dimension(dimension: Dimension) -> wire::Dimension {
    match dimension {
        Dimension::Vcpus => wire::Dimension::Vcpus,
        Dimension::MemoryMib => wire::Dimension::MemoryMib,
        Dimension::Instances => wire::Dimension::Instances,
        Dimension::Volumes => wire::Dimension::Volumes,
        Dimension::VolumeBytes => wire::Dimension::VolumeBytes,
        Dimension::Addresses => wire::Dimension::Addresses,
        Dimension::Gpus => wire::Dimension::Gpus,
    }
}

const fn quota(quota: &Quota) -> wire::Quota {
    wire::Quota {
        vcpus: quota.vcpus,
        memory_mib: quota.memory_mib,
        instances: quota.instances,
        volumes: quota.volumes,
        volume_bytes: quota.volume_bytes,
        addresses: quota.addresses,
        gpus: quota.gpus,
    }
}

const fn amounts(amounts: Amounts) -> wire::Amounts {
    wire::Amounts {
        vcpus: amounts.vcpus,
        memory_mib: amounts.memory_mib,
        instances: amounts.instances,
        volumes: amounts.volumes,
        volume_bytes: amounts.volume_bytes,
        addresses: amounts.addresses,
        gpus: amounts.gpus,
    }
}
