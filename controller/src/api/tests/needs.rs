//! What instances need of nodes besides amounts, over gRPC.

use kapok_proto::{
    agent::v1::NodeFacts,
    common::v1 as common,
    fabric::v1::{
        CreateFlavorRequest, CreateInstanceRequest, DeleteInstanceRequest, EquipmentUse,
        ExplainInstanceRequest, ExplainInstanceResponse, GetInstanceRequest, GetNodeRequest,
        Instance, ListNodesRequest, Node, UpdateFlavorRequest, explain_instance_request::Question,
    },
};
use kapok_types::{
    Equipment,
    equipment::{Cell, Device, PageSize},
};
use prost_types::FieldMask;

use super::*;

/// Clients that all want the same at once.
const CLIENTS: usize = 100;

/// Four nodes, the second with four threads for dedicated vCPUs, 4 GiB of huge pages and a GPU.
async fn lab() -> Lab {
    let names = ["node-1", "node-2", "node-3", "node-4"];
    let lab = Lab::new().await.with_nodes(&names).await;
    let equipment = Equipment {
        cells: vec![Cell {
            id: 1,
            dedicated: vec![8, 9, 24, 25],
            pages: [(PageSize::Gib1, 4)].into(),
        }],
        cpu_features: ["avx2".parse().unwrap()].into(),
        devices: vec![Device {
            address: "0000:65:00.0".parse().unwrap(),
            class: "gpu-a100".parse().unwrap(),
            cell: Some(1),
        }],
        pools: ["fast".parse().unwrap()].into(),
        networks: ["dmz".parse().unwrap()].into(),
    };
    lab.equip(2, "node-2", equipment).await;
    instances::import_base(&lab).await;
    lab
}

fn gpu() -> common::Needs {
    common::Needs {
        devices: [("gpu-a100".to_owned(), 1)].into(),
        ..common::Needs::default()
    }
}

/// All that the second node has, and the others don't.
fn everything() -> common::Needs {
    common::Needs {
        dedicated_cpus: true,
        huge_pages: "1GiB".into(),
        cpu_features: vec!["avx2".into()],
        pool: "fast".into(),
        network: "dmz".into(),
        ..gpu()
    }
}

fn wish(name: &str, needs: common::Needs) -> CreateInstanceRequest {
    CreateInstanceRequest {
        needs: Some(needs),
        ..instances::wish(name)
    }
}

async fn create(who: &Clients, wish: CreateInstanceRequest) -> Result<String, Status> {
    let operation = who.instances().create_instance(wish).await?.into_inner();
    Ok(operation.instance_id)
}

async fn get(lab: &Lab, instance: &str) -> Instance {
    let request = GetInstanceRequest {
        instance: instance.into(),
    };
    let found = lab.instances().get_instance(request).await;
    found.unwrap().into_inner()
}

async fn node(lab: &Lab, node: &str) -> Node {
    let request = GetNodeRequest { node: node.into() };
    lab.nodes().get_node(request).await.unwrap().into_inner()
}

async fn explain(lab: &Lab, question: Question) -> ExplainInstanceResponse {
    let question = ExplainInstanceRequest {
        question: Some(question),
    };
    let answer = lab.instances().explain_instance(question).await;
    answer.unwrap().into_inner()
}

