//! The machine over the model: single stories here, random ones in `props`.

use std::time::Duration;

use kapok_types::{
    Epoch, Generation,
    instance::{Power, RunPolicy},
    phase::{Ended, Phase},
};

use super::{
    Input, Machine, Refusal, Slot,
    world::{GRACE, World, intent},
};
use crate::driver::{Error, Off};

mod faults;
mod props;
mod size;

fn running() -> World {
    let mut world = World::new();
    world.apply(|_| {});
    world.flow();
    assert_eq!(world.phase(), Phase::Running);
    world.ordered.clear();
    world
}

fn failed(text: &str) -> Error {
    Error::Failed {
        call: "the call",
        reason: text.into(),
    }
}

#[test]
fn a_create_defines_first_and_notes_the_start_before_it() {
    let mut world = World::new();
    world.apply(|_| {});
    world.flow();
    let order = [
        "observe",
        "define",
        "pull image",
        "create root disk",
        "define",
        "start",
        "observe",
        // Not on the way to running: the start isn't owed any more.
        "define",
    ];
    assert_eq!(world.ordered, order);
    let status = world.machine().status();
    assert_eq!((status.phase, status.done.starts), (Phase::Running, 1));
    assert!(!world.domain.as_ref().unwrap().record.starting);
}

#[test]
fn created_off_it_gets_its_disk_and_stays_off() {
    let mut world = World::new();
    world.apply(|intent| {
        intent.power = Power::Stopped;
        intent.counters.starts = 0;
    });
    world.flow();
    assert!(world.disk);
    assert_eq!((world.phase(), world.starts), (Phase::Stopped, 0));
}

#[test]
fn a_delete_removes_the_definition_last() {
    let mut world = running();
    world.delete();
    world.flow();
    let order = [
        "observe",
        "destroy",
        "observe",
        "remove root disk",
        "undefine",
        "observe",
    ];
    assert_eq!(world.ordered, order);
    assert_eq!(world.phase(), Phase::Gone);
    assert!(world.domain.is_none() && !world.disk);
}

/// FAULTS 35: whichever comes late, the tombstone wins.
#[test]
fn a_late_create_finds_the_tombstone() {
    let mut world = World::new();
    world.delete();
    let refused = world.machine().accept(&intent());
    assert!(matches!(refused, Err(Refusal::Released)));
    world.flow();
    assert_eq!(world.phase(), Phase::Gone);
    let refused = world.machine().accept(&intent());
    assert!(matches!(refused, Err(Refusal::Released)));
}

#[test]
fn a_delete_does_not_wait_for_an_image() {
    let mut world = World::new();
    world.apply(|_| {});
    while world.phase() != Phase::Pulling {
        assert!(world.finish(Slot::Main, None));
    }
    world.feed(Input::Progress(250));
    assert_eq!(world.machine().status().progress_permille, Some(250));
    world.delete();
    world.flow();
    assert_eq!(world.phase(), Phase::Gone);
    assert_eq!(world.disks_made, 0);
}

/// FAULTS 33 and 34: the same again is no change, other content under one generation is refused.
#[test]
fn one_generation_has_one_content() {
    let mut world = running();
    let mut again = intent();
    again.epoch = Epoch(9);
    assert!(world.machine().accept(&again).is_ok());
    world.feed(Input::Apply(Box::new(again)));
    world.flow();
    assert_eq!(
        world.ordered,
        Vec::<&str>::new(),
        "the same intent did something"
    );
    assert_eq!(world.machine().status().epoch, Epoch(9));
    let mut other = intent();
    other.counters.starts = 2;
    assert!(matches!(
        world.machine().accept(&other),
        Err(Refusal::ContentMismatch { .. })
    ));
    other.generation = Generation(2);
    other.spec.root.size.0 += 1;
    assert!(matches!(
        world.machine().accept(&other),
        Err(Refusal::Immutable(_))
    ));
    world.apply(|intent| intent.power = Power::Stopped);
    assert!(matches!(
        world.machine().accept(&intent()),
        Err(Refusal::StaleGeneration { .. })
    ));
    let early = world
        .machine()
        .accept_delete(intent().instance, Generation(1));
    assert!(matches!(early, Err(Refusal::StaleGeneration { .. })));
}

