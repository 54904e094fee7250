//! Stories in which something goes wrong beside the machine: old listings, outsiders, hung calls.

use std::time::Duration;

use kapok_types::{
    instance::Power,
    phase::{Ended, Phase},
};

use super::{
    super::{
        Input, Machine, Outcome, Slot,
        world::{GRACE, World},
    },
    failed, running,
};
use crate::driver::{Error, Off};

/// Lets the call in flight succeed without an effect: the guest heard of it and does nothing.
fn unheeded(world: &mut World) {
    world.flights.clear();
    world.feed(Input::Finished(Slot::Main, Ok(Outcome::Done)));
}

fn flies(world: &World, name: &str) -> bool {
    world
        .flights
        .iter()
        .any(|(_, action)| action.name() == name)
}

/// Finishes calls until that one is under way. The guest heeds no shutdown.
fn until_flies(world: &mut World, name: &str) {
    for _ in 0..1000 {
        if flies(world, name) {
            return;
        }
        if flies(world, "shutdown") {
            unheeded(world);
        } else if !world.finish(Slot::Main, None) {
            world.now = world.machine().wake().unwrap();
            world.feed(Input::Tick);
        }
    }
    panic!("no {name}: {:?}", world.machine);
}

#[test]
fn an_old_listing_brings_nothing_back() {
    let mut world = running();
    world.list();
    world.delete();
    world.flow();
    world.acknowledge();
    world.take_listing();
    assert!(world.machine().is_known(), "it was listed");
    world.settle();
    assert!(world.machine().is_nothing());
    assert!(world.domain.is_none() && !world.disk);
    assert_eq!(world.starts, 1);
}

#[test]
fn a_listed_domain_that_was_removed_keeps_its_counts_if_it_is_wanted() {
    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    world.settle();
    world.list();
    world.machine = None;
    world.flights.clear();
    world.outsider_undefines();
    world.take_listing();
    world.resend();
    world.settle();
    assert_eq!(world.machine().status().done.starts, 1);
    assert_eq!(world.disks_made, 1, "a new disk for a started instance");
}

#[test]
fn what_is_not_ours_any_more_is_neither_removed_nor_destroyed() {
    let mut world = running();
    world.delete();
    for _ in 0..50 {
        world.finish(
            Slot::Main,
            Some(failed("the domain isn't Kapok's any more")),
        );
        world.now = world.machine().wake().unwrap();
        world.feed(Input::Tick);
    }
    assert!(world.ordered.iter().all(|name| *name == "observe"));
    let status = world.machine().status();
    assert_eq!(status.phase, Phase::Deleting);
    assert!(status.detail.contains("isn't Kapok's"), "{}", status.detail);
    // Given back, it goes.
    world.settle();
    assert_eq!(world.phase(), Phase::Gone);
}

#[test]
fn a_domain_that_somebody_moved_is_never_started_from_here() {
    let mut world = running();
    world.end_guest(Off::Moved);
    world.feed(Input::Look);
    world.settle();
    let moved = |world: &World| {
        let status = world.machine().status();
        assert!(status.detail.contains("moved"), "{}", status.detail);
        assert_eq!(
            (status.phase, status.ended),
            (Phase::Failing, Some(Ended::ByOutsider))
        );
        assert_eq!(world.starts, 1);
    };
    moved(&world);
    // Nor after the hypervisor forgot how it went off, by another agent, or the same intent again.
    world.domain.as_mut().unwrap().off = Off::Unknown;
    world.crash(false);
    world.settle();
    moved(&world);
    world.reboot();
    world.resend();
    world.settle();
    moved(&world);
    // A newer intent is a person's word.
    world.apply(|intent| intent.counters.starts += 1);
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));
    assert_eq!(world.domain.as_ref().unwrap().record.moved, None);
}

