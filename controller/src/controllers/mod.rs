//! The controllers of a fabric, as one of them knows the others.
//!
//! ```text
//!   store: who leads ─▶ Role ─┬─ leads:   every request is served here; followers report
//!                             └─ follows: what is a fold of the log is served here, everything else
//!                                         is passed on to the one that leads (forward.rs)
//!   follower ── every second: how far it is, whom it refused ──▶ leader (report.rs)
//!            ◀─ keys, images, sealed segments ── whoever has them (report.rs, mirror.rs)
//! ```
//!
//! Invariants:
//! - Who leads is the store's word; nobody here decides it, and nothing here protects the log: the
//!   token of the leadership does.
//! - A request is passed on once at most. Whom it is asked for goes with it, and is believed of a
//!   controller's certificate alone.
//! - A follower holds what it would need to lead: the fold, the authorities' keys, images, segments.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kapok_store::Leader;
use kapok_trust::Fingerprint;
use kapok_types::{Env, Name, Seq};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tracing::{debug, info};

use crate::link::Dialer;

mod forward;
mod mirror;
mod report;
mod servers;

pub(crate) use self::{forward::is_controller, mirror::Mirror, report::Reporter, servers::look};
pub use self::{
    forward::{Forward, Port},
    servers::Servers,
};

/// How long a request waits for somebody to lead.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause before a leader that can't be reached is dialled again.
const PAUSE: Duration = Duration::from_millis(200);
/// A controller that has said nothing for so long can't take over.
const RECENT: Duration = Duration::from_secs(5);
/// A controller that has said nothing for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_hours(24);
/// How far behind who takes over may be, in entries.
const CLOSE: u64 = 10_000;

/// A controller, as it calls itself when it campaigns: "controller/NAME at HOST:PORT".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its name, as in its certificate.
    pub name: Name,
    /// Where others reach it: "HOST:PORT".
    pub address: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "controller/{} at {}", self.name, self.address)
    }
}

/// A text that names no controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't \"controller/NAME at HOST:PORT\"")]
pub struct NoCandidate(String);

impl FromStr for Candidate {
    type Err = NoCandidate;

    fn from_str(text: &str) -> Result<Self, NoCandidate> {
        let parts = text
            .strip_prefix("controller/")
            .and_then(|rest| rest.split_once(" at "));
        let candidate = parts.and_then(|(name, address)| {
            Some(Self {
                name: name.parse().ok()?,
                address: address.to_owned(),
            })
        });
        candidate.ok_or_else(|| NoCandidate(text.to_owned()))
    }
}

/// What a controller does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It is a candidate, and knows nobody who leads.
    Waits,
    /// It follows this one.
    Follows(Candidate),
    /// It leads.
    Leads,
}

/// Where the one that leads is.
pub(crate) enum Way {
    /// It is this one.
    Here,
    /// It is that one, reached so.
    There(Candidate, Channel),
}

/// A channel that was dialled, and to whom.
type Dialled = tokio::sync::Mutex<Option<(Candidate, Channel)>>;

/// The controllers, as this one knows them. Cheap to clone.
#[derive(Clone)]
pub struct Controllers(Arc<Inner>);

struct Inner {
    own: Candidate,
    role: watch::Sender<Role>,
    dialer: Arc<dyn Dialer>,
    env: Arc<dyn Env>,
    /// The ways to the one that leads, once somebody went them: what people take of theirs can't keep
    /// the controllers' own calls waiting.
    peoples: Dialled,
    own_way: Dialled,
    stop: CancellationToken,
    /// What followers said, if this one leads.
    reports: Mutex<BTreeMap<Name, Heard>>,
    /// The others, as the one that leads knows them.
    peers: Mutex<Vec<Candidate>>,
    /// Ends the leadership.
    resign: CancellationToken,
}

/// What a follower said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who, and where.
    pub follower: Candidate,
    /// Its version.
    pub version: String,
    /// The last entry that it has folded.
    pub seq: Seq,
    /// The authorities whose keys it holds.
    pub authorities: Vec<Fingerprint>,
}

/// A report, and when it came.
#[derive(Debug, Clone)]
struct Heard {
    report: Report,
    /// Monotonic.
    at: Duration,
    /// How many entries it was behind then.
    behind: u64,
}

