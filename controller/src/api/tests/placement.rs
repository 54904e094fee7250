//! What people say of placement over gRPC: nodes' sites, classes, groups, batches, systems.

use std::collections::BTreeMap;

use kapok_proto::fabric::v1::{
    CreateGroupRequest, CreateInstanceRequest, CreateInstancesRequest, DeleteGroupRequest,
    GetGroupRequest, GetNodeRequest, GetTenantRequest, Group, GroupDomain, GroupKind,
    ListGroupsRequest, Node, Operation, UpdateInstanceRequest, UpdateNodeRequest,
    UpdateTenantRequest,
};
use prost_types::FieldMask;

use super::*;

#[expect(clippy::unnecessary_wraps, reason = "as the requests' field is")]
fn mask(paths: &[&str]) -> Option<FieldMask> {
    let paths = paths.iter().map(ToString::to_string).collect();
    Some(FieldMask { paths })
}

/// Three nodes, two bureaus with a member each, and everybody's image.
async fn city(more: &str) -> (Lab, Clients, Clients) {
    let lab = Lab::start(Arc::new(Nobody), more).await;
    let lab = lab.with_nodes(&["node-1", "node-2", "node-3"]).await;
    for name in ["water", "parks"] {
        lab.own(fixture::tenant(name, None)).await;
    }
    instances::import_base(&lab).await;
    let water = lab.user("user/wang", &["tenant_member in water"]).await;
    let parks = lab.user("user/zhao", &["tenant_member in parks"]).await;
    (lab, water, parks)
}

async fn update(who: &Clients, paths: &[&str], request: UpdateNodeRequest) -> Result<Node, Status> {
    let request = UpdateNodeRequest {
        update_mask: mask(paths),
        ..request
    };
    Ok(who.nodes().update_node(request).await?.into_inner())
}

fn node(name: &str) -> UpdateNodeRequest {
    UpdateNodeRequest {
        node: name.into(),
        ..UpdateNodeRequest::default()
    }
}

async fn rack(lab: &Lab, name: &str, rack: &str) {
    let request = UpdateNodeRequest {
        rack: rack.into(),
        ..node(name)
    };
    update(lab, &["rack"], request).await.unwrap();
}

fn within(groups: &[&str], name: &str) -> CreateInstanceRequest {
    CreateInstanceRequest {
        vcpus: 1,
        groups: groups.iter().map(ToString::to_string).collect(),
        ..instances::wish(name)
    }
}

fn batch(instances: Vec<CreateInstanceRequest>) -> CreateInstancesRequest {
    CreateInstancesRequest {
        instances,
        ..CreateInstancesRequest::default()
    }
}

async fn create(who: &Clients, request: CreateInstancesRequest) -> Result<Vec<Operation>, Status> {
    let answer = who.instances().create_instances(request).await?;
    Ok(answer.into_inner().operations)
}

async fn group(who: &Clients, which: &str) -> Result<Group, Status> {
    let request = GetGroupRequest {
        group: which.into(),
    };
    Ok(who.groups().get_group(request).await?.into_inner())
}

fn apart(name: &str) -> CreateGroupRequest {
    CreateGroupRequest {
        name: name.into(),
        kind: GroupKind::Apart.into(),
        domain: GroupDomain::Rack.into(),
        ..CreateGroupRequest::default()
    }
}

