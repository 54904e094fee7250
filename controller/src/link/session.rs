//! One node's link: dial, look, keep in step, and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
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
    Client, Links, Shared, bounds, client,
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
const CALLS_AT_ONCE: usize = 16;

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
    #[error(
        "the node has taken orders at epoch {seen}, this controller leads at {ours}: another one \
         leads it, or this one's store was restored; if so, start with --epoch-floor {seen}"
    )]
    Outranked { seen: u64, ours: u64 },
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
    /// Calls that go on, beside the streams: one that hangs keeps neither life signs nor reports
    /// nor the other calls waiting.
    calls: FuturesUnordered<BoxFuture<'static, Call>>,
    /// Incarnations that a call is about.
    in_flight: BTreeSet<IncarnationId>,
    /// Whether an acknowledgement goes on.
    acknowledging: bool,
    /// What was refused or not answered, in words; not sent again before `retry_at`.
    refused: BTreeMap<IncarnationId, String>,
    /// When it is.
    retry_at: Option<Instant>,
}

/// A call that has ended.
enum Call {
    Sent(IncarnationId, Held, Result<(), Status>),
    Acknowledged(usize, Result<(), Status>),
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
        let id: NodeId = convert::id(&first.node_id, "node_id")?;
        let mut session = Session {
            id,
            client: client.clone(),
            accepted: Accepted::new(),
            position: None,
            snapshot: None,
            resyncing: first.needs_resync,
            calls: FuturesUnordered::new(),
            in_flight: BTreeSet::new(),
            acknowledging: false,
            refused: BTreeMap::new(),
            retry_at: None,
        };
        self.check_epoch(first.epoch)?;
        self.introduce(&mut client, id, session.resyncing).await?;
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
        loop {
            tokio::select! {
                biased;
                sign = heartbeats.next() => {
                    let sign = bounds::sign(sign.ok_or(Ended::Closed)??);
                    *last_heard = Instant::now();
                    self.shared.observed.heard(&self.node, &sign);
                    self.check_epoch(sign.epoch)?;
                    if sign.needs_resync {
                        session.resyncing = true;
                        self.resync(&mut session).await?;
                    }
                }
                item = watch.next() => {
                    self.take(&mut session, item.ok_or(Ended::Closed)??).await?;
                }
                Some(ended) = session.calls.next(), if !session.calls.is_empty() => {
                    self.ended(&mut session, ended)?;
                    self.fill(&mut session);
                }
                () = self.due.notified() => self.fill(&mut session),
                _ = check.tick() => {
                    if last_heard.elapsed() >= self.shared.lost_after {
                        return Err(Ended::Silent(self.shared.lost_after));
                    }
                    if session.retry_at.is_some_and(|at| at <= Instant::now()) {
                        session.retry_at = None;
                        session.refused.clear();
                        self.fill(&mut session);
                    }
                }
            }
        }
    }

    /// Learns what the node is. One whose hypervisor was not seen since its agent started can't
    /// say; if the fabric knows it, it is in touch all the same: degraded, not unreachable. Its
    /// facts follow through the watch.
    async fn introduce(
        &self,
        client: &mut Client,
        id: NodeId,
        resyncing: bool,
    ) -> Result<(), Ended> {
        let call = client.get_node(GetNodeRequest {});
        match timeout(CALL_DEADLINE, call)
            .await
            .map_err(|_| Ended::Slow)?
        {
            Ok(answer) => {
                let facts = answer.into_inner().node;
                let facts = facts.ok_or_else(|| Violation::new("node", "is missing"))?;
                let same: NodeId = convert::id(&facts.node_id, "node.node_id")?;
                if same != id {
                    return Err(Violation::new("node.node_id", "is not its heartbeat's").into());
                }
                self.report(id, resyncing, facts).await
            }
            Err(status) if is_not_yet(&status) => {
                let snapshot = self.shared.ledger.snapshot();
                let node = snapshot.fabric.nodes.get(&self.node);
                let Some(known) = node.and_then(|node| node.enrolled.clone()) else {
                    return Err(Ended::Call(status));
                };
                self.settle(id, known.capacity, resyncing).await
            }
            Err(status) => Err(Ended::Call(status)),
        }
    }

    /// A node that has seen a higher epoch takes no command from here.
    fn check_epoch(&self, seen: u64) -> Result<(), Ended> {
        let ours = self.shared.ledger.snapshot().epoch.get();
        if seen > ours {
            Err(Ended::Outranked { seen, ours })
        } else {
            Ok(())
        }
    }

    async fn next_heartbeat(
        &self,
        heartbeats: &mut Streaming<HeartbeatResponse>,
    ) -> Result<HeartbeatResponse, Ended> {
        let first = timeout(CALL_DEADLINE, heartbeats.next())
            .await
            .map_err(|_| Ended::Slow)?;
        Ok(bounds::sign(first.ok_or(Ended::Closed)??))
    }

    /// Tells the ledger what the node is, if that changes a decision.
    async fn report(&self, id: NodeId, resyncing: bool, facts: NodeFacts) -> Result<(), Ended> {
        let facts = bounds::facts(facts);
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
        self.settle(id, capacity, resyncing).await
    }

    /// Tells the ledger how the node stands, unless it knows.
    async fn settle(&self, id: NodeId, capacity: Capacity, resyncing: bool) -> Result<(), Ended> {
        let snapshot = self.shared.ledger.snapshot();
        let settled = snapshot.fabric.nodes.get(&self.node).is_some_and(|node| {
            node.reachable
                && node.resyncing == resyncing
                && node
                    .enrolled
                    .as_ref()
                    .is_some_and(|known| known.id == id && known.capacity == capacity)
        });
        if !settled {
            self.submit(Command::ReportNode {
                node: self.node.clone(),
                id,
                capacity,
                resyncing,
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
        let answer = match timeout(CALL_DEADLINE, call)
            .await
            .map_err(|_| Ended::Slow)?
        {
            Ok(answer) => answer.into_inner(),
            // The next life sign asks again.
            Err(status) if is_not_yet(&status) => return Ok(()),
            Err(status) => return Err(Ended::Call(status)),
        };
        let strays = answer.stray_incarnation_ids.len();
        info!(intents = accepted.len(), strays, "full intent sent");
        session.accepted = accepted;
        session.resyncing = false;
        let facts = self
            .shared
            .observed
            .change(&self.node, |reported| reported.facts.clone());
        if let Some(facts) = facts {
            self.report(session.id, session.resyncing, facts).await?;
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
                    let follows = session.position.as_ref().is_some_and(|(known, last)| {
                        *known == run && last.checked_add(1) == Some(revision)
                    });
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
                let placed = snapshot.fabric.incarnation(status.incarnation);
                if let Some((_, there)) = placed
                    && there.node != session.id
                {
                    // A node speaks for what it carries (FAULTS 22, 23).
                    warn!(incarnation = %status.incarnation, "reported by a node it isn't on");
                    return Ok(());
                }
                let known = placed.is_some();
                if let Some((named, _)) = &mut session.snapshot {
                    named.insert(status.incarnation);
                }
                let gone = status.phase == phase::Phase::Gone;
                observed.put(&self.node, session.id, status, known);
                if gone && !known {
                    self.due.notify_one();
                }
            }
            Item::ForgottenIncarnationId(text) => {
                let id: IncarnationId = convert::id(&text, "forgotten_incarnation_id")?;
                session.accepted.remove(&id);
                if observed
                    .report(id)
                    .is_some_and(|report| report.node == session.id)
                {
                    observed.forget(&self.node, id);
                }
            }
            Item::Foreign(domain) => {
                let domain = bounds::foreign(domain);
                match &mut session.snapshot {
                    Some((_, foreign)) => bounds::insert(foreign, domain),
                    None => observed.change(&self.node, |reported| {
                        bounds::insert(&mut reported.foreign, domain);
                    }),
                }
            }
            Item::ForeignGoneUuid(uuid) => {
                observed.change(&self.node, |reported| reported.foreign.remove(&uuid));
                observed.bump();
            }
            Item::Node(facts) => self.report(session.id, session.resyncing, facts).await?,
        }
        Ok(())
    }

    /// Begins the calls that are due and don't go on already, up to a number at a time.
    fn fill(&self, session: &mut Session) {
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
        for due in due {
            if session.in_flight.len() >= CALLS_AT_ONCE {
                break;
            }
            let id = due.incarnation();
            if session.refused.contains_key(&id) || !session.in_flight.insert(id) {
                continue;
            }
            session
                .calls
                .push(Box::pin(send(session.client.clone(), due)));
        }
        if session.acknowledging {
            return;
        }
        let reported = self
            .shared
            .observed
            .change(&self.node, |reported| reported.incarnations.clone());
        let gone = push::to_acknowledge(&snapshot.fabric, &self.shared.observed, reported);
        if !gone.is_empty() {
            session.acknowledging = true;
            let count = gone.len();
            let request = AcknowledgeGoneRequest {
                epoch: epoch.get(),
                incarnation_ids: gone.iter().map(ToString::to_string).collect(),
            };
            let mut client = session.client.clone();
            session.calls.push(Box::pin(async move {
                Call::Acknowledged(count, answered(client.acknowledge_gone(request)).await)
            }));
        }
    }

    /// Takes a call's end. A refusal is shown and tried again later; only a dead link ends the
    /// session.
    fn ended(&self, session: &mut Session, call: Call) -> Result<(), Ended> {
        match call {
            Call::Sent(id, held, Ok(())) => {
                session.in_flight.remove(&id);
                session.accepted.insert(id, held);
            }
            Call::Sent(id, _, Err(status)) => {
                session.in_flight.remove(&id);
                let words = words(&status);
                session
                    .refused
                    .insert(id, format!("incarnation {id}: {words}"));
                session
                    .retry_at
                    .get_or_insert_with(|| Instant::now() + RETRY);
                refuse(id, &status)?;
            }
            Call::Acknowledged(count, answer) => {
                session.acknowledging = false;
                if let Err(status) = answer {
                    // The tombstones stay until the next wake; nothing depends on them.
                    warn!(code = %status.code(), message = status.message(), "not acknowledged");
                } else if count == push::MAX_ACKNOWLEDGED {
                    self.due.notify_one();
                }
            }
        }
        let trouble = session.refused.values().next().cloned().unwrap_or_default();
        self.shared.observed.trouble(&self.node, trouble);
        Ok(())
    }
}

async fn send(mut client: Client, due: Due) -> Call {
    match due {
        Due::Apply(id, generation, request) => {
            let answer = answered(client.apply_instance(*request)).await;
            Call::Sent(id, Held::Intent(generation), answer)
        }
        Due::Delete(id, request) => {
            let answer = answered(client.delete_instance(request)).await;
            Call::Sent(id, Held::Deletion, answer)
        }
    }
}

/// What a failed call means, for people. No answer is *unknown*, not a refusal.
fn words(status: &Status) -> String {
    match status.code() {
        Code::DeadlineExceeded => format!("the outcome is unknown, {}", status.message()),
        _ => format!("the agent refuses it, {}", status.message()),
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

/// Whether the agent, not the way to it, says that it can't answer yet.
fn is_not_yet(status: &Status) -> bool {
    status.code() == Code::Unavailable && refusal::reason(status).is_some()
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