/// FAULTS 27 for claims: 100 clients create for the last GPU at once: exactly one wins, nothing
/// leaks, and what the winner gives back has one winner again.
#[tokio::test]
async fn the_last_gpu_has_one_winner() {
    let lab = lab().await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let machine = format!("machine/ci-{n}");
        clients.push(lab.user(&machine, &["tenant_member in city"]).await);
    }
    for round in 0..3 {
        let asked = clients.iter().enumerate().map(|(n, client)| {
            let wish = wish(&format!("web-{round}-{n}"), gpu());
            create(client, wish)
        });
        let answers = soon(futures::future::join_all(asked)).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, CLIENTS - 1), "round {round}");
        for refusal in lost {
            let no_capacity = (Code::ResourceExhausted, "NO_CAPACITY".into());
            assert_eq!(refused(refusal), no_capacity);
        }
        let taken = node(&lab, "node-2").await.equipment_use.unwrap();
        assert_eq!(taken.devices, ["0000:65:00.0"]);
        let won = won[0].as_ref().unwrap();
        let delete = DeleteInstanceRequest {
            instance: won.clone(),
            ..DeleteInstanceRequest::default()
        };
        lab.instances().delete_instance(delete).await.unwrap();
        let snapshot = lab.api.ledger.snapshot();
        let id: kapok_types::InstanceId = won.parse().unwrap();
        let one = &snapshot.fabric.instances[&id].incarnations[0];
        lab.own(Command::IncarnationGone {
            node: one.node,
            incarnation: one.id,
        })
        .await;
        let left = node(&lab, "node-2").await.equipment_use.unwrap();
        assert_eq!(left, EquipmentUse::default());
    }
}

#[tokio::test]
async fn what_is_needed_is_given_and_shown() {
    let lab = lab().await;
    let question = || Question::Create(wish("gis", everything()));
    let before = explain(&lab, question()).await;
    assert_eq!(before.node_name, "node-2");
    let counted = before.counts.iter().map(|count| count.nodes).sum::<u32>();
    assert_eq!(counted, 3, "{before:?}");
    create(&lab, wish("gis", everything())).await.unwrap();
    let gis = get(&lab, "gis").await;
    assert_eq!(gis.spec.unwrap().needs, Some(everything()));
    let own = gis.incarnations[0].assignment.clone().unwrap();
    assert_eq!(
        before.assignment.as_ref(),
        Some(&own),
        "as it was told before"
    );
    assert_eq!((own.cells.len(), &*own.huge_pages), (1, "1GiB"));
    assert_eq!((own.cells[0].cell, own.cells[0].threads.len()), (1, 2));
    assert_eq!(own.devices, ["0000:65:00.0"]);

    let shown = node(&lab, "node-2").await;
    assert_eq!(shown.equipment.unwrap().cells[0].dedicated, [8, 9, 24, 25]);
    let taken = shown.equipment_use.unwrap();
    assert_eq!(taken.cells[0].threads, own.cells[0].threads);
    assert_eq!(taken.cells[0].pages[0].count, 1);
    let page = lab.nodes().list_nodes(ListNodesRequest::default()).await;
    let nodes = page.unwrap().into_inner().nodes;
    assert!(nodes.iter().all(|node| node.equipment.is_none()));

    let here = explain(&lab, Question::Instance("gis".into())).await;
    assert_eq!(here.assignment, Some(own));
    assert!(here.summary.contains("it would stay there"), "{here:?}");
    // The GPU is taken: each node says why not, with its numbers.
    let again = explain(&lab, Question::Create(wish("gis-2", everything()))).await;
    assert_eq!((&*again.node_name, again.assignment), ("", None));
    let counted = again.counts.iter().map(|count| count.nodes).sum::<u32>();
    assert_eq!(counted, 4);
    assert!(again.nodes.iter().all(|node| !node.reason.is_empty()));
    for answer in &again.nodes {
        assert!(
            again
                .counts
                .iter()
                .any(|count| count.filter == answer.filter)
        );
    }
}

