//! The connection that tells whether libvirtd lives, and what it reports by itself.
//!
//! One thread keeps it: connect, subscribe, turn events into hints, notice the end, wait, begin
//! again. After each (re)connection everything is to be looked at, because events were lost.
//!
//! Invariant: while this link is down no worker tries to connect, so a libvirtd that doesn't
//! answer holds at most the calls that were under way.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Condvar, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use backon::BackoffBuilder as _;
use kapok_libvirt::{
    Connection, Event,
    events::{self, EventReceiver},
};
use kapok_types::{Env, IncarnationId};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{error, lock};
use crate::driver::{
    Error, Hint,
    statistics::{Intake, Tally},
};

/// How often libvirtd is asked for a sign of life, and how many may be missing.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(3), 3);
/// First and longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often the thread looks up from waiting for events.
const LOOK_UP: Duration = Duration::from_millis(500);
/// Events that may wait; more are dropped, and everything is looked at.
const EVENTS: usize = 1024;
/// How often at most everything is to be looked at because of events: domains that others make and
/// remove all the time must not keep the agent looking.
const EVERYTHING: Duration = Duration::from_secs(1);
/// Hints that a receiver may be behind.
const HINTS: usize = 256;
/// Stack of the thread.
const STACK_BYTES: usize = 384 * 1024;

/// A handle to the link; the thread ends when it is dropped.
pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    uri: String,
    env: Arc<dyn Env>,
    hints: broadcast::Sender<Hint>,
    state: Mutex<State>,
    moved: Condvar,
    /// Counts connections that came up.
    number: AtomicU64,
    /// Domains of ours that were seen; events of all others concern the listing.
    ours: Mutex<BTreeSet<Uuid>>,
    /// Events that came, those that were dropped, and the hints that came of them.
    events: Tally,
    dropped: Tally,
    hinted: Tally,
}

struct State {
    /// Why it is down, if it is.
    down: Option<String>,
    closing: bool,
}

impl Link {
    pub(super) fn start(uri: &str, env: Arc<dyn Env>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            uri: uri.to_owned(),
            env,
            hints: broadcast::Sender::new(HINTS),
            state: Mutex::new(State {
                down: Some("not connected yet".into()),
                closing: false,
            }),
            moved: Condvar::new(),
            number: AtomicU64::new(0),
            ours: Mutex::default(),
            events: Tally::default(),
            dropped: Tally::default(),
            hinted: Tally::default(),
        });
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("libvirt-link".into())
            .stack_size(STACK_BYTES)
            .spawn(move || keep(&theirs))?;
        Ok(Self { shared })
    }

    /// Whether libvirtd answers.
    pub(super) fn is_up(&self) -> bool {
        lock(&self.shared.state).down.is_none()
    }

    /// Grows with each connection that came up.
    pub(super) fn number(&self) -> u64 {
        self.shared.number.load(Ordering::SeqCst)
    }

    pub(super) fn hints(&self) -> broadcast::Receiver<Hint> {
        self.shared.hints.subscribe()
    }

    /// Events and hints so far.
    pub(super) fn intake(&self) -> Intake {
        Intake {
            events: self.shared.events.get(),
            dropped_events: self.shared.dropped.get(),
            hints: self.shared.hinted.get(),
            ..Intake::default()
        }
    }

    /// Whether this domain was ours when it was last seen.
    pub(super) fn knows(&self, domain: Uuid) -> bool {
        lock(&self.shared.ours).contains(&domain)
    }

    /// Notes whether this domain is ours.
    pub(super) fn note(&self, domain: Uuid, ours: bool) {
        let mut known = lock(&self.shared.ours);
        if ours {
            known.insert(domain);
        } else {
            known.remove(&domain);
        }
    }

    /// Opens a further connection to the same libvirtd; fails at once while the link is down.
    pub(super) fn connect(&self) -> Result<Connection, Error> {
        connect(&self.shared)
    }

    /// [`Link::connect`] for threads that may outlive the link.
    pub(super) fn connector(
        &self,
    ) -> impl Fn() -> Result<Connection, Error> + Send + Sync + 'static {
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        move || {
            let shared = shared.upgrade().ok_or_else(|| Error::Unavailable {
                reason: "the agent is stopping".into(),
            })?;
            connect(&shared)
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.moved.notify_all();
    }
}

fn connect(shared: &Shared) -> Result<Connection, Error> {
    if let Some(reason) = &lock(&shared.state).down {
        return Err(Error::Unavailable {
            reason: reason.clone(),
        });
    }
    dial(&shared.uri).map_err(|failure| error::from_open(&failure))
}

fn dial(uri: &str) -> Result<Connection, kapok_libvirt::Error> {
    let connection = Connection::open(uri)?;
    connection.set_keepalive(KEEPALIVE.0, KEEPALIVE.1)?;
    Ok(connection)
}