/// A follower as the one that leads knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it said last.
    pub report: Report,
    /// How many entries it was behind then.
    pub behind: u64,
    /// How long ago that was.
    pub age: Duration,
}

impl Known {
    /// Whether it can take over at once, holding these authorities' keys.
    pub fn is_ready(&self, authorities: &[Fingerprint]) -> bool {
        let holds = |authority| self.report.authorities.contains(authority);
        self.age <= RECENT && self.behind <= CLOSE && authorities.iter().all(holds)
    }
}

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controllers")
            .field("own", &self.0.own)
            .field("role", &*self.0.role.borrow())
            .finish_non_exhaustive()
    }
}

impl Controllers {
    /// This controller, and nobody else yet.
    pub fn new(
        own: Candidate,
        dialer: Arc<dyn Dialer>,
        env: Arc<dyn Env>,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            own,
            role: watch::Sender::new(Role::Waits),
            dialer,
            env,
            peoples: Dialled::default(),
            own_way: Dialled::default(),
            stop,
            reports: Mutex::default(),
            peers: Mutex::default(),
            resign: CancellationToken::new(),
        }))
    }

    /// This one.
    pub fn own(&self) -> &Candidate {
        &self.0.own
    }

    /// What this one does, as it changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.0.role.subscribe()
    }

    /// Whether this one leads.
    pub fn leads(&self) -> bool {
        *self.0.role.borrow() == Role::Leads
    }

    /// Ends this one's leadership; cancelled once somebody asked for it.
    pub fn resign(&self) -> &CancellationToken {
        &self.0.resign
    }

    /// Says that this one leads from now on, or no longer.
    pub(crate) fn set_leads(&self, leads: bool) {
        let role = if leads { Role::Leads } else { Role::Waits };
        self.0.role.send_replace(role);
    }

    /// Keeps the role at what the store says, for as long as this one doesn't lead.
    pub(crate) async fn follow(self, mut leaders: watch::Receiver<Option<Leader>>) {
        loop {
            let leader = leaders.borrow_and_update().clone();
            let leader = leader.and_then(|leader| match leader.candidate.parse::<Candidate>() {
                Ok(candidate) => Some(candidate),
                Err(error) => {
                    debug!(%error, "somebody leads who is no controller");
                    None
                }
            });
            self.0.role.send_if_modified(|role| {
                let now = match leader {
                    _ if *role == Role::Leads => return false,
                    // It is about to be said by who starts leading; or it is a life before this.
                    Some(candidate) if candidate.name == self.0.own.name => Role::Waits,
                    Some(candidate) => Role::Follows(candidate),
                    None => Role::Waits,
                };
                let news = *role != now;
                if news && let Role::Follows(leader) = &now {
                    info!(%leader, "following");
                }
                *role = now;
                news
            });
            if leaders.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes a follower's report in; the log is at `head`.
    pub fn hear(&self, report: Report, head: Seq) {
        let at = self.0.env.monotonic();
        let behind = head.get().saturating_sub(report.seq.get());
        let mut reports = self.reports();
        reports.retain(|_, heard| at.saturating_sub(heard.at) < FORGOTTEN);
        let heard = Heard { report, at, behind };
        reports.insert(heard.report.follower.name.clone(), heard);
    }

    /// The followers, by name.
    pub fn known(&self) -> Vec<Known> {
        let now = self.0.env.monotonic();
        let known = |heard: &Heard| Known {
            report: heard.report.clone(),
            behind: heard.behind,
            age: now.saturating_sub(heard.at),
        };
        self.reports().values().map(known).collect()
    }

    /// Where people reach controllers: this one, then those that follow it and could lead.
    pub fn addresses(&self) -> Vec<String> {
        let known = self.known().into_iter().filter(|known| known.age <= RECENT);
        let known = known.map(|known| known.report.follower.address);
        std::iter::once(self.0.own.address.clone())
            .chain(known)
            .collect()
    }

    /// Waits until every follower that reports holds an authority's key, so that whoever leads next
    /// can sign.
    ///
    /// # Errors
    ///
    /// The name of one that doesn't take it within a bound.
    pub async fn all_hold(&self, authority: Fingerprint) -> Result<(), Name> {
        let deadline = self.0.env.monotonic() + PATIENCE;
        loop {
            let lacks = self.known().into_iter().find(|known| {
                known.age <= RECENT && !known.report.authorities.contains(&authority)
            });
            let Some(lacks) = lacks else { return Ok(()) };
            if self.0.env.monotonic() >= deadline {
                return Err(lacks.report.follower.name);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Where something may be that isn't here: the one that leads first, then the others.
    pub(crate) fn others(&self) -> Vec<Candidate> {
        let mut others = Vec::new();
        if let Role::Follows(leader) = &*self.0.role.borrow() {
            others.push(leader.clone());
        }
        others.extend(self.known().into_iter().map(|known| known.report.follower));
        let peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        others.extend(peers.iter().cloned());
        drop(peers);
        others.retain(|other| other.name != self.0.own.name);
        let mut seen = std::collections::BTreeSet::new();
        others.retain(|other| seen.insert(other.clone()));
        others
    }

    fn set_peers(&self, peers: Vec<Candidate>) {
        *self.0.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// A channel to a controller.
    pub(crate) async fn dial(
        &self,
        to: &Candidate,
    ) -> Result<Channel, kapok_trust::connector::Error> {
        self.0.dialer.dial_controller(&to.address, &to.name).await
    }

    /// A channel to another one that leads, for a call of this controller's own; waits a while for there
    /// to be one.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE `NO_LEADER`: nobody leads who can be reached, or this one does.
    pub(crate) async fn leader(&self) -> Result<Channel, Status> {
        match self.reached_by(&self.0.own_way).await? {
            Way::There(_, channel) => Ok(channel),
            Way::Here => Err(no_leader("this controller leads itself by now; ask again")),
        }
    }

    /// The way to the one that leads, for people's requests; waits a while for there to be one, and it
    /// may be this one.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE `NO_LEADER`: nobody leads who can be reached.
    pub(crate) async fn way(&self) -> Result<Way, Status> {
        self.reached_by(&self.0.peoples).await
    }

    async fn reached_by(&self, known: &Dialled) -> Result<Way, Status> {
        let reached = timeout(PATIENCE, self.reached(known));
        match self.0.stop.run_until_cancelled(reached).await {
            Some(Ok(way)) => Ok(way),
            None => Err(no_leader("this controller is stopping; ask another one")),
            Some(Err(_)) => Err(no_leader(&match &*self.0.role.borrow() {
                Role::Follows(leader) => format!(
                    "{leader} leads, and can't be reached from here; try again, or ask another controller"
                ),
                Role::Waits | Role::Leads => "no controller leads at present; one does in a few \
                                              seconds, if the store is well"
                    .to_owned(),
            })),
        }
    }

    async fn reached(&self, known: &Dialled) -> Way {
        let mut role = self.role();
        loop {
            // Nobody dials for what was true when they began to wait.
            let mut way = known.lock().await;
            let now = role.borrow_and_update().clone();
            match now {
                Role::Leads => return Way::Here,
                Role::Waits => {}
                Role::Follows(leader) => {
                    if let Some((to, channel)) = &*way
                        && *to == leader
                    {
                        return Way::There(leader, channel.clone());
                    }
                    let dialled = tokio::select! {
                        biased;
                        dialled = self.dial(&leader) => Some(dialled),
                        _ = role.changed() => None,
                    };
                    match dialled {
                        Some(Ok(channel)) => {
                            *way = Some((leader.clone(), channel.clone()));
                            return Way::There(leader, channel);
                        }
                        Some(Err(error)) => {
                            debug!(%leader, %error, "the controller that leads can't be reached");
                        }
                        None => continue,
                    }
                }
            }
            drop(way);
            // Another one leads, or the same one can be reached.
            let _either = timeout(PAUSE, role.changed()).await;
        }
    }

    /// Forgets people's way to the one that leads: it led nowhere.
    async fn lost(&self, leader: &Candidate) {
        let mut way = self.0.peoples.lock().await;
        if way.as_ref().is_some_and(|(to, _)| to == leader) {
            *way = None;
        }
    }

    fn reports(&self) -> MutexGuard<'_, BTreeMap<Name, Heard>> {
        self.0
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What somebody is told while nobody leads.
pub(crate) fn no_leader(message: &str) -> Status {
    unavailable("NO_LEADER", message)
}

fn unavailable(reason: &str, message: &str) -> Status {
    kapok_proto::refusal::status(
        tonic::Code::Unavailable,
        reason,
        message.to_owned(),
        BTreeMap::new(),
    )
}
