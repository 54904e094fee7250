//! One node's link: dial, look, keep in step, and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture, stream};
use kapok_proto::{
    agent::v1::{
        AcknowledgeGoneRequest, GetNodeRequest, HeartbeatRequest, HeartbeatResponse, NodeFacts,
        ResyncRequest, WatchRequest, WatchResponse, watch_item::Item, watch_response,
    },
    common, convert, refusal,
};
use kapok_types::{IncarnationId, MemoryMib, Name, NodeId, Vcpus, Violation, phase};
use tokio::{
    sync::Notify,
    time::{Instant, interval, sleep, timeout},
};
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Client, Links, Shared, client,
    push::{self, Accepted, Due, Held},
};
use crate::{
    fabric::{Actor, Capacity, Command},
    ledger,
};

/// How long a single call on an agent may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failed session, before it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between sessions.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Intents in one message of a resync.
const RESYNC_CHUNK: usize = 100;
/// Pause before what an agent refused or did not answer is sent again.
const RETRY: Duration = Duration::from_secs(2);
/// Calls on one agent at the same time: a stuck one must not hold up the others.
const CALLS_AT_ONCE: usize = 8;

/// One node's link.
pub(super) struct Link {
    pub(super) node: Name,
    pub(super) links: Links,
    pub(super) shared: Shared,
    pub(super) due: Arc<Notify>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("can't reach the agent: {0}")]
    Dial(#[from] tonic::transport::Error),
    #[error("the agent answers with {}: {}", .0.code(), .0.message())]
    Call(#[from] Status),
    #[error("the agent gave no answer within {CALL_DEADLINE:?}")]
    Slow,
    #[error("no life sign for {0:?}")]
    Silent(Duration),
    #[error("the agent ended its stream")]
    Closed,
    #[error("the agent's stream has a gap")]
    Gap,
    #[error("the agent says something that can't be read: {0}")]
    Unreadable(#[from] Violation),
    #[error("the ledger refused: {0}")]
    Ledger(#[from] ledger::Error),
}

/// A session's state: what this connection has seen and had accepted.
struct Session {
    id: NodeId,
    client: Client,
    accepted: Accepted,
    /// The watch's run and revision; none until a snapshot began.
    position: Option<(String, u64)>,
    /// Named by the snapshot that is being received.
    snapshot: Option<(
        BTreeSet<IncarnationId>,
        BTreeMap<String, kapok_proto::agent::v1::ForeignDomain>,
    )>,
    resyncing: bool,
    /// When refused sends are tried again.
    retry_at: Option<Instant>,
}

impl Link {
    /// Keeps sessions until dropped.
    pub(super) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut last_heard = Instant::now();
        loop {
            let ended = self.session(&mut last_heard, &mut pause).await;
            self.links.set_client(&self.node, None);
            let Err(ended) = ended;
            debug!(reason = %ended, "session ended");
            self.shared.observed.trouble(&self.node, ended.to_string());
            if last_heard.elapsed() >= self.shared.lost_after {
                self.lose(&ended.to_string()).await;
            }
            let until_lost = self.shared.lost_after.saturating_sub(last_heard.elapsed());
            let jittered = self.shared.env.jittered(pause);
            // Wake in time to say that the node is lost, not a back-off later.
            let wait = if until_lost.is_zero() {
                jittered
            } else {
                jittered.min(until_lost)
            };
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn lose(&self, reason: &str) {
        let reachable = self
            .shared
            .ledger
            .snapshot()
            .fabric
            .nodes
            .get(&self.node)
            .is_some_and(|node| node.reachable);
        if reachable {
            let command = Command::LoseNode {
                node: self.node.clone(),
                reason: reason.to_owned(),
            };
            if let Err(error) = self.submit(command).await {
                warn!(%error, "the loss could not be recorded yet");
            }
        }
    }

    async fn submit(&self, command: Command) -> Result<(), ledger::Error> {
        let by = Actor::node(&self.node);
        self.shared
            .ledger
            .submit(by, String::new(), None, command)
            .await
            .map(|_| ())
    }

    async fn session(
        &self,
        last_heard: &mut Instant,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, Ended> {
        let address = {
            let snapshot = self.shared.ledger.snapshot();
            snapshot
                .fabric
                .nodes
                .get(&self.node)
                .map(|node| node.address.clone())
        }
        .unwrap_or_default();
        let channel = timeout(CALL_DEADLINE, self.shared.dialer.dial(&address))
            .await
            .map_err(|_| Ended::Slow)??;
        let mut client = client(channel);
        let answer = timeout(CALL_DEADLINE, client.get_node(GetNodeRequest {}))
            .await
            .map_err(|_| Ended::Slow)??;
        let facts = answer
            .into_inner()
            .node
            .ok_or_else(|| Violation::new("node", "is missing"))?;
        let heartbeat_ms = u32::try_from(self.shared.heartbeat.as_millis()).unwrap_or(60_000);
        let request = HeartbeatRequest {
            interval_ms: heartbeat_ms,
        };
        let mut heartbeats = timeout(CALL_DEADLINE, client.heartbeat(request))
            .await
            .map_err(|_| Ended::Slow)??
            .into_inner();
        // The first life sign tells whether the agent waits for the full intent.
        let first = self.next_heartbeat(&mut heartbeats).await?;
        let id: NodeId = convert::id(&facts.node_id, "node.node_id")?;
        let mut session = Session {
            id,
            client: client.clone(),
            accepted: Accepted::new(),
            position: None,
            snapshot: None,
            resyncing: first.needs_resync,
            retry_at: None,
        };
        self.report(&session, facts).await?;
        *last_heard = Instant::now();
        *pause = FIRST_PAUSE;
        self.shared.observed.heard(&self.node, &first);
        self.shared.observed.trouble(&self.node, "");
        self.links
            .set_client(&self.node, Some((id, client.clone())));
        info!(node = %id, resync = session.resyncing, "in touch");
        if session.resyncing {
            self.resync(&mut session).await?;
        }
        let mut watch = timeout(CALL_DEADLINE, client.watch(WatchRequest {}))
            .await
            .map_err(|_| Ended::Slow)??
            .into_inner();
        let mut check = interval(self.shared.heartbeat);
        self.due.notify_one();
        // At most one round of sends, beside the streams: calls that hang must not keep life
        // signs and reports from being heard.
        let mut sending: Option<BoxFuture<'static, Sent>> = None;
        loop {
            tokio::select! {
                biased;
                sign = heartbeats.next() => {
                    let sign = sign.ok_or(Ended::Closed)??;
                    *last_heard = Instant::now();
                    self.shared.observed.heard(&self.node, &sign);
                    if sign.needs_resync {
                        session.resyncing = true;
                        self.resync(&mut session).await?;
                    }
                }
                item = watch.next() => {
                    self.take(&mut session, item.ok_or(Ended::Closed)??).await?;
                }
                sent = next_round(&mut sending), if sending.is_some() => {
                    sending = None;
                    self.sent(&mut session, sent)?;
                }
                () = self.due.notified(), if sending.is_none() => {
                    sending = Some(Box::pin(self.round(&session)));
                }
                _ = check.tick() => {
                    if last_heard.elapsed() >= self.shared.lost_after {
                        return Err(Ended::Silent(self.shared.lost_after));
                    }
                    if session.retry_at.is_some_and(|at| at <= Instant::now()) {
                        session.retry_at = None;
                        self.due.notify_one();
                    }
                }
            }
        }
    }

    async fn next_heartbeat(
        &self,
        heartbeats: &mut Streaming<HeartbeatResponse>,
    ) -> Result<HeartbeatResponse, Ended> {
        let first = timeout(CALL_DEADLINE, heartbeats.next())
            .await
            .map_err(|_| Ended::Slow)?;
        Ok(first.ok_or(Ended::Closed)??)
    }

    /// Tells the ledger what the node is, if that changes a decision.
    async fn report(&self, session: &Session, facts: NodeFacts) -> Result<(), Ended> {
        let capacity = Capacity {
            arch: convert::known::<common::v1::Arch, _>(facts.arch, "node.arch")?,
            cpus: facts.cpus,
            memory: MemoryMib(facts.memory_mib),
            foreign_vcpus: Vcpus(facts.foreign_vcpus),
            foreign_memory: MemoryMib(facts.foreign_memory_mib),
        };
        self.shared
            .observed
            .change(&self.node, |reported| reported.facts = Some(facts));
        self.shared.observed.bump();
        let snapshot = self.shared.ledger.snapshot();
        let settled = snapshot.fabric.nodes.get(&self.node).is_some_and(|node| {
            node.reachable
                && node.resyncing == session.resyncing
                && node
                    .enrolled
                    .as_ref()
                    .is_some_and(|known| known.id == session.id && known.capacity == capacity)
        });
        if !settled {
            self.submit(Command::ReportNode {
                node: self.node.clone(),
                id: session.id,
                capacity,
                resyncing: session.resyncing,
            })
            .await?;
        }
        Ok(())
    }

    /// Sends the full intent. Deletions are left out: they follow as such, so that nothing is
    /// made only to be removed.
    async fn resync(&self, session: &mut Session) -> Result<(), Ended> {
        let snapshot = self.shared.ledger.snapshot();
        let epoch = snapshot.epoch;
        let due = push::due(
            &snapshot.fabric,
            session.id,
            epoch,
            &self.shared.image_source,
            &Accepted::new(),
        );
        let mut accepted = Accepted::new();
        let mut intents = Vec::new();
        for due in due {
            if let Due::Apply(id, generation, request) = due {
                accepted.insert(id, Held::Intent(generation));
                intents.push(*request);
            }
        }
        let mut messages: Vec<ResyncRequest> = intents
            .chunks(RESYNC_CHUNK)
            .map(|chunk| ResyncRequest {
                epoch: epoch.get(),
                instances: chunk.to_vec(),
                complete: false,
            })
            .collect();
        messages.push(ResyncRequest {
            epoch: epoch.get(),
            instances: Vec::new(),
            complete: true,
        });
        let call = session.client.resync(stream::iter(messages));
        let answer = timeout(CALL_DEADLINE, call)
            .await
            .map_err(|_| Ended::Slow)??
            .into_inner();
        let strays = answer.stray_incarnation_ids.len();
        info!(intents = accepted.len(), strays, "full intent sent");
        session.accepted = accepted;
        session.resyncing = false;
        let facts = self
            .shared
            .observed
            .change(&self.node, |reported| reported.facts.clone());
        if let Some(facts) = facts {
            self.report(session, facts).await?;
        }
        self.due.notify_one();
        Ok(())
    }

    /// Takes one message of the watch in.
    async fn take(&self, session: &mut Session, message: WatchResponse) -> Result<(), Ended> {
        let (run, revision) = (message.run_id, message.revision);
        match message.event {
            Some(watch_response::Event::Begin(_)) => {
                session.position = Some((run, revision));
                session.snapshot = Some((BTreeSet::new(), BTreeMap::new()));
            }
            Some(watch_response::Event::End(_)) => {
                session.position = Some((run, revision));
                if let Some((named, foreign)) = session.snapshot.take() {
                    self.shared.observed.keep_only(&self.node, &named, foreign);
                }
                self.due.notify_one();
            }
            Some(watch_response::Event::Item(item)) => {
                if session.snapshot.is_none() {
                    let follows = session
                        .position
                        .as_ref()
                        .is_some_and(|(known, last)| *known == run && revision == last + 1);
                    if !follows {
                        return Err(Ended::Gap);
                    }
                    session.position = Some((run, revision));
                }
                if let Some(item) = item.item {
                    self.take_item(session, item).await?;
                }
            }
            // From a newer agent: nothing is decided from it.
            None => {}
        }
        Ok(())
    }

    async fn take_item(&self, session: &mut Session, item: Item) -> Result<(), Ended> {
        let observed = &self.shared.observed;
        match item {
            Item::Instance(wire) => {
                let status = phase::Status::try_from(&wire)?;
                let snapshot = self.shared.ledger.snapshot();
                let known = snapshot
                    .fabric
                    .incarnations
                    .contains_key(&status.incarnation);
                if let Some((named, _)) = &mut session.snapshot {
                    named.insert(status.incarnation);
                }
                let gone = status.phase == phase::Phase::Gone;
                observed.put(&self.node, status, known);
                if gone && !known {
                    self.due.notify_one();
                }
            }
            Item::ForgottenIncarnationId(text) => {
                let id: IncarnationId = convert::id(&text, "forgotten_incarnation_id")?;
                session.accepted.remove(&id);
                observed.forget(&self.node, id);
            }
            Item::Foreign(domain) => match &mut session.snapshot {
                Some((_, foreign)) => {
                    foreign.insert(domain.uuid.clone(), domain);
                }
                None => observed.change(&self.node, |reported| {
                    reported.foreign.insert(domain.uuid.clone(), domain);
                }),
            },
            Item::ForeignGoneUuid(uuid) => {
                observed.change(&self.node, |reported| reported.foreign.remove(&uuid));
                observed.bump();
            }
            Item::Node(facts) => self.report(session, facts).await?,
        }
        Ok(())
    }

    /// One round of sends: what is due now, several at a time.
    fn round(&self, session: &Session) -> impl Future<Output = Sent> + Send + 'static {
        let snapshot = self.shared.ledger.snapshot();
        let epoch = snapshot.epoch;
        let source = &self.shared.image_source;
        let due = push::due(
            &snapshot.fabric,
            session.id,
            epoch,
            source,
            &session.accepted,
        );
        let reported = self
            .shared
            .observed
            .change(&self.node, |reported| reported.incarnations.clone());
        let gone = push::to_acknowledge(&snapshot.fabric, &self.shared.observed, reported);
        let client = session.client.clone();
        async move {
            let answers = stream::iter(due)
                .map(|due| send(client.clone(), due))
                .buffered(CALLS_AT_ONCE)
                .collect()
                .await;
            let acknowledged = if gone.is_empty() {
                Ok(())
            } else {
                let request = AcknowledgeGoneRequest {
                    epoch: epoch.get(),
                    incarnation_ids: gone.iter().map(ToString::to_string).collect(),
                };
                let mut client = client;
                answered(client.acknowledge_gone(request)).await
            };
            Sent {
                answers,
                acknowledged,
            }
        }
    }

    /// Takes the answers of a round. A refusal is shown and tried again; only a dead link ends
    /// the session.
    fn sent(&self, session: &mut Session, sent: Sent) -> Result<(), Ended> {
        let mut refused = None;
        for (id, held, answer) in sent.answers {
            match answer {
                Ok(()) => {
                    session.accepted.insert(id, held);
                }
                Err(status) => {
                    refused = Some(format!(
                        "the agent refuses incarnation {id}: {}",
                        status.message()
                    ));
                    refuse(id, &status)?;
                }
            }
        }
        if let Err(status) = sent.acknowledged {
            refused = Some(format!(
                "the agent refuses an acknowledgement: {}",
                status.message()
            ));
        }
        if refused.is_some() {
            session.retry_at = Some(Instant::now() + RETRY);
        }
        self.shared
            .observed
            .trouble(&self.node, refused.unwrap_or_default());
        Ok(())
    }
}

/// The end of the round that goes on; never, if none does.
async fn next_round(sending: &mut Option<BoxFuture<'static, Sent>>) -> Sent {
    match sending {
        Some(round) => round.await,
        None => std::future::pending().await,
    }
}

/// The answers of one round of sends.
struct Sent {
    answers: Vec<(IncarnationId, Held, Result<(), Status>)>,
    acknowledged: Result<(), Status>,
}

async fn send(mut client: Client, due: Due) -> (IncarnationId, Held, Result<(), Status>) {
    match due {
        Due::Apply(id, generation, request) => {
            let answer = answered(client.apply_instance(*request)).await;
            (id, Held::Intent(generation), answer)
        }
        Due::Delete(id, request) => (
            id,
            Held::Deletion,
            answered(client.delete_instance(request)).await,
        ),
    }
}

/// A call's answer within its deadline. One that comes later is not lost: the intent is sent
/// again, and the agent knows that it holds it.
async fn answered<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<(), Status> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {CALL_DEADLINE:?}"
        ))),
    }
}

/// Whether a refusal means that the link itself is dead.
fn refuse(incarnation: IncarnationId, status: &Status) -> Result<(), Ended> {
    let reason = refusal::reason(status).unwrap_or_default();
    warn!(%incarnation, code = %status.code(), reason, message = status.message(), "refused");
    match (status.code(), reason.as_str()) {
        (Code::Unavailable, "") | (Code::Cancelled | Code::Unknown, _) => {
            Err(Ended::Call(status.clone()))
        }
        _ => Ok(()),
    }
}
