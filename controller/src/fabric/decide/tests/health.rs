//! Health: quarantine, the brake, recovery, and people's word before the verdicts.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::fabric::health::{Policy, Threshold};

/// What a server can be called.
pub(super) const HOW: [Condition; 4] = [
    Condition::Healthy,
    Condition::Degraded,
    Condition::Failing,
    Condition::Unknown,
];

const QUIET: Duration = Duration::from_mins(10);

pub(super) fn judge(n: u8, condition: Condition) -> Command {
    judge_under(n, condition, Policy::default())
}

fn judge_under(n: u8, condition: Condition, policy: Policy) -> Command {
    let verdict = Verdict {
        code: "MEMORY_CE_STORM".into(),
        component: format!("memory/mc{n}"),
        condition,
        summary: "1200 corrected errors in an hour".into(),
    };
    let verdicts = match condition {
        Condition::Healthy => Vec::new(),
        _ => vec![verdict],
    };
    Command::JudgeNode {
        node: format!("node-{n}").parse().unwrap(),
        id: node_id(n),
        judgement: Judgement::new(condition, verdicts),
        policy,
    }
}

fn review() -> Command {
    Command::ReviewQuarantines {
        policy: Policy::default(),
    }
}

fn release(n: u8, life_ms: u64) -> Command {
    Command::ReleaseNode {
        node: format!("node-{n}"),
        reason: "the DIMM comes tomorrow".into(),
        life_ms,
    }
}

fn end_release(n: u8) -> Command {
    Command::EndNodeRelease {
        node: format!("node-{n}"),
        policy: Policy::default(),
    }
}

fn node(world: &World, n: u8) -> &Node {
    world.fabric.node(&format!("node-{n}")).unwrap()
}

/// Whether the scheduler puts nothing on it, and why.
fn closed(world: &World, n: u8) -> bool {
    let view = world.fabric.fleet.node(node_id(n)).unwrap();
    view.node().quarantined
}

impl World {
    /// What a command made happen, by kind.
    fn kinds(&mut self, command: Command) -> Vec<&'static str> {
        let before = self.events.len();
        self.must(command);
        self.events[before..].iter().map(Event::kind).collect()
    }

    fn wait(&mut self, time: Duration) {
        self.env.advance(time);
    }
}

/// Both sets are what the nodes say.
pub(super) fn check_indexes(fabric: &Fabric) {
    let named = |belongs: fn(&Node) -> bool| -> BTreeSet<_> {
        let nodes = fabric.nodes.values().filter(|node| belongs(node));
        nodes.map(|node| node.name.clone()).collect()
    };
    let set = |set: &OrdSet<Name>| set.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&fabric.quarantined), named(Node::is_quarantined));
    assert_eq!(set(&fabric.unsettled), named(Node::is_unsettled));
    for node in fabric.nodes.values() {
        if node.drain_requested.is_some() {
            assert!(
                node.is_quarantined(),
                "{} is drained for nothing",
                node.name
            );
        }
    }
}

#[test]
fn a_degraded_node_takes_nothing_new_until_it_was_well_for_a_while() {
    let mut world = World::with_nodes(2);
    assert_eq!(
        world.kinds(judge(1, Condition::Degraded)),
        ["node.judged", "node.quarantined"]
    );
    assert_eq!(
        node(&world, 1).quarantine.as_ref().unwrap().reason,
        "MEMORY_CE_STORM memory/mc1"
    );
    assert!(closed(&world, 1) && !closed(&world, 2));
    world.must(Command::CreateInstance(create("web")));
    assert_eq!(world.instance("web").incarnations[0].node, node_id(2));
    // The same again is no news, whatever its numbers are.
    assert_eq!(world.kinds(judge(1, Condition::Degraded)), [""; 0]);
    assert_eq!(
        world.kinds(judge(1, Condition::Healthy)),
        ["node.judged", "node.recovering"]
    );
    world.wait(Duration::from_mins(9) + Duration::from_secs(59));
    assert_eq!(world.kinds(review()), [""; 0]);
    assert!(closed(&world, 1));
    // Once more ill, and the quiet begins anew.
    assert_eq!(
        world.kinds(judge(1, Condition::Degraded)),
        ["node.judged", "node.recovering"]
    );
    world.must(judge(1, Condition::Healthy));
    world.wait(Duration::from_secs(2));
    assert_eq!(world.kinds(review()), [""; 0]);
    world.wait(QUIET);
    let (fabric, now) = (&world.fabric, world.env.now());
    assert!(review_is_due(fabric, &Policy::default(), now));
    assert_eq!(world.kinds(review()), ["node.quarantine_ended"]);
    assert!(!closed(&world, 1));
    assert!(!review_is_due(
        &world.fabric,
        &Policy::default(),
        world.env.now()
    ));
}