/// FAULTS 18: an agent that says more of its equipment than there can be isn't believed in that; it is
/// in touch all the same, and what was known of it stays.
#[tokio::test]
async fn equipment_beyond_its_bounds_is_not_believed() {
    let agent = console::Echoes::new(&[]);
    let lab = Lab::start(agent.way(), "").await;
    lab.join(1, "node-1", "127.0.0.1:1").await;
    let says = |cpus: u32, devices: u8| {
        let device = |n: u8| common::Device {
            address: format!("0000:{n:02x}:00.0"),
            class: "gpu".into(),
            cell: None,
        };
        let node = NodeFacts {
            node_id: fixture::node_id(1).to_string(),
            arch: common::Arch::X8664.into(),
            cpus,
            memory_mib: 8192,
            equipment: Some(common::Equipment {
                devices: (0..devices).map(device).collect(),
                // More than there can be, beside more than one device.
                cpu_features: vec!["avx2".into(); usize::from(devices.saturating_sub(1)) * 1001],
                ..common::Equipment::default()
            }),
            ..NodeFacts::default()
        };
        agent.server.send_replace(console::Said {
            node: Some(node),
            ..console::Said::default()
        });
    };
    let known = async |cpus: u32| {
        let mut changes = lab.api.ledger.changes();
        let known = changes.wait_for(|snapshot| {
            let node = snapshot.fabric.nodes.values().next();
            let capacity = node.and_then(|node| node.capacity);
            capacity.is_some_and(|capacity| capacity.cpus == cpus)
        });
        let snapshot = soon(known).await.unwrap();
        let node = snapshot.fabric.nodes.values().next().unwrap();
        (node.reachable, node.equipment.devices.len())
    };
    for (cpus, devices, known_devices) in [(5, 1, 1), (6, 3, 1), (7, 0, 0)] {
        says(cpus, devices);
        assert_eq!(known(cpus).await, (true, known_devices), "{cpus}");
    }
}

/// FAULTS 28: needs that are none, or beyond their limits, are refused by their field.
#[tokio::test]
async fn bad_needs_are_refused_by_field() {
    let lab = lab().await;
    let bad = |change: fn(&mut common::Needs)| {
        let mut needs = common::Needs::default();
        change(&mut needs);
        needs
    };
    for (needs, named) in [
        (bad(|needs| needs.cells = u32::MAX), "needs.cells"),
        (bad(|needs| needs.cells = 2), "needs.cells"),
        (
            bad(|needs| needs.huge_pages = "4KiB".into()),
            "needs.huge_pages",
        ),
        (
            bad(|needs| needs.cpu_features = vec!["AVX 2".into()]),
            "needs.cpu_features",
        ),
        (
            bad(|needs| needs.devices = [("gpu".to_owned(), 0)].into()),
            "needs.devices",
        ),
        (
            bad(|needs| needs.devices = [("gpu".to_owned(), u32::MAX)].into()),
            "needs.devices",
        ),
        (bad(|needs| needs.pool = "../etc".into()), "needs.pool"),
        (
            bad(|needs| needs.labels = [("room".to_owned(), "\0".to_owned())].into()),
            "needs.labels",
        ),
    ] {
        let refused = create(&lab, wish("web", needs.clone())).await;
        assert_eq!(field(refused), named, "{needs:?}");
        let flavor = CreateFlavorRequest {
            name: "wrong".into(),
            vcpus: 2,
            memory_mib: 1024,
            needs: Some(needs),
            ..CreateFlavorRequest::default()
        };
        assert_eq!(field(lab.flavors().create_flavor(flavor).await), named);
    }
    assert!(lab.api.ledger.snapshot().fabric.instances.is_empty());
}

#[tokio::test]
async fn a_flavor_carries_needs() {
    let lab = lab().await;
    let flavor = CreateFlavorRequest {
        name: "cad".into(),
        vcpus: 2,
        memory_mib: 1024,
        needs: Some(gpu()),
        ..CreateFlavorRequest::default()
    };
    let made = lab.flavors().create_flavor(flavor).await.unwrap();
    assert_eq!(made.into_inner().needs, Some(gpu()));
    let of = |needs: Option<common::Needs>| CreateInstanceRequest {
        flavor: "cad".into(),
        vcpus: 0,
        memory_mib: 0,
        needs,
        ..instances::wish("web")
    };
    assert_eq!(field(create(&lab, of(Some(gpu()))).await), "needs.devices");
    create(&lab, of(None)).await.unwrap();
    assert_eq!(get(&lab, "web").await.spec.unwrap().needs, Some(gpu()));
    let update = UpdateFlavorRequest {
        flavor: "cad".into(),
        update_mask: Some(FieldMask {
            paths: vec!["needs".into()],
        }),
        ..UpdateFlavorRequest::default()
    };
    let changed = lab.flavors().update_flavor(update).await.unwrap();
    assert_eq!(changed.into_inner().needs, None);
}
