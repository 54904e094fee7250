//! Flavors as people see them.

use kapok_proto::{convert::timestamp, fabric::v1 as wire};
use kapok_types::Name;

use crate::fabric::Flavor;

/// A flavor as somebody sees it who sees these tenants.
pub(in crate::api) fn flavor(flavor: &Flavor, sees: impl Fn(&Name) -> bool) -> wire::Flavor {
    let visible_to = flavor.visible_to.iter().filter(|tenant| sees(tenant));
    wire::Flavor {
        name: flavor.name.to_string(),
        vcpus: flavor.vcpus.get(),
        memory_mib: flavor.memory.get(),
        root_disk_bytes: flavor.root_disk.unwrap_or_default().get(),
        description: flavor.description.clone(),
        visible_to: visible_to.map(ToString::to_string).collect(),
        etag: flavor.etag(),
        create_time: Some(timestamp(flavor.created_at)),
        created_by: flavor.created_by.to_string(),
        needs: (!flavor.needs.is_none()).then(|| (&flavor.needs).into()),
    }
}