/// What guests do begins no quarantine and no drain, and keeps none going.
#[test]
fn a_guest_that_hangs_or_loads_keeps_nothing_off() {
    let policy = Policy {
        drain: Threshold::Degraded,
        ..Policy::default()
    };
    let judge = |mine: &[(&str, &str)]| {
        let verdict = |(code, component): &(&str, &str)| Verdict {
            code: (*code).into(),
            component: (*component).into(),
            condition: Condition::Degraded,
            summary: String::new(),
        };
        Command::JudgeNode {
            node: "node-1".parse().unwrap(),
            id: node_id(1),
            judgement: Judgement::new(Condition::Degraded, mine.iter().map(verdict).collect()),
            policy,
        }
    };
    let guests = [
        ("DISK_SLOW", "disk/sda"),
        ("INSTANCE_STUCK", "instance/0190"),
        ("PRESSURE_STALLED", "pressure/memory"),
    ];
    let mut world = World::with_nodes(1);
    assert_eq!(world.kinds(judge(&guests)), ["node.judged"], "it is shown");
    assert!(!closed(&world, 1) && node(&world, 1).quarantine.is_none());
    let mut all = guests.to_vec();
    all.push(("MEMORY_CE_STORM", "memory/mc0"));
    assert_eq!(
        world.kinds(judge(&all)),
        ["node.judged", "node.quarantined", "node.drain_requested"]
    );
    let reason = &node(&world, 1).quarantine.as_ref().unwrap().reason;
    assert_eq!(reason, "MEMORY_CE_STORM memory/mc0");
    assert_eq!(
        world.kinds(judge(&guests)),
        ["node.judged", "node.recovering"]
    );
    world.wait(QUIET);
    let review = Command::ReviewQuarantines { policy };
    assert_eq!(
        world.kinds(review),
        ["node.quarantine_ended", "node.drain_requested"]
    );
    assert!(!closed(&world, 1) && node(&world, 1).drain_requested.is_none());
}

/// DESIGN's rule 2: what can't be read isn't called healthy, and isn't called ill.
#[test]
fn unknown_begins_no_quarantine_and_ends_none() {
    let mut world = World::with_nodes(2);
    assert_eq!(world.kinds(judge(1, Condition::Unknown)), ["node.judged"]);
    assert!(!closed(&world, 1));
    world.must(judge(1, Condition::Degraded));
    world.must(judge(1, Condition::Unknown));
    world.wait(QUIET * 3);
    assert_eq!(world.kinds(review()), [""; 0]);
    assert!(closed(&world, 1));
    // Nor does silence: it was well, and then nobody heard of it.
    world.must(judge(1, Condition::Healthy));
    world.must(Command::LoseNode {
        node: "node-1".parse().unwrap(),
        reason: "silence".into(),
    });
    assert_eq!(world.kinds(review()), ["node.recovering"]);
    world.wait(QUIET * 3);
    assert_eq!(world.kinds(review()), [""; 0]);
    assert!(node(&world, 1).quarantine.is_some());
    world.must(report(1, 4096));
    assert_eq!(
        world.kinds(judge(1, Condition::Healthy)),
        ["node.recovering"]
    );
    world.wait(QUIET);
    assert_eq!(world.kinds(review()), ["node.quarantine_ended"]);
}

