//! What people say of placement: sites of nodes, isolation classes, groups, batches.

use std::collections::BTreeSet;

use kapok_scheduler::{Domain, Headroom, Policy};

use super::*;
use crate::fabric::{
    command::CreateGroup,
    fixture::{change_tenant, group, site, system, tenant},
    group::Kind,
    system::default_system,
    tenant::isolation,
};

fn name(name: &str) -> Name {
    name.parse().unwrap()
}

/// A step of a random history with one group of the city's.
pub(super) fn step(group: &str, how: u8) -> Command {
    let (kind, domain) = match how {
        0 => (Kind::Apart, Domain::Node),
        1 => (Kind::Together, Domain::Room),
        _ => {
            return Command::DeleteGroup {
                group: group.into(),
            };
        }
    };
    self::group("city", group, kind, domain)
}

/// One of the groups that there are, or none.
pub(super) fn some(world: &World, n: u8) -> BTreeSet<Name> {
    let nth = world.fabric.groups.keys().nth(usize::from(n));
    nth.map(|(_, name)| name.clone()).into_iter().collect()
}

/// Groups know their members, and no others.
pub(super) fn check_indexes(fabric: &Fabric) {
    let members = fabric.instances.values().flat_map(|instance| {
        let groups = instance.groups.iter();
        groups.map(|group| (instance.tenant.clone(), group.clone(), instance.id))
    });
    let members: OrdSet<_> = members.collect();
    for (tenant, name, _) in &members {
        assert!(fabric.groups.contains_key(&(tenant.clone(), name.clone())));
    }
    assert_eq!(fabric.in_group, members);
}

fn within(groups: &[&str], instance: &str) -> CreateInstance {
    CreateInstance {
        groups: groups.iter().map(|group| name(group)).collect(),
        ..create(instance)
    }
}

fn rack(node: u8, rack: &str) -> Command {
    let changes = [SiteChange::Rack(Some(name(rack)))];
    site(&format!("node-{node}"), &changes)
}

/// Nodes 1 and 2 in one rack, node 3 in another, and a group.
fn racks(kind: Kind, domain: Domain) -> World {
    let mut world = World::with_nodes(3);
    for (node, in_rack) in [(1, "r1"), (2, "r1"), (3, "r2")] {
        world.must(rack(node, in_rack));
    }
    world.must(group("city", "web", kind, domain));
    world
}

fn node_of(world: &World, instance: &str) -> NodeId {
    world.instance(instance).incarnations[0].node
}

fn batch(world: &World, wishes: Vec<CreateInstance>) -> Command {
    let fresh = wishes.iter().map(|_| Fresh {
        instance: world.env.instance_id(),
        incarnation: world.env.incarnation_id(),
        operation: world.env.operation_id(),
        image: ImageId(world.env.uuid()),
    });
    let fresh = fresh.collect();
    Command::CreateInstances {
        instances: wishes,
        fresh,
    }
}

