//! Capacity over gRPC: what still fits, for whom, and what isn't theirs to know.

use kapok_proto::fabric::v1::{
    Capacity, CapacityBound, CapacityShape, CreateFlavorRequest, Dimension, GetCapacityRequest,
    GetNodeRequest, SpareOutcome, UpdateNodeRequest,
};

use super::*;
use crate::fabric::TenantChange;

async fn capacity(who: &Clients, request: GetCapacityRequest) -> Result<Capacity, Status> {
    Ok(who.capacity().get_capacity(request).await?.into_inner())
}

fn of(tenant: &str, shapes: &[(u32, u64)]) -> GetCapacityRequest {
    let shapes = shapes.iter().map(|(vcpus, memory_mib)| CapacityShape {
        vcpus: *vcpus,
        memory_mib: *memory_mib,
        root_disk_bytes: 0,
    });
    GetCapacityRequest {
        tenant: tenant.into(),
        shapes: shapes.collect(),
    }
}

/// Three nodes of 4 vCPUs and 8 GiB; "water", which may have 6 vCPUs, and "pumps" below it.
async fn city() -> Lab {
    let nodes = ["node-1", "node-2", "node-3"];
    let lab = Lab::new().await.with_nodes(&nodes).await;
    for (name, above) in [("water", None), ("pumps", Some("water"))] {
        lab.own(fixture::tenant(name, above)).await;
    }
    lab.own(Command::UpdateTenant {
        tenant: "water".parse().unwrap(),
        changes: vec![TenantChange::Limit(fabric::Dimension::Vcpus, Some(6))],
        etag: String::new(),
    })
    .await;
    lab
}

#[tokio::test]
async fn the_fabrics_capacity_with_and_without_a_spare() {
    let lab = city().await;
    for (name, visible_to) in [("small", "city"), ("pumping", "pumps")] {
        let flavor = CreateFlavorRequest {
            name: name.into(),
            vcpus: 1,
            memory_mib: 1024,
            visible_to: vec![visible_to.into()],
            ..CreateFlavorRequest::default()
        };
        lab.flavors().create_flavor(flavor).await.unwrap();
    }
    let all = capacity(&lab, of("", &[])).await.unwrap();
    let flavors: Vec<_> = all.fits.iter().map(|one| &*one.flavor).collect();
    assert_eq!((&*all.tenant, flavors), ("", vec!["pumping", "small"]));
    // By vCPUs a node holds 4. To be covered, each counts for 4 GiB, of which a node
    // has one, and two others have two.
    let small = &all.fits[1];
    let shown = (small.count, small.nodes, small.with_node_spare, small.quota);
    assert_eq!(shown, (12, Some(12), Some(2), None));
    assert_eq!(small.bound(), CapacityBound::Nodes);
    assert_eq!(small.with_rack_spare, None);
    let fabric = all.fabric.unwrap();
    assert_eq!(fabric.free.unwrap().vcpus, 12);
    assert_eq!(fabric.stranded.unwrap().nodes, 0);
    assert_eq!(fabric.headroom, "none");
    let spare = fabric.node_spare.unwrap();
    assert_eq!((spare.outcome(), spare.audited), (SpareOutcome::Holds, 0));
    // What fits nowhere strands everything.
    let none = capacity(&lab, of("", &[(1, 9000)])).await.unwrap();
    assert_eq!(none.fits[0].count, 0);
    assert_eq!(none.fabric.unwrap().stranded.unwrap().nodes, 3);
    for (shapes, expected) in [
        (vec![(0, 1024)], "shapes[0].vcpus"),
        (vec![(1, 1024), (1, 1)], "shapes[1].memory_mib"),
        (vec![(1, 1024); 17], "shapes"),
    ] {
        assert_eq!(field(capacity(&lab, of("", &shapes)).await), expected);
    }
}

