//! The log's head, sealed every minute and handed out: to every agent, and to the journal.
//!
//! What others hold can't be changed here. A log that was cut or made anew since is found by
//! comparing, see `verify`. A node that was away gets the newest head when it is back; an idle
//! fabric's head stays the same and is sent to nobody twice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use kapok_proto::{agent::v1::KeepHeadRequest, refusal::reason};
use kapok_store::Head;
use kapok_trust::{Credentials, LogHead, seal};
use kapok_types::{Digest, Env, NodeId};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{ledger, link::Links};

/// How often the head is looked at.
const ROUND: Duration = Duration::from_mins(1);
/// How long one agent may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Agents that are told at a time.
const AT_ONCE: usize = 32;

/// The head that is being handed out.
struct Sealed {
    head: Head,
    bytes: Bytes,
    /// Who has it.
    kept_by: BTreeSet<NodeId>,
    /// Whether a node holds one that was sealed just before this one, such as by the leader before:
    /// it takes the same head sealed later.
    too_soon: bool,
}

/// Seals and hands out until stopped.
pub(super) async fn run(
    credentials: Credentials,
    ledger: ledger::Handle,
    links: Links,
    env: Arc<dyn Env>,
    stop: CancellationToken,
) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sealed: Option<Sealed> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = round.tick() => {}
        }
        let head = ledger.snapshot().head;
        let stands = sealed.as_ref().filter(|sealed| sealed.head == head);
        if stands.is_none_or(|sealed| sealed.too_soon) {
            match seal(&credentials, head, &*env) {
                Ok(bytes) => {
                    let kept_by = stands.map(|sealed| sealed.kept_by.clone());
                    sealed = Some(Sealed {
                        head,
                        bytes,
                        kept_by: kept_by.unwrap_or_default(),
                        too_soon: false,
                    });
                }
                Err(error) => {
                    warn!(%error, "the log's head could not be sealed");
                    continue;
                }
            }
        }
        if let Some(sealed) = &mut sealed {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = hand_out(sealed, &links) => {}
            }
        }
    }
}

/// Seals a head and writes it to the journal.
fn seal(credentials: &Credentials, head: Head, env: &dyn Env) -> Result<Bytes, seal::Error> {
    let log_head = LogHead {
        sequence: head.seq,
        hash: Digest(head.hash.0),
        at: env.now(),
    };
    let bytes = Bytes::from(log_head.seal(&credentials.signer())?.to_bytes());
    info!(
        target: "kapok::head",
        sequence = head.seq.get(),
        hash = %head.hash,
        seal = STANDARD_NO_PAD.encode(&bytes),
        "the log's head"
    );
    Ok(bytes)
}

async fn hand_out(sealed: &mut Sealed, links: &Links) {
    let clients = links.clients().into_iter();
    let lacking = clients.filter(|(node, _)| !sealed.kept_by.contains(node));
    let telling = lacking.map(|(node, mut client)| {
        let request = KeepHeadRequest {
            sealed_head: sealed.bytes.clone(),
        };
        async move {
            match timeout(DEADLINE, client.keep_head(request)).await {
                Ok(Ok(_)) => return Told::Kept(node),
                Ok(Err(refused)) if reason(&refused).as_deref() == Some("HEAD_TOO_SOON") => {
                    return Told::TooSoon;
                }
                Ok(Err(refused)) => debug!(%node, %refused, "a node doesn't keep the head"),
                Err(_) => debug!(%node, "a node didn't answer about the head"),
            }
            Told::Unheard
        }
    });
    let told: Vec<Told> = stream::iter(telling)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for told in told {
        match told {
            Told::Kept(node) => drop(sealed.kept_by.insert(node)),
            Told::TooSoon => sealed.too_soon = true,
            Told::Unheard => {}
        }
    }
}

/// What came of telling a node.
enum Told {
    Kept(NodeId),
    TooSoon,
    Unheard,
}
