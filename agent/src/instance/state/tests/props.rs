//! Random stories over the model, with crashes of agent and host at every point.

use std::time::Duration;

use kapok_types::{
    MemoryMib, Vcpus,
    instance::{Power, RunPolicy},
    phase::{Ended, Phase, Size},
};
use proptest::prelude::*;

use super::super::{
    Input, Machine, Slot,
    world::{World, bind},
};
use crate::driver::{Error, Off};

#[derive(Debug, Clone)]
enum Event {
    Start,
    Stop,
    Restart,
    Reset,
    Resize(u16, u64),
    GuestTakesVcpus(bool),
    Resend,
    Delete,
    Finish,
    FinishForced,
    Fail,
    Unavailable,
    Crash { landed: bool },
    Reboot,
    GuestShutsDown,
    GuestCrashes,
    OutsiderDestroys,
    OutsiderUndefines,
    OutsiderMoves,
    List,
    TakeListing,
    Acknowledge,
    Look,
    Agent(bool),
    Pass(u16),
}

fn event(with_delete: bool) -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Start),
        2 => Just(Event::Stop),
        1 => Just(Event::Restart),
        1 => Just(Event::Reset),
        2 => (1_u16..7, 1_u64..4).prop_map(|(vcpus, times)| Event::Resize(vcpus, 128 * times)),
        1 => any::<bool>().prop_map(Event::GuestTakesVcpus),
        1 => Just(Event::Resend),
        1 => Just(if with_delete { Event::Delete } else { Event::Resend }),
        20 => Just(Event::Finish),
        2 => Just(Event::FinishForced),
        2 => Just(Event::Fail),
        1 => Just(Event::Unavailable),
        3 => any::<bool>().prop_map(|landed| Event::Crash { landed }),
        1 => Just(Event::Reboot),
        1 => Just(Event::GuestShutsDown),
        1 => Just(Event::GuestCrashes),
        1 => Just(Event::OutsiderDestroys),
        1 => Just(Event::OutsiderUndefines),
        1 => Just(Event::OutsiderMoves),
        1 => Just(Event::List),
        1 => Just(Event::TakeListing),
        2 => Just(Event::Acknowledge),
        2 => Just(Event::Look),
        1 => any::<bool>().prop_map(Event::Agent),
        3 => (0_u16..20_000).prop_map(Event::Pass),
    ]
}

fn play(world: &mut World, event: &Event) {
    if world.wanted.is_none() && !matches!(event, Event::Delete) {
        world.apply(|_| {});
    }
    match event {
        Event::Start => world.apply(|intent| {
            if intent.power == Power::Stopped {
                intent.counters.starts += 1;
            }
            intent.power = Power::Running;
        }),
        Event::Stop => world.apply(|intent| intent.power = Power::Stopped),
        Event::Restart => world.apply(|intent| intent.counters.restarts += 1),
        Event::Reset => world.apply(|intent| intent.counters.resets += 1),
        Event::Resize(vcpus, memory) => world.apply(|intent| {
            if intent.assignment.is_none() {
                (intent.spec.vcpus, intent.spec.memory) =
                    (Vcpus((*vcpus).into()), MemoryMib(*memory));
            } else {
                bind(intent, *vcpus, *memory);
            }
        }),
        Event::GuestTakesVcpus(takes) => world.takes_vcpus = *takes,
        Event::Resend => world.resend(),
        Event::Delete => world.delete(),
        Event::Finish => drop(world.finish(Slot::Main, None)),
        Event::FinishForced => drop(world.finish(Slot::Forced, None)),
        Event::Fail => drop(world.finish(
            Slot::Main,
            Some(Error::Failed {
                call: "the call",
                reason: "injected".into(),
            }),
        )),
        Event::Unavailable => drop(world.finish(
            Slot::Main,
            Some(Error::Unavailable {
                reason: "injected".into(),
            }),
        )),
        Event::Crash { landed } => world.crash(*landed),
        Event::Reboot => world.reboot(),
        Event::GuestShutsDown => world.end_guest(Off::Shutdown),
        Event::GuestCrashes => world.end_guest(Off::Crashed),
        Event::OutsiderDestroys => world.end_guest(Off::Destroyed),
        Event::OutsiderUndefines => world.outsider_undefines(),
        Event::OutsiderMoves => world.end_guest(Off::Moved),
        Event::List => world.list(),
        Event::TakeListing => world.take_listing(),
        Event::Acknowledge => world.acknowledge(),
        Event::Look => world.feed(Input::Look),
        Event::Agent(answers) => {
            if std::mem::take(&mut world.asks) {
                world.feed(Input::GuestAgent(*answers));
            }
        }
        Event::Pass(ms) => world.pass(Duration::from_millis((*ms).into())),
    }
}