fn passed_over(refused: Result<Outcome, Denied>) -> String {
    match refused.unwrap_err().cause() {
        Denied::NoCapacity(no_fit) => no_fit.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_are_apart_until_the_end_of_their_lives_is_proven() {
    let mut world = racks(Kind::Apart, Domain::Rack);
    world.must(Command::CreateInstance(within(&["web"], "a")));
    world.must(Command::CreateInstance(within(&["web"], "b")));
    let racks = ["a", "b"].map(|one| node_of(&world, one) == node_id(3));
    assert_ne!(racks[0], racks[1]);
    let third = || Command::CreateInstance(within(&["web"], "c"));
    let told = passed_over(world.submit(None, third()));
    assert!(told.contains("3 "), "{told}");
    let web = world.fabric.group("web", &city()).unwrap().clone();
    assert_eq!(world.fabric.members_of(&web).count(), 2);
    assert!(world.fabric.is_kept(&web));
    world.must(Command::DeleteInstance {
        instance: "b".into(),
        etag: String::new(),
    });
    assert!(world.submit(None, third()).is_err());
    world.gone("b");
    world.must(third());
    check_indexes(&world.fabric);
    // A node that is moved breaks it: that is shown.
    let moved = if node_of(&world, "a") == node_id(3) {
        rack(3, "r1")
    } else {
        rack(3, "r2")
    };
    world.must(moved);
    for node in 1..=3 {
        world.must(rack(node, "r1"));
    }
    assert!(!world.fabric.is_kept(&web));
}

#[test]
fn a_soft_wish_gives_way_and_a_strict_one_does_not() {
    let mut world = World::with_nodes(1);
    let soft = Command::CreateGroup(CreateGroup {
        tenant: None,
        name: name("soft"),
        kind: Kind::Apart,
        domain: Domain::Node,
        strict: false,
    });
    world.must(soft);
    world.must(group("city", "near", Kind::Together, Domain::Node));
    world.must(Command::CreateInstance(within(&["soft"], "a")));
    world.must(Command::CreateInstance(within(&["soft", "near"], "b")));
    let soft = world.fabric.group("soft", &city()).unwrap();
    assert!(!world.fabric.is_kept(soft));
    // The only node of the group's takes nothing new: nor does any other one for it.
    world.must(Command::CordonNode {
        node: "node-1".into(),
        reason: String::new(),
    });
    for command in new_node(2, "node-2", "127.0.0.1:2") {
        world.must(command);
    }
    world.must(report(2, 4096));
    assert!(
        world
            .submit(None, Command::CreateInstance(within(&["near"], "c")))
            .is_err()
    );
    world.must(Command::CreateInstance(within(&["soft"], "d")));
    assert_eq!(node_of(&world, "d"), node_id(2));
}

#[test]
fn groups_are_their_tenants_and_go_when_they_are_empty() {
    let mut world = World::with_nodes(1);
    for bureau in ["water", "parks"] {
        world.must(tenant(bureau, None));
    }
    let web = || group("water", "web", Kind::Apart, Domain::Node);
    world.must(web());
    let exists = world.submit(None, web()).unwrap_err();
    assert!(matches!(exists, Denied::Exists { kind: "group", .. }));
    let into = |tenant: &str, groups: &[&str]| {
        Command::CreateInstance(CreateInstance {
            tenant: Some(name(tenant)),
            ..within(groups, "a")
        })
    };
    let absent = Denied::Absent {
        kind: "group",
        which: "web".into(),
    };
    assert_eq!(
        world.submit(None, into("parks", &["web"])),
        Err(absent.clone())
    );
    let remove = || Command::DeleteGroup {
        group: "water/web".into(),
    };
    let stranger = world.submit_as(member("zhao", "parks"), None, remove());
    assert!(matches!(stranger, Err(Denied::Absent { .. })));
    world.must(into("water", &["web"]));
    let used = world.submit(None, remove()).unwrap_err();
    assert!(matches!(used, Denied::GroupInUse { instances: 1, .. }));
    let which = Command::DeleteInstance {
        instance: "water/a".into(),
        etag: String::new(),
    };
    world.must(which);
    let (node, incarnation) = {
        let one = &world.instance("water/a").incarnations[0];
        (one.node, one.id)
    };
    world.must(Command::IncarnationGone { node, incarnation });
    // The tenant isn't empty while it has a group.
    let close = || Command::DeleteTenant {
        tenant: name("water"),
        etag: String::new(),
    };
    let kept = world.submit(None, close()).unwrap_err();
    assert!(kept.to_string().contains("groups"), "{kept}");
    world.must(remove());
    world.must(close());
    let many: Vec<String> = (0..9).map(|n| format!("g-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = world.submit(None, Command::CreateInstance(within(&many, "b")));
    assert!(matches!(refused, Err(Denied::Invalid(_))));
}

#[test]
fn a_batch_is_all_or_nothing_and_its_members_know_each_other() {
    let mut world = racks(Kind::Apart, Domain::Node);
    let wishes = |names: &[&str]| names.iter().map(|one| within(&["web"], one)).collect();
    let command = batch(&world, wishes(&["a", "b", "c"]));
    let Outcome::Operations(operations) = world.must(command) else {
        panic!("an operation each");
    };
    let nodes: BTreeSet<_> = ["a", "b", "c"].map(|one| node_of(&world, one)).into();
    assert_eq!((operations.len(), nodes.len()), (3, 3));
    for (one, operation) in ["a", "b", "c"].iter().zip(&operations) {
        assert_eq!(world.instance(one).operation, *operation);
    }
    let before = world.events.len();
    // The second has no node apart from the others: the first isn't made either.
    let mut two = vec![create("d")];
    two.extend::<Vec<_>>(wishes(&["e"]));
    let command = batch(&world, two);
    let refused = world.submit(None, command);
    let Err(Denied::OneOf {
        name: which,
        number: 2,
        of: 2,
        why,
    }) = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(which.as_str(), "e");
    assert!(matches!(**why, Denied::NoCapacity(_)));
    // Names and quotas count within the batch.
    let command = batch(&world, vec![create("d"), create("d")]);
    let twice = world.submit(None, command).unwrap_err();
    assert!(twice.to_string().starts_with("d, 2 of 2: "), "{twice}");
    let limit = TenantChange::Limit(Dimension::Instances, Some(4));
    world.must(change_tenant("city", &[limit]));
    let command = batch(&world, vec![create("d"), create("e")]);
    let over = world.submit(None, command).unwrap_err();
    assert!(matches!(over.cause(), Denied::OverQuota { .. }), "{over:?}");
    assert!(matches!(over, Denied::OneOf { number: 2, .. }));
    assert_eq!(world.fabric.instances.len(), 3);
    // Nothing was put on record by what was refused, but for the quota.
    assert_eq!(world.events.len(), before + 1);
    let command = batch(&world, Vec::new());
    assert!(matches!(
        world.submit(None, command),
        Err(Denied::Invalid(_))
    ));
    check_indexes(&world.fabric);
}

#[test]
fn instances_go_to_nodes_of_their_tenants_class_alone() {
    let mut world = World::with_nodes(2);
    world.must(tenant("police", None));
    world.must(tenant("archive", Some("police")));
    let secret = || Some(name("secret"));
    let classified = SiteChange::Isolation(secret());
    world.must(change_tenant(
        "police",
        &[TenantChange::Isolation(secret())],
    ));
    let into = |tenant: &str, instance: &str| {
        Command::CreateInstance(CreateInstance {
            tenant: Some(name(tenant)),
            ..create(instance)
        })
    };
    // Inherited, and there is no such node yet.
    assert!(world.submit(None, into("archive", "a")).is_err());
    world.must(site("node-2", &[classified]));
    world.must(into("archive", "a"));
    assert_eq!(node_of(&world, "archive/a"), node_id(2));
    world.must(into("city", "b"));
    assert_eq!(node_of(&world, "b"), node_id(1));
    // What runs stays; its own class goes before the one from above.
    world.must(change_tenant(
        "archive",
        &[TenantChange::Isolation(Some(name("dull")))],
    ));
    assert_eq!(node_of(&world, "archive/a"), node_id(2));
    assert!(world.submit(None, into("archive", "c")).is_err());
    let tenants = &world.fabric.tenants;
    let class = |tenant: &str| isolation(tenants, &name(tenant));
    assert_eq!(class("police"), secret().as_ref());
    assert_eq!(class("archive"), Some(&name("dull")));
    assert_eq!(class("city"), None);
}

#[test]
fn a_site_is_said_bit_by_bit_and_within_limits() {
    let mut world = World::with_nodes(1);
    let label = |label: &str, value: Option<&str>| {
        SiteChange::Label(name(label), value.map(ToOwned::to_owned))
    };
    world.must(site(
        "node-1",
        &[
            SiteChange::Room(Some(name("a"))),
            label("disk", Some("nvme")),
            label("spare", Some("yes")),
        ],
    ));
    world.must(site("node-1", &[label("spare", None)]));
    let view = world.fabric.fleet.node(node_id(1)).unwrap();
    assert_eq!(view.node().room, Some(name("a")));
    assert_eq!(view.node().labels, [(name("disk"), "nvme".into())].into());
    let before = world.events.len();
    world.must(site("node-1", &[label("spare", None)]));
    assert_eq!(world.events.len(), before);
    for value in ["x".repeat(64), "a\nb".to_owned()] {
        let refused = world.submit(None, site("node-1", &[label("disk", Some(&value))]));
        assert!(matches!(refused, Err(Denied::Invalid(_))), "{value}");
    }
}

#[test]
fn an_instance_changes_its_system_and_nothing_else() {
    let mut world = World::with_nodes(1);
    world.must(system("city", "billing"));
    world.must(Command::CreateInstance(create("web")));
    let before = world.instance("web").clone();
    let to = |system: &str, etag: &str| Command::ChangeInstanceSystem {
        instance: "web".into(),
        system: name(system),
        etag: etag.into(),
    };
    world.must(to("billing", &before.etag()));
    let moved = Instance {
        system: name("billing"),
        ..before
    };
    assert_eq!(*world.instance("web"), moved);
    let of = |world: &World, which: &str| {
        let system = world.fabric.system(which, &city()).unwrap();
        world.fabric.instances_of(system).count()
    };
    assert_eq!((of(&world, "billing"), of(&world, "default")), (1, 0));
    systems::check_indexes(&world.fabric);
    let absent = world.submit(None, to("none", ""));
    assert!(matches!(absent, Err(Denied::Absent { kind: "system", .. })));
    let stale = world.submit(None, to("default", "old"));
    assert!(matches!(stale, Err(Denied::StaleEtag { .. })));
    world.must(to("default", ""));
    assert_eq!(world.instance("web").system, default_system());
}

/// The configuration's policy decides, in creates and in batches.
#[test]
fn the_policy_spreads_and_keeps_headroom() {
    let mut world = World::with_nodes(3);
    world.rules.placement = Policy::SPREAD;
    let command = batch(&world, ["a", "b", "c"].map(create).into());
    world.must(command);
    let nodes: BTreeSet<_> = ["a", "b", "c"].map(|one| node_of(&world, one)).into();
    assert_eq!(nodes.len(), 3);
    let mut world = World::with_nodes(3);
    world.rules.placement.headroom = Headroom::Node;
    let names = (1..=12).map(|number| format!("web-{number}"));
    let refused = names
        .map(|name| world.submit(None, Command::CreateInstance(create(&name))))
        .find(Result::is_err);
    // There is room for twelve; without it for the loss of a node for less.
    let told = passed_over(refused.unwrap());
    assert!(told.contains("headroom"), "{told}");
}

/// Records from before there were sites, groups and classes are read, and written as they were.
#[test]
fn what_is_not_said_is_not_written() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    let node = serde_json::to_value(&world.fabric.nodes[&name("node-1")]).unwrap();
    let instance = serde_json::to_value(world.instance("web")).unwrap();
    let tenant = serde_json::to_value(&world.fabric.tenants[&city()]).unwrap();
    for (object, field) in [
        (&node, "site"),
        (&instance, "groups"),
        (&tenant, "isolation"),
    ] {
        assert!(object.get(field).is_none(), "{object}");
    }
    assert_eq!(
        serde_json::from_value::<Node>(node).unwrap(),
        world.fabric.nodes[&name("node-1")]
    );
    assert_eq!(
        serde_json::from_value::<Instance>(instance).unwrap(),
        *world.instance("web")
    );
    assert_eq!(
        serde_json::from_value::<Tenant>(tenant).unwrap(),
        world.fabric.tenants[&city()]
    );
}
