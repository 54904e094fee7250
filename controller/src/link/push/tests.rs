//! What is due to a node, from nothing accepted to everything, and after each kind of change.

use std::sync::Arc;

use kapok_types::{Env, env, phase::Status};

use super::*;
use crate::{
    fabric::{Command, Event, Operation, OperationOutcome},
    reconcile::fixture::{World, node_id},
};

fn of_node(world: &World, n: u8, accepted: &Accepted) -> Vec<Due> {
    due(&world.fabric, node_id(n), Epoch(7), accepted)
}

/// Everything due to node 1, taken as accepted.
fn accept(world: &World, accepted: &mut Accepted) -> usize {
    let sent = of_node(world, 1, accepted);
    for due in &sent {
        match due {
            Due::Apply(id, generation, ..) => accepted.insert(*id, Held::Intent(*generation)),
            Due::Delete(id, _) => accepted.insert(*id, Held::Deletion),
        };
    }
    sent.len()
}

#[test]
fn a_new_session_says_the_whole_intent_once_at_the_present_epoch() {
    let mut world = World::new(1);
    world.create("web");
    world.create("db");
    let sent = of_node(&world, 1, &Accepted::new());
    assert_eq!(sent.len(), 2);
    for due in &sent {
        let Due::Apply(id, generation, image, request) = due else {
            panic!("{due:?}")
        };
        assert_eq!((request.epoch, request.generation), (7, 1));
        assert_eq!(*generation, Generation(1));
        assert_eq!(request.incarnation_id, id.to_string());
        assert_eq!(request.node_id, node_id(1).to_string());
        assert_eq!(*image, Digest::of(b"debian"));
    }
    let mut accepted = Accepted::new();
    assert_eq!(accept(&world, &mut accepted), 2);
    assert_eq!(of_node(&world, 1, &accepted), []);
}

/// DESIGN's rule 10: after a restore nothing is due to a node before it is adopted.
#[test]
fn nothing_is_due_to_a_node_that_is_to_be_adopted() {
    let mut world = World::new(1);
    world.create("web");
    world.must(Command::BeginAdoption {
        cause: crate::fabric::adoption::Cause::Restored,
        backup_at: None,
    });
    assert_eq!(of_node(&world, 1, &Accepted::new()), []);
    let node = world.fabric.nodes.keys().next().unwrap().clone();
    world.fabric.apply(&Event::NodeAdopted { node });
    assert_eq!(of_node(&world, 1, &Accepted::new()).len(), 1);
}

#[test]
fn a_changed_intent_is_due_again_and_only_that() {
    let mut world = World::new(1);
    world.create("web");
    world.create("db");
    let mut accepted = Accepted::new();
    accept(&world, &mut accepted);
    world.must(Command::StopInstance {
        instance: "db".into(),
    });
    let sent = of_node(&world, 1, &accepted);
    let [Due::Apply(id, Generation(2), _, request)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(*id, world.instance("db").incarnations[0].id);
    assert_eq!(request.name, "db");
}

#[test]
fn a_deletion_is_due_instead_of_the_intent_until_it_is_accepted() {
    let mut world = World::new(1);
    world.create("web");
    let mut accepted = Accepted::new();
    accept(&world, &mut accepted);
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    let sent = of_node(&world, 1, &accepted);
    let [Due::Delete(_, request)] = &sent[..] else {
        panic!("{sent:?}")
    };
    // Above what the agent holds: it can't be taken for an old wish.
    assert_eq!((request.generation, request.epoch), (2, 7));
    accept(&world, &mut accepted);
    assert_eq!(of_node(&world, 1, &accepted), []);
    // A new session knows nothing and says it again: never an intent.
    assert!(matches!(
        of_node(&world, 1, &Accepted::new())[..],
        [Due::Delete(..)]
    ));
}

#[test]
fn a_leaving_incarnation_is_deleted_while_its_instance_lives() {
    let mut world = World::new(1);
    world.create("web");
    let mut incarnation = world.instance("web").incarnations[0].clone();
    let instance = world.instance("web").id;
    incarnation.role = Role::Leaving;
    let ended = Event::IncarnationEnded {
        instance,
        incarnation: incarnation.id,
        node: incarnation.node,
        proof: String::new(),
    };
    world.fabric.apply(&ended);
    world.fabric.apply(&Event::IncarnationPlaced {
        instance,
        incarnation,
    });
    assert!(matches!(
        of_node(&world, 1, &Accepted::new())[..],
        [Due::Delete(..)]
    ));
}

#[test]
fn a_node_is_told_of_its_own_incarnations_only() {
    let mut world = World::new(2);
    world.create("web");
    world.must(Command::CordonNode {
        node: "node-1".into(),
        reason: String::new(),
    });
    world.create("db");
    let (first, second) = (
        of_node(&world, 1, &Accepted::new()),
        of_node(&world, 2, &Accepted::new()),
    );
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    assert_eq!(of_node(&world, 3, &Accepted::new()), []);
}

/// A tombstone may go only when the log holds the end: else a late create would find none.
#[test]
fn a_tombstone_is_acknowledged_after_its_end_is_recorded() {
    let mut world = World::new(1);
    world.create("web");
    let env: Arc<dyn Env> = env::Seeded::new(1);
    let observed = observed::Table::new(env);
    let node = "node-1".parse().unwrap();
    let status = Status {
        ..world.status("web", Phase::Gone)
    };
    let id = status.incarnation;
    let acknowledged = |world: &World| to_acknowledge(&world.fabric, &observed, [id]);
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    observed.put(
        &node,
        node_id(1),
        Status {
            phase: Phase::Deleting,
            ..status.clone()
        },
        true,
    );
    assert_eq!(acknowledged(&world), []);
    observed.put(&node, node_id(1), status.clone(), true);
    assert_eq!(acknowledged(&world), [], "the end is not in the log yet");
    world.must(Command::IncarnationGone {
        node: node_id(1),
        incarnation: id,
    });
    assert_eq!(acknowledged(&world), [id]);
    // A stray that lives is never acknowledged away.
    observed.put(
        &node,
        node_id(1),
        Status {
            phase: Phase::Running,
            ..status
        },
        false,
    );
    assert_eq!(acknowledged(&world), []);
}

/// What is said while an operation goes on is a part of its trace; what is said again later isn't.
/// An operation of a log from before there were traces has none.
#[test]
fn a_push_belongs_to_the_trace_of_the_operation_that_goes_on() {
    let mut world = World::new(1);
    world.create("web");
    let web = world.instance("web").clone();
    let (id, incarnation) = (web.operation, web.incarnations[0].id);
    let old = serde_json::to_value(&world.fabric.operations[&id]).unwrap();
    assert_eq!(old.get("trace"), None);
    let mut operation: Operation = serde_json::from_value(old).unwrap();
    assert_eq!(trace(&world.fabric, incarnation), None);

    let context = TraceContext::new(&*env::Seeded::new(3));
    operation.trace = Some(context);
    let event = Event::OperationStarted { operation };
    let text = serde_json::to_string(&event).unwrap();
    world.fabric.apply(&serde_json::from_str(&text).unwrap());
    assert_eq!(trace(&world.fabric, incarnation), Some(context));

    world.must(Command::EndOperation {
        operation: id,
        outcome: OperationOutcome::Succeeded,
        detail: String::new(),
    });
    assert_eq!(trace(&world.fabric, incarnation), None);
}
