//! Systems: where instances belong, when they went live, and how their end is told.

use super::*;
use crate::fabric::{
    command::CreateSystem,
    fixture::{system, tenant},
    system::{WARNINGS, default_system},
};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A step of a random history with one system of the city's.
pub(super) fn step(world: &World, name: &str, how: u8) -> Command {
    let now = world.env.now().get();
    match how {
        0 | 1 => system("city", name),
        2 => update(
            name,
            &[SystemChange::EndsAt(Some(Timestamp(now + 20 * DAY_MS)))],
        ),
        3 => Command::ReviewSystems,
        _ => Command::DeleteSystem {
            system: name.into(),
            etag: String::new(),
        },
    }
}

/// One of the systems that there are, or none.
pub(super) fn some(world: &World, n: u8) -> Option<Name> {
    let nth = world.fabric.systems.keys().nth(usize::from(n));
    nth.map(|(_, name)| name.clone())
}

/// Every instance is in its system's index, every system has one that is there, and every end that
/// is to be told waits for its time.
pub(super) fn check_indexes(fabric: &Fabric) {
    for instance in fabric.instances.values() {
        let (tenant, system) = (instance.tenant.clone(), instance.system.clone());
        assert!(
            fabric
                .systems
                .contains_key(&(tenant.clone(), system.clone()))
        );
        assert!(fabric.in_system.contains(&(tenant, system, instance.id)));
    }
    assert_eq!(fabric.in_system.len(), fabric.instances.len());
    let mut ends = 0;
    for ((tenant, name), system) in &fabric.systems {
        assert_eq!((tenant, name), (&system.tenant, &system.name));
        if let Some(at) = system.next_warning() {
            let key = (at, tenant.clone(), name.clone());
            assert!(fabric.system_ends.contains(&key));
            ends += 1;
        }
    }
    assert_eq!(fabric.system_ends.len(), ends);
}

fn update(which: &str, changes: &[SystemChange]) -> Command {
    Command::UpdateSystem {
        system: which.into(),
        changes: changes.to_vec(),
        etag: String::new(),
    }
}

fn within(system: &str, name: &str) -> Command {
    Command::CreateInstance(CreateInstance {
        system: Some(system.parse().unwrap()),
        ..create(name)
    })
}

fn record<'w>(world: &'w World, which: &str) -> &'w System {
    world.fabric.system(which, &city()).unwrap()
}

fn created(world: &mut World, command: Command) {
    let Outcome::Operation(operation) = world.must(command) else {
        panic!("an operation");
    };
    world.must(Command::EndOperation {
        operation,
        outcome: OperationOutcome::Succeeded,
        detail: String::new(),
    });
}

#[test]
fn every_instance_belongs_to_a_system_of_its_tenant() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    assert_eq!(world.instance("web").system, default_system());
    let first = record(&world, "default");
    assert_eq!(first.requested_at, world.instance("web").created_at);
    let before = world.events.len();
    world.must(Command::CreateInstance(create("db")));
    let more = world.events.iter().skip(before).map(Event::kind);
    assert!(!more.clone().any(|kind| kind == "system.created"));
    // Another tenant's isn't there.
    world.must(tenant("parks", None));
    world.must(system("parks", "billing"));
    let refused = world.submit(None, within("billing", "b"));
    let absent = Denied::Absent {
        kind: "system",
        which: "billing".into(),
    };
    assert_eq!(refused, Err(absent));
    world.must(system("city", "billing"));
    world.must(within("billing", "b"));
    let billing = record(&world, "billing");
    let names = world.fabric.instances_of(billing).map(|one| &one.name);
    assert_eq!(names.map(Name::as_str).collect::<Vec<_>>(), ["b"]);
    check_indexes(&world.fabric);
}

#[test]
fn a_system_is_removed_when_it_is_empty() {
    let mut world = World::with_nodes(1);
    world.must(system("city", "billing"));
    world.must(within("billing", "web"));
    let remove = || Command::DeleteSystem {
        system: "billing".into(),
        etag: String::new(),
    };
    let used = Denied::SystemInUse {
        name: "billing".into(),
        instances: 1,
        such_as: "web".into(),
    };
    assert_eq!(world.submit(None, remove()), Err(used.clone()));
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    // It counts until its end is proven.
    assert_eq!(world.submit(None, remove()), Err(used));
    world.gone("web");
    world.must(remove());
    assert!(world.fabric.systems.is_empty());
    check_indexes(&world.fabric);
}

#[test]
fn a_system_is_live_with_the_first_creation_that_succeeds() {
    let mut world = World::with_nodes(1);
    world.must(system("city", "billing"));
    let Outcome::Operation(failed) = world.must(within("billing", "web")) else {
        panic!("an operation");
    };
    world.env.advance(std::time::Duration::from_mins(1));
    world.must(Command::EndOperation {
        operation: failed,
        outcome: OperationOutcome::Failed,
        detail: String::new(),
    });
    assert_eq!(record(&world, "billing").live_at, None);
    created(&mut world, within("billing", "db"));
    let live = record(&world, "billing").live_at;
    assert_eq!(live, Some(world.env.now()));
    world.env.advance(std::time::Duration::from_mins(1));
    created(&mut world, within("billing", "more"));
    assert_eq!(record(&world, "billing").live_at, live);
    // A person's word goes before what the fabric saw.
    let said = record(&world, "billing").requested_at;
    world.must(update("billing", &[SystemChange::LiveAt(Some(said))]));
    assert_eq!(record(&world, "billing").live_at, Some(said));
}