#[tokio::test]
async fn a_node_is_sited_by_system_administrators() {
    let (lab, wang, _) = city("").await;
    let labels = BTreeMap::from([("disk".to_owned(), "nvme".to_owned())]);
    let whole = UpdateNodeRequest {
        rack: "r7".into(),
        room: "a".into(),
        labels,
        isolation: "secret".into(),
        vcpu_overcommit_permille: Some(2000),
        ..node("node-1")
    };
    let paths = ["rack", "room", "labels", "isolation"];
    let seen = update(&lab, &paths, whole.clone()).await.unwrap();
    assert_eq!((&*seen.rack, &*seen.room), ("r7", "a"));
    assert_eq!((&*seen.isolation, seen.labels.len()), ("secret", 1));
    assert_eq!(seen.vcpu_overcommit_permille, 2000);
    // One label goes, another comes; what isn't named stays.
    let other = UpdateNodeRequest {
        labels: [("gpu".to_owned(), String::new())].into(),
        ..node("node-1")
    };
    let seen = update(&lab, &["labels.disk", "labels.gpu"], other).await;
    let seen = seen.unwrap();
    assert_eq!(seen.labels, [("gpu".into(), String::new())].into());
    assert_eq!(seen.rack, "r7");
    let get = GetNodeRequest {
        node: "node-1".into(),
    };
    let again = lab.nodes().get_node(get).await.unwrap().into_inner();
    assert_eq!((again.labels, again.rack), (seen.labels, seen.rack));
    for (path, wrong) in [
        (
            "rack",
            UpdateNodeRequest {
                rack: "R 7".into(),
                ..node("node-1")
            },
        ),
        ("labels.Disk", node("node-1")),
    ] {
        let named = field(update(&lab, &[path], wrong).await);
        assert_eq!(named, path.split('.').next().unwrap());
    }
    assert_eq!(
        field(update(&lab, &["name"], node("node-1")).await),
        "update_mask"
    );
    // Whoever sees no nodes is told of none; an auditor sees them and changes nothing.
    let refusal = refused(update(&wang, &["rack"], whole.clone()).await);
    assert_eq!(refusal, (Code::NotFound, "NOT_FOUND".into()));
    let auditor = lab.of("user/auditor");
    let refusal = refused(update(&auditor, &["rack"], whole).await);
    assert_eq!(refusal, (Code::PermissionDenied, "FORBIDDEN".into()));
}

#[tokio::test]
async fn a_class_is_said_by_those_who_run_the_nodes() {
    let (lab, wang, _) = city("").await;
    let bureau = lab
        .user("user/sun", &["tenant_administrator in water"])
        .await;
    lab.own(fixture::tenant("lab", Some("water"))).await;
    let classify = |tenant: &str, class: &str| UpdateTenantRequest {
        tenant: tenant.into(),
        isolation: class.into(),
        update_mask: mask(&["isolation"]),
        ..UpdateTenantRequest::default()
    };
    // A bureau can't put what is below it among others' nodes.
    let own = bureau
        .tenants()
        .update_tenant(classify("lab", "dull"))
        .await;
    assert_eq!(refused(own).0, Code::PermissionDenied);
    let seen = lab
        .tenants()
        .update_tenant(classify("water", "secret"))
        .await;
    assert_eq!(seen.unwrap().into_inner().isolation, "secret");
    let get = GetTenantRequest {
        tenant: "lab".into(),
    };
    let below = lab.tenants().get_tenant(get).await.unwrap().into_inner();
    let classes = (&*below.isolation, &*below.isolation_in_force);
    assert_eq!(classes, ("", "secret"));
    let nowhere = refused(create(&wang, batch(vec![within(&[], "a")])).await);
    assert_eq!(nowhere, (Code::ResourceExhausted, "NO_CAPACITY".into()));
    let secret = UpdateNodeRequest {
        isolation: "secret".into(),
        ..node("node-2")
    };
    update(&lab, &["isolation"], secret).await.unwrap();
    create(&wang, batch(vec![within(&[], "a")])).await.unwrap();
    // It stays where it is when the class goes.
    let none = lab.tenants().update_tenant(classify("water", "")).await;
    assert_eq!(none.unwrap().into_inner().isolation_in_force, "");
    let snapshot = lab.api.ledger.snapshot();
    let a = snapshot.fabric.instance("water/a", &fabric::city());
    let on = a.unwrap().incarnations[0].node;
    assert_eq!(on, fixture::node_id(2));
}

