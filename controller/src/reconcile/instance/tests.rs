//! What follows from one report, and what doesn't.

use kapok_types::{
    Generation, MemoryMib, Vcpus,
    instance::{Power, RunPolicy},
    phase::{Ended, Phase, Size},
};

use super::*;
use crate::reconcile::fixture::{World, node_id};

/// What follows when the right node says so.
fn due(fabric: &Fabric, status: &Status) -> Vec<Command> {
    let node = fabric
        .incarnation(status.incarnation)
        .map_or_else(|| node_id(1), |(_, incarnation)| incarnation.node);
    super::due(fabric, node, status)
}

fn stop() -> Command {
    Command::StopInstance {
        instance: "web".into(),
    }
}

fn start() -> Command {
    Command::StartInstance {
        instance: "web".into(),
    }
}

fn restart() -> Command {
    Command::RestartInstance {
        instance: "web".into(),
    }
}

fn delete() -> Command {
    Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    }
}

/// One world with the instance "web", whose create has succeeded.
fn settled() -> World {
    let mut world = World::new(1);
    world.create("web");
    let commands = due(&world.fabric, &world.status("web", Phase::Running));
    assert_eq!(commands.len(), 1, "{commands:?}");
    for command in commands {
        world.must(command);
    }
    assert!(world.fabric.running.is_empty());
    world
}

/// Whether the report ends the present operation as succeeded.
#[track_caller]
fn succeeds(world: &World, status: &Status) -> bool {
    let operation = world.instance("web").operation;
    due(&world.fabric, status).iter().any(|command| {
        matches!(command, Command::EndOperation { operation: ended, outcome: OperationOutcome::Succeeded, .. }
            if *ended == operation)
    })
}

/// A resize ends when the size is in effect or waits for the next start alone, and says which; the
/// claim's surplus ends with what is seen.
#[test]
fn a_resize_ends_by_what_is_seen() {
    let mut world = settled();
    let size = |vcpus, memory| {
        Some(Size {
            vcpus: Vcpus(vcpus),
            memory: MemoryMib(memory),
        })
    };
    let resize = |vcpus, memory| {
        Command::ResizeInstance(crate::fabric::command::ResizeInstance {
            instance: "web".into(),
            flavor: None,
            vcpus: Vcpus(vcpus),
            memory: MemoryMib(memory),
            etag: String::new(),
        })
    };
    let said = |world: &World, status: &Status| {
        let mut due = due(&world.fabric, status).into_iter();
        due.find_map(|command| match command {
            Command::EndOperation { detail, .. } => Some(detail),
            _ => None,
        })
    };
    let settles = |world: &World, status: &Status| {
        let mut due = due(&world.fabric, status).into_iter();
        due.find(|command| matches!(command, Command::SettleClaim { .. }))
    };
    world.must(resize(2, 256));
    let mut status = world.status("web", Phase::Running);
    assert_eq!(said(&world, &status), None, "an agent that doesn't tell");
    assert_eq!(settles(&world, &status), None);
    status.size = size(1, 512);
    assert_eq!(said(&world, &status), None, "it goes on");
    status.resize_pending = true;
    let both = "2 vCPUs and 256 MiB of memory after its next start";
    assert_eq!(said(&world, &status).as_deref(), Some(both));
    assert_eq!(settles(&world, &status), None);
    status.size = size(2, 512);
    let one = "256 MiB of memory after its next start";
    assert_eq!(said(&world, &status).as_deref(), Some(one));
    status.generation = Generation(1);
    assert_eq!(said(&world, &status), None, "an earlier intent's");

    let mut status = world.status("web", Phase::Running);
    status.size = size(2, 256);
    assert_eq!(said(&world, &status).as_deref(), Some(""));
    let settle = settles(&world, &status).unwrap();
    world.must(settle);
    assert_eq!(settles(&world, &status), None);
    // Of that size, but not with what is its own from the next start on.
    status.resize_pending = true;
    let other = "other host threads or memory cells after its next start";
    assert_eq!(said(&world, &status).as_deref(), Some(other));
    let claim = &world.instance("web").incarnations[0].claim;
    assert_eq!(
        (claim.vcpus, claim.memory.guest),
        (Vcpus(2), MemoryMib(256))
    );
}

#[test]
fn a_create_succeeds_when_it_runs_and_not_before() {
    let mut world = World::new(1);
    world.create("web");
    for phase in [
        Phase::Pending,
        Phase::Pulling,
        Phase::Creating,
        Phase::Starting,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Failing,
        Phase::Waiting,
        Phase::Unknown,
        Phase::Deleting,
    ] {
        assert_eq!(
            due(&world.fabric, &world.status("web", phase)),
            [],
            "{phase:?}"
        );
    }
    assert!(succeeds(&world, &world.status("web", Phase::Running)));
    // Running, but the start that was asked for has not taken effect.
    let mut early = world.status("web", Phase::Running);
    early.done.starts = 0;
    assert_eq!(due(&world.fabric, &early), []);
}

#[test]
fn a_create_for_a_stopped_instance_succeeds_when_it_is_off() {
    let mut world = World::new(1);
    world.create_as("web", Power::Stopped, RunPolicy::RestartOnCrash);
    assert!(!succeeds(&world, &world.status("web", Phase::Creating)));
    assert!(succeeds(&world, &world.status("web", Phase::Stopped)));
}

