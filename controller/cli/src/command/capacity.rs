//! `kapok capacity`

use kapok_proto::fabric::v1::{
    CapacityShape, GetCapacityRequest, capacity_service_client::CapacityServiceClient as Capacities,
};

use crate::{
    args::capacity::Capacity as What,
    client::Client,
    error::{Doing, Error},
    output::Out,
    view::capacity::Capacity,
};

/// Shows it.
pub(super) async fn run(client: &Client, out: &mut Out, what: What) -> Result<(), Error> {
    let doing = Doing::new("ask what still fits", "kapok tenant ls");
    let shape = what.vcpus.zip(what.memory);
    let request = GetCapacityRequest {
        tenant: what.tenant.map(|name| name.to_string()).unwrap_or_default(),
        shapes: shape
            .map(|(vcpus, memory)| CapacityShape {
                vcpus,
                memory_mib: memory.get(),
                root_disk_bytes: 0,
            })
            .into_iter()
            .collect(),
    };
    let capacity = client
        .read(&doing, async |channel| {
            Capacities::new(channel).get_capacity(request.clone()).await
        })
        .await?;
    let capacity = Capacity::from(capacity);
    if out.format().is_for_people() {
        out.raw(capacity.text().as_bytes())
    } else {
        out.data(&capacity)
    }
}