#[test]
fn a_guest_that_shuts_itself_down_stays_off() {
    let mut world = running();
    world.end_guest(Off::Shutdown);
    world.feed(Input::Look);
    world.settle();
    let status = world.machine().status();
    assert_eq!(
        (status.phase, status.ended),
        (Phase::Stopped, Some(Ended::ByGuest))
    );
    assert_eq!(world.starts, 1);
    // It stays so for another agent, and after the host's boot.
    world.crash(false);
    world.settle();
    world.reboot();
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Stopped, 1));
    // Until people start it.
    world.apply(|intent| intent.counters.starts += 1);
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));
}

#[test]
fn with_policy_always_it_is_started_again() {
    let mut world = running();
    world.apply(|intent| intent.spec.run_policy = RunPolicy::Always);
    world.flow();
    world.end_guest(Off::Shutdown);
    world.feed(Input::Look);
    world.flow();
    assert_eq!(world.starts, 1, "without a wait");
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));
}

#[test]
fn crashes_restart_with_growing_waits_until_it_is_steady() {
    let mut world = running();
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.end_guest(Off::Crashed);
        world.feed(Input::Look);
        world.flow();
        let status = world.machine().status();
        assert_eq!(
            (status.phase, status.ended),
            (Phase::Failing, Some(Ended::ByCrash))
        );
        let (from, starts) = (world.now, world.starts);
        while world.starts == starts {
            let wake = world.machine().wake().unwrap();
            world.now = wake;
            world.feed(Input::Tick);
            world.flow();
        }
        waits.push(world.now.saturating_sub(from).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8]);
    world.pass(Duration::from_secs(601));
    world.flow();
    world.end_guest(Off::Crashed);
    world.feed(Input::Look);
    world.flow();
    world.pass(Duration::from_secs(1));
    world.flow();
    assert_eq!(
        world.phase(),
        Phase::Running,
        "the first wait is short again"
    );
}

#[test]
fn what_an_outsider_ends_is_named_and_started_again() {
    let mut world = running();
    world.end_guest(Off::Destroyed);
    world.feed(Input::Look);
    world.flow();
    assert_eq!(world.machine().status().ended, Some(Ended::ByOutsider));
    world.settle();
    assert_eq!(world.phase(), Phase::Running);
}

#[test]
fn a_removed_definition_comes_back_without_a_new_disk() {
    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    world.flow();
    world.outsider_undefines();
    world.feed(Input::Look);
    world.flow();
    let status = world.machine().status();
    assert_eq!(status.phase, Phase::Stopped);
    assert!(
        status.drift[0].contains("was removed"),
        "{:?}",
        status.drift
    );
    assert!(world.domain.is_some());
    assert_eq!(world.disks_made, 1);
    assert_eq!(status.done.starts, 1, "what was done is remembered");
}

#[test]
fn a_guest_that_ignores_shutdown_is_asked_again_and_then_destroyed() {
    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    // The guest doesn't obey: the call succeeds, the domain stays on.
    let mut asked = 0;
    let start = world.now;
    while world.domain.as_ref().unwrap().on {
        let shutdown = world
            .flights
            .iter()
            .any(|(_, action)| action.name() == "shutdown");
        if shutdown {
            asked += 1;
            world.flights.clear();
            world.feed(Input::Finished(Slot::Main, Ok(super::Outcome::Done)));
        } else if !world.finish(Slot::Main, None) {
            world.now = world.machine().wake().unwrap();
            world.feed(Input::Tick);
        }
        assert!(world.now <= start + GRACE, "longer than the grace");
    }
    assert!((5..=7).contains(&asked), "{asked}");
    world.flow();
    let status = world.machine().status();
    assert_eq!(
        (status.phase, status.ended),
        (Phase::Stopped, Some(Ended::ByIntent))
    );
}

#[test]
fn a_restart_and_a_reset_happen_once() {
    let mut world = running();
    world.apply(|intent| intent.counters.restarts = 1);
    world.settle();
    assert_eq!((world.starts, world.phase()), (2, Phase::Running));
    world.apply(|intent| intent.counters.resets = 1);
    world.settle();
    world.resend();
    world.crash(false);
    world.settle();
    assert_eq!((world.starts, world.resets), (2, 1));
    let done = world.machine().status().done;
    assert_eq!((done.restarts, done.resets), (1, 1));
}