#[test]
fn a_moved_domain_stays_off_however_it_was_stopped_meanwhile() {
    let mut world = running();
    world.end_guest(Off::Moved);
    world.apply(|intent| intent.power = Power::Stopped);
    world.settle();
    assert_eq!(world.phase(), Phase::Stopped);
    world.apply(|intent| {
        intent.power = Power::Running;
        intent.counters.starts += 1;
    });
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));
}

/// The lane is full of others' calls: the guest has heard of nothing, so its grace doesn't run.
#[test]
fn a_guest_that_was_not_asked_is_not_destroyed() {
    let refusals = [
        Error::Busy { lane: "monitor" },
        Error::Unavailable {
            reason: "the connection broke".into(),
        },
    ];
    for refusal in refusals {
        let mut world = running();
        world.apply(|intent| intent.power = Power::Stopped);
        let end = world.now + GRACE * 3;
        while world.now < end {
            until_flies(&mut world, "shutdown");
            // Long overdue before it is refused: it waited for its turn.
            world.pass(Duration::from_secs(44));
            world.finish(Slot::Main, Some(refusal.clone()));
        }
        until_flies(&mut world, "shutdown");
        world.pass(GRACE * 2);
        assert!(!world.ordered.contains(&"destroy"), "{:?}", world.ordered);
        // At last it is asked, and its grace begins.
        unheeded(&mut world);
        let asked = world.now;
        until_flies(&mut world, "destroy");
        assert!(world.now >= asked + GRACE);
    }
}

#[test]
fn a_guest_whose_own_call_is_stuck_or_fails_is_destroyed_after_the_grace() {
    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    until_flies(&mut world, "shutdown");
    world.quarantined = true;
    let asked = world.now;
    while !flies(&world, "destroy") {
        world.now = world.machine().wake().unwrap();
        world.feed(Input::Tick);
    }
    assert_eq!(world.now, asked + GRACE);

    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    until_flies(&mut world, "shutdown");
    let asked = world.now;
    while !flies(&world, "destroy") {
        if flies(&world, "shutdown") {
            world.finish(Slot::Main, Some(failed("no monitor")));
        } else if !world.finish(Slot::Main, None) {
            world.now = world.machine().wake().unwrap();
            world.feed(Input::Tick);
        }
    }
    assert_eq!(world.now, asked + GRACE);
}

#[test]
fn a_shutdown_and_a_destroy_have_deadlines_of_their_own() {
    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    until_flies(&mut world, "shutdown");
    world.pass(Duration::from_secs(21));
    assert_eq!(world.phase(), Phase::Stopping);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.phase(), Phase::Unknown);
    unheeded(&mut world);
    until_flies(&mut world, "destroy");
    world.pass(Duration::from_secs(39));
    assert_eq!(world.phase(), Phase::Stopping);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.phase(), Phase::Unknown);
}

#[test]
fn a_reset_that_is_asked_for_during_another_is_made() {
    let mut world = running();
    world.apply(|intent| intent.counters.resets = 1);
    until_flies(&mut world, "reset");
    world.apply(|intent| intent.counters.resets = 2);
    world.settle();
    assert_eq!(world.resets, 2);
    // One that was pressed and not written is over with the run.
    world.apply(|intent| intent.counters.resets = 3);
    until_flies(&mut world, "reset");
    world.finish(Slot::Main, None);
    world.end_guest(Off::Crashed);
    world.flights.clear();
    world.feed(Input::Finished(Slot::Main, Err(failed("it is off"))));
    world.settle();
    let made = world.resets;
    world.apply(|intent| intent.counters.resets = 4);
    world.settle();
    assert_eq!((world.resets, world.phase()), (made + 1, Phase::Running));
}

