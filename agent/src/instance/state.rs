//! The pure machine of one incarnation: intent, observations and time in, orders out.
//!
//! ```text
//!  apply ──► observe ─► define ─► pull ─► create root ─► define(starting) ─► start ─► running
//!               ▲                                              ▲               │
//!               └── after every act, on hints, on a timer      └── back-off ◄──┴─ ended
//!
//!  delete ─► (tombstone is durable) ─► destroy ─► remove root ─► undefine ─► observe ─► gone
//! ```
//!
//! Decisions are made from observations only. One act is in flight at a time; a call that is
//! overdue keeps its place, because its outcome is *unknown*, and then only a destroy may go
//! beside it. The machine may be dropped at any point and built again from the domain's record
//! and the tombstone: that is what a crash of the agent does.
//!
//! Absent on purpose: clocks, randomness, IO. [`Now`] carries time and jitter.

mod absorb;
mod accept;
mod backoff;
mod decide;
mod size;
mod status;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::Duration;

use kapok_types::{Generation, IncarnationId, Intent, Vcpus, instance::RootDisk};
use uuid::Uuid;

use crate::{
    driver::{Error, Record, Seen},
    local::Tombstone,
};

pub use accept::Refusal;

use backoff::Backoff;

/// How long a run must last before the next crash starts with a short wait again.
const STEADY: Duration = Duration::from_mins(10);

/// How soon to look after a hint that came during an act, and the least time from a look that
/// follows a hint to the next one.
const SOON: Duration = Duration::from_millis(50);

/// How often an overdue shutdown past its grace is looked after.
const AGAIN: Duration = Duration::from_secs(1);

/// What a call may take beyond others that asks the guest's agent too.
const ASK_AGENT: Duration = Duration::from_secs(12);

/// What a destroy may take at most: a QEMU that doesn't react is killed after ten seconds, and
/// the kernel may need its time to end it.
const DESTROY: Duration = Duration::from_secs(40);

/// The moment of an input, and the spread for waits that begin now.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Time since boot, suspend included.
    pub at: Duration,
    /// Factor for waits, in thousandths: 800 to 1200.
    pub jitter_permille: u32,
    /// Whether a call on this very domain runs and is stuck. One that only waits for its turn
    /// behind others' says nothing about the domain.
    pub quarantined: bool,
}

/// What is the same for every incarnation of a node.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The host's present boot.
    pub boot: Uuid,
    /// How long a call may take before its outcome counts as unknown; shutdowns and destroys
    /// may take longer.
    pub call_deadline: Duration,
    /// How long a guest may take to shut down.
    pub shutdown_grace: Duration,
    /// After how long a guest that is still on is asked again.
    pub ask_again: Duration,
    /// How often a domain is looked at without a hint, at most.
    pub observe_every: Duration,
    /// Whether other nodes share the pool: then nothing starts after a boot without a word.
    pub pool_shared: bool,
    /// The operator's word for a whole site that lost power: start without the controller's.
    pub power_loss_start: bool,
}

/// Something to be done to the hypervisor, about this incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look at the domain.
    Observe,
    /// Write the record, making the domain if absent. An empty machine type means: the driver's.
    Define(Box<Record>),
    /// Bring the image to the pool.
    PullImage(RootDisk),
    /// Make the root disk.
    CreateRoot(RootDisk),
    /// Turn it on.
    Start,
    /// Ask the guest to shut down.
    Shutdown,
    /// Give the running guest more vCPUs.
    SetVcpus(Vcpus),
    /// Press the reset button.
    Reset,
    /// Turn it off hard.
    Destroy,
    /// Remove the root disk.
    RemoveRoot,
    /// Remove the definition.
    Undefine,
}

impl Action {
    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Define(_) => "define",
            Self::PullImage(_) => "pull image",
            Self::CreateRoot(_) => "create root disk",
            Self::Start => "start",
            Self::Shutdown => "shutdown",
            Self::SetVcpus(_) => "set vcpus",
            Self::Reset => "reset",
            Self::Destroy => "destroy",
            Self::RemoveRoot => "remove root disk",
            Self::Undefine => "undefine",
        }
    }
}

/// Which of the two places for acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The ordinary one.
    Main,
    /// Beside an overdue call: a destroy.
    Forced,
}

/// What the runner must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Run an action and report its end.
    Run(Slot, Action),
    /// Stop waiting for the image: nobody needs it any more. Its end isn't reported.
    AbandonPull,
    /// Ask whether the guest's agent answers, and report it.
    AskGuestAgent,
}

/// What an action gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// What was seen.
    Seen(Option<Box<Seen>>),
    /// The record as it was written.
    Defined(Box<Record>),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// An intent that [`Machine::accept`] took.
    Apply(Box<Intent>),
    /// A delete that [`Machine::accept_delete`] took, its tombstone durable.
    Delete(Tombstone),
    /// Something may have changed.
    Look,
    /// An ordered action has ended.
    Finished(Slot, Result<Outcome, Error>),
    /// The guest's agent answers, or it doesn't.
    GuestAgent(bool),
    /// How far the pull is, in permille.
    Progress(u32),
    /// Time has passed.
    Tick,
}

