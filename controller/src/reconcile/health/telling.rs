//! Telling agents that their parts are accepted.
//!
//! An agent that refuses is asked again, less and less often ([`Spacing`]), and its refusal is
//! logged once, until it refuses otherwise. What is to be told is the fabric's; calls that are out
//! and their spacing are here, and a restart may forget them.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kapok_proto::{agent::v1::AcceptPartsRequest, refusal};
use kapok_types::Name;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::pace::Spacing;
use crate::{
    fabric::{Command, Fabric, Origin},
    ledger,
    link::{CALL_DEADLINE, Client, Links},
};

/// An agent that was told, and what it says.
type Told = (Name, Result<(), Status>);

/// Calls to agents, and what is known of their refusals.
#[derive(Default)]
pub(super) struct Telling {
    nodes: BTreeMap<Name, One>,
    calls: FuturesUnordered<BoxFuture<'static, Told>>,
}

#[derive(Debug, Default)]
struct One {
    spacing: Spacing,
    /// Whether a call is out.
    called: bool,
    /// How it refused last.
    refused: Option<(Code, String)>,
}

impl Telling {
    /// Calls the agents that answer and don't know yet, as far as it is their turn.
    pub(super) fn tell(&mut self, fabric: &Fabric, links: &Links, epoch: u64, now: Duration) {
        self.keep(|node| {
            let node = fabric.nodes.get(node);
            node.is_some_and(|node| node.accepting_parts)
        });
        let unsettled = fabric.unsettled.iter();
        let unsettled = unsettled.filter_map(|name| fabric.nodes.get(name));
        for node in unsettled.filter(|node| node.accepting_parts) {
            if let Some(client) = links.client(node.id)
                && self.begin(&node.name, now)
            {
                let call = call(node.name.clone(), client, epoch);
                self.calls.push(Box::pin(call));
            }
        }
    }

    /// The next answer; none if no call is out.
    pub(super) async fn next(&mut self) -> Option<Told> {
        self.calls.next().await
    }

    /// Records an agent's answer.
    pub(super) async fn answered(
        &mut self,
        ledger: &ledger::Handle,
        node: Name,
        answer: Result<(), Status>,
    ) {
        let refusal = answer.err().map(|status| {
            let reason = refusal::reason(&status).unwrap_or_default();
            (status.code(), reason)
        });
        let news = self.end(&node, refusal.as_ref());
        match refusal {
            None => info!(%node, "its agent knows that its parts are accepted"),
            // One of a former version, which compares no parts.
            Some((Code::Unimplemented, _)) => {}
            Some((code, reason)) => {
                if news {
                    warn!(%node, %code, reason, "its agent can't be told yet that its parts are accepted");
                }
                return;
            }
        }
        let command = Command::PartsAccepted { node: node.clone() };
        let recorded = ledger.submit(Origin::node(&node), None, command).await;
        if let Err(error) = recorded {
            warn!(%error, %node, "that its agent knows its parts could not be recorded yet");
        }
    }

    /// Whether a node's agent is to be called now.
    fn begin(&mut self, node: &Name, now: Duration) -> bool {
        let one = self.nodes.entry(node.clone()).or_default();
        let due = one.spacing.wants(now) && !one.called;
        if due {
            one.spacing.took(now);
            one.called = true;
        }
        due
    }

    /// A call has ended; whether it did otherwise than the one before.
    fn end(&mut self, node: &Name, refusal: Option<&(Code, String)>) -> bool {
        let Some(one) = self.nodes.get_mut(node) else {
            return true;
        };
        one.called = false;
        let news = one.refused.as_ref() != refusal;
        one.refused = refusal.cloned();
        news
    }

    /// Forgets the nodes that wait for nothing.
    fn keep(&mut self, waits: impl Fn(&Name) -> bool) {
        self.nodes.retain(|node, one| one.called || waits(node));
    }
}

async fn call(node: Name, mut client: Client, epoch: u64) -> Told {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that refuses for an hour is asked a few times, and its refusal is said once.
    #[test]
    fn a_refusal_is_said_once_and_asked_for_less_and_less() {
        let node: Name = "node-1".parse().unwrap();
        let refusal = |code, word: &str| Some((code, word.to_owned()));
        let starting = refusal(Code::Unavailable, "STARTING");
        let mut telling = Telling::default();
        let (mut asked, mut said) = (0, 0);
        for second in 0..3600 {
            let now = Duration::from_secs(1000 + second);
            if telling.begin(&node, now) {
                assert!(!telling.begin(&node, now), "a call is out");
                asked += 1;
                said += u32::from(telling.end(&node, starting.as_ref()));
            }
        }
        assert_eq!((asked, said), (15, 1));
        let unread = refusal(Code::Unavailable, "INVENTORY_UNREAD");
        assert!(telling.end(&node, unread.as_ref()), "another one is news");
        assert!(!telling.end(&node, unread.as_ref()));
        // Nothing is kept of a node that waits for nothing, and the next time begins anew.
        telling.keep(|_| false);
        assert!(telling.nodes.is_empty());
        assert!(telling.begin(&node, Duration::from_secs(4600)));
        telling.keep(|_| false);
        assert_eq!(telling.nodes.len(), 1, "a call is out");
    }
}