/// QEMU ends before it was ever seen on.
#[test]
fn a_guest_that_ends_at_once_is_started_with_growing_waits() {
    let mut world = World::new();
    world.apply(|_| {});
    let mut waits = Vec::new();
    for _ in 0..4 {
        until_flies(&mut world, "start");
        world.finish(Slot::Main, None);
        world.end_guest(Off::Crashed);
        world.flow();
        let status = world.machine().status();
        assert_eq!(
            (status.phase, status.ended),
            (Phase::Failing, Some(Ended::ByCrash))
        );
        let from = world.now;
        until_flies(&mut world, "start");
        waits.push(world.now.saturating_sub(from).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8]);
    world.settle();
    assert_eq!(world.phase(), Phase::Running);
}

#[test]
fn a_guest_that_shuts_down_at_once_stays_off() {
    let mut world = World::new();
    world.apply(|_| {});
    until_flies(&mut world, "start");
    world.finish(Slot::Main, None);
    world.end_guest(Off::Shutdown);
    world.settle();
    world.crash(false);
    world.settle();
    let status = world.machine().status();
    assert_eq!(
        (status.phase, status.ended, world.starts),
        (Phase::Stopped, Some(Ended::ByGuest), 1)
    );
}

#[test]
fn without_its_store_a_node_starts_nothing_unconfirmed() {
    let mut world = running();
    world.end_guest(Off::Crashed);
    let record = world.domain.as_ref().unwrap().record.clone();
    world.machine = Some(Machine::found(world.policy.clone(), &record).unsure());
    world.flights.clear();
    world.feed(Input::Tick);
    world.settle();
    let status = world.machine().status();
    assert_eq!((status.phase, world.starts), (Phase::Waiting, 1));
    assert!(status.detail.contains("local store"), "{}", status.detail);
    world.resend();
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));
}

/// A delete is told again with every survey; that must not undo a wait.
#[test]
fn a_delete_that_is_known_changes_nothing() {
    let mut world = running();
    world.delete();
    until_flies(&mut world, "remove root disk");
    world.finish(Slot::Main, Some(failed("the pool is away")));
    world.flow();
    let (tombstone, before) = (world.tombstone.unwrap(), world.ordered.len());
    for _ in 0..10 {
        world.feed(Input::Delete(tombstone));
    }
    assert_eq!(world.ordered.len(), before);
    assert!(world.machine().status().detail.contains("pool is away"));
}

#[test]
fn hints_do_not_make_the_guests_agent_be_asked_more_often() {
    let mut world = running();
    assert!(std::mem::take(&mut world.asks));
    world.feed(Input::GuestAgent(true));
    for _ in 0..100 {
        world.feed(Input::Look);
        world.flow();
        world.pass(Duration::from_millis(100));
        world.flow();
    }
    assert!(!world.asks);
}

/// FAULTS 61: a guest that floods its hypervisor with events is looked at 20 times a second at most,
/// and what the last of them told of is seen.
#[test]
fn a_flood_of_hints_is_a_few_looks() {
    let mut world = running();
    let began = world.now;
    for milli in 0..3000 {
        world.now = began + Duration::from_millis(milli);
        if milli == 2999 {
            world.domain.as_mut().unwrap().paused = true;
        }
        world.feed(Input::Look);
        // Each look takes a few milliseconds.
        if milli % 5 == 4 {
            world.flow();
        }
    }
    world.flow();
    world.pass(Duration::from_millis(100));
    world.flow();
    let looks = world.ordered.iter().filter(|it| **it == "observe").count();
    assert!((20..=62).contains(&looks), "{looks}");
    assert_eq!(world.phase(), Phase::Failing, "the last hint was lost");
}

/// Absence is success by the driver's word; an error that says so is about something else.
#[test]
fn an_absent_pool_proves_nothing() {
    let mut world = running();
    world.delete();
    until_flies(&mut world, "remove root disk");
    let absent = Error::Absent {
        what: "the pool".into(),
    };
    world.finish(Slot::Main, Some(absent));
    world.flow();
    assert_eq!(world.phase(), Phase::Deleting);
    assert!(world.domain.is_some(), "its definition goes last");
    world.settle();
    assert!(!world.disk);
}