/// FAULTS 41 in the small: an overdue call makes it unknown, holds its place, and a delete gets
/// through by a destroy.
#[test]
fn an_overdue_call_is_unknown_and_a_delete_passes_it() {
    let mut world = running();
    world.feed(Input::Look);
    world.pass(Duration::from_secs(10));
    let status = world.machine().status();
    assert_eq!(status.phase, Phase::Unknown);
    assert!(status.detail.contains("observe"), "{}", status.detail);
    world.apply(|intent| intent.counters.resets = 1);
    assert_eq!(
        world.ordered,
        ["observe"],
        "something passed the stuck call"
    );
    world.delete();
    assert_eq!(world.ordered, ["observe", "destroy"]);
    // The destroy ends the process, so the stuck call comes back.
    assert!(world.finish(Slot::Forced, None));
    world.flow();
    assert_eq!(world.phase(), Phase::Gone);
}

#[test]
fn a_late_answer_unlocks() {
    let mut world = running();
    world.feed(Input::Look);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.phase(), Phase::Unknown);
    world.flow();
    assert_eq!(world.phase(), Phase::Running);
}

#[test]
fn an_unreachable_hypervisor_is_unknown_never_failed() {
    let mut world = running();
    world.feed(Input::Look);
    let error = Error::Unavailable {
        reason: "no socket".into(),
    };
    world.finish(Slot::Main, Some(error));
    assert_eq!(world.phase(), Phase::Unknown);
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 1));
}

#[test]
fn a_failed_act_is_failing_and_tried_again() {
    let mut world = World::new();
    world.apply(|_| {});
    while world
        .flights
        .iter()
        .all(|(_, action)| action.name() != "start")
    {
        assert!(world.finish(Slot::Main, None));
    }
    let locked = Error::Locked {
        reason: "failed to get the write lock".into(),
    };
    world.finish(Slot::Main, Some(locked));
    world.flow();
    let status = world.machine().status();
    assert_eq!(status.phase, Phase::Failing);
    assert!(status.detail.contains("write lock"), "{}", status.detail);
    assert_eq!(world.starts, 0, "without a wait");
    world.settle();
    assert_eq!(world.phase(), Phase::Running);
    assert_eq!(world.machine().status().detail, "");
}

#[test]
fn after_a_boot_local_disks_start_and_shared_ones_wait() {
    let mut world = running();
    world.reboot();
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));

    world.policy.pool_shared = true;
    world.reboot();
    world.settle();
    let status = world.machine().status();
    assert_eq!(
        (status.phase, status.ended),
        (Phase::Waiting, Some(Ended::ByHost))
    );
    assert_eq!(world.starts, 2);
    // A crash of the agent doesn't help it; the controller's word does.
    world.crash(false);
    world.settle();
    assert_eq!(world.starts, 2);
    world.resend();
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 3));

    world.policy.power_loss_start = true;
    world.reboot();
    world.settle();
    assert_eq!(world.starts, 4, "the operator's word for the site");
}

#[test]
fn a_shared_pool_waits_also_when_it_was_never_started_here() {
    let mut world = World::new();
    world.policy.pool_shared = true;
    world.apply(|_| {});
    while world
        .flights
        .iter()
        .all(|(_, action)| action.name() != "create root disk")
    {
        assert!(world.finish(Slot::Main, None));
    }
    world.reboot();
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Waiting, 0));
}

#[test]
fn paused_is_failing_and_left_alone() {
    let mut world = running();
    world.domain.as_mut().unwrap().paused = true;
    world.feed(Input::Look);
    world.flow();
    assert_eq!(world.phase(), Phase::Failing);
    world.settle();
    assert!(
        world.ordered.iter().all(|name| *name == "observe"),
        "{:?}",
        world.ordered
    );
}

#[test]
fn a_start_that_was_owed_at_a_crash_is_made_even_after_a_clean_end() {
    let mut world = running();
    world.apply(|intent| intent.power = Power::Stopped);
    world.settle();
    world.apply(|intent| {
        intent.power = Power::Running;
        intent.counters.starts = 2;
    });
    while world
        .flights
        .iter()
        .all(|(_, action)| action.name() != "start")
    {
        assert!(world.finish(Slot::Main, None));
    }
    // Off by a shutdown, counted as started, and yet it never was.
    world.crash(false);
    world.settle();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 2));
}

#[test]
fn a_silent_domain_is_unknown_until_its_record_tells() {
    let mut world = running();
    let incarnation = world.machine().incarnation();
    world.flights.clear();
    world.machine = Some(Machine::silent(world.policy.clone(), incarnation));
    assert!(world.machine().is_known());
    world.feed(Input::Tick);
    assert_eq!(world.phase(), Phase::Unknown);
    world.flow();
    assert_eq!((world.phase(), world.starts), (Phase::Running, 1));
    world.finish(Slot::Main, Some(failed("x")));
}