/// The thread's life.
fn keep(shared: &Shared) {
    let mut pauses = pauses();
    while !lock(&shared.state).closing {
        let outcome = dial(&shared.uri).and_then(|connection| {
            let (subscription, received) = events::subscribe(&connection, EVENTS)?;
            Ok((connection, subscription, received))
        });
        let reason = match outcome {
            Ok((connection, subscription, received)) => {
                pauses = self::pauses();
                shared.number.fetch_add(1, Ordering::SeqCst);
                lock(&shared.state).down = None;
                tracing::info!(uri = shared.uri, "libvirtd answers");
                hint(shared, Hint::Everything);
                let reason = listen(shared, &connection, &received);
                lock(&shared.state).down = Some(reason.clone());
                hint(shared, Hint::Everything);
                drop(subscription);
                reason
            }
            Err(failure) => {
                let reason = failure.message;
                lock(&shared.state).down = Some(reason.clone());
                reason
            }
        };
        if lock(&shared.state).closing {
            return;
        }
        let pause = pauses.next().unwrap_or(PAUSE.1);
        tracing::warn!(
            uri = shared.uri,
            reason,
            "libvirtd can't be reached; trying again"
        );
        wait(shared, shared.env.jittered(pause));
    }
}

fn pauses() -> backon::ExponentialBackoff {
    backon::ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .without_max_times()
        .build()
}

/// Waits, unless the link is closed meanwhile.
fn wait(shared: &Shared, pause: Duration) {
    let state = lock(&shared.state);
    let outcome = shared
        .moved
        .wait_timeout_while(state, pause, |state| !state.closing);
    drop(outcome);
}

/// Turns events into hints until the connection ends; says why it did.
fn listen(shared: &Shared, connection: &Connection, received: &EventReceiver) -> String {
    let (mut everything, mut listing) = (Everything::default(), Everything::default());
    loop {
        let mut concerned = BTreeSet::new();
        let lost = received.take_lost();
        shared.events.add(lost);
        shared.dropped.add(lost);
        let mut others = false;
        let mut closed = None;
        let now = shared.env.monotonic();
        let due = [everything.due_in(now), listing.due_in(now)];
        let patience = due.into_iter().flatten().fold(LOOK_UP, Duration::min);
        let mut next = received.recv_timeout(patience);
        // So many at once: a flood must not keep what it tells from being passed on.
        for _ in 0..EVENTS {
            let Some(event) = next else { break };
            shared.events.add(1);
            match about(&event) {
                About::Domain(domain) if lock(&shared.ours).contains(&domain) => {
                    concerned.insert(domain);
                }
                About::Domain(_) => others = true,
                About::End(reason) => closed = Some(reason),
            }
            next = received.try_recv();
        }
        for domain in concerned {
            hint(shared, Hint::Incarnation(IncarnationId(domain)));
        }
        let now = shared.env.monotonic();
        if everything.is_due(lost > 0, now) {
            hint(shared, Hint::Everything);
        }
        // Ours need no look because others' domains changed.
        if listing.is_due(others, now) {
            hint(shared, Hint::Listing);
        }
        if let Some(reason) = closed {
            return reason;
        }
        match connection.is_alive() {
            Ok(true) => {}
            Ok(false) => return "the connection broke".into(),
            Err(failure) => return failure.message,
        }
        if lock(&shared.state).closing {
            return "the agent is stopping".into();
        }
    }
}

/// Makes many reasons to look at everything, or to list, one, and those that come too soon wait.
#[derive(Default)]
struct Everything {
    wanted: bool,
    last: Option<Duration>,
}

impl Everything {
    /// How long until it is due, if it is wanted.
    fn due_in(&self, now: Duration) -> Option<Duration> {
        let due = self.last.map_or(now, |last| last + EVERYTHING);
        self.wanted.then(|| due.saturating_sub(now))
    }

    /// Takes a further reason, and whether to look now.
    fn is_due(&mut self, wanted: bool, now: Duration) -> bool {
        self.wanted |= wanted;
        let due = self.due_in(now) == Some(Duration::ZERO);
        if due {
            (self.wanted, self.last) = (false, Some(now));
        }
        due
    }
}

fn hint(shared: &Shared, hint: Hint) {
    shared.hinted.add(1);
    // Nobody listens yet, or any more.
    let _ = shared.hints.send(hint);
}

enum About {
    Domain(Uuid),
    End(String),
}

fn about(event: &Event) -> About {
    match event {
        Event::Lifecycle { uuid, .. }
        | Event::Reboot { uuid }
        | Event::AgentLifecycle { uuid, .. }
        | Event::IoError { uuid, .. }
        | Event::ControlError { uuid }
        | Event::MetadataChanged { uuid, .. } => About::Domain(*uuid),
        Event::Closed { reason } => About::End(format!("the connection ended: {reason:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood of foreign events is one look a second, and the last of them isn't lost.
    #[test]
    fn looks_at_everything_are_few() {
        let mut everything = Everything::default();
        let at = Duration::from_millis;
        let looks: Vec<u64> = (0..3000)
            .filter(|now| everything.is_due(*now < 2500, at(*now)))
            .collect();
        assert_eq!(looks, [0, 1000, 2000]);
        assert_eq!(everything.due_in(at(2999)), Some(at(1)));
        assert!(everything.is_due(false, at(3000)));
        assert!(!everything.is_due(false, at(9000)));
        assert_eq!(everything.due_in(at(9000)), None);
    }
}