/// FAULTS 47's sibling, DESIGN's rule 6: half of the nodes turn failing at once. A fifth is kept
/// free of new instances, the others are held and said; each that leaves makes room for one.
#[test]
fn the_brake_holds_when_half_of_the_nodes_turn_at_once() {
    let mut world = World::with_nodes(50);
    for n in 1..=25 {
        world.must(judge(n, Condition::Failing));
    }
    let held = |world: &World| {
        let quarantines = world.fabric.nodes.values().filter_map(|node| {
            let quarantine = node.quarantine.as_ref()?;
            quarantine.held.then(|| node.name.to_string())
        });
        quarantines.collect::<Vec<_>>()
    };
    assert_eq!(
        (world.fabric.quarantined.len(), held(&world).len()),
        (10, 15)
    );
    let said = world.events.iter();
    let said = said.filter(|event| event.kind() == "node.quarantine_held");
    assert_eq!(said.count(), 15);
    assert_eq!(world.kinds(review()), [""; 0], "nobody has left");
    // A held one that is well again waits for nothing.
    assert_eq!(
        world.kinds(judge(25, Condition::Healthy)),
        ["node.judged", "node.quarantine_ended"]
    );
    // One that recovers makes room for the one that has waited longest.
    world.must(judge(1, Condition::Healthy));
    world.wait(QUIET);
    assert_eq!(
        world.kinds(review()),
        ["node.quarantine_ended", "node.quarantined"]
    );
    assert!(closed(&world, 11) && !closed(&world, 1));
    // So does one that is forgotten, as far as there are nodes left.
    world.must(Command::DeleteNode {
        node: "node-2".into(),
    });
    world.must(review());
    assert_eq!(world.fabric.quarantined.len(), 9);
    assert_eq!(held(&world).len(), 13);
    check_indexes(&world.fabric);
}

/// Failing ones go before degraded ones that wait longer.
#[test]
fn the_worst_of_those_that_wait_goes_first() {
    let mut world = World::with_nodes(4);
    for (n, condition) in [
        (1, Condition::Failing),
        (2, Condition::Degraded),
        (3, Condition::Failing),
    ] {
        world.must(judge(n, condition));
        world.wait(Duration::from_secs(1));
    }
    assert!(closed(&world, 1) && !closed(&world, 2) && !closed(&world, 3));
    world.must(Command::DeleteNode {
        node: "node-1".into(),
    });
    world.must(review());
    assert!(closed(&world, 3) && !closed(&world, 2));
}

#[test]
fn a_persons_word_goes_before_the_verdicts_until_its_time() {
    let mut world = World::with_nodes(2);
    let refused = world.submit(None, release(1, 0));
    assert!(matches!(refused, Err(Denied::NodeNotQuarantined { .. })));
    let refused = world.submit(None, end_release(1));
    assert!(matches!(refused, Err(Denied::NodeNotReleased { .. })));
    world.must(judge(1, Condition::Failing));
    for (reason, life_ms, field) in [
        ("", 0, "reason"),
        ("x", 59_999, "life"),
        ("x", u64::MAX, "life"),
    ] {
        let wrong = Command::ReleaseNode {
            node: "node-1".into(),
            reason: reason.into(),
            life_ms,
        };
        let Err(Denied::Invalid(violations)) = world.submit(None, wrong) else {
            panic!("{reason} {life_ms}")
        };
        assert_eq!(violations[0].field, field);
    }
    assert_eq!(world.kinds(release(1, 3_600_000)), ["node.released"]);
    let released = node(&world, 1).release.clone().unwrap();
    assert_eq!(released.by, Actor::user("li"));
    assert!(!closed(&world, 1));
    // Other verdicts change nothing about that.
    world.must(judge(1, Condition::Degraded));
    assert!(!closed(&world, 1));
    // Its place is free for another one; when the word ends, there is none left.
    world.must(judge(2, Condition::Degraded));
    assert!(closed(&world, 2));
    world.wait(Duration::from_hours(1));
    assert_eq!(
        world.kinds(review()),
        ["node.release_ended", "node.quarantine_held"]
    );
    assert!(!closed(&world, 1));
    assert_eq!(world.fabric.quarantined.len(), 1);
}

