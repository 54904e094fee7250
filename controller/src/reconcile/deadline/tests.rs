//! Which operations are past their deadline.

use std::time::Duration;

use kapok_types::Timestamp;

use super::*;
use crate::reconcile::fixture::{DEADLINE, World};

#[test]
fn an_operation_is_overdue_after_its_deadline_until_it_has_ended() {
    let mut world = World::new(1);
    world.create("web");
    let first = world.instance("web").operation;
    assert_eq!(overdue(&world.fabric, world.now()), []);
    world.env.advance(DEADLINE);
    assert_eq!(
        overdue(&world.fabric, world.now()),
        [],
        "the deadline itself is not past it"
    );
    world.create("db");
    world.env.advance(Duration::from_millis(1));
    assert_eq!(
        overdue(&world.fabric, world.now()),
        [first],
        "the younger one has time"
    );
    world.must(Command::EndOperation {
        operation: first,
        outcome: OperationOutcome::Detached,
        detail: String::new(),
    });
    assert_eq!(overdue(&world.fabric, world.now()), []);
}

/// FAULTS 51: a wall clock that jumps back detaches nothing early.
#[test]
fn a_clock_that_went_back_detaches_nothing() {
    let mut world = World::new(1);
    world.create("web");
    let back = Timestamp(world.now().get() - 3_600_000);
    assert_eq!(overdue(&world.fabric, back), []);
}

/// A detached operation leaves the instance alone: the fabric goes on.
#[test]
fn a_detached_operation_changes_no_intent() {
    let mut world = World::new(1);
    world.create("web");
    let before = world.instance("web").clone();
    world.must(Command::EndOperation {
        operation: before.operation,
        outcome: OperationOutcome::Detached,
        detail: String::new(),
    });
    assert_eq!(*world.instance("web"), before);
}