/// What is known of the domain.
#[derive(Debug, Clone)]
enum View {
    /// It was never looked at.
    Unseen,
    /// It doesn't answer; the reason in words.
    Silent(String),
    /// There is none.
    Absent,
    /// As it was last seen.
    Present(Box<Seen>),
}

/// An act that hasn't ended.
#[derive(Debug, Clone)]
struct Busy {
    action: Action,
    since: Duration,
    overdue: bool,
}

/// A shutdown that the guest was, or may have been, asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The first attempt.
    first: Duration,
    /// The latest attempt.
    last: Duration,
    /// From when the grace counts: the first attempt that reached the guest, or the first of all
    /// if it is the domain's own fault that none did.
    since: Option<Duration>,
}

/// One incarnation.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    incarnation: IncarnationId,
    now: Duration,
    // What is wanted.
    intent: Option<Intent>,
    tombstone: Option<Tombstone>,
    /// Whether the controller spoke for it in this run of the agent.
    confirmed: bool,
    // What is known.
    view: View,
    fresh: bool,
    look_at: Duration,
    /// Whether a hint came since the latest look began.
    hinted: bool,
    /// Before this, no hint leads to a look.
    hint_floor: Duration,
    /// Whether a hint came while the domain was being looked at.
    look_again: bool,
    /// Whether the latest look was answered, but not with what Kapok made: then nothing is done
    /// blindly.
    look_refused: bool,
    look_failures: Backoff,
    /// The record as last seen or written, in case somebody removes the definition.
    remembered: Option<Record>,
    was_removed: bool,
    /// Whether all that is known comes from a listing, which may be old by now.
    unproven: bool,
    /// Whether the node forgot what it knew of the fabric: then nothing starts without a word.
    unsure: bool,
    image_ready: bool,
    root_ready: bool,
    root_gone: bool,
    gone: bool,
    waiting: bool,
    // What goes on.
    main: Option<Busy>,
    forced: Option<Busy>,
    force_at: Duration,
    asked: Option<Asked>,
    /// The vCPUs that the running guest was given, until the next look.
    given: Option<Vcpus>,
    /// The vCPUs that it was given and didn't take.
    given_in_vain: Option<Vcpus>,
    /// The count of resets that the latest press of the button is for.
    pressing: u64,
    /// The count of resets that was pressed for, until it is written.
    pressed: Option<u64>,
    /// Whether a start succeeded after which the domain wasn't seen on yet.
    started: bool,
    on_since: Option<Duration>,
    lag_since: Option<Duration>,
    restart_at: Option<Duration>,
    restarts: Backoff,
    progress: Option<u32>,
    // What failed.
    trouble: Option<Trouble>,
    failures: Backoff,
    // The guest's agent.
    agent: bool,
    agent_at: Option<Duration>,
    agent_asking: bool,
}

/// The last failure, until something succeeds.
#[derive(Debug, Clone)]
struct Trouble {
    action: &'static str,
    text: String,
    until: Duration,
}

impl Machine {
    fn new(policy: Policy, incarnation: IncarnationId) -> Self {
        Self {
            policy,
            incarnation,
            now: Duration::ZERO,
            intent: None,
            tombstone: None,
            confirmed: false,
            view: View::Unseen,
            fresh: false,
            look_at: Duration::ZERO,
            hinted: false,
            hint_floor: Duration::ZERO,
            look_again: false,
            look_refused: false,
            look_failures: Backoff::default(),
            remembered: None,
            was_removed: false,
            unproven: false,
            unsure: false,
            image_ready: false,
            root_ready: false,
            root_gone: false,
            gone: false,
            waiting: false,
            main: None,
            forced: None,
            force_at: Duration::ZERO,
            asked: None,
            given: None,
            given_in_vain: None,
            pressing: 0,
            pressed: None,
            started: false,
            on_since: None,
            lag_since: None,
            restart_at: None,
            restarts: Backoff::default(),
            progress: None,
            trouble: None,
            failures: Backoff::default(),
            agent: false,
            agent_at: None,
            agent_asking: false,
        }
    }

    /// For an incarnation of which nothing is known yet: an intent or a delete follows.
    pub fn unknown(policy: Policy, incarnation: IncarnationId) -> Self {
        Self::new(policy, incarnation)
    }

    /// For a domain that was listed without an answer: its record will tell.
    pub fn silent(policy: Policy, incarnation: IncarnationId) -> Self {
        let mut machine = Self::new(policy, incarnation);
        machine.view = View::Silent("it was listed, but doesn't answer".into());
        machine
    }