#[tokio::test]
async fn a_tenant_learns_what_it_may_still_have_and_nothing_of_the_nodes() {
    let lab = city().await;
    let wang = lab.user("user/wang", &["tenant_member in pumps"]).await;
    let own = capacity(&wang, of("", &[(2, 1024), (4, 7000)]))
        .await
        .unwrap();
    assert_eq!((&*own.tenant, own.fabric.is_none()), ("pumps", true));
    let [small, large] = &own.fits[..] else {
        panic!("{own:?}")
    };
    assert_eq!((small.count, small.quota), (3, Some(3)));
    assert_eq!(small.bound(), CapacityBound::Quota);
    // The quota is of the tenant above, which isn't theirs to know.
    assert_eq!(small.bound_tenant, "");
    assert_eq!(small.bound_dimensions, [i32::from(Dimension::Vcpus)]);
    assert_eq!((large.count, large.bound()), (1, CapacityBound::Quota));
    for hidden in [small, large] {
        let shown = [hidden.nodes, hidden.with_node_spare, hidden.with_rack_spare];
        assert_eq!(shown, [None; 3]);
    }
    let seen = capacity(&lab, of("pumps", &[(2, 1024)])).await.unwrap();
    assert_eq!(&*seen.fits[0].bound_tenant, "water");
    assert_eq!((seen.fits[0].count, seen.fits[0].nodes), (3, Some(6)));
    // Whoever may not see another tenant is told that it isn't there.
    let absent = (Code::NotFound, "NOT_FOUND".to_owned());
    let other = lab.user("user/zhao", &["tenant_member in water"]).await;
    assert!(capacity(&other, of("pumps", &[])).await.is_ok());
    lab.own(fixture::tenant("parks", None)).await;
    assert_eq!(refused(capacity(&wang, of("parks", &[])).await), absent);
    assert_eq!(refused(capacity(&wang, of("nowhere", &[])).await), absent);
    assert_eq!(refused(capacity(&lab, of("nowhere", &[])).await), absent);
    lab.own(Command::UpdateTenant {
        tenant: "water".parse().unwrap(),
        changes: vec![TenantChange::State(fabric::tenant::State::Suspended)],
        etag: String::new(),
    })
    .await;
    let closed = capacity(&wang, of("", &[(2, 1024)])).await.unwrap();
    assert_eq!(
        (closed.fits[0].count, closed.fits[0].bound()),
        (0, CapacityBound::Tenant)
    );
}

/// A lowered ratio and lost memory show in the node, with dimension and amount.
#[tokio::test]
async fn a_node_that_shrank_is_shown_as_overcommitted() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    instances::import_base(&lab).await;
    let ratio = |permille| UpdateNodeRequest {
        node: "node-1".into(),
        vcpu_overcommit_permille: Some(permille),
        ..UpdateNodeRequest::default()
    };
    lab.nodes().update_node(ratio(4000)).await.unwrap();
    for name in ["a", "b", "c"] {
        let wish = instances::wish(name);
        lab.instances().create_instance(wish).await.unwrap();
    }
    let lowered = lab
        .nodes()
        .update_node(ratio(1000))
        .await
        .unwrap()
        .into_inner();
    let shown: Vec<_> = (lowered.overcommitted.iter())
        .map(|over| (&*over.dimension, over.amount))
        .collect();
    assert_eq!(shown, [("vcpus", 2)]);
    lab.own(Command::ReportNode {
        node: "node-1".parse().unwrap(),
        id: fixture::node_id(1),
        capacity: fabric::Capacity {
            arch: Arch::X86_64,
            cpus: 4,
            memory: MemoryMib(2048),
            foreign_vcpus: Vcpus(0),
            foreign_memory: MemoryMib(0),
        },
        equipment: Arc::default(),
        host: HostFingerprint::default(),
        resyncing: false,
    })
    .await;
    let node = GetNodeRequest {
        node: "node-1".into(),
    };
    let shrunk = lab.nodes().get_node(node).await.unwrap().into_inner();
    let dimensions: Vec<_> = (shrunk.overcommitted.iter())
        .map(|over| &*over.dimension)
        .collect();
    assert_eq!(dimensions, ["vcpus", "memory_mib"]);
    let claimed = shrunk.memory_mib.unwrap().claimed;
    assert_eq!(shrunk.overcommitted[1].amount, claimed - 2048);
    let all = capacity(&lab, of("", &[(1, 64)])).await.unwrap();
    let over = all.fabric.unwrap().overcommitted_nodes;
    assert_eq!((&*over[0].node, over[0].overcommitted.len()), ("node-1", 2));
}
