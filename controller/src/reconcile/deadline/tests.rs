//! Which operations are past their deadline.

use super::*;
use crate::reconcile::fixture::{DEADLINE, World};

/// What has passed by the world's own clocks.
fn passed(deadlines: &mut Deadlines, world: &World) -> Vec<OperationId> {
    deadlines.passed(&world.fabric, world.now(), world.env.monotonic())
}

#[test]
fn an_operation_is_overdue_after_its_deadline_until_it_has_ended() {
    let mut world = World::new(1);
    let mut deadlines = Deadlines::default();
    world.create("web");
    let first = world.instance("web").operation;
    assert_eq!(passed(&mut deadlines, &world), []);
    world.env.advance(DEADLINE);
    assert_eq!(
        passed(&mut deadlines, &world),
        [],
        "the deadline itself is not past it"
    );
    world.create("db");
    world.env.advance(Duration::from_millis(1));
    assert_eq!(
        passed(&mut deadlines, &world),
        [first],
        "the younger one has time"
    );
    world.must(Command::EndOperation {
        operation: first,
        outcome: OperationOutcome::Detached,
        detail: String::new(),
    });
    assert_eq!(passed(&mut deadlines, &world), []);
    assert_eq!(deadlines.due.len(), 1, "what has ended is forgotten");
}

/// FAULTS 51: a wall clock that jumps, in either direction, detaches nothing early and nothing
/// late.
#[test]
fn a_wall_clock_that_jumps_moves_no_deadline() {
    let mut world = World::new(1);
    let mut deadlines = Deadlines::default();
    world.create("web");
    let operation = world.instance("web").operation;
    let (now, monotonic) = (world.now(), world.env.monotonic());
    assert_eq!(deadlines.passed(&world.fabric, now, monotonic), []);
    let hour = 3_600_000;
    for wall in [now.get() + hour, now.get() - hour] {
        let soon = monotonic + Duration::from_secs(1);
        assert_eq!(deadlines.passed(&world.fabric, Timestamp(wall), soon), []);
    }
    let late = monotonic + DEADLINE + Duration::from_millis(1);
    let back = Timestamp(now.get() - hour);
    assert_eq!(deadlines.passed(&world.fabric, back, late), [operation]);
}

/// After a restart, an operation from before keeps its deadline; one from a future that the clock
/// has left again gets no more than it was given.
#[test]
fn a_restart_keeps_deadlines() {
    let mut world = World::new(1);
    world.create("web");
    let operation = world.instance("web").operation;
    world.env.advance(DEADLINE + Duration::from_millis(1));
    let boot = Duration::from_secs(5);
    assert_eq!(
        Deadlines::default().passed(&world.fabric, world.now(), boot),
        []
    );
    let mut deadlines = Deadlines::default();
    let back = Timestamp(world.now().get() - 24 * 3_600_000);
    assert_eq!(deadlines.passed(&world.fabric, back, boot), []);
    let late = boot + DEADLINE + Duration::from_millis(1);
    assert_eq!(deadlines.passed(&world.fabric, back, late), [operation]);
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
