//! From what agents say of their servers to commands: judgements, parts, quarantines that are to be
//! looked at again, and agents that are to be told that their parts are accepted.
//!
//! A judgement becomes a command only if it is another one than the fabric has, and what a node says
//! only at the node's [pace]: an agent that changes its mind all the time fills no log.

mod pace;
mod telling;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kapok_proto::common::v1 as common;
use kapok_types::{Env, Name};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{pace::Paces, telling::Telling};
use crate::{
    fabric::{
        Command, Condition, Judgement, Node, Origin, Verdict,
        decide::review_is_due,
        health::{Policy, Threshold},
    },
    ledger,
    link::Links,
    observed::{self, Reported},
};

/// How often marks and clocks are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// Commands that wait for the ledger at the same time: it takes them in one batch.
const AT_ONCE: usize = 256;

/// What it leans on.
pub struct Parts {
    /// The published intent, and where commands go.
    pub ledger: ledger::Handle,
    /// What agents say.
    pub observed: observed::Table,
    /// The agents.
    pub links: Links,
    /// The time.
    pub env: Arc<dyn Env>,
    /// What is done about health.
    pub policy: Policy,
}

/// Follows the agents' words until stopped.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts {
        ledger,
        observed,
        links,
        env,
        policy,
    } = parts;
    let mut changes = observed.changes();
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What was said before a restart counts under the policy of now, too.
    observed.mark_nodes_dirty(ledger.snapshot().fabric.nodes.keys().cloned());
    // Nodes that had their turn in this round, and those that are to have one in the next.
    let (mut heard, mut later) = (BTreeSet::new(), BTreeSet::new());
    let (mut paces, mut telling) = (Paces::default(), Telling::default());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((node, answer)) = telling.next() => {
                telling.answered(&ledger, node, answer).await;
                continue;
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let dirty = observed.take_dirty_nodes();
                later.extend(dirty.intersection(&heard).cloned());
                let due: BTreeSet<_> = dirty.difference(&heard).cloned().collect();
                heard.extend(due.iter().cloned());
                later.extend(follow(&ledger, &observed, due, policy, &mut paces, env.monotonic()).await);
                continue;
            }
            _ = round.tick() => {}
        }
        heard.clone_from(&later);
        let due = std::mem::take(&mut later);
        let now = env.monotonic();
        later.extend(follow(&ledger, &observed, due, policy, &mut paces, now).await);
        while review_is_due(&ledger.snapshot().fabric, &policy, env.now()) && !stop.is_cancelled() {
            let command = Command::ReviewQuarantines { policy };
            let reviewed = ledger.submit(Origin::controller(), None, command).await;
            if let Err(error) = reviewed {
                warn!(%error, "the quarantines could not be reviewed yet");
                break;
            }
        }
        let snapshot = ledger.snapshot();
        paces.tidy(&snapshot.fabric, now);
        telling.tell(&snapshot.fabric, &links, snapshot.epoch.get(), now);
    }
}

/// Brings in what nodes said. Those of which something is still to be recorded are to be looked at
/// again.
async fn follow(
    ledger: &ledger::Handle,
    observed: &observed::Table,
    nodes: BTreeSet<Name>,
    policy: Policy,
    paces: &mut Paces,
    now: Duration,
) -> BTreeSet<Name> {
    let snapshot = ledger.snapshot();
    let (mut commands, mut later) = (Vec::new(), BTreeSet::new());
    for name in nodes {
        let Some(node) = snapshot.fabric.nodes.get(&name) else {
            continue;
        };
        let said = observed.node(&name);
        let due = said.map_or_else(Vec::new, |said| due(node, &said.reported, policy));
        for command in due {
            match paces.turn(node, &command, now) {
                Some(turn) => commands.push((name.clone(), turn, command)),
                None => {
                    later.insert(name.clone());
                }
            }
        }
    }
    let answers: Vec<_> = stream::iter(commands)
        .map(|(name, turn, command)| {
            let answer = ledger.submit(Origin::node(&name), None, command);
            async move { (name, turn, answer.await) }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    for (node, turn, answer) in answers {
        if let Err(error) = &answer {
            warn!(%error, %node, "what its agent says of its server can't be recorded");
        }
        match answer {
            // A refusal stays one until the node says something else.
            Ok(_) | Err(ledger::Error::Denied(_)) => paces.took(&node, turn, now),
            Err(_) => {
                later.insert(node);
            }
        }
    }
    later
}

/// The commands that follow from what a node's agent says of its server.
fn due(node: &Node, reported: &Reported, policy: Policy) -> Vec<Command> {
    let mut due = Vec::new();
    if let Some(health) = &reported.health {
        let judgement = judgement(health);
        // Known or not, the policy may be another one than it was.
        let stands = judgement.is_known(node.health.as_ref())
            && node.quarantine.is_none()
            && policy.quarantine == Threshold::Off;
        if !stands {
            due.push(Command::JudgeNode {
                node: node.name.clone(),
                id: node.id,
                judgement,
                policy,
            });
        }
    }
    if let Some(parts) = &reported.parts
        && parts.parts != *node.parts
        && !parts.parts.is_empty()
    {
        due.push(Command::ReportParts {
            node: node.name.clone(),
            id: node.id,
            parts: parts.parts.clone(),
        });
    }
    due
}

/// What an agent says, in the fabric's words.
fn judgement(health: &common::NodeHealth) -> Judgement {
    let verdicts = health.verdicts.iter().map(|verdict| Verdict {
        code: verdict.code.clone(),
        component: verdict.component.clone(),
        condition: condition(verdict.condition()),
        summary: verdict.summary.clone(),
    });
    Judgement::new(condition(health.condition()), verdicts.collect())
}

/// A condition, in the fabric's words. One that isn't stated proves nothing.
pub(crate) const fn condition(wire: common::Condition) -> Condition {
    match wire {
        common::Condition::Healthy => Condition::Healthy,
        common::Condition::Degraded => Condition::Degraded,
        common::Condition::Failing => Condition::Failing,
        common::Condition::Unknown | common::Condition::Unspecified => Condition::Unknown,
    }
}