    /// For a domain that was listed: its record is the intent until a newer one comes. A listing
    /// may be old: if the first look finds nothing, there is nothing.
    pub fn found(policy: Policy, record: &Record) -> Self {
        let mut machine = Self::new(policy, record.intent.incarnation);
        machine.adopt(record);
        machine.unproven = true;
        machine
    }

    /// The same on a node that lost its local store: what is off stays off until the controller
    /// has spoken for it.
    #[must_use]
    pub fn unsure(mut self) -> Self {
        self.unsure = true;
        self
    }

    /// For a tombstone that was found at start.
    pub fn buried(policy: Policy, tombstone: Tombstone) -> Self {
        let mut machine = Self::new(policy, tombstone.incarnation);
        machine.tombstone = Some(tombstone);
        machine
    }

    /// Whether neither a request nor a domain stands behind it any more.
    pub fn is_nothing(&self) -> bool {
        self.intent.is_none() && self.tombstone.is_none() && matches!(self.view, View::Absent)
    }

    /// Whether there is something to say of it: not while a request for it is on its way.
    pub fn is_known(&self) -> bool {
        self.intent.is_some()
            || self.tombstone.is_some()
            || matches!(self.view, View::Silent(_))
            || self.is_overdue()
    }

    /// Whether the call that holds its place is overdue.
    pub fn is_overdue(&self) -> bool {
        self.main.as_ref().is_some_and(|busy| busy.overdue)
    }

    /// Which incarnation this is.
    pub fn incarnation(&self) -> IncarnationId {
        self.incarnation
    }

    /// The generation held, if any intent is.
    pub fn generation(&self) -> Option<Generation> {
        self.intent.as_ref().map(|intent| intent.generation)
    }

    /// The intent held, if any is.
    pub fn intent(&self) -> Option<&Intent> {
        self.intent.as_ref()
    }

    /// Takes an input and says what to do now.
    pub fn on(&mut self, now: Now, input: Input) -> Vec<Order> {
        self.now = self.now.max(now.at);
        self.absorb(now, input);
        self.mark_overdue();
        let mut orders = Vec::new();
        while let Some(order) = self.next(now) {
            orders.push(order);
        }
        if !self.agent_asking && self.agent_at.is_some_and(|at| at <= self.now) {
            self.agent_asking = true;
            orders.push(Order::AskGuestAgent);
        }
        orders
    }

    /// When to come back with [`Input::Tick`] if nothing else happens.
    pub fn wake(&self) -> Option<Duration> {
        let deadline = |busy: &Option<Busy>| {
            busy.as_ref()
                .filter(|busy| !busy.overdue)
                .and_then(|busy| Some(busy.since + self.deadline(&busy.action)?))
        };
        let grace = self.asked.map(|asked| {
            let end = asked.since.unwrap_or(asked.first) + self.policy.shutdown_grace;
            // Whether the domain is to blame for an overdue call shows by itself, later.
            let overdue = asked.since.is_none() && self.is_overdue();
            if overdue {
                end.max(self.now + AGAIN)
            } else {
                end
            }
        });
        [
            deadline(&self.main),
            deadline(&self.forced),
            (!self.gone).then_some(self.look_at),
            Some(self.force_at),
            self.trouble.as_ref().map(|trouble| trouble.until),
            grace,
            self.asked.map(|asked| asked.last + self.policy.ask_again),
            self.lag_since
                .map(|since| since + self.policy.shutdown_grace),
            self.restart_at,
            self.agent_at,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > self.now)
        .min()
    }

    fn mark_overdue(&mut self) {
        let over = |busy: &Option<Busy>| {
            busy.as_ref().is_some_and(|busy| {
                let deadline = self.deadline(&busy.action);
                deadline.is_some_and(|deadline| self.now >= busy.since + deadline)
            })
        };
        let (main, forced) = (over(&self.main), over(&self.forced));
        for (busy, over) in [(&mut self.main, main), (&mut self.forced, forced)] {
            if let Some(busy) = busy {
                busy.overdue |= over;
            }
        }
    }

    /// How long an action may take. A pull takes as long as the network needs: it has progress
    /// instead.
    fn deadline(&self, action: &Action) -> Option<Duration> {
        let usual = self.policy.call_deadline;
        match action {
            Action::PullImage(_) => None,
            Action::Shutdown | Action::SetVcpus(_) => Some(usual + ASK_AGENT),
            Action::Destroy => Some(usual.max(DESTROY)),
            _ => Some(usual),
        }
    }

    fn look_now(&mut self) {
        self.look_by(self.now);
    }

    fn look_by(&mut self, at: Duration) {
        self.look_at = self.look_at.min(at);
        self.look_again = matches!(&self.main, Some(busy) if busy.action == Action::Observe);
    }

    fn clear_trouble(&mut self) {
        self.trouble = None;
        self.failures = Backoff::default();
    }
}