/// Each warning is given once, whatever happens in between, and nothing is stopped.
#[test]
fn an_end_is_told_three_times() {
    let mut world = World::with_nodes(1);
    world.must(system("city", "billing"));
    world.must(within("billing", "web"));
    let end = Timestamp(world.env.now().get() + 40 * DAY_MS);
    world.must(update("billing", &[SystemChange::EndsAt(Some(end))]));
    let told = |world: &mut World| {
        let before = world.events.len();
        let due = warning_is_due(&world.fabric, world.env.now());
        // The second one has nothing to say.
        world.must(Command::ReviewSystems);
        world.must(Command::ReviewSystems);
        let new = world.events.iter().skip(before);
        let days = new.map(|event| match event {
            Event::SystemEnding { days, .. } => *days,
            event => panic!("{event:?}"),
        });
        let days: Vec<u32> = days.collect();
        assert_eq!(due, !days.is_empty());
        days
    };
    let day = std::time::Duration::from_millis(DAY_MS);
    let mut days = Vec::new();
    for _ in 0..60 {
        days.extend(told(&mut world));
        world.env.advance(day);
    }
    assert_eq!(days, WARNINGS);
    assert_eq!(world.instance("web").power, Power::Running);
    // Another end is told anew; of warnings that were missed, only the nearest.
    let end = Timestamp(world.env.now().get() + 5 * DAY_MS);
    world.must(update("billing", &[SystemChange::EndsAt(Some(end))]));
    assert_eq!(told(&mut world), [7]);
    world.env.advance(10 * day);
    assert_eq!(told(&mut world), [1]);
    world.must(update("billing", &[SystemChange::EndsAt(None)]));
    assert_eq!(told(&mut world), [0_u32; 0]);
    check_indexes(&world.fabric);
}

#[test]
fn what_cannot_be_is_not_recorded() {
    let mut world = World::with_nodes(1);
    let now = world.env.now();
    let later = Timestamp(now.get() + DAY_MS);
    let before = Timestamp(now.get() - DAY_MS);
    let mut fields = |facts: Vec<SystemChange>| {
        let create = Command::CreateSystem(CreateSystem {
            tenant: None,
            name: "billing".parse().unwrap(),
            facts,
        });
        match world.submit(None, create) {
            Err(Denied::Invalid(violations)) => violations
                .into_iter()
                .map(|one| one.field)
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        fields(vec![SystemChange::RequestedAt(later)]),
        ["request_time"]
    );
    let future = [
        SystemChange::LiveAt(Some(later)),
        SystemChange::EndsAt(Some(before)),
    ];
    assert_eq!(fields(future.to_vec()), ["live_time", "end_time"]);
    let many = SystemChange::Contacts(vec!["a".into(); 17]);
    assert_eq!(fields(vec![many]), ["contacts"]);
    let long = SystemChange::Owner("城".repeat(100));
    assert_eq!(fields(vec![long]), ["owner"]);
}

/// FAULTS 25: a system of another tenant's is none, in the words of one that isn't there.
#[test]
fn another_tenants_system_is_absent() {
    let mut world = World::with_nodes(1);
    world.must(tenant("finance", None));
    world.must(tenant("parks", None));
    world.must(system("parks", "trees"));
    for which in ["parks/trees", "parks/none", "none/trees", "trees"] {
        let delete = Command::DeleteSystem {
            system: which.into(),
            etag: String::new(),
        };
        let change = update(which, &[SystemChange::Owner("li".into())]);
        for command in [change, delete] {
            let refused = world.submit_as(member("li", "finance"), None, command);
            let absent = Denied::Absent {
                kind: "system",
                which: which.into(),
            };
            assert_eq!(refused, Err(absent));
        }
    }
    let there = world.submit_as(member("li", "finance"), None, system("parks", "more"));
    assert!(matches!(there, Err(Denied::Absent { kind: "tenant", .. })));
}

/// A log from before there were systems and flavors folds: its instances belong to the default
/// system, which came with the first of them, and a checkpoint of it says so.
#[test]
fn an_old_log_folds() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    world.must(Command::CreateInstance(create("db")));
    let old = |event: &Event| {
        let value = serde_json::to_value(event).unwrap();
        if let Some(instance) = value.get("instance").filter(|one| one.is_object()) {
            // What says nothing new is written as it always was.
            assert!(instance.get("system").is_none() && instance.get("flavor").is_none());
        }
        serde_json::from_value::<Event>(value).unwrap()
    };
    let is_new = |event: &&Event| matches!(event, Event::SystemCreated { .. });
    let mut folded = Fabric::default();
    let mut keys = std::collections::BTreeSet::new();
    for event in world.events.iter().filter(|event| !is_new(event)).map(old) {
        checkpoint::touched(&folded, &event, &mut keys);
        folded.apply(&event);
    }
    check_indexes(&folded);
    assert_eq!(folded.systems, world.fabric.systems);
    let objects: Vec<(String, Vec<u8>)> = keys
        .iter()
        .filter_map(|key| Some((key.encode(), checkpoint::object(&folded, key).unwrap()?)))
        .collect();
    let load = |with_systems: bool| {
        let objects = objects
            .iter()
            .filter(|(key, _)| with_systems || !key.starts_with("system/"));
        checkpoint::load(objects.map(|(key, value)| (key.as_str(), value.as_slice()))).unwrap()
    };
    // So does a checkpoint from before, without any systems.
    for with_systems in [true, false] {
        let loaded = load(with_systems);
        check_indexes(&loaded);
        assert_eq!(loaded.systems, folded.systems);
        assert_eq!(loaded.instances, folded.instances);
    }
}
