//! What a hostile agent can make the log grow by, on a simulated clock.

use kapok_proto::{agent::v1::PartList, common::v1::NodeHealth};

use super::{super::fixture::World, *};
use crate::fabric::Outcome;

/// A fabric with the paces of its nodes, and what was written of them.
struct Followed {
    world: World,
    paces: Paces,
    written: usize,
}

impl Followed {
    fn new() -> Self {
        let world = World::new(1);
        world.env.advance(Duration::from_hours(1));
        Self {
            world,
            paces: Paces::default(),
            written: 0,
        }
    }

    /// What node-1 says now, as a round brings it in; how much of it is written.
    fn says(&mut self, reported: &Reported) -> usize {
        let now = self.world.env.monotonic();
        let mut written = 0;
        let node = self.node().clone();
        for command in due(&node, reported, Policy::default()) {
            let Some(turn) = self.paces.turn(&node, &command, now) else {
                continue;
            };
            let kept = |node: &Node| (node.health.clone(), node.parts.clone());
            let before = kept(self.node());
            let _: Outcome = self.world.must(command);
            written += usize::from(kept(self.node()) != before);
            self.paces.took(&node.name, turn, now);
        }
        self.paces.tidy(&self.world.fabric, now);
        self.written += written;
        written
    }

    fn node(&self) -> &Node {
        self.world.fabric.node("node-1").unwrap()
    }

    fn wait(&mut self, time: Duration) {
        self.world.env.advance(time);
    }
}

fn judged(verdicts: &[(&str, &str, common::Condition)]) -> Reported {
    let verdicts = verdicts.iter();
    let verdicts = verdicts.map(|(code, component, condition)| common::Verdict {
        code: (*code).into(),
        component: (*component).into(),
        condition: (*condition).into(),
        ..common::Verdict::default()
    });
    let health = NodeHealth {
        condition: common::Condition::Healthy.into(),
        verdicts: verdicts.collect(),
        ..NodeHealth::default()
    };
    Reported {
        health: Some(Arc::new(health)),
        ..Reported::default()
    }
}

fn storm() -> Reported {
    judged(&[("MEMORY_CE_STORM", "memory/mc0", common::Condition::Degraded)])
}

fn failing(disk: u32) -> Reported {
    let component = format!("disk/{disk}");
    judged(&[("DISK_FAILING", &component, common::Condition::Failing)])
}

/// FAULTS 18: an agent that says something else each second, for an hour.
#[test]
fn an_agent_that_flips_all_the_time_fills_no_log() {
    let mut followed = Followed::new();
    let mut an_hour = |says: &dyn Fn(u32) -> Reported| {
        let before = followed.written;
        for second in 0..3600 {
            followed.says(&says(second));
            followed.wait(Duration::from_secs(1));
        }
        assert!(followed.paces.len() <= 1);
        followed.written - before
    };
    // Well and ill by turns: it is heard 16 times, then after 1, 2, 4, … seconds, then each 10
    // minutes; each time it was well, it may be ill at once.
    let flips = an_hour(&|second| {
        if second % 2 == 0 {
            storm()
        } else {
            judged(&[])
        }
    });
    assert!((26..=46).contains(&flips), "{flips}");
    // Another disk fails each second: 6 in 10 minutes at once, and those that waited.
    let disks = an_hour(&failing);
    assert!((20..=48).contains(&disks), "{disks}");
    // Other parts each second.
    let parts = an_hour(&|second| Reported {
        parts: Some(Arc::new(PartList {
            parts: [("disk/1".to_owned(), second.to_string())].into(),
            ..PartList::default()
        })),
        ..Reported::default()
    });
    assert_eq!(parts, 7, "the first ones, and then each 10 minutes");
}

#[test]
fn what_is_worse_doesnt_wait_and_quiet_ends_the_waiting() {
    let mut followed = Followed::new();
    assert_eq!(followed.says(&judged(&[])), 1);
    assert_eq!(followed.says(&storm()), 1, "it is worse");
    assert_eq!(followed.says(&judged(&[])), 0, "it is better, and waits");
    assert_eq!(
        followed.node().health.as_ref().unwrap().condition,
        Condition::Degraded
    );
    assert_eq!(followed.says(&failing(1)), 1, "it is worse");
    // A repair: verdicts come and go some times, and each is heard.
    for _ in 0..6 {
        followed.wait(Duration::from_secs(1));
        assert_eq!(followed.says(&judged(&[])), 1);
        followed.wait(Duration::from_secs(1));
        assert_eq!(followed.says(&storm()), 1);
    }
    followed.wait(Duration::from_secs(1));
    assert_eq!(followed.says(&judged(&[])), 1, "the sixteenth");
    followed.wait(Duration::from_secs(1));
    assert_eq!(followed.says(&storm()), 1);
    followed.wait(Duration::from_secs(1));
    assert_eq!(followed.says(&judged(&[])), 1, "the gap begins to grow");
    followed.wait(Duration::from_secs(1));
    assert_eq!(followed.says(&storm()), 1, "it is worse");
    followed.wait(Duration::from_secs(3));
    assert_eq!(followed.says(&judged(&[])), 0, "it kept changing");
    followed.wait(Duration::from_secs(1));
    assert_eq!(followed.says(&judged(&[])), 1);
    // What is known already costs nothing, and quiet makes the pace that of a new node.
    assert_eq!(followed.says(&judged(&[])), 0);
    followed.wait(Duration::from_mins(10));
    assert_eq!(followed.says(&judged(&[])), 0);
    assert_eq!(followed.paces.len(), 0, "a quiet node has no pace");
    assert_eq!(followed.says(&storm()), 1);
    followed.wait(Duration::from_secs(1));
    assert_eq!(followed.says(&judged(&[])), 1);
    // Nor has one that is gone.
    assert_eq!(followed.paces.len(), 1);
    followed.paces.tidy(
        &crate::fabric::Fabric::default(),
        followed.world.env.monotonic(),
    );
    assert_eq!(followed.paces.len(), 0);
}

/// One hung QEMU, by the agent's word that its server is well.
#[test]
fn a_guest_that_hangs_closes_no_node() {
    let mut followed = Followed::new();
    let stuck = (
        "INSTANCE_STUCK",
        "instance/0190",
        common::Condition::Degraded,
    );
    followed.says(&judged(&[stuck]));
    let node = followed.node();
    assert_eq!(node.quarantine, None);
    let health = node.health.as_ref().unwrap();
    assert_eq!(
        (health.condition, health.verdicts.len()),
        (Condition::Healthy, 1)
    );
}