#[tokio::test]
async fn a_group_keeps_its_members_apart_and_is_shown() {
    let (lab, wang, zhao) = city("").await;
    for (node, in_rack) in [("node-1", "r1"), ("node-2", "r1"), ("node-3", "r2")] {
        rack(&lab, node, in_rack).await;
    }
    let made = wang.groups().create_group(apart("web")).await.unwrap();
    assert_eq!(made.into_inner().tenant, "water");
    let unsaid = CreateGroupRequest {
        kind: 0,
        ..apart("other")
    };
    assert_eq!(field(wang.groups().create_group(unsaid).await), "kind");
    let two = batch(vec![within(&["web"], "a"), within(&["web"], "b")]);
    assert_eq!(create(&wang, two).await.unwrap().len(), 2);
    let seen = group(&wang, "web").await.unwrap();
    assert!(seen.kept && !seen.soft && seen.size == 2, "{seen:?}");
    let racks: Vec<_> = seen
        .members
        .iter()
        .map(|one| one.places[0].rack.clone())
        .collect();
    assert_ne!(racks[0], racks[1]);
    let third = wang
        .instances()
        .create_instance(within(&["web"], "c"))
        .await;
    let third = third.unwrap_err();
    assert!(third.message().contains("3 "), "{third:?}");
    assert_eq!(
        refusal::reason(&third).as_deref(),
        Some("NO_CAPACITY"),
        "{third:?}"
    );
    // Nobody else's.
    let absent = (Code::NotFound, "NOT_FOUND".to_owned());
    assert_eq!(refused(group(&zhao, "water/web").await), absent);
    let theirs = zhao
        .instances()
        .create_instance(within(&["web"], "a"))
        .await;
    assert_eq!(refused(theirs), absent);
    let list = |tenant: &str| ListGroupsRequest {
        tenant: tenant.into(),
        ..ListGroupsRequest::default()
    };
    let all = lab.groups().list_groups(list("water")).await.unwrap();
    let all = all.into_inner().groups;
    assert_eq!((all.len(), all[0].size, all[0].members.len()), (1, 2, 0));
    let none = zhao.groups().list_groups(list("")).await.unwrap();
    assert_eq!(none.into_inner().groups, []);
    let remove = |which: &str| DeleteGroupRequest {
        group: which.into(),
        ..DeleteGroupRequest::default()
    };
    let used = wang.groups().delete_group(remove("web")).await;
    let in_use = (Code::FailedPrecondition, "GROUP_IN_USE".into());
    assert_eq!(refused(used), in_use);
    wang.groups().create_group(apart("idle")).await.unwrap();
    wang.groups().delete_group(remove("idle")).await.unwrap();
    assert_eq!(refused(group(&wang, "idle").await), absent);
}