#[test]
fn a_word_can_be_taken_back_and_a_cordon_holds_beside_it() {
    let mut world = World::with_nodes(1);
    world.must(judge(1, Condition::Degraded));
    world.must(release(1, 0));
    world.must(Command::CordonNode {
        node: "node-1".into(),
        reason: "wait".into(),
    });
    let refused = world.submit(None, Command::CreateInstance(create("web")));
    let Err(Denied::NoCapacity(no_fit)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(no_fit.rejections().summary(), "1 is cordoned");
    world.must(Command::UncordonNode {
        node: "node-1".into(),
    });
    assert_eq!(
        world.kinds(end_release(1)),
        ["node.release_ended"],
        "its place was free: nothing else is to be said"
    );
    let refused = world.submit(None, Command::CreateInstance(create("web")));
    let Err(Denied::NoCapacity(no_fit)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(no_fit.rejections().summary(), "1 is quarantined");
}

/// It may take instances again, and does once the others can't.
#[test]
fn a_released_node_comes_last() {
    let mut world = World::with_nodes(2);
    world.must(judge(1, Condition::Degraded));
    world.must(release(1, 0));
    for (name, expected) in [("web", 2), ("db", 1)] {
        world.must(Command::CreateInstance(create(name)));
        assert_eq!(world.instance(name).incarnations[0].node, node_id(expected));
        world.must(Command::CordonNode {
            node: "node-2".into(),
            reason: "full".into(),
        });
    }
}

#[test]
fn a_failing_node_is_drained_if_the_policy_says_so() {
    let policy = Policy {
        drain: Threshold::Failing,
        ..Policy::default()
    };
    let mut world = World::with_nodes(2);
    world.must(judge_under(1, Condition::Degraded, policy));
    assert_eq!(node(&world, 1).drain_requested, None);
    assert_eq!(
        world.kinds(judge_under(1, Condition::Failing, policy)),
        ["node.judged", "node.drain_requested"]
    );
    let asked = node(&world, 1).drain_requested;
    assert!(asked.is_some());
    // Held nodes are drained no more than they are closed.
    world.must(judge_under(2, Condition::Failing, policy));
    assert_eq!(node(&world, 2).drain_requested, None);
    // It stays asked while it is in quarantine, and no longer.
    world.must(judge_under(1, Condition::Degraded, policy));
    assert_eq!(node(&world, 1).drain_requested, asked);
    assert_eq!(
        world.kinds(release(1, 0)),
        ["node.released", "node.drain_requested"]
    );
    assert_eq!(node(&world, 1).drain_requested, None);
    // Without the policy nobody is asked to move.
    let mut world = World::with_nodes(1);
    world.must(judge(1, Condition::Failing));
    assert_eq!(node(&world, 1).drain_requested, None);
}

#[test]
fn the_policy_of_now_counts() {
    let under = |quarantine| Policy {
        quarantine,
        ..Policy::default()
    };
    let (off, failing) = (under(Threshold::Off), under(Threshold::Failing));
    let mut world = World::with_nodes(1);
    assert_eq!(
        world.kinds(judge_under(1, Condition::Failing, off)),
        ["node.judged"]
    );
    assert_eq!(
        world.kinds(judge_under(1, Condition::Failing, failing)),
        ["node.quarantined"],
        "nothing new was said"
    );
    // Degraded is well enough for it, after the same quiet time.
    world.must(judge_under(1, Condition::Degraded, failing));
    assert!(closed(&world, 1));
    world.wait(QUIET);
    world.must(Command::ReviewQuarantines { policy: failing });
    assert!(!closed(&world, 1));
    world.must(judge(1, Condition::Degraded));
    assert!(closed(&world, 1));
    world.must(Command::ReviewQuarantines { policy: off });
    assert!(!closed(&world, 1));
}

/// FAULTS 22 and 23: a node speaks for itself, and one that isn't believed not even for that.
#[test]
fn only_a_nodes_own_trusted_agent_judges_it() {
    let mut world = World::with_nodes(2);
    let Command::JudgeNode {
        judgement, policy, ..
    } = judge(1, Condition::Failing)
    else {
        panic!("a judgement")
    };
    let other = Command::JudgeNode {
        node: "node-2".parse().unwrap(),
        id: node_id(1),
        judgement,
        policy,
    };
    let refused = world.submit(None, other);
    assert!(matches!(refused, Err(Denied::WrongNode { .. })));
    let parts = |n| Command::ReportParts {
        node: "node-2".parse().unwrap(),
        id: node_id(n),
        parts: [("disk/1".into(), "1 TB".into())].into(),
    };
    let refused = world.submit(None, parts(1));
    assert!(matches!(refused, Err(Denied::WrongNode { .. })));
    world.must(Command::RevokeNode {
        node: "node-2".into(),
        reason: String::new(),
    });
    for command in [judge(2, Condition::Failing), parts(2)] {
        let refused = world.submit(None, command);
        assert!(matches!(refused, Err(Denied::Revoked { .. })));
    }
    assert!(world.fabric.quarantined.is_empty());
}

#[test]
fn parts_that_come_and_go_are_told_once() {
    let mut world = World::with_nodes(1);
    let mut report = |parts: &[(&str, &str)]| {
        let parts = parts.iter();
        let owned = parts.map(|(part, is)| ((*part).to_owned(), (*is).to_owned()));
        world.kinds(Command::ReportParts {
            node: "node-1".parse().unwrap(),
            id: node_id(1),
            parts: owned.collect(),
        })
    };
    let both = [("memory/A1", "32 GiB"), ("memory/A2", "32 GiB")];
    assert_eq!(report(&both), ["node.parts_learned"]);
    assert_eq!(report(&both), [""; 0]);
    // Nothing read is not nothing there.
    assert_eq!(report(&[]), [""; 0]);
    assert_eq!(report(&both[..1]), ["node.parts_changed"]);
    let Some(Event::NodePartsChanged { changes, .. }) = world.events.last() else {
        panic!("{:?}", world.events.last())
    };
    assert_eq!(changes[0].to_string(), "memory/A2 is gone (was 32 GiB)");
    assert_eq!(node(&world, 1).parts.len(), 1);
}

/// A rebind is legal when the agent sees other parts, too, and its agent is told until it knows.
#[test]
fn a_rebind_accepts_the_parts() {
    let mut world = World::with_nodes(1);
    let rebind = |parts_differ| Command::RebindNode {
        node: "node-1".into(),
        parts_differ,
    };
    let refused = world.submit(None, rebind(false));
    assert!(matches!(refused, Err(Denied::FingerprintUnchanged { .. })));
    let first = world.submit(Some("r-1"), rebind(true)).unwrap();
    assert!(node(&world, 1).accepting_parts);
    // What the agent sees is no part of what is asked: the same request stays the same.
    assert_eq!(world.submit(Some("r-1"), rebind(false)).unwrap(), first);
    let accepted = || Command::PartsAccepted {
        node: "node-1".parse().unwrap(),
    };
    assert_eq!(world.kinds(accepted()), ["node.parts_accepted"]);
    assert_eq!(world.kinds(accepted()), [""; 0]);
    assert!(!node(&world, 1).accepting_parts);
    assert!(world.fabric.unsettled.is_empty());
}

/// A node as a version before this one wrote it: nothing is known of its health, and nothing keeps
/// instances off it.
#[test]
fn a_node_of_a_former_version_is_read() {
    let text = r#"{
        "event": "node_joined",
        "node": {
            "id": "00000000-0000-7000-8000-000000000001", "name": "node-1",
            "address": "127.0.0.1:1", "vcpu_overcommit_permille": 1000, "joined_at": 7,
            "host": {"product_uuid": "a"}, "found": null,
            "capacity": {"arch": "x86_64", "cpus": 4, "memory": 4096, "foreign_vcpus": 0,
                         "foreign_memory": 0},
            "reachable": true, "resyncing": false, "cordoned": null, "revoked": null
        }
    }"#;
    let event: Event = serde_json::from_str(text).unwrap();
    let mut fabric = Fabric::default();
    fabric.apply(&event);
    let node = fabric.node("node-1").unwrap();
    assert_eq!((&node.health, node.is_quarantined()), (&None, false));
    assert!(!fabric.fleet.node(node_id(1)).unwrap().node().quarantined);
    assert!(!review_is_due(
        &fabric,
        &Policy::default(),
        Timestamp(u64::MAX)
    ));
}

proptest! {
    /// DESIGN's rule 6: whatever is said of whichever nodes, no decision takes more of them than the
    /// policy allows, and none is drained that isn't in quarantine.
    #[test]
    fn no_decision_goes_through_the_brake(
        percent in 1..=100_u32,
        steps in proptest::collection::vec((1..=20_u8, 0..8_usize), 1..120),
    ) {
        let policy = Policy {
            brake_percent: percent,
            drain: Threshold::Failing,
            ..Policy::default()
        };
        let mut world = World::with_nodes(20);
        for (n, step) in steps {
            let before = world.fabric.quarantined.len();
            let node = format!("node-{n}");
            let command = match step {
                0..=3 => judge_under(n, HOW[step], policy),
                4 => release(n, 60_000),
                5 => Command::EndNodeRelease { node, policy },
                6 => Command::LoseNode { node: node.parse().unwrap(), reason: String::new() },
                _ => {
                    world.wait(Duration::from_mins(7));
                    Command::ReviewQuarantines { policy }
                }
            };
            let _ = world.submit(None, command);
            let most = policy.most(20);
            prop_assert!(world.fabric.quarantined.len() <= most.max(before));
            prop_assert!(world.fabric.quarantined.len() <= most);
            check_indexes(&world.fabric);
            // What is due once is done in one review, and then nothing is due.
            let review = Command::ReviewQuarantines { policy };
            world.must(review.clone());
            prop_assert_eq!(world.kinds(review), Vec::<&str>::new());
        }
    }
}
