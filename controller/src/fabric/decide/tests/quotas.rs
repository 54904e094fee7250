//! Tenants' states, quotas and reservations: what is refused, and that nothing leaks.

use proptest::prelude::*;

use super::*;
use crate::fabric::{
    fixture::{change_tenant, grants, tenant, user},
    tenant::State,
};

/// The city with finance (and its office tax) and parks below it, and room for 24 vCPUs.
fn city_of_two() -> World {
    let mut world = World::with_nodes(6);
    world.must(tenant("finance", None));
    world.must(tenant("tax", Some("finance")));
    world.must(tenant("parks", None));
    world
}

fn limit(dimension: Dimension, amount: u64) -> TenantChange {
    TenantChange::Limit(dimension, Some(amount))
}

fn vcpus(amount: u64) -> TenantChange {
    limit(Dimension::Vcpus, amount)
}

fn reserve(amount: u64) -> TenantChange {
    TenantChange::Reserve(Dimension::Vcpus, amount)
}

fn create_in(tenant: &str, name: &str) -> Command {
    Command::CreateInstance(CreateInstance {
        tenant: Some(tenant.parse().unwrap()),
        ..create(name)
    })
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl World {
    fn held(&self, tenant: &str) -> u64 {
        self.fabric.usage.of(&name(tenant)).held.vcpus
    }

    fn set(&mut self, tenant: &str, changes: &[TenantChange]) {
        self.must(change_tenant(tenant, changes));
    }

    /// Creates in a tenant until it is refused: how many came to be, and the refusal.
    fn fill(&mut self, tenant: &str) -> (usize, Denied) {
        for made in 0..100 {
            let called = format!("{tenant}-{}", self.events.len());
            if let Err(denied) = self.submit(None, create_in(tenant, &called)) {
                return (made, denied);
            }
        }
        panic!("nothing is refused")
    }

    fn remove(&mut self, instance: &str) {
        self.must(Command::DeleteInstance {
            instance: instance.into(),
            etag: String::new(),
        });
        self.gone(instance);
    }
}

#[track_caller]
fn short(denied: Denied, of: &str) -> Vec<(Dimension, u64, u64, u64)> {
    let Denied::OverQuota { tenant, short } = denied else {
        panic!("{denied:?}")
    };
    assert_eq!(tenant, name(of));
    let each = short.into_iter();
    each.map(|one| (one.dimension, one.held, one.asked, one.limit))
        .collect()
}

/// FAULTS 27: creates in one batch see each other; the last unit has one winner, refusals take
/// nothing, and what is given back can be had again.
#[test]
fn the_last_unit_has_one_winner_and_nothing_leaks() {
    let mut world = city_of_two();
    world.set("finance", &[limit(Dimension::Instances, 1)]);
    world.must(create_in("tax", "web-0"));
    let before = world.events.len();
    for n in 1..100 {
        let refused = world.submit(None, create_in("tax", &format!("web-{n}")));
        assert!(matches!(refused, Err(Denied::OverQuota { .. })));
    }
    assert_eq!(world.events.len(), before, "refusals are no facts");
    let used = world.fabric.usage.of(&name("finance")).used;
    assert_eq!((used.instances, used.vcpus, used.memory_mib), (1, 1, 512));
    // It counts until its end is proven.
    world.must(Command::DeleteInstance {
        instance: "tax/web-0".into(),
        etag: String::new(),
    });
    let (none, refused) = world.fill("tax");
    assert_eq!(none, 0);
    assert_eq!(short(refused, "finance"), [(Dimension::Instances, 1, 1, 1)]);
    world.gone("tax/web-0");
    assert_eq!(world.fabric.usage, Usages::default());
    assert_eq!(world.fill("tax").0, 1);
}

/// Every dimension has its limit, and one refusal names all that are short.
#[test]
fn each_dimension_is_kept() {
    for (dimension, most) in [
        (Dimension::Vcpus, 2),
        (Dimension::MemoryMib, 2 * 512),
        (Dimension::Instances, 2),
        (Dimension::Volumes, 2),
        (Dimension::VolumeBytes, 2 * GIB),
        (Dimension::Addresses, 2),
    ] {
        let mut world = city_of_two();
        world.set("parks", &[limit(dimension, most)]);
        let (made, refused) = world.fill("parks");
        assert_eq!(made, 2, "{dimension:?}");
        assert_eq!(short(refused, "parks"), [(dimension, most, most / 2, most)]);
    }
    let mut world = city_of_two();
    world.set("parks", &Dimension::ALL.map(|one| limit(one, 0)));
    let (_, refused) = world.fill("parks");
    // It asks for no GPU.
    assert_eq!(short(refused, "parks").len(), Dimension::ALL.len() - 1);
}

/// FAULTS 25: a quota above says that it is full to those below it, and neither whose it is nor
/// how large.
#[test]
fn limits_hold_along_the_whole_path() {
    let mut world = city_of_two();
    world.set("city", &[vcpus(4)]);
    world.set("finance", &[vcpus(3)]);
    world.set("tax", &[vcpus(2)]);
    let (made, refused) = world.fill("tax");
    assert_eq!(made, 2);
    assert_eq!(short(refused, "tax"), [(Dimension::Vcpus, 2, 1, 2)]);
    let (made, refused) = world.fill("finance");
    assert_eq!(made, 1);
    assert_eq!(short(refused, "finance"), [(Dimension::Vcpus, 3, 1, 3)]);
    assert_eq!(world.fill("parks").0, 1);
    let refused = world.submit_as(member("li", "parks"), None, create_in("parks", "web"));
    let refused = refused.unwrap_err();
    assert_eq!(
        refused,
        Denied::OverQuotaAbove {
            tenant: name("parks"),
            dimensions: vec![Dimension::Vcpus],
        }
    );
    assert_eq!(
        refused.to_string(),
        "a quota above tenant parks has no room for it: vCPUs"
    );
}

#[test]
fn a_reservation_is_kept_for_its_tenant_and_counts_above_it_once() {
    let mut world = city_of_two();
    world.set("finance", &[vcpus(4)]);
    world.set("tax", &[reserve(3)]);
    assert_eq!((world.held("finance"), world.held("city")), (3, 3));
    // What isn't tax's has what is left.
    let (made, refused) = world.fill("finance");
    assert_eq!(made, 1);
    assert_eq!(short(refused, "finance"), [(Dimension::Vcpus, 4, 1, 4)]);
    // Within the reservation nothing rises above it.
    let (made, refused) = world.fill("tax");
    assert_eq!(made, 3);
    assert_eq!(short(refused, "finance"), [(Dimension::Vcpus, 4, 1, 4)]);
    assert_eq!((world.held("tax"), world.held("finance")), (3, 4));
    assert_eq!(world.fabric.usage.of(&name("finance")).used.vcpus, 4);
}

/// A reservation holds although the tenant above is over its quota by then.
#[test]
fn a_reservation_outlasts_a_lowered_quota() {
    let mut world = city_of_two();
    world.set("finance", &[vcpus(4)]);
    world.set("tax", &[reserve(2)]);
    world.fill("finance");
    world.set("finance", &[vcpus(1)]);
    assert_eq!(world.fill("finance").0, 0);
    assert_eq!(world.fill("tax").0, 2);
}

#[test]
fn reservations_fit_below_the_limit_above_and_beside_each_other() {
    let mut world = city_of_two();
    world.set("finance", &[vcpus(4)]);
    world.must(tenant("audit", Some("finance")));
    world.set("tax", &[reserve(3)]);
    let refused = world.submit(None, change_tenant("audit", &[reserve(2)]));
    assert_eq!(
        short(refused.unwrap_err(), "finance"),
        [(Dimension::Vcpus, 3, 2, 4)]
    );
    world.set("audit", &[reserve(1)]);
    // Less of the one makes room for more of the other, and what is used counts as well.
    world.set("tax", &[reserve(1)]);
    assert_eq!(world.fill("finance").0, 2);
    let refused = world.submit(None, change_tenant("audit", &[reserve(2)]));
    assert!(matches!(refused, Err(Denied::OverQuota { .. })));
    // More than its own quota would be kept for nobody.
    let refused = world.submit(None, change_tenant("audit", &[vcpus(0)]));
    assert!(matches!(refused, Err(Denied::Invalid(_))), "{refused:?}");
}

/// Where the root has no limit, what the nodes have is the limit of reservations.
#[test]
fn no_more_is_reserved_than_the_nodes_have() {
    let mut world = city_of_two();
    world.set("finance", &[reserve(20)]);
    let refused = world.submit(None, change_tenant("parks", &[reserve(5)]));
    let Err(Denied::OverCapacity { short }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((short[0].held, short[0].asked, short[0].limit), (20, 5, 24));
    world.set("city", &[vcpus(30)]);
    world.set("parks", &[reserve(5)]);
    // Whoever doesn't reach the root doesn't learn how large the fabric is.
    world.must(tenant("lawn", Some("parks")));
    let more = change_tenant("lawn", &[reserve(11)]);
    let refused = world.submit_as(member("li", "parks"), None, more);
    assert!(
        matches!(refused, Err(Denied::OverQuotaAbove { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_lowered_quota_stops_nothing_and_blocks_what_is_new() {
    let mut world = city_of_two();
    for n in 0..4 {
        world.must(create_in("parks", &format!("web-{n}")));
    }
    let before = world.events.len();
    world.set("parks", &[vcpus(2), limit(Dimension::Instances, 9)]);
    let kinds: Vec<_> = world.events[before..].iter().map(Event::kind).collect();
    assert_eq!(kinds, ["tenant.quota_set"]);
    let parks = &world.fabric.tenants[&name("parks")];
    let held = world.fabric.usage.of(&name("parks")).held;
    assert_eq!(parks.quota.overcommitted(held), [(Dimension::Vcpus, 2)]);
    assert_eq!(world.fill("parks").0, 0);
    world.must(Command::RestartInstance {
        instance: "parks/web-0".into(),
    });
    for n in 0..2 {
        world.remove(&format!("parks/web-{n}"));
        assert_eq!(world.fill("parks").0, 0);
    }
    world.remove("parks/web-2");
    assert_eq!(world.fill("parks").0, 1);
    // Without a limit it has as much as those above it.
    world.set("parks", &[TenantChange::Limit(Dimension::Vcpus, None)]);
    world.must(create_in("parks", "more"));
}

#[test]
fn a_suspended_tenant_runs_on_and_begins_nothing() {
    let mut world = city_of_two();
    world.must(create_in("tax", "web"));
    world.must(create_in("tax", "off"));
    let instance = |name: &str| format!("tax/{name}");
    let stop = |name: &str| Command::StopInstance {
        instance: instance(name),
    };
    let start = |name: &str| Command::StartInstance {
        instance: instance(name),
    };
    world.must(stop("off"));
    let before = world.events.len();
    world.set("finance", &[TenantChange::State(State::Suspended)]);
    let kinds: Vec<_> = world.events[before..].iter().map(Event::kind).collect();
    assert_eq!(kinds, ["tenant.suspended"], "nothing else happens");
    let refused = |answer: Result<Outcome, Denied>, state: State| match answer {
        Err(Denied::TenantState {
            tenant, state: is, ..
        }) => assert_eq!((tenant, is), (name("finance"), state)),
        other => panic!("{other:?}"),
    };
    refused(
        world.submit(None, create_in("tax", "new")),
        State::Suspended,
    );
    refused(world.submit(None, start("off")), State::Suspended);
    refused(
        world.submit(None, tenant("new", Some("tax"))),
        State::Suspended,
    );
    let import = image("new", b"new");
    let import = world.submit_as(member("li", "tax"), None, import);
    refused(import, State::Suspended);
    world.must(create_in("parks", "web"));
    world.must(Command::RestartInstance {
        instance: instance("web"),
    });
    world.must(stop("web"));

    world.set("finance", &[TenantChange::State(State::Closing)]);
    refused(world.submit(None, create_in("tax", "new")), State::Closing);
    world.must(start("off"));
    world.set("finance", &[TenantChange::State(State::Active)]);
    assert_eq!(world.events.last().map(Event::kind), Some("tenant.resumed"));
    world.must(create_in("tax", "new"));
    // The root is the whole fabric, which a policy can freeze; it is never closed.
    let root = world.submit(
        None,
        change_tenant("city", &[TenantChange::State(State::Suspended)]),
    );
    assert!(matches!(root, Err(Denied::Invalid(_))), "{root:?}");
}

/// Whoever is inside a tenant sets neither its quota nor its state; whoever is above it does.
#[test]
fn quotas_come_from_above() {
    let mut world = city_of_two();
    let from_above = [
        vcpus(100),
        reserve(1),
        TenantChange::State(State::Suspended),
    ];
    for change in &from_above {
        let changes = std::slice::from_ref(change);
        let own = change_tenant("tax", changes);
        let own = world.submit_as(member("li", "tax"), None, own);
        assert!(matches!(own, Err(Denied::Forbidden { .. })), "{own:?}");
        let others = change_tenant("parks", changes);
        let others = world.submit_as(member("li", "tax"), None, others);
        assert!(matches!(others, Err(Denied::Absent { .. })), "{others:?}");
        let above = change_tenant("tax", changes);
        world
            .submit_as(member("li", "finance"), None, above)
            .unwrap();
    }
    let root = change_tenant("city", &[vcpus(100)]);
    let of_the_root = world.submit_as(member("li", "city"), None, root.clone());
    assert!(matches!(of_the_root, Err(Denied::Forbidden { .. })));
    world.must(root);
    let own = [
        TenantChange::Display("税务局".into()),
        TenantChange::Contacts(vec!["税务局 <tax@example.org>".into()]),
    ];
    world
        .submit_as(member("li", "tax"), None, change_tenant("tax", &own))
        .unwrap();
    let tax = &world.fabric.tenants[&name("tax")];
    assert_eq!((&*tax.display, tax.contacts.len()), ("税务局", 1));
    let delete = Command::DeleteTenant {
        tenant: name("tax"),
        etag: String::new(),
    };
    let own = world.submit_as(member("li", "tax"), None, delete.clone());
    assert!(matches!(own, Err(Denied::Forbidden { .. })));
    world
        .submit_as(member("li", "finance"), None, delete)
        .unwrap();
}

#[test]
fn a_tenant_is_removed_when_nothing_is_left_of_it() {
    let mut world = city_of_two();
    let delete = |tenant: &str| Command::DeleteTenant {
        tenant: name(tenant),
        etag: String::new(),
    };
    let has = |answer: Result<Outcome, Denied>| match answer {
        Err(Denied::TenantInUse { has, such_as, .. }) => format!("{has}, such as {such_as}"),
        other => panic!("{other:?}"),
    };
    world.set("tax", &[reserve(2)]);
    assert_eq!(
        has(world.submit(None, delete("finance"))),
        "1 tenants below it, such as tax"
    );
    world.must(create_in("tax", "web"));
    assert_eq!(
        has(world.submit(None, delete("tax"))),
        "1 instances, such as web"
    );
    world.remove("tax/web");
    let import = image("own", b"own");
    world.submit_as(member("li", "tax"), None, import).unwrap();
    assert_eq!(
        has(world.submit(None, delete("tax"))),
        "1 images, such as own"
    );
    world.must(Command::DeleteImage {
        image: "tax/own".into(),
    });
    world.must(user("user/zhao", &["tenant_member in tax"]));
    assert_eq!(
        has(world.submit(None, delete("tax"))),
        "1 users with roles in it, such as user/zhao"
    );
    world.must(Command::UpdateUser {
        user: "user/zhao".parse().unwrap(),
        grant: grants(&["tenant_member in parks"]),
        revoke: grants(&["tenant_member in tax"]),
        disabled: None,
    });
    world.must(delete("tax"));
    assert!(
        world.fabric.systems.is_empty(),
        "the default one goes with it"
    );
    assert_eq!(world.held("city"), 0, "its reservation went with it");
    assert_eq!(
        world.submit(None, delete("tax")),
        Err(Denied::Absent {
            kind: "tenant",
            which: "tax".into()
        })
    );
    let root = world.submit(None, delete("city"));
    assert!(matches!(root, Err(Denied::Forbidden { .. })));
}

/// FAULTS 28: numbers that no quota can be are named, and change nothing.
#[test]
fn bad_amounts_are_named() {
    let mut world = city_of_two();
    let before = world.events.len();
    let negative = u64::MAX;
    let wrong = [
        vcpus(negative),
        TenantChange::Reserve(Dimension::VolumeBytes, negative),
        limit(Dimension::MemoryMib, 1),
        TenantChange::Reserve(Dimension::MemoryMib, 2),
        TenantChange::Contacts(vec![String::new(); 17]),
    ];
    let refused = world.submit(None, change_tenant("parks", &wrong));
    let Err(Denied::Invalid(violations)) = refused else {
        panic!("{refused:?}")
    };
    let fields: Vec<_> = violations.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "contacts",
            "contacts",
            "quota.vcpus",
            "reserved.memory_mib",
            "reserved.volume_bytes",
        ]
    );
    for wrong in [
        TenantChange::Display("a\nb".into()),
        TenantChange::Contacts(vec!["城".repeat(100)]),
    ] {
        let refused = world.submit(None, change_tenant("parks", &[wrong]));
        assert!(matches!(refused, Err(Denied::Invalid(_))), "{refused:?}");
    }
    // The largest there may be is no trouble, alone or beside another; and zero is a limit.
    let most = u64::MAX / 2;
    world.set("parks", &[vcpus(most), limit(Dimension::Instances, 0)]);
    let bytes = |amount| TenantChange::Reserve(Dimension::VolumeBytes, amount);
    for tenant in ["parks", "finance"] {
        world.set(tenant, &[bytes(most)]);
    }
    world.must(tenant("third", None));
    let refused = world.submit(None, change_tenant("third", &[bytes(most)]));
    assert!(
        matches!(refused, Err(Denied::OverQuota { .. })),
        "a sum that no number holds: {refused:?}"
    );
    assert_eq!(world.fill("parks").0, 0);
    assert_eq!(world.events.len(), before + 4);
}

#[test]
fn an_old_picture_of_a_tenant_changes_nothing() {
    let mut world = city_of_two();
    let etag = world.fabric.tenants[&name("parks")].etag();
    let change = |changes: &[TenantChange]| Command::UpdateTenant {
        tenant: name("parks"),
        changes: changes.to_vec(),
        etag: etag.clone(),
    };
    world.must(change(&[vcpus(4)]));
    let stale = world.submit(None, change(&[vcpus(5)]));
    assert!(matches!(
        stale,
        Err(Denied::StaleEtag { kind: "tenant", .. })
    ));
    let before = world.events.len();
    world.set("parks", &[vcpus(4)]);
    assert_eq!(world.events.len(), before, "the same again is no fact");
}

/// A record from before there were quotas folds, and is written as it was.
#[test]
fn a_tenant_of_an_old_log_is_what_it_was() {
    let old = r#"{"event":"tenant_created","tenant":{"name":"water","display":"水务局","parent":"city"}}"#;
    let event: Event = serde_json::from_str(old).unwrap();
    assert_eq!(serde_json::to_string(&event).unwrap(), old);
    let mut fabric = Fabric::default();
    fabric.apply(&event);
    let water = &fabric.tenants[&name("water")];
    assert!(water.state.is_active() && water.quota.is_unlimited() && water.reserved.is_zero());
    let Event::TenantCreated { tenant } = &event else {
        panic!("{event:?}")
    };
    let value = serde_json::to_vec(tenant).unwrap();
    let loaded = checkpoint::load([("tenant/water", &*value)].into_iter()).unwrap();
    assert_eq!(loaded.tenants, fabric.tenants);
}

/// A step of a random history of tenants.
#[derive(Debug, Clone)]
enum Step {
    Tenant(u8, u8),
    Limit(u8, u8, Option<u8>),
    Reserve(u8, u8, u8),
    State(u8, u8),
    Create(u8, u8, u8),
    Delete(u8),
    Forget(u8),
}

/// Tenants that a history makes; 0 is the root.
const TENANTS: u8 = 7;

fn step() -> impl Strategy<Value = Step> {
    let one = 0..TENANTS;
    let dimension = 0..7_u8;
    let few = 0..8_u8;
    prop_oneof![
        2 => (1..TENANTS, one.clone()).prop_map(|(new, above)| Step::Tenant(new, above)),
        2 => (one.clone(), dimension.clone(), proptest::option::of(few.clone()))
            .prop_map(|(tenant, dimension, limit)| Step::Limit(tenant, dimension, limit)),
        2 => (1..TENANTS, dimension, few)
            .prop_map(|(tenant, dimension, amount)| Step::Reserve(tenant, dimension, amount)),
        1 => (one.clone(), 0..4_u8).prop_map(|(tenant, state)| Step::State(tenant, state)),
        6 => (one, 0..20_u8, 1..4_u8)
            .prop_map(|(tenant, instance, vcpus)| Step::Create(tenant, instance, vcpus)),
        3 => (0..20_u8).prop_map(Step::Delete),
        1 => (1..TENANTS).prop_map(Step::Forget),
    ]
}

fn called(tenant: u8) -> String {
    match tenant {
        0 => "city".into(),
        n => format!("t-{n}"),
    }
}

/// A small number of whole instances' worth.
fn worth(dimension: u8, amount: u8) -> (Dimension, u64) {
    let dimension = Dimension::ALL[usize::from(dimension)];
    let unit = match dimension {
        Dimension::MemoryMib => 512,
        Dimension::VolumeBytes => GIB,
        _ => 1,
    };
    (dimension, u64::from(amount) * unit)
}

fn play(world: &mut World, step: &Step) {
    let command = match step {
        Step::Tenant(new, above) => tenant(&called(*new), Some(&called(*above))),
        Step::Limit(tenant, dimension, limit) => {
            let (dimension, amount) = worth(*dimension, limit.unwrap_or_default());
            let limit = limit.map(|_| amount);
            change_tenant(&called(*tenant), &[TenantChange::Limit(dimension, limit)])
        }
        Step::Reserve(tenant, dimension, amount) => {
            let (dimension, amount) = worth(*dimension, *amount);
            change_tenant(
                &called(*tenant),
                &[TenantChange::Reserve(dimension, amount)],
            )
        }
        Step::State(tenant, state) => {
            let state = match state {
                0 => State::Suspended,
                1 => State::Closing,
                _ => State::Active,
            };
            change_tenant(&called(*tenant), &[TenantChange::State(state)])
        }
        Step::Create(tenant, instance, vcpus) => Command::CreateInstance(CreateInstance {
            tenant: Some(name(&called(*tenant))),
            vcpus: Vcpus(u32::from(*vcpus)),
            ..create(&format!("web-{instance}"))
        }),
        Step::Delete(instance) => {
            let which = format!("web-{instance}");
            let mut all = world.fabric.instance_names.keys();
            let Some((tenant, _)) = all.find(|(_, name)| name.as_str() == which) else {
                return;
            };
            let which = format!("{tenant}/{which}");
            return world.remove(&which);
        }
        Step::Forget(tenant) => Command::DeleteTenant {
            tenant: name(&called(*tenant)),
            etag: String::new(),
        },
    };
    let _ = world.submit(None, command);
}

proptest! {
    /// No decision raises what counts against a quota above it, and none takes a reservation away;
    /// usage in steps is usage counted, after every step.
    #[test]
    fn quotas_hold_in_every_history(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::with_nodes(6);
        for step in &steps {
            let before = world.fabric.clone();
            play(&mut world, step);
            let Fabric { tenants, usage, instances, .. } = &world.fabric;
            prop_assert_eq!(usage, &Usages::counted(tenants, instances.values()));
            for tenant in tenants.values() {
                let (held, was) = (usage.of(&tenant.name).held, before.usage.of(&tenant.name).held);
                for (dimension, _) in tenant.quota.overcommitted(held) {
                    prop_assert!(
                        held.get(dimension) <= was.get(dimension),
                        "{} went over its quota of {}", tenant.name, dimension.as_str()
                    );
                }
            }
        }
        // Whoever has a reservation finds room for it, as far as quotas go.
        for tenant in world.fabric.tenants.values() {
            let held = world.fabric.usage.of(&tenant.name).held;
            let kept = tenant.reserved.minus(held);
            let rises = world.fabric.usage.rises(&world.fabric.tenants, &tenant.name, kept);
            for rise in &rises {
                let quota = world.fabric.tenants[&rise.tenant].quota;
                let own = rise.tenant == tenant.name;
                prop_assert!(own || quota.short(rise).is_empty(), "{rise:?}");
            }
        }
    }
}