#[tokio::test]
async fn a_batch_is_created_once_and_as_a_whole() {
    let (lab, wang, _) = city("").await;
    let named = |names: &[&str]| names.iter().map(|name| within(&[], name)).collect();
    let request = CreateInstancesRequest {
        request_id: "batch-1".into(),
        ..batch(named(&["a", "b", "c"]))
    };
    let dry = CreateInstancesRequest {
        validate_only: true,
        ..request.clone()
    };
    let would_be = create(&wang, dry).await.unwrap();
    let told = would_be.iter().map(|one| (&*one.id, &*one.detail));
    assert!(
        told.clone()
            .all(|(id, detail)| id.is_empty() && detail.starts_with("would be placed on node-")),
        "{would_be:?}"
    );
    let first = create(&wang, request.clone()).await.unwrap();
    let again = create(&wang, request).await.unwrap();
    let ids = |operations: &[Operation]| -> Vec<String> {
        operations.iter().map(|one| one.id.clone()).collect()
    };
    assert_eq!(ids(&first), ids(&again));
    let names: Vec<_> = first.iter().map(|one| &*one.instance_name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    // Which of them, and why.
    let large = CreateInstanceRequest {
        vcpus: 64,
        ..within(&[], "e")
    };
    let mut mixed: Vec<_> = named(&["d"]);
    mixed.push(large);
    let refused_one = create(&wang, batch(mixed)).await.unwrap_err();
    assert!(
        refused_one.message().starts_with("e, 2 of 2: no node fits"),
        "{refused_one:?}"
    );
    let detail = |key: &str| refusal::detail(&refused_one, key);
    assert_eq!(detail("instance").as_deref(), Some("e"));
    assert_eq!(detail("number").as_deref(), Some("2"));
    let snapshot = lab.api.ledger.snapshot();
    assert_eq!(snapshot.fabric.instances.len(), 3);
    let unsound = CreateInstanceRequest {
        request_id: "own".into(),
        ..within(&[], "f")
    };
    assert_eq!(
        field(create(&wang, batch(vec![unsound])).await),
        "instances"
    );
    assert_eq!(field(create(&wang, batch(Vec::new())).await), "instances");
    let many = (0..65).map(|n| within(&[], &format!("m-{n}"))).collect();
    assert_eq!(field(create(&wang, batch(many)).await), "instances");
}

#[tokio::test]
async fn an_instance_moves_to_another_system_of_its_tenant() {
    let (lab, wang, zhao) = city("").await;
    lab.own(fixture::system("water", "billing")).await;
    create(&wang, batch(vec![within(&[], "web")]))
        .await
        .unwrap();
    let to = |system: &str| UpdateInstanceRequest {
        instance: "water/web".into(),
        system: system.into(),
        update_mask: mask(&["system"]),
        ..UpdateInstanceRequest::default()
    };
    let moved = wang.instances().update_instance(to("billing")).await;
    assert_eq!(moved.unwrap().into_inner().system, "billing");
    let absent = (Code::NotFound, "NOT_FOUND".to_owned());
    let none = wang.instances().update_instance(to("none")).await;
    assert_eq!(refused(none), absent);
    let theirs = zhao.instances().update_instance(to("default")).await;
    assert_eq!(refused(theirs), absent);
    let other = UpdateInstanceRequest {
        update_mask: mask(&["vcpus"]),
        ..to("billing")
    };
    let other = wang.instances().update_instance(other).await;
    assert_eq!(field(other), "update_mask");
}

/// The configuration's headroom refuses what fits, and says by how much; what was refused for lack
/// of quota is counted by dimension.
#[tokio::test]
async fn headroom_refuses_with_numbers() {
    let (lab, wang, _) = city("[scheduler]\nheadroom = \"node\"").await;
    let wish = |name: &str| within(&[], name);
    let mut names = (1..).map(|number| format!("web-{number}"));
    let refusal = loop {
        let name = names.next().unwrap();
        let answer = wang.instances().create_instance(wish(&name)).await;
        if let Err(refusal) = answer {
            break refusal;
        }
    };
    assert_eq!(refusal::reason(&refusal).as_deref(), Some("NO_CAPACITY"));
    let told = refusal.message();
    assert!(told.contains("headroom for the loss of a node: "), "{told}");
    assert!(told.contains(" would be left of "), "{told}");
    // There is room for some, and for this one it would be taken from those of a lost node.
    let placed = lab.api.ledger.stats().counts().placed;
    assert!((1..12).contains(&placed), "{placed}");
    let limit = fabric::TenantChange::Limit(fabric::Dimension::Vcpus, Some(placed));
    lab.own(fixture::change_tenant("water", &[limit])).await;
    let over = wang.instances().create_instance(wish("d")).await;
    assert_eq!(refused(over).1, "QUOTA");
    let counts = lab.api.ledger.stats().counts();
    assert_eq!(counts.over_quota[&fabric::Dimension::Vcpus], 1);
    assert_eq!((counts.placed, counts.unplaced), (placed, 1));
}
