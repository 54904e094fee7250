//! How much processor time instances used: every agent is asked once in a while, and its readings
//! become one command.
//!
//! An agent that doesn't answer is asked again in the next round. Nothing is lost by that: counters
//! only grow, so a later reading of the same QEMU says what it used meanwhile.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kapok_proto::agent::v1::{GetUsageRequest, GetUsageResponse};
use kapok_types::{Env, NodeId, Timestamp};
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    fabric::{Command, Fabric, Origin, accounting::Reading},
    ledger,
    link::{CALL_DEADLINE, Client, Links},
};

/// Agents that are asked at the same time.
const AT_ONCE: usize = 32;

/// Asks until stopped.
pub async fn run(
    ledger: ledger::Handle,
    links: Links,
    env: Arc<dyn Env>,
    every: Duration,
    stop: CancellationToken,
) {
    let mut rounds = interval_at(tokio::time::Instant::now() + every, every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let asked = stream::iter(links.clients()).for_each_concurrent(AT_ONCE, |(node, client)| {
            let (ledger, env) = (&ledger, &env);
            async move {
                let Some(usage) = ask(client).await else {
                    return;
                };
                let now = env.now();
                let Some(command) = due(&ledger.snapshot().fabric, node, &usage, now) else {
                    return;
                };
                if let Err(error) = ledger.submit(Origin::controller(), None, command).await {
                    warn!(%error, %node, "what its instances used can't be recorded yet");
                }
            }
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = asked => {}
        }
    }
}

async fn ask(mut client: Client) -> Option<GetUsageResponse> {
    match timeout(CALL_DEADLINE, client.get_usage(GetUsageRequest {})).await {
        Ok(Ok(usage)) => Some(usage.into_inner()),
        Ok(Err(status)) => {
            debug!(code = %status.code(), "an agent tells no usage");
            None
        }
        Err(_) => None,
    }
}

/// The command that follows from what an agent read. None where nothing runs.
pub fn due(
    fabric: &Fabric,
    node: NodeId,
    usage: &GetUsageResponse,
    now: Timestamp,
) -> Option<Command> {
    let node = fabric.node_by_id(node)?;
    let carried = fabric.on_node.get(&node.id)?;
    let readings = usage.usages.iter().filter_map(|usage| {
        let incarnation = usage.incarnation_id.parse().ok()?;
        carried.contains_key(&incarnation).then(|| Reading {
            incarnation,
            run: usage.run.as_str().into(),
            cpu_ms: usage.cpu_time_ms,
            at: Timestamp(now.get().saturating_sub(usage.age_ms)),
        })
    });
    let readings: Vec<_> = readings.collect();
    (!readings.is_empty()).then(|| Command::RecordUsage {
        node: node.name.clone(),
        id: node.id,
        boot: usage.boot_id.clone(),
        readings,
    })
}
