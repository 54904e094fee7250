//! Whether instances run, for the record: what agents say of them, once it has stayed so for a
//! moment. One command a node and round.
//!
//! Only *runs* and *doesn't run* are recorded. What an agent doesn't know changes nothing, and that
//! a node can't be reached is in the log already: its instances are unseen from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use kapok_types::{
    Env, IncarnationId, Name, NodeId, Timestamp,
    phase::{Phase, Status},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Command, Fabric, Origin, accounting::Seen, command::Sighting},
    ledger, observed,
};

/// How often what has changed is looked at.
const ROUND: Duration = Duration::from_secs(5);
/// How long something must stay so before it is recorded: the resolution of the record.
const SETTLED: Duration = Duration::from_secs(10);
/// Rounds after which everything is looked at, changed or not: a net under the marks.
const FULL: u32 = 120;

/// What was seen and hasn't stayed so for long enough yet.
type Waiting = BTreeMap<IncarnationId, (bool, Timestamp, Duration)>;

/// Follows the reports until stopped.
pub async fn run(
    ledger: ledger::Handle,
    observed: observed::Table,
    env: Arc<dyn Env>,
    stop: CancellationToken,
) {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut waiting, mut count) = (Waiting::new(), 0_u32);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let snapshot = ledger.snapshot();
        let mut moved = observed.take_moved();
        if count.is_multiple_of(FULL) {
            moved.extend(snapshot.fabric.incarnations.keys().copied());
        }
        count = count.wrapping_add(1);
        let (now, clock) = (env.now(), env.monotonic());
        for id in moved {
            notice(&snapshot.fabric, &mut waiting, &observed, id, (now, clock));
        }
        let due: BTreeSet<_> = waiting
            .iter()
            .filter(|(_, (.., since))| clock.saturating_sub(*since) >= SETTLED)
            .map(|(id, _)| *id)
            .collect();
        let answers = commands(&snapshot.fabric, &observed, &waiting, &due)
            .into_iter()
            .map(|(its, command)| {
                let answer = ledger.submit(Origin::controller(), None, command);
                async move { (its, answer.await) }
            });
        let mut kept = BTreeSet::new();
        for (its, answer) in join_all(answers).await {
            // A refusal stays one until something else is seen.
            if let Err(error) = &answer
                && !matches!(error, ledger::Error::Denied(_))
            {
                warn!(%error, "what runs can't be recorded yet");
                kept.extend(its);
            }
        }
        waiting.retain(|id, _| !due.contains(id) || kept.contains(id));
    }
}

/// Takes in how an incarnation is seen now, if that is other than what is on record.
fn notice(
    fabric: &Fabric,
    waiting: &mut Waiting,
    observed: &observed::Table,
    id: IncarnationId,
    (now, clock): (Timestamp, Duration),
) {
    let seen = observed.status(id).as_ref().and_then(runs);
    let known = fabric.incarnations.get(&id);
    let is_news = |up: bool| {
        known.is_some_and(|instance| match fabric.accounting.seen(*instance) {
            Seen::On => !up,
            Seen::Unseen => true,
            Seen::Never | Seen::Off => up,
        })
    };
    match seen.filter(|up| is_news(*up)) {
        None => drop(waiting.remove(&id)),
        Some(up) if waiting.get(&id).is_some_and(|(was, ..)| *was == up) => {}
        Some(up) => drop(waiting.insert(id, (up, now, clock))),
    }
}

/// Whether an incarnation runs; none where its agent can't tell or hasn't brought it that far.
pub fn runs(status: &Status) -> Option<bool> {
    match status.phase {
        Phase::Running | Phase::Stopping => Some(true),
        Phase::Pending
        | Phase::Pulling
        | Phase::Creating
        | Phase::Starting
        | Phase::Stopped
        | Phase::Waiting
        | Phase::Gone => Some(false),
        // Off, and not to be started at present; else it may run and fail at something else.
        Phase::Failing => status.ended.map(|_| false),
        Phase::Unknown | Phase::Deleting => None,
    }
}

/// One command for each node that is reached, with what it is about.
fn commands(
    fabric: &Fabric,
    observed: &observed::Table,
    waiting: &Waiting,
    due: &BTreeSet<IncarnationId>,
) -> Vec<(Vec<IncarnationId>, Command)> {
    let mut by_node: BTreeMap<(Name, NodeId), Vec<Sighting>> = BTreeMap::new();
    for id in due {
        let placed = fabric.incarnation(*id);
        let node = placed.and_then(|(_, there)| fabric.node_by_id(there.node));
        // What an unreachable node's agent said last is old.
        let (Some(node), Some((up, at, _))) = (node.filter(|it| it.reachable), waiting.get(id))
        else {
            continue;
        };
        let why = observed.status(*id).map(|status| status.detail);
        let sighting = Sighting {
            incarnation: *id,
            up: *up,
            at: *at,
            why: why.unwrap_or_default(),
        };
        by_node
            .entry((node.name.clone(), node.id))
            .or_default()
            .push(sighting);
    }
    let command = |((node, id), sightings): ((Name, NodeId), Vec<Sighting>)| {
        let its = sightings.iter().map(|one| one.incarnation).collect();
        let command = Command::RecordAvailability {
            node,
            id,
            sightings,
        };
        (its, command)
    };
    by_node.into_iter().map(command).collect()
}
