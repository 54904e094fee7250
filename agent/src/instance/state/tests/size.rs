//! Guests that become larger or smaller.

use kapok_types::{MemoryMib, Vcpus, phase::Size};

use super::{failed, running};
use crate::{
    driver::{Error, Off},
    instance::state::{
        Action, Slot,
        world::{GRACE, World, bind},
    },
};

fn resize(world: &mut World, vcpus: u32, memory: u64) {
    world.apply(|intent| {
        (intent.spec.vcpus, intent.spec.memory) = (Vcpus(vcpus), MemoryMib(memory));
    });
}

/// What the status says: in effect, and whether the rest waits for the next start.
fn says(world: &World) -> (u32, u64, bool) {
    let status = world.machine().status();
    let size = status.size.unwrap();
    (size.vcpus.get(), size.memory.get(), status.resize_pending)
}

fn is_told(world: &World) -> Option<Size> {
    world.machine().status().size
}

/// Until nothing happens any more, without time passing but for the looks.
fn settle(world: &mut World) {
    world.flow();
    world.pass(GRACE);
    world.flow();
}

#[test]
fn vcpus_come_while_it_runs_and_a_look_says_so() {
    let mut world = running();
    resize(&mut world, 2, 256);
    assert_eq!(is_told(&world), None, "its definition is still another");
    world.flow();
    assert_eq!(world.ordered, ["define", "set vcpus", "observe"]);
    assert_eq!(says(&world), (2, 256, false));
    settle(&mut world);
    assert_eq!((world.gifts, world.starts), (1, 1));
}

#[test]
fn memory_and_fewer_vcpus_wait_for_the_next_start() {
    for (vcpus, memory) in [(1, 512), (1, 128), (5, 256)] {
        let mut world = running();
        resize(&mut world, vcpus, memory);
        settle(&mut world);
        assert_eq!(says(&world), (1, 256, true));
        assert_eq!((world.gifts, world.starts), (0, 1));
        // Who asks for the old size again waits for nothing.
        resize(&mut world, 1, 256);
        settle(&mut world);
        assert_eq!(says(&world), (1, 256, false));
        resize(&mut world, vcpus, memory);
        world.apply(|intent| intent.counters.restarts += 1);
        settle(&mut world);
        assert_eq!(says(&world), (vcpus, memory, false));
        assert_eq!(world.starts, 2);
    }
}

/// A crash and the guest's own reboot of its QEMU are starts as well.
#[test]
fn a_crashed_guest_comes_back_as_it_is_meant_to_be() {
    let mut world = running();
    resize(&mut world, 2, 512);
    settle(&mut world);
    assert_eq!(says(&world), (2, 256, true));
    world.end_guest(Off::Crashed);
    world.settle();
    assert_eq!(says(&world), (2, 512, false));
}

/// A guest, or a QEMU, that takes no vCPUs is asked once, and runs on as it was.
#[test]
fn what_is_given_in_vain_waits_and_is_no_failure() {
    for refuses in [false, true] {
        let mut world = running();
        world.takes_vcpus = false;
        resize(&mut world, 2, 256);
        assert!(world.finish(Slot::Main, None), "define");
        let refusal = refuses.then(|| failed("the guest refused"));
        assert!(world.finish(Slot::Main, refusal), "set vcpus");
        settle(&mut world);
        assert_eq!(says(&world), (1, 256, true));
        let status = world.machine().status();
        assert_eq!(
            (status.phase, status.detail.as_str()),
            (super::Phase::Running, "")
        );
        assert_eq!(world.gifts, u64::from(!refuses));
        // Asked for again, it is tried again.
        world.takes_vcpus = true;
        resize(&mut world, 2, 256);
        settle(&mut world);
        assert_eq!(says(&world), (2, 256, false));
    }
}

#[test]
fn a_call_that_reached_nobody_is_made_again() {
    let errors = [
        Error::Unavailable {
            reason: "gone".into(),
        },
        Error::Busy { lane: "monitor" },
    ];
    for error in errors {
        let mut world = running();
        resize(&mut world, 2, 256);
        assert!(world.finish(Slot::Main, None), "define");
        assert!(world.finish(Slot::Main, Some(error)), "set vcpus");
        world.settle();
        assert_eq!(says(&world), (2, 256, false));
    }
}

/// The controller ends a claim's surplus by this word: it is never told before it was seen.
#[test]
fn a_smaller_definition_is_not_told_before_a_look() {
    let mut world = running();
    world.apply(|intent| intent.power = super::Power::Stopped);
    world.settle();
    resize(&mut world, 1, 128);
    while !matches!(world.flights[..], [(Slot::Main, Action::Define(_))]) {
        assert!(world.finish(Slot::Main, None));
    }
    assert_eq!(
        is_told(&world),
        None,
        "its definition is still the larger one"
    );
    assert!(world.finish(Slot::Main, None));
    // Somebody turned it on before it was written.
    let domain = world.domain.as_mut().unwrap();
    domain.on = true;
    domain.size = Size {
        vcpus: Vcpus(1),
        memory: MemoryMib(256),
    };
    assert_eq!(says(&world), (1, 256, false));
    assert!(world.finish(Slot::Main, None), "observe");
    assert_eq!(says(&world), (1, 256, true));
}

/// Threads and pages of its own never change while it runs: all of another size waits.
#[test]
fn a_bound_guest_has_what_it_was_started_with() {
    let mut world = World::new();
    world.apply(|intent| bind(intent, 2, 256));
    world.settle();
    let own = |world: &World| {
        let own = world.machine().status().assignment?;
        Some(own.cells[0].threads.clone())
    };
    assert_eq!(own(&world), Some(vec![0, 1]));
    world.apply(|intent| bind(intent, 3, 256));
    assert_eq!(own(&world), None, "the next start gives it more");
    settle(&mut world);
    assert_eq!(says(&world), (2, 256, true));
    assert_eq!((own(&world), world.gifts), (None, 0));
    let running = &world.domain.as_ref().unwrap().assignment;
    assert_eq!(running.cells[0].threads, [0, 1]);
    world.apply(|intent| intent.counters.restarts += 1);
    settle(&mut world);
    assert_eq!(says(&world), (3, 256, false));
    assert_eq!(own(&world), Some(vec![0, 1, 2]));
    // Who asks for what it has again waits for nothing, once its definition says so.
    world.apply(|intent| bind(intent, 1, 256));
    settle(&mut world);
    world.apply(|intent| bind(intent, 3, 256));
    assert_eq!(own(&world), None, "its definition is still the smaller one");
    settle(&mut world);
    assert_eq!(says(&world), (3, 256, false));
    assert_eq!(own(&world), Some(vec![0, 1, 2]));
    // Other threads alone wait as well.
    world.apply(|intent| intent.assignment.cells[0].threads = vec![4, 5, 6]);
    settle(&mut world);
    assert_eq!(says(&world), (3, 256, true));
    world.end_guest(Off::Crashed);
    world.settle();
    assert_eq!(own(&world), Some(vec![4, 5, 6]));
}
