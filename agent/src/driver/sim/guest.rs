//! Simulated domains and the guests in them.

use std::{sync::Arc, time::Duration};

use kapok_types::{Assignment, IncarnationId, Vcpus, phase::Size};
use tokio::time::Instant;

use super::{Host, Inner};
use crate::driver::{Error, Hint, Off, Record, Run, Seen};

/// How many times the vCPUs that it is started with a guest can be given while it runs; one that is
/// bound to cells, none.
const MOST_TIMES: u32 = 4;

/// One domain.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) record: Record,
    pub(super) persistent: bool,
    pub(super) run: Run,
    pub(super) off: Off,
    pub(super) drift: Vec<String>,
    pub(super) note: String,
    pub(super) since: Option<Instant>,
    /// Grows with each turn on, so that a timer of an earlier run finds nothing.
    pub(super) runs: u64,
    pub(super) resets: u64,
    /// What runs, or ran last.
    size: Size,
    assignment: Assignment,
    most_vcpus: Vcpus,
    pub(super) refuses_vcpus: bool,
    pub(super) ignores_shutdown: bool,
    pub(super) agent_dead: bool,
    pub(super) locked_elsewhere: bool,
    /// The latest console session; another number closes an earlier one.
    pub(super) console: u64,
    pub(super) console_open: bool,
}

impl Domain {
    pub(super) fn new(record: Record) -> Self {
        Self {
            size: Size::of(&record.intent.spec),
            assignment: record.intent.assignment.clone(),
            most_vcpus: record.intent.spec.vcpus,
            record,
            persistent: true,
            run: Run::Off,
            off: Off::Unknown,
            drift: Vec::new(),
            note: String::new(),
            since: None,
            runs: 0,
            resets: 0,
            refuses_vcpus: false,
            ignores_shutdown: false,
            agent_dead: false,
            locked_elsewhere: false,
            console: 0,
            console_open: false,
        }
    }

    /// Whether its record is one that this version knows.
    pub(super) fn is_ours(&self) -> bool {
        self.record.version <= Record::VERSION
    }

    pub(super) fn is_on(&self) -> bool {
        self.run != Run::Off
    }

    pub(super) fn turn_on(&mut self) {
        self.run = Run::On;
        let intent = &self.record.intent;
        self.size = Size::of(&intent.spec);
        self.assignment = intent.assignment.clone();
        let times = if self.assignment.cells.is_empty() {
            MOST_TIMES
        } else {
            1
        };
        self.most_vcpus = Vcpus(self.size.vcpus.get().saturating_mul(times));
        self.since = Some(Instant::now());
        self.runs += 1;
        self.note.clear();
    }

    pub(super) fn turn_off(&mut self, how: Off) {
        self.run = Run::Off;
        self.off = how;
        self.since = None;
        self.console += 1;
        self.console_open = false;
    }

    pub(super) fn host_went_down(&mut self) {
        if self.is_on() {
            self.turn_off(Off::Unknown);
        }
        self.off = Off::Unknown;
    }

    /// How large it is: while it is on, what runs; else what its definition says.
    pub(super) fn size(&self) -> Size {
        if self.is_on() {
            self.size
        } else {
            Size::of(&self.record.intent.spec)
        }
    }

    /// What is its own on the node, by the same.
    pub(super) fn assignment(&self) -> &Assignment {
        if self.is_on() {
            &self.assignment
        } else {
            &self.record.intent.assignment
        }
    }

    /// Gives the guest more vCPUs, unless there is no room for them or it refuses.
    pub(super) fn set_vcpus(&mut self, vcpus: Vcpus) -> Result<(), &'static str> {
        if !self.is_on() {
            return Err("it is off");
        }
        if vcpus < self.size.vcpus || vcpus > self.most_vcpus {
            return Err("it can't have so many");
        }
        if self.refuses_vcpus {
            return Err("the guest refused");
        }
        self.size.vcpus = vcpus;
        Ok(())
    }

    pub(super) fn agent_answers(&self, boot_time: Duration) -> bool {
        let up = self.since.map(|since| since.elapsed());
        self.run == Run::On && !self.agent_dead && up.is_some_and(|up| up >= boot_time)
    }

    pub(super) fn seen(&self) -> Seen {
        let mut drift = self.drift.clone();
        if !self.persistent {
            drift.push("the definition isn't persistent".into());
        }
        Seen {
            record: self.record.clone(),
            run: self.run,
            off: self.off,
            size: self.size(),
            assignment: Some(self.assignment().clone()),
            most_vcpus: self.most_vcpus.max(self.size().vcpus),
            persistent: self.persistent,
            drift,
            note: self.note.clone(),
        }
    }
}

/// What guests and outsiders do.
impl Host {
    /// The guest shuts itself down, at once.
    pub fn guest_shuts_down(&self, incarnation: IncarnationId) {
        self.change(incarnation, |domain| {
            if domain.is_on() {
                domain.turn_off(Off::Shutdown);
            }
        });
    }

    /// The guest crashes.
    pub fn crash_guest(&self, incarnation: IncarnationId) {
        self.change(incarnation, |domain| {
            if domain.is_on() {
                domain.turn_off(Off::Crashed);
            }
        });
    }

    /// Whether the guest does nothing when it is asked to shut down.
    pub fn set_ignores_shutdown(&self, incarnation: IncarnationId, ignores: bool) {
        self.change(incarnation, |domain| domain.ignores_shutdown = ignores);
    }

