//! What nodes have seen and hold, asked where the record doesn't know: after a restore.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use kapok_proto::agent::v1::{HeartbeatRequest, ListIntentsRequest};
use kapok_types::{Epoch, Intent, NodeId};
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::info;

use super::{Client, Dialer, client};
use crate::fabric::Fabric;

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 64;
/// How long one may take. Who is silent is heard later, and refuses a lower epoch then.
const BOUND: Duration = Duration::from_secs(5);
/// Most intents that one node is believed to hold.
const MAX_INTENTS: usize = 20_000;

/// The highest epoch that nodes which are still to be adopted have seen; zero if none answers.
pub(crate) async fn highest_epoch(dialer: &dyn Dialer, fabric: &Fabric) -> Epoch {
    let Some(adoption) = &fabric.adoption else {
        return Epoch::ZERO;
    };
    let nodes = adoption.nodes.iter().filter_map(|name| {
        let node = fabric.nodes.get(name)?;
        let trusted = node.revoked.is_none();
        trusted.then(|| (node.address.clone(), node.id))
    });
    let asked = nodes.map(|(address, id)| {
        timeout(BOUND, seen(dialer, address, id))
            .map(|seen| seen.ok().flatten())
            .boxed()
    });
    let asked: Vec<_> = asked.collect();
    let (of, mut answers) = (asked.len(), 0_usize);
    let mut highest = Epoch::ZERO;
    let mut seen = stream::iter(asked).buffer_unordered(AT_ONCE);
    while let Some(seen) = seen.next().await {
        if let Some(seen) = seen {
            answers += 1;
            highest = highest.max(seen);
        }
    }
    info!(nodes = of, answers, %highest, "asked which epochs were seen");
    highest
}

async fn seen(dialer: &dyn Dialer, address: String, node: NodeId) -> Option<Epoch> {
    let channel = dialer.dial(&address, node).await.ok()?;
    let request = HeartbeatRequest { interval_ms: 0 };
    let mut signs = client(channel).heartbeat(request).await.ok()?.into_inner();
    let sign = signs.message().await.ok()??;
    (sign.node_id == node.to_string()).then_some(Epoch(sign.epoch))
}

/// The intents that a node holds, all of them; else why it can't tell, in words. A node speaks for what
/// it carries.
pub(crate) async fn held_intents(client: &mut Client, node: NodeId) -> Result<Vec<Intent>, String> {
    let told = |status: Status| match status.code() {
        Code::Unimplemented => "its agent is of a version that can't tell".to_owned(),
        _ => status.message().to_owned(),
    };
    let pieces = client.list_intents(ListIntentsRequest {}).await;
    let mut pieces = pieces.map_err(told)?.into_inner();
    let mut held = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(told)? {
        for wire in &piece.intents {
            let intent = Intent::try_from(wire);
            held.push(intent.map_err(|wrong| {
                let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
                wrong.join("; ")
            })?);
        }
        if held.len() > MAX_INTENTS {
            return Err(format!("it says that it holds more than {MAX_INTENTS}"));
        }
        if piece.complete && piece.unread > 0 {
            return Err(format!(
                "it can't tell yet what {} of its incarnations are",
                piece.unread
            ));
        }
        if piece.complete {
            held.retain(|intent| intent.node == node);
            return Ok(held);
        }
    }
    Err("it ended its answer early".to_owned())
}
