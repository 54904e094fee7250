//! FAULTS 36: kill -9 the agent at every step of create and delete; it resumes, without orphans.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::time::Duration;

use common::{BOUND, Client, Node, eventually, id, until};
use kapok_agent::driver::sim::{Fault, Shape, Stage};
use kapok_proto::common::v1::Phase;
use tokio::time::timeout;

/// More changes than a create or a delete makes.
const STEPS: u32 = 8;

/// Waits until the agent is stuck at the injected step, kills it there, and starts another; none
/// when the story has no such step.
async fn kill_when_stuck(node: &mut Node) -> Option<Client> {
    let stuck = timeout(Duration::from_mins(1), node.host.until_stuck()).await;
    if stuck.is_err() {
        node.host.release();
        return None;
    }
    node.kill();
    // Its futures end before the host goes on, as a dead process' requests would.
    eventually("the dead agent lets go", || node.host.stuck_calls() == 0).await;
    node.host.release();
    node.start();
    Some(node.client().await)
}

#[tokio::test(start_paused = true)]
async fn a_create_survives_a_kill_at_every_step() {
    let mut steps = 0;
    for passing in 0..STEPS {
        for stage in [Stage::Before, Stage::After] {
            let (mut node, mut client) = Node::ready(Shape::default()).await;
            node.host.inject(Fault::StickAtChange { passing, stage });
            client.apply_instance(node.apply(1)).await.unwrap();
            let Some(mut client) = kill_when_stuck(&mut node).await else {
                until(&mut client, 1, Phase::Running).await;
                continue;
            };
            steps += 1;
            // The controller repeats what the node doesn't show.
            common::apply_when_listed(&mut client, node.apply(1)).await;
            until(&mut client, 1, Phase::Running).await;
            tokio::time::sleep(Duration::from_mins(2)).await;
            let found = until(&mut client, 1, Phase::Running).await;
            assert_eq!(found.done.unwrap().starts, 1, "{passing} {stage:?}");
            assert_eq!(
                node.host.runs(id(1)),
                1,
                "{passing} {stage:?}: started twice"
            );
            assert_eq!(node.host.disks(), [id(1)]);
            assert_eq!(node.host.domains(), [id(1)]);
        }
    }
    assert_eq!(
        steps, 10,
        "define, create root, define, start, define; before and after"
    );
}

#[tokio::test(start_paused = true)]
async fn a_delete_survives_a_kill_at_every_step() {
    let mut steps = 0;
    for passing in 0..STEPS {
        for stage in [Stage::Before, Stage::After] {
            let (mut node, mut client) = Node::ready(Shape::default()).await;
            node.running(&mut client, 1).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            node.host.inject(Fault::StickAtChange { passing, stage });
            client.delete_instance(node.delete(1)).await.unwrap();
            let Some(mut client) = kill_when_stuck(&mut node).await else {
                until(&mut client, 1, Phase::Gone).await;
                continue;
            };
            steps += 1;
            // Nobody repeats the delete: the tombstone does.
            until(&mut client, 1, Phase::Gone).await;
            assert!(
                node.host.domains().is_empty(),
                "{passing} {stage:?}: an orphan domain"
            );
            assert!(
                node.host.disks().is_empty(),
                "{passing} {stage:?}: an orphan disk"
            );
            assert_eq!(node.host.runs(id(1)), 0, "{passing} {stage:?}");
        }
    }
    assert_eq!(steps, 6, "destroy, remove root, undefine; before and after");
}

#[tokio::test(start_paused = true)]
async fn a_create_deleted_at_every_step_leaves_nothing() {
    for passing in 0..STEPS {
        for stage in [Stage::Before, Stage::After] {
            let (mut node, mut client) = Node::ready(Shape::default()).await;
            node.host.inject(Fault::StickAtChange { passing, stage });
            client.apply_instance(node.apply(1)).await.unwrap();
            let _ = timeout(Duration::from_secs(5), node.host.until_stuck()).await;
            client.delete_instance(node.delete(1)).await.unwrap();
            if let Some(killed) = kill_when_stuck(&mut node).await {
                client = killed;
            }
            until(&mut client, 1, Phase::Gone).await;
            assert!(
                node.host.domains().is_empty(),
                "{passing} {stage:?}: an orphan domain"
            );
            assert!(
                node.host.disks().is_empty(),
                "{passing} {stage:?}: an orphan disk"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn guests_run_on_without_an_agent() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    let stopping = timeout(BOUND, node.shutdown()).await;
    assert!(stopping.is_ok(), "the agent doesn't stop");
    assert_eq!(node.host.is_on(id(1)), Some(true));
    client = node.revive().await;
    until(&mut client, 1, Phase::Running).await;
    assert_eq!(node.host.runs(id(1)), 1);
}
