//! From what agents say of their servers to commands: judgements, parts, quarantines that are to be
//! looked at again, and agents that are to be told that their parts are accepted.
//!
//! A judgement becomes a command only if it is another one than the fabric has, and a node's at most
//! once a [`ROUND`]: an agent that changes its mind all the time fills no log.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use kapok_proto::{agent::v1::AcceptPartsRequest, common::v1 as common, refusal};
use kapok_types::{Env, Name};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::{
    fabric::{
        Command, Condition, Fabric, Judgement, Node, Origin, Verdict,
        decide::review_is_due,
        health::{Policy, Threshold},
    },
    ledger,
    link::{CALL_DEADLINE, Client, Links},
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

/// An agent that was told that its parts are accepted, and what it says.
type Told = (Name, Result<(), Status>);

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
    // Nodes that had their turn in this round, and those of them that said more since.
    let (mut heard, mut later) = (BTreeSet::new(), BTreeSet::new());
    let mut telling = BTreeSet::new();
    let mut calls: FuturesUnordered<BoxFuture<'static, Told>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((node, answer)) = calls.next(), if !calls.is_empty() => {
                telling.remove(&node);
                told(&ledger, node, answer).await;
                continue;
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let dirty = observed.take_dirty_nodes();
                later.extend(dirty.intersection(&heard).cloned());
                let due: Vec<_> = dirty.difference(&heard).cloned().collect();
                heard.extend(due.iter().cloned());
                later.extend(follow(&ledger, &observed, due, policy).await);
                continue;
            }
            _ = round.tick() => {}
        }
        heard.clear();
        observed.mark_nodes_dirty(std::mem::take(&mut later));
        while review_is_due(&ledger.snapshot().fabric, &policy, env.now()) && !stop.is_cancelled() {
            let command = Command::ReviewQuarantines { policy };
            let reviewed = ledger.submit(Origin::controller(), None, command).await;
            if let Err(error) = reviewed {
                warn!(%error, "the quarantines could not be reviewed yet");
                break;
            }
        }
        let snapshot = ledger.snapshot();
        let epoch = snapshot.epoch.get();
        for (name, client) in to_tell(&snapshot.fabric, &links) {
            if telling.insert(name.clone()) {
                calls.push(Box::pin(tell(name, client, epoch)));
            }
        }
    }
}

/// Brings in what nodes said. Those of which something could not be recorded are to be looked at
/// again.
async fn follow(
    ledger: &ledger::Handle,
    observed: &observed::Table,
    nodes: Vec<Name>,
    policy: Policy,
) -> Vec<Name> {
    let snapshot = ledger.snapshot();
    let commands = nodes.into_iter().flat_map(|name| {
        let node = snapshot.fabric.nodes.get(&name);
        let said = observed.node(&name);
        let due = node
            .zip(said)
            .map_or_else(Vec::new, |(node, said)| due(node, &said.reported, policy));
        due.into_iter().map(move |command| (name.clone(), command))
    });
    let answers: Vec<_> = stream::iter(commands.collect::<Vec<_>>())
        .map(|(name, command)| {
            let answer = ledger.submit(Origin::node(&name), None, command);
            async move { (name, answer.await) }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let failed = answers.into_iter().filter_map(|(node, answer)| {
        let error = answer.err()?;
        warn!(%error, %node, "what its agent says of its server can't be recorded");
        // A refusal stays one until the node says something else.
        (!matches!(error, ledger::Error::Denied(_))).then_some(node)
    });
    failed.collect()
}

/// The commands that follow from what a node's agent says of its server.
pub fn due(node: &Node, reported: &Reported, policy: Policy) -> Vec<Command> {
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

const fn condition(wire: common::Condition) -> Condition {
    match wire {
        common::Condition::Healthy => Condition::Healthy,
        common::Condition::Degraded => Condition::Degraded,
        common::Condition::Failing => Condition::Failing,
        common::Condition::Unknown | common::Condition::Unspecified => Condition::Unknown,
    }
}

/// Agents that answer and don't know yet that their parts are accepted.
fn to_tell<'f>(
    fabric: &'f Fabric,
    links: &'f Links,
) -> impl Iterator<Item = (Name, Client)> + use<'f> {
    let unsettled = fabric.unsettled.iter();
    let waiting = unsettled
        .filter_map(|name| fabric.nodes.get(name))
        .filter(|node| node.accepting_parts);
    waiting.filter_map(|node| Some((node.name.clone(), links.client(node.id)?)))
}

async fn tell(node: Name, mut client: Client, epoch: u64) -> Told {
    let answer = timeout(
        CALL_DEADLINE,
        client.accept_parts(AcceptPartsRequest { epoch }),
    );
    let answer = match answer.await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    };
    (node, answer)
}

async fn told(ledger: &ledger::Handle, node: Name, answer: Result<(), Status>) {
    match answer {
        Ok(()) => info!(%node, "its agent knows that its parts are accepted"),
        // One of a former version, which compares no parts.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => {
            let reason = refusal::reason(&status).unwrap_or_default();
            warn!(%node, code = %status.code(), reason, "its agent can't be told yet that its parts are accepted");
            return;
        }
    }
    let command = Command::PartsAccepted { node: node.clone() };
    let recorded = ledger.submit(Origin::node(&node), None, command).await;
    if let Err(error) = recorded {
        warn!(%error, %node, "that its agent knows its parts could not be recorded yet");
    }
}