#[test]
fn reports_of_an_older_generation_end_nothing() {
    let mut world = settled();
    let old = world.status("web", Phase::Stopped);
    world.must(stop());
    assert_eq!(due(&world.fabric, &old), []);
    assert!(succeeds(&world, &world.status("web", Phase::Stopped)));
}

#[test]
fn a_restart_succeeds_when_its_own_count_is_done() {
    let mut world = settled();
    let before = world.status("web", Phase::Running);
    world.must(restart());
    assert_eq!(due(&world.fabric, &before), []);
    let mut held = world.status("web", Phase::Running);
    held.done.restarts -= 1;
    assert_eq!(due(&world.fabric, &held), []);
    assert!(succeeds(&world, &world.status("web", Phase::Running)));
}

#[test]
fn a_guests_own_shutdown_becomes_intent_stopped_once() {
    let mut world = settled();
    let mut status = world.status("web", Phase::Stopped);
    status.ended = Some(Ended::ByGuest);
    let commands = due(&world.fabric, &status);
    assert_eq!(
        commands,
        [Command::GuestStopped {
            node: node_id(1),
            incarnation: status.incarnation,
            generation: Generation(1),
        }]
    );
    for command in commands {
        world.must(command);
    }
    assert_eq!(world.instance("web").power, Power::Stopped);
    // The same report again, now old, and the agent's next one: nothing more.
    assert_eq!(due(&world.fabric, &status), []);
    let mut followed = world.status("web", Phase::Stopped);
    followed.ended = Some(Ended::ByGuest);
    assert_eq!(due(&world.fabric, &followed), []);
}

/// Silence, crashes, outsiders and the host's own end are never taken for the guest's wish.
#[test]
fn only_a_guests_own_word_stops_it() {
    let world = settled();
    for ended in [
        None,
        Some(Ended::ByCrash),
        Some(Ended::ByOutsider),
        Some(Ended::ByHost),
        Some(Ended::ByIntent),
    ] {
        let mut status = world.status("web", Phase::Stopped);
        status.ended = ended;
        assert_eq!(due(&world.fabric, &status), [], "{ended:?}");
    }
    for phase in [Phase::Unknown, Phase::Failing, Phase::Waiting] {
        let mut status = world.status("web", phase);
        status.ended = Some(Ended::ByGuest);
        assert_eq!(due(&world.fabric, &status), [], "{phase:?}");
    }
}

/// A shutdown that a start has overtaken is history: the guest is to run.
#[test]
fn a_start_overtakes_the_guests_shutdown() {
    let mut world = settled();
    let mut status = world.status("web", Phase::Stopped);
    status.ended = Some(Ended::ByGuest);
    world.must(start());
    assert_eq!(due(&world.fabric, &status), []);
    // The agent holds the new intent but has not restarted for it.
    world.must(restart());
    let mut held = world.status("web", Phase::Stopped);
    held.ended = Some(Ended::ByGuest);
    held.done.restarts -= 1;
    assert_eq!(due(&world.fabric, &held), []);
}

#[test]
fn a_start_whose_guest_shut_down_again_has_succeeded() {
    let mut world = World::new(1);
    world.create("web");
    let mut status = world.status("web", Phase::Stopped);
    status.ended = Some(Ended::ByGuest);
    let commands = due(&world.fabric, &status);
    assert!(
        matches!(&commands[..], [
            Command::EndOperation { outcome: OperationOutcome::Succeeded, detail, .. },
            Command::GuestStopped { .. },
        ] if detail.contains("shut itself down")),
        "{commands:?}"
    );
}

#[test]
fn gone_ends_a_deletion_and_nothing_else() {
    let mut world = settled();
    let gone = world.status("web", Phase::Gone);
    // Reported, but never let go: the ledger keeps the claim.
    for command in due(&world.fabric, &gone) {
        world.must(command);
    }
    assert_eq!(world.instance("web").incarnations.len(), 1);
    world.must(delete());
    assert_eq!(due(&world.fabric, &world.status("web", Phase::Stopped)), []);
    let commands = due(&world.fabric, &world.status("web", Phase::Gone));
    assert_eq!(
        commands,
        [Command::IncarnationGone {
            node: node_id(1),
            incarnation: gone.incarnation
        }]
    );
    for command in commands {
        world.must(command);
    }
    assert!(
        world
            .fabric
            .instance("web", &crate::fabric::city())
            .is_none()
    );
    assert!(world.fabric.running.is_empty());
    assert_eq!(due(&world.fabric, &gone), []);
}

/// FAULTS 22, 23: a node's word on another's incarnation leads to nothing.
#[test]
fn another_nodes_report_leads_to_nothing() {
    let mut world = World::new(2);
    world.create("web");
    let status = world.status("web", Phase::Running);
    let (_, incarnation) = world.fabric.incarnation(status.incarnation).unwrap();
    let other = [node_id(1), node_id(2)]
        .into_iter()
        .find(|id| *id != incarnation.node)
        .unwrap();
    for phase in [Phase::Running, Phase::Gone, Phase::Stopped] {
        let mut status = world.status("web", phase);
        status.ended = Some(Ended::ByGuest);
        assert_eq!(super::due(&world.fabric, other, &status), [], "{phase:?}");
    }
}
