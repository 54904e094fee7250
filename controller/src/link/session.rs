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
        PeerSource, ResyncRequest, WatchRequest, WatchResponse, watch_item::Item, watch_response,
    },
    common, convert, refusal,
};
use kapok_types::{
    Digest, Equipment, IncarnationId, MemoryMib, Name, NodeId, Vcpus, Violation, phase,
};
use tokio::{
    sync::Notify,
    time::{Instant, interval, sleep, timeout},
};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Client, Links, Shared, bounds,
    call::{Call, Push, answered, send},
    client,
    ended::{Ended, is_dead, is_not_yet, words},
    push::{self, Accepted, Due, Held},
    sources::Sources,
    tend::{self, Backoff, Care, Tended},
};
use crate::{
    fabric::{Capacity, Command, Fabric, HostFingerprint, Node, Origin},
    ledger,
    observed::Seen,
};

/// How long a single call on an agent may take.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(10);
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
    pub(super) id: NodeId,
    pub(super) links: Links,
    pub(super) shared: Shared,
    pub(super) due: Arc<Notify>,
    pub(super) care: Care,
}

/// A session's state: what this connection has seen and had accepted.
struct Session {
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
    /// Tickets for blobs.
    sources: Sources,
    /// The certificate that the node has.
    has: Option<Seen>,
    /// The digest of what it believes, once it said so.
    believes: Option<String>,
    /// Whether its trust is being brought in.
    tending: bool,
    /// When that is tried again. What is about its certificate has the link's pace besides.
    tend_again: Backoff,
    /// What is wrong with its trust, in words.
    tend_trouble: String,
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
            self.shared
                .observed
                .shown(&self.node, ended.refused(), None);
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
        self.shared
            .ledger
            .submit(Origin::node(&self.node), None, command)
            .await
            .map(|_| ())
    }

    async fn session(
        &self,
        last_heard: &mut Instant,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, Ended> {
        // Until its first life sign: a storm of handshakes keeps nobody's life signs waiting. Who waits here
        // was not asked yet, so nothing is made of it.
        let turn = self.links.dials.clone().acquire_owned().await;
        let address = self.address().unwrap_or_default();
        let channel = timeout(CALL_DEADLINE, self.shared.dialer.dial(&address, self.id))
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
        drop(turn);
        self.check_identity(&first.node_id, "node_id")?;
        let mut session = Session {
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
            sources: Sources::default(),
            has: tend::shown(
                &self.shared.trust,
                &self.shared.ledger.snapshot().fabric,
                self.id,
            ),
            believes: None,
            tending: false,
            tend_again: Backoff::default(),
            tend_trouble: String::new(),
        };
        self.shared.observed.shown(&self.node, None, session.has);
        self.check_epoch(first.epoch)?;
        let introduced = self.introduce(&mut session).await;
        // One on another server answers all the same: it is not lost.
        if matches!(introduced, Ok(()) | Err(Ended::OtherServer { .. })) {
            *last_heard = Instant::now();
            self.shared.observed.heard(&self.node, &first);
        }
        introduced?;
        *pause = FIRST_PAUSE;
        self.shared.observed.trouble(&self.node, "");
        self.links.set_client(&self.node, Some(client.clone()));
        info!(node = %self.id, resync = session.resyncing, "in touch");
        if session.resyncing {
            self.resync(&mut session).await?;
        }
        let mut watch = timeout(CALL_DEADLINE, client.watch(WatchRequest {}))
            .await
            .map_err(|_| Ended::Slow)??
            .into_inner();
        let mut check = interval(self.shared.heartbeat);
        let mut trust = self.shared.trust.credentials().changed();
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
                    self.fill(&mut session)?;
                }
                () = self.due.notified() => self.fill(&mut session)?,
                Ok(()) = trust.changed() => self.tend(&mut session),
                _ = check.tick() => {
                    if last_heard.elapsed() >= self.shared.lost_after {
                        return Err(Ended::Silent(self.shared.lost_after));
                    }
                    if self.address().is_some_and(|now| now != address) {
                        return Err(Ended::Moved);
                    }
                    self.tend(&mut session);
                    self.refresh_tickets(&mut session);
                    if session.retry_at.is_some_and(|at| at <= Instant::now()) {
                        session.retry_at = None;
                        session.refused.clear();
                        self.fill(&mut session)?;
                    }
                }
            }
        }
    }

    /// Learns what the node is. One whose hypervisor was not seen since its agent started can't
    /// say; if the fabric knows it, it is in touch all the same: degraded, not unreachable. Its
    /// facts follow through the watch.
    async fn introduce(&self, session: &mut Session) -> Result<(), Ended> {
        let call = session.client.get_node(GetNodeRequest {});
        match timeout(CALL_DEADLINE, call)
            .await
            .map_err(|_| Ended::Slow)?
        {
            Ok(answer) => {
                let facts = answer.into_inner().node;
                let facts = facts.ok_or_else(|| Violation::new("node", "is missing"))?;
                self.report(session, facts).await
            }
            Err(status) if is_not_yet(&status) => {
                let snapshot = self.shared.ledger.snapshot();
                let known = self.own(&snapshot.fabric);
                let known = known.and_then(|node| Some((node.capacity?, &node.equipment)));
                let Some((capacity, equipment)) = known else {
                    return Err(Ended::Call(status));
                };
                let host = HostFingerprint::default();
                self.settle(capacity, Arc::clone(equipment), host, session.resyncing)
                    .await
            }
            Err(status) => Err(Ended::Call(status)),
        }
    }

    /// The node as the fabric has it.
    fn own<'f>(&self, fabric: &'f Fabric) -> Option<&'f Node> {
        fabric
            .nodes
            .get(&self.node)
            .filter(|node| node.id == self.id)
    }

    /// Where its agent listens.
    fn address(&self) -> Option<String> {
        let snapshot = self.shared.ledger.snapshot();
        self.own(&snapshot.fabric).map(|node| node.address.clone())
    }

    /// Whoever answers has proven which node it is, and speaks for that one alone (FAULTS 22).
    fn check_identity(&self, said: &str, field: &str) -> Result<(), Ended> {
        let said: NodeId = convert::id(said, field)?;
        if said == self.id {
            return Ok(());
        }
        Err(Ended::Impostor {
            said,
            dialled: self.id,
        })
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
    async fn report(&self, session: &mut Session, facts: NodeFacts) -> Result<(), Ended> {
        self.check_identity(&facts.node_id, "node.node_id")?;
        let mut facts = bounds::facts(facts);
        // The fabric keeps it; beside the facts it would only take room.
        let equipment = self.equipment(facts.equipment.take().as_ref());
        let capacity = Capacity {
            arch: convert::known::<common::v1::Arch, _>(facts.arch, "node.arch")?,
            cpus: facts.cpus,
            memory: MemoryMib(facts.memory_mib),
            foreign_vcpus: Vcpus(facts.foreign_vcpus),
            foreign_memory: MemoryMib(facts.foreign_memory_mib),
        };
        let host = HostFingerprint::new(facts.fingerprint.clone())?;
        session.believes = Some(facts.trust_digest.clone());
        self.shared
            .observed
            .change(&self.node, |reported| reported.facts = Some(facts));
        self.shared.observed.bump();
        self.settle(capacity, equipment, host, session.resyncing)
            .await
    }

    /// What a node has beyond amounts, by its agent's word. What breaks a bound is not believed: what
    /// was known before stays (FAULTS 18).
    fn equipment(&self, said: Option<&common::v1::Equipment>) -> Arc<Equipment> {
        let known = || {
            let snapshot = self.shared.ledger.snapshot();
            let node = self.own(&snapshot.fabric);
            node.map(|node| Arc::clone(&node.equipment))
                .unwrap_or_default()
        };
        let said = said.map(Equipment::try_from).transpose();
        match said.map(Option::unwrap_or_default) {
            // Mostly the same again: one copy of it serves.
            Ok(said) => Some(known())
                .filter(|known| **known == said)
                .unwrap_or_else(|| Arc::new(said)),
            Err(violation) => {
                warn!(node = %self.node, %violation, "what it says of its equipment isn't believed");
                known()
            }
        }
    }

    /// Tells the ledger how the node stands, unless it knows. One whose server is another one than
    /// the fabric knows gets no further: it is neither commanded nor believed until it is rebound.
    async fn settle(
        &self,
        capacity: Capacity,
        equipment: Arc<Equipment>,
        host: HostFingerprint,
        resyncing: bool,
    ) -> Result<(), Ended> {
        let snapshot = self.shared.ledger.snapshot();
        let settled = self.own(&snapshot.fabric).is_some_and(|node| {
            let same_host = match &node.found {
                _ if host.is_empty() => true,
                Some(found) => *found == host,
                None => node.host.differences(&host).is_empty(),
            };
            node.reachable
                && node.resyncing == resyncing
                && node.capacity == Some(capacity)
                && node.equipment == equipment
                && same_host
        });
        if !settled {
            self.submit(Command::ReportNode {
                node: self.node.clone(),
                id: self.id,
                capacity,
                equipment,
                host,
                resyncing,
            })
            .await?;
        }
        let snapshot = self.shared.ledger.snapshot();
        match self.own(&snapshot.fabric) {
            Some(node) if node.found.is_some() => Err(Ended::OtherServer {
                node: self.node.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Sends the full intent. Deletions are left out: they follow as such, so that nothing is
    /// made only to be removed.
    async fn resync(&self, session: &mut Session) -> Result<(), Ended> {
        let snapshot = self.shared.ledger.snapshot();
        let epoch = snapshot.epoch;
        if snapshot.fabric.is_adopting(&self.node) {
            // The record isn't its full intent before it is adopted. The next life sign asks again.
            return Ok(());
        }
        let due = push::due(&snapshot.fabric, self.id, epoch, &Accepted::new());
        let mut accepted = Accepted::new();
        let mut intents = Vec::new();
        for due in due {
            if let Due::Apply(id, generation, image, mut request) = due {
                request.image_sources = self.sources(session, image)?;
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
                    && there.node != self.id
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
                observed.put(&self.node, self.id, status, known);
                if gone && !known {
                    self.due.notify_one();
                }
            }
            Item::ForgottenIncarnationId(text) => {
                let id: IncarnationId = convert::id(&text, "forgotten_incarnation_id")?;
                session.accepted.remove(&id);
                if observed
                    .report(id)
                    .is_some_and(|report| report.node == self.id)
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
            Item::Node(facts) => self.report(session, facts).await?,
            Item::Health(health) => observed.judged(&self.node, bounds::health(health)),
            Item::Parts(parts) => observed.made_of(&self.node, bounds::parts(parts)),
        }
        Ok(())
    }

    /// Begins the calls that are due and don't go on already, up to a number at a time.
    fn fill(&self, session: &mut Session) -> Result<(), Ended> {
        let snapshot = self.shared.ledger.snapshot();
        let epoch = snapshot.epoch;
        let due = push::due(&snapshot.fabric, self.id, epoch, &session.accepted);
        for mut due in due {
            if session.in_flight.len() >= CALLS_AT_ONCE {
                break;
            }
            let id = due.incarnation();
            if session.refused.contains_key(&id) || !session.in_flight.insert(id) {
                continue;
            }
            let trace = push::trace(&snapshot.fabric, id)
                .map(|operation| Push::new(operation, &due, &*self.shared.env));
            if let Due::Apply(_, _, image, request) = &mut due {
                request.image_sources = self.sources(session, *image)?;
            }
            session
                .calls
                .push(Box::pin(send(session.client.clone(), due, trace)));
        }
        if session.acknowledging {
            return Ok(());
        }
        let reported = self
            .shared
            .observed
            .change(&self.node, |reported| reported.incarnations.clone());
        if snapshot.fabric.is_adopting(&self.node) {
            // Its tombstones are what shows that something was deleted.
            return Ok(());
        }
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
        Ok(())
    }

    /// Where the node gets a blob, and the right to fetch it.
    fn sources(&self, session: &mut Session, image: Digest) -> Result<Vec<PeerSource>, Ended> {
        let Shared {
            trust,
            advertise,
            env,
            ..
        } = &self.shared;
        let epoch = self.shared.ledger.snapshot().epoch;
        let sources = session
            .sources
            .of(trust, advertise, self.id, image, epoch, env.now())?;
        Ok(sources)
    }

    /// Says intents again whose blob may still be on its way, before their tickets end.
    fn refresh_tickets(&self, session: &mut Session) {
        if !session.sources.have_aged(self.shared.env.now()) {
            return;
        }
        let observed = &self.shared.observed;
        session.accepted.retain(|id, held| {
            *held == Held::Deletion || !push::may_pull(observed.status(*id).as_ref())
        });
        self.due.notify_one();
    }

    /// Begins to bring in what is due of the node's trust, one thing at a time.
    fn tend(&self, session: &mut Session) {
        if session.tending || session.tend_again.holds() {
            return;
        }
        let Shared { trust, ledger, .. } = &self.shared;
        let fabric = &ledger.snapshot().fabric;
        let believes = session.believes.as_deref();
        let Some(due) = tend::due(trust, fabric, session.has, believes, &self.care) else {
            return;
        };
        session.tending = true;
        let certificate = due.is_certificate();
        let bringing = tend::bring(
            session.client.clone(),
            trust.clone(),
            ledger.clone(),
            self.id,
            self.node.clone(),
            self.care.clone(),
            due,
        );
        session.calls.push(Box::pin(async move {
            Call::Tended(certificate, bringing.await)
        }));
    }

    fn tended(
        &self,
        session: &mut Session,
        about_certificate: bool,
        answer: Result<Tended, tend::Error>,
    ) {
        session.tending = false;
        match answer {
            Ok(Tended {
                digest,
                certificate,
            }) => {
                // Should the node hold something else than it was sent, it isn't asked all the time.
                if digest == *self.shared.trust.digest() {
                    session.tend_again.reset();
                } else {
                    session.tend_again.failed(Duration::MAX);
                }
                session.believes = Some(digest);
                session.tend_trouble.clear();
                if let Some(seen) = certificate {
                    session.has = certificate;
                    self.shared.observed.shown(&self.node, None, certificate);
                    info!(serial = %seen.serial, until = %seen.not_after, "the node has a new certificate");
                }
            }
            Err(error) => {
                warn!(%error, "the node's trust can't be brought up to date yet");
                session.tend_trouble = format!("its trust can't be brought up to date: {error}");
                if about_certificate {
                    let now = self.shared.env.now();
                    let left = session.has.map(|seen| seen.not_after.millis_since(now));
                    self.care.failed(Duration::from_millis(left.unwrap_or(0)));
                } else {
                    session.tend_again.failed(Duration::MAX);
                }
            }
        }
    }

    /// Takes a call's end. A refusal is shown and tried again later; only a dead link ends the
    /// session.
    fn ended(&self, session: &mut Session, call: Call) -> Result<(), Ended> {
        match call {
            Call::Tended(certificate, answer) => self.tended(session, certificate, answer),
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
        let refused = session.refused.values().next();
        let trouble = refused.unwrap_or(&session.tend_trouble).clone();
        self.shared.observed.trouble(&self.node, trouble);
        Ok(())
    }
}

/// Shows a refusal; one that means that the link itself is dead ends the session.
fn refuse(incarnation: IncarnationId, status: &Status) -> Result<(), Ended> {
    let reason = refusal::reason(status).unwrap_or_default();
    warn!(%incarnation, code = %status.code(), reason, message = status.message(), "refused");
    if is_dead(status) {
        return Err(Ended::Call(status.clone()));
    }
    Ok(())
}