    /// Whether the guest refuses vCPUs while it runs.
    pub fn set_refuses_vcpus(&self, incarnation: IncarnationId, refuses: bool) {
        self.change(incarnation, |domain| domain.refuses_vcpus = refuses);
    }

    /// How large a domain is: while it is on, what runs; else what its definition says.
    pub fn size(&self, incarnation: IncarnationId) -> Option<Size> {
        self.look(incarnation, Domain::size)
    }

    /// What is a domain's own on the node, by the same.
    pub fn assignment(&self, incarnation: IncarnationId) -> Option<Assignment> {
        self.look(incarnation, |domain| domain.assignment().clone())
    }

    /// Whether the guest's agent is dead.
    pub fn set_agent_dead(&self, incarnation: IncarnationId, dead: bool) {
        self.change(incarnation, |domain| domain.agent_dead = dead);
    }

    /// The guest is paused by an I/O error, or goes on.
    pub fn set_paused(&self, incarnation: IncarnationId, paused: bool) {
        self.change(incarnation, |domain| {
            if domain.is_on() {
                domain.run = if paused { Run::Paused } else { Run::On };
                domain.note = if paused {
                    "I/O error".into()
                } else {
                    String::new()
                };
            }
        });
    }

    /// Whether another host holds the disk's lock.
    pub fn set_locked_elsewhere(&self, incarnation: IncarnationId, locked: bool) {
        self.change(incarnation, |domain| domain.locked_elsewhere = locked);
    }

    /// Somebody turns the domain off behind the agent's back.
    pub fn outsider_destroys(&self, incarnation: IncarnationId) {
        self.change(incarnation, |domain| {
            if domain.is_on() {
                domain.turn_off(Off::Destroyed);
            }
        });
    }

    /// Somebody moves the domain to another host, where it runs on.
    pub fn outsider_moves(&self, incarnation: IncarnationId) {
        self.change(incarnation, |domain| {
            if domain.is_on() {
                domain.turn_off(Off::Moved);
            }
        });
    }

    /// Somebody changes the record in a domain's metadata.
    pub fn outsider_changes_record(
        &self,
        incarnation: IncarnationId,
        change: impl FnOnce(&mut Record),
    ) {
        self.change(incarnation, |domain| change(&mut domain.record));
    }

    /// Somebody removes the definition; a running domain goes on without one.
    pub fn outsider_undefines(&self, incarnation: IncarnationId) {
        let mut inner = self.lock();
        if let Some(domain) = inner.domains.get_mut(&incarnation) {
            domain.persistent = false;
            if !domain.is_on() {
                inner.domains.remove(&incarnation);
            }
        }
        drop(inner);
        self.hint(Hint::Incarnation(incarnation));
    }

    /// Somebody edits the definition so that it differs from the record in these words.
    pub fn outsider_edits(&self, incarnation: IncarnationId, difference: &str) {
        self.change(incarnation, |domain| domain.drift.push(difference.into()));
    }

    /// How often a domain was turned on.
    pub fn runs(&self, incarnation: IncarnationId) -> u64 {
        self.look(incarnation, |domain| domain.runs).unwrap_or(0)
    }

    /// How often a domain was reset.
    pub fn resets(&self, incarnation: IncarnationId) -> u64 {
        self.look(incarnation, |domain| domain.resets).unwrap_or(0)
    }

    /// Whether a domain is on; none when there is no domain.
    pub fn is_on(&self, incarnation: IncarnationId) -> Option<bool> {
        self.look(incarnation, Domain::is_on)
    }

    /// The record in a domain's metadata.
    pub fn record(&self, incarnation: IncarnationId) -> Option<Record> {
        self.look(incarnation, |domain| domain.record.clone())
    }

    fn look<T>(&self, incarnation: IncarnationId, look: impl FnOnce(&Domain) -> T) -> Option<T> {
        self.lock().domains.get(&incarnation).map(look)
    }

    pub(super) fn change(&self, incarnation: IncarnationId, change: impl FnOnce(&mut Domain)) {
        let mut inner = self.lock();
        let Some(domain) = inner.domains.get_mut(&incarnation) else {
            return;
        };
        change(domain);
        inner.drop_transient(incarnation);
        drop(inner);
        self.hint(Hint::Incarnation(incarnation));
    }

    /// Lets a guest that was asked to shut down go off after its time, if it still runs then.
    pub(super) fn shut_down_later(self: &Arc<Self>, incarnation: IncarnationId, run: u64) {
        let host = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(host.shape.shutdown_time).await;
            host.change(incarnation, |domain| {
                if domain.is_on() && domain.runs == run && !domain.ignores_shutdown {
                    domain.turn_off(Off::Shutdown);
                }
            });
        });
    }
}

impl Inner {
    /// Refuses a call on a domain that isn't ours; one that isn't there is no obstacle.
    pub(super) fn claim(
        &self,
        incarnation: IncarnationId,
        call: &'static str,
    ) -> Result<(), Error> {
        let ours = self.domains.get(&incarnation).is_none_or(Domain::is_ours);
        if ours && !self.foreign.contains_key(&incarnation.0) {
            return Ok(());
        }
        Err(Error::Failed {
            call,
            reason: format!("the domain {incarnation} isn't Kapok's (any more)"),
        })
    }

    /// A domain without a definition is gone when it is off.
    pub(super) fn drop_transient(&mut self, incarnation: IncarnationId) {
        let gone = self
            .domains
            .get(&incarnation)
            .is_some_and(|domain| !domain.persistent && !domain.is_on());
        if gone {
            self.domains.remove(&incarnation);
        }
    }
}
