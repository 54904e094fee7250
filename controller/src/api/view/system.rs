//! Systems as people see them.

use kapok_proto::{convert::timestamp, fabric::v1 as wire};

use super::count;
use crate::fabric::{AvailabilityClass, Fabric, System};

/// A system as people see it, with what its instances add up to.
pub(in crate::api) fn system(fabric: &Fabric, system: &System) -> wire::System {
    let (mut instances, mut vcpus, mut memory_mib) = (0, 0_u64, 0_u64);
    for instance in fabric.instances_of(system) {
        instances += 1;
        vcpus = vcpus.saturating_add(instance.spec.vcpus.get().into());
        memory_mib = memory_mib.saturating_add(instance.spec.memory.get());
    }
    wire::System {
        tenant: system.tenant.to_string(),
        name: system.name.to_string(),
        display_name: system.display.clone(),
        owner: system.owner.clone(),
        contacts: system.contacts.clone(),
        availability_class: class(system.class).into(),
        request_time: Some(timestamp(system.requested_at)),
        live_time: system.live_at.map(timestamp),
        end_time: system.ends_at.map(timestamp),
        end_warning_days: system.warned,
        instances: count(instances),
        vcpus,
        memory_mib,
        etag: system.etag(),
        create_time: Some(timestamp(system.created_at)),
        created_by: system.created_by.to_string(),
    }
}

const fn class(class: AvailabilityClass) -> wire::AvailabilityClass {
    match class {
        AvailabilityClass::None => wire::AvailabilityClass::None,
        AvailabilityClass::Restart => wire::AvailabilityClass::Restart,
        AvailabilityClass::Recreate => wire::AvailabilityClass::Recreate,
    }
}