/// Where everything must come to rest once faults stop and the controller has repeated itself.
fn at_rest(world: &World) {
    if world.released {
        assert!(world.domain.is_none(), "a deleted domain came back");
        assert!(!world.disk, "a deleted disk came back");
        return;
    }
    if world.tombstone.is_some() {
        assert_eq!(world.phase(), Phase::Gone, "{:?}", world.machine);
        assert!(world.domain.is_none(), "an orphan domain");
        assert!(!world.disk, "an orphan disk");
        return;
    }
    let wanted = world.wanted.as_ref().unwrap();
    let status = world.machine().status();
    let domain = world.domain.as_ref().unwrap();
    assert_eq!(status.generation, wanted.generation);
    match wanted.power {
        Power::Stopped => {
            assert_eq!(status.phase, Phase::Stopped, "{:?}", world.machine);
            assert!(!domain.on);
        }
        Power::Running if domain.on => {
            assert_eq!(status.phase, Phase::Running, "{:?}", world.machine);
            assert_eq!(status.done, wanted.counters, "{:?}", world.machine);
            assert!(!domain.record.starting);
            let told = (status.size, status.resize_pending);
            let waits =
                domain.size != Size::of(&wanted.spec) || domain.assignment != wanted.assignment;
            assert_eq!(told, (Some(domain.size), waits), "{:?}", world.machine);
        }
        Power::Running if domain.record.moved >= Some(wanted.generation) => {
            assert_eq!(
                (status.phase, status.ended),
                (Phase::Failing, Some(Ended::ByOutsider)),
                "{:?}",
                world.machine
            );
        }
        Power::Running => {
            assert_eq!(
                (status.phase, status.ended),
                (Phase::Stopped, Some(Ended::ByGuest)),
                "{:?}",
                world.machine
            );
            assert!(world.guest_ended, "a lost start: {:?}", world.machine);
            assert_eq!(wanted.spec.run_policy, RunPolicy::RestartOnCrash);
            assert_eq!(status.done.starts, wanted.counters.starts);
        }
    }
    assert_eq!(world.disks_made, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// FAULTS 36: whatever happens, in whatever order, it comes to rest where it should.
    #[test]
    fn every_story_ends_well(
        events in prop::collection::vec(event(true), 1..60),
    ) {
        let mut world = World::new();
        for event in &events {
            play(&mut world, event);
        }
        world.resend();
        world.settle();
        at_rest(&world);
    }

    /// The same without a delete, so that long lives are tried too.
    #[test]
    fn every_life_converges(
        events in prop::collection::vec(event(false), 1..120),
    ) {
        let mut world = World::new();
        for event in &events {
            play(&mut world, event);
        }
        world.resend();
        world.settle();
        at_rest(&world);
    }

    /// Its controller gives to others what isn't told to be its own any more: whatever happens, it
    /// never runs with anything of that, and no start would give it back.
    #[test]
    fn what_is_told_to_be_its_own_is_all_that_it_has(
        events in prop::collection::vec(event(false), 1..120),
    ) {
        let mut world = World::new();
        world.apply(|intent| bind(intent, 2, 256));
        let mut claimed = Vec::new();
        for event in &events {
            play(&mut world, event);
            let wanted = world.wanted.as_ref().unwrap();
            claimed.push(wanted.assignment.clone());
            let status = world.machine.as_ref().map(Machine::status);
            let told = status.filter(|status| status.generation == wanted.generation);
            if let Some(own) = told.and_then(|status| status.assignment) {
                prop_assert_eq!(&*own, &wanted.assignment);
                claimed = vec![*own];
            }
            if let Some(domain) = &world.domain {
                let next = &domain.record.intent.assignment;
                prop_assert!(claimed.contains(next), "{:?}", world.machine);
                prop_assert!(!domain.on || claimed.contains(&domain.assignment));
            }
        }
        world.resend();
        world.settle();
        at_rest(&world);
        let domain = world.domain.as_ref().unwrap();
        if domain.assignment == world.wanted.as_ref().unwrap().assignment {
            let told = world.machine().status().assignment;
            prop_assert_eq!(told.as_deref(), Some(&domain.assignment));
        }
    }

    /// Its controller gives to others what it is told to be smaller by: whatever happens, it is
    /// never larger than that, and no start would make it so.
    #[test]
    fn the_size_that_is_told_is_not_exceeded(
        events in prop::collection::vec(event(false), 1..120),
    ) {
        let mut world = World::new();
        let mut claimed = Vec::new();
        for event in &events {
            play(&mut world, event);
            let Some(wanted) = &world.wanted else { continue };
            claimed.push(Size::of(&wanted.spec));
            let status = world.machine.as_ref().map(Machine::status);
            let told = status.filter(|status| status.generation == wanted.generation);
            if let Some(size) = told.and_then(|status| status.size) {
                claimed = vec![Size::of(&wanted.spec), size];
            }
            let Some(domain) = &world.domain else { continue };
            let next = Size::of(&domain.record.intent.spec);
            let now = domain.on.then_some(domain.size);
            for size in now.into_iter().chain([next]) {
                let vcpus = claimed.iter().map(|claimed| claimed.vcpus).max();
                let memory = claimed.iter().map(|claimed| claimed.memory).max();
                prop_assert!(Some(size.vcpus) <= vcpus, "{:?}", world.machine);
                prop_assert!(Some(size.memory) <= memory, "{:?}", world.machine);
            }
        }
    }

    /// A survey lists it, and what it saw arrives when it was deleted, acknowledged and forgotten:
    /// nothing of it comes back, whatever happens around that.
    #[test]
    fn an_old_listing_never_brings_it_back(
        before in prop::collection::vec(event(false), 1..40),
        listed_at in any::<prop::sample::Index>(),
        after in prop::collection::vec(event(false), 0..40),
    ) {
        let mut world = World::new();
        let mut old = None;
        for (index, event) in before.iter().enumerate() {
            play(&mut world, event);
            if index >= listed_at.index(before.len()) && old.is_none() {
                world.list();
                old = world.listed.take();
            }
        }
        world.delete();
        world.settle();
        world.acknowledge();
        prop_assert!(world.released);
        world.listed = old;
        world.take_listing();
        for event in &after {
            play(&mut world, event);
        }
        world.settle();
        at_rest(&world);
    }

    /// One start per start count, as long as nothing ends it: crashes of the agent never start a
    /// guest a second time, and resets aren't repeated except over a crash in their middle.
    #[test]
    fn crashes_of_the_agent_start_nothing_twice(
        crashes in prop::collection::vec((0_usize..12, any::<bool>()), 0..12),
    ) {
        let mut world = World::new();
        world.apply(|_| {});
        for (steps, landed) in crashes {
            for _ in 0..steps {
                world.finish(Slot::Main, None);
            }
            world.crash(landed);
            world.resend();
        }
        world.settle();
        prop_assert_eq!(world.starts, 1);
        prop_assert_eq!(world.disks_made, 1);
        at_rest(&world);
    }
}
