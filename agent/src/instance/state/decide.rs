//! What to do next, from what was seen.

use std::time::Duration;

use kapok_types::{
    Intent,
    instance::{Counters, Power, RunPolicy},
    phase::Ended,
};

use super::{Action, Asked, Busy, Machine, Now, Order, SOON, Slot, View, accept::same_content};
use crate::driver::{Off, Record, Run, Seen};

/// Longest wait before a guest that keeps ending is started again.
const MOST_RESTART_WAIT: Duration = Duration::from_mins(5);

/// What a look at the situation gave.
enum Verdict {
    /// Do this.
    Act(Action),
    /// Nothing now; something is awaited.
    Wait,
    /// Nothing is left to do.
    Idle,
}

impl Machine {
    pub(super) fn next(&mut self, now: Now) -> Option<Order> {
        if let Some(busy) = &self.main {
            if self.tombstone.is_some() && matches!(busy.action, Action::PullImage(_)) {
                self.main = None;
                self.progress = None;
                return Some(Order::AbandonPull);
            }
            let stuck = busy.overdue && busy.action != Action::Destroy;
            return (stuck && self.may_force(now)).then(|| self.run(Slot::Forced, Action::Destroy));
        }
        if self.forced.is_some() || self.gone {
            return None;
        }
        if self.look_at <= self.now {
            return Some(self.run(Slot::Main, Action::Observe));
        }
        if !self.fresh {
            let blind =
                matches!(self.view, View::Silent(_)) && !self.look_refused && self.may_force(now);
            return blind.then(|| self.run(Slot::Main, Action::Destroy));
        }
        let verdict = if self.tombstone.is_some() {
            self.remove()
        } else {
            self.pursue(now)
        };
        match verdict {
            Verdict::Act(action) => {
                let gated = self.trouble.as_ref().is_some_and(|trouble| {
                    trouble.action == action.name() && trouble.until > self.now
                });
                (!gated).then(|| self.run(Slot::Main, action))
            }
            Verdict::Wait => None,
            Verdict::Idle => {
                self.clear_trouble();
                None
            }
        }
    }

    fn run(&mut self, slot: Slot, action: Action) -> Order {
        let busy = Busy {
            action: action.clone(),
            since: self.now,
            overdue: false,
        };
        match slot {
            Slot::Main => self.main = Some(busy),
            Slot::Forced => self.forced = Some(busy),
        }
        match action {
            Action::Observe => {
                self.look_at = self.now + self.policy.observe_every;
                if std::mem::take(&mut self.hinted) {
                    self.hint_floor = self.now + SOON;
                }
            }
            Action::Destroy => self.force_at = self.now + self.policy.call_deadline,
            Action::Shutdown => {
                self.asked = Some(Asked {
                    first: self.asked.map_or(self.now, |asked| asked.first),
                    last: self.now,
                    since: self.asked.and_then(|asked| asked.since),
                });
            }
            Action::SetVcpus(vcpus) => self.given = Some(vcpus),
            Action::Reset => {
                let wanted = self.intent.as_ref().map(|intent| intent.counters.resets);
                self.pressing = wanted.unwrap_or(0);
            }
            Action::Start => {
                self.asked = None;
                self.restart_at = None;
                self.started = false;
            }
            _ => {}
        }
        Order::Run(slot, action)
    }

    /// Whether a destroy may go without knowing what the domain does.
    fn may_force(&self, now: Now) -> bool {
        let grace_over = self.asked.is_some_and(|asked| {
            // A guest that may not have heard of it is only forced when the domain is to blame.
            let counts = asked.since.is_some() || now.quarantined;
            counts && self.now >= asked.since.unwrap_or(asked.first) + self.policy.shutdown_grace
        });
        let stop = match (&self.intent, &self.remembered) {
            (Some(intent), Some(record)) => is_to_stop(intent, record),
            _ => false,
        };
        self.forced.is_none()
            && self.force_at <= self.now
            && (self.tombstone.is_some() || (stop && grace_over))
    }

    fn remove(&mut self) -> Verdict {
        match &self.view {
            View::Present(seen) if seen.run != Run::Off => Verdict::Act(Action::Destroy),
            _ if !self.root_gone => Verdict::Act(Action::RemoveRoot),
            View::Present(_) => Verdict::Act(Action::Undefine),
            _ => {
                self.gone = true;
                Verdict::Idle
            }
        }
    }

    fn pursue(&mut self, now: Now) -> Verdict {
        self.waiting = false;
        let Some(intent) = self.intent.clone() else {
            return Verdict::Idle;
        };
        let View::Present(seen) = &self.view else {
            let record = match &self.remembered {
                Some(known) => {
                    self.was_removed = true;
                    Record {
                        intent,
                        ..known.clone()
                    }
                }
                None => fresh_record(intent),
            };
            return Verdict::Act(Action::Define(Box::new(record)));
        };
        let seen = seen.as_ref().clone();
        if !same_content(&seen.record.intent, &intent) {
            let record = Record {
                intent,
                ..seen.record
            };
            return Verdict::Act(Action::Define(Box::new(record)));
        }
        match seen.run {
            Run::Off => self.while_off(now, &intent, &seen),
            Run::On | Run::GoingDown | Run::Paused => self.while_on(&intent, &seen),
        }
    }

    fn while_on(&mut self, intent: &Intent, seen: &Seen) -> Verdict {
        self.restart_at = None;
        let (want, done) = (intent.counters, seen.record.done);
        let redefine = |change: fn(&mut Record, Counters)| {
            let mut record = seen.record.clone();
            change(&mut record, want);
            Verdict::Act(Action::Define(Box::new(record)))
        };
        if is_to_stop(intent, &seen.record) || (self.asked.is_some() && want.starts > done.starts) {
            return self.bring_down(seen);
        }
        if self
            .asked
            .is_some_and(|it| self.now >= it.since.unwrap_or(it.last) + self.policy.shutdown_grace)
        {
            // It was asked, the intent changed back, and it stayed on.
            self.asked = None;
        }
        if !seen.persistent {
            // Somebody removed the definition: with the guest's end all would be forgotten.
            return redefine(|_, _| {});
        }
        if seen.run != Run::On {
            return Verdict::Idle;
        }
        if seen.record.starting || seen.record.moved.is_some() {
            return redefine(|record, _| (record.starting, record.moved) = (false, None));
        }
        if let Some(vcpus) = self.to_give(intent, seen) {
            return Verdict::Act(Action::SetVcpus(vcpus));
        }
        if want.resets > done.resets {
            if let Some(pressed) = self.pressed.filter(|pressed| *pressed > done.resets) {
                let mut record = seen.record.clone();
                record.done.resets = pressed;
                return Verdict::Act(Action::Define(Box::new(record)));
            }
            return Verdict::Act(Action::Reset);
        }
        if want.starts > done.starts {
            // It runs already. It may have been asked to go down by an agent before this one,
            // so the start only counts once it has stayed on for longer than that would take.
            let since = *self.lag_since.get_or_insert(self.now);
            if self.now < since + self.policy.shutdown_grace {
                return Verdict::Wait;
            }
            self.lag_since = None;
            return redefine(|record, want| record.done.starts = want.starts);
        }
        Verdict::Idle
    }

    fn bring_down(&self, seen: &Seen) -> Verdict {
        let Some(asked) = self.asked else {
            return Verdict::Act(Action::Shutdown);
        };
        if asked
            .since
            .is_some_and(|since| self.now >= since + self.policy.shutdown_grace)
        {
            return Verdict::Act(Action::Destroy);
        }
        // The guest may have been booting when it was asked.
        if seen.run == Run::On && self.now >= asked.last + self.policy.ask_again {
            return Verdict::Act(Action::Shutdown);
        }
        Verdict::Wait
    }

    fn while_off(&mut self, now: Now, intent: &Intent, seen: &Seen) -> Verdict {
        if seen.off == Off::Moved && seen.record.moved.is_none() {
            let record = Record {
                moved: Some(intent.generation),
                ..seen.record.clone()
            };
            return Verdict::Act(Action::Define(Box::new(record)));
        }
        let hushed = self.unsure && !self.confirmed;
        if !hushed && let Some(action) = self.provision(intent, &seen.record) {
            return Verdict::Act(action);
        }
        if intent.power == Power::Stopped || has_moved(intent, seen) {
            self.asked = None;
            self.restart_at = None;
            self.started = false;
            return Verdict::Idle;
        }
        let record = &seen.record;
        let ended = self.ended(intent, seen);
        if ended == Some(Ended::ByGuest) {
            if record.ended_by_guest != Some(record.done.starts) {
                let record = Record {
                    ended_by_guest: Some(record.done.starts),
                    starting: false,
                    ..record.clone()
                };
                return Verdict::Act(Action::Define(Box::new(record)));
            }
            if intent.spec.run_policy == RunPolicy::RestartOnCrash {
                return Verdict::Idle;
            }
        }
        if self.must_wait(record) {
            self.waiting = true;
            return Verdict::Idle;
        }
        if matches!(
            ended,
            Some(Ended::ByGuest | Ended::ByCrash | Ended::ByOutsider)
        ) {
            let (start, restarts) = (self.now, &mut self.restarts);
            let at = *self
                .restart_at
                .get_or_insert_with(|| start + restarts.next(now, MOST_RESTART_WAIT));
            if self.now < at {
                return Verdict::Wait;
            }
        }
        let target = Record {
            done: Counters {
                starts: intent.counters.starts.max(record.done.starts),
                restarts: intent.counters.restarts.max(record.done.restarts),
                resets: intent.counters.resets.max(record.done.resets),
            },
            started_boot: Some(self.policy.boot),
            ended_by_guest: None,
            starting: true,
            ..record.clone()
        };
        if *record == target {
            Verdict::Act(Action::Start)
        } else {
            Verdict::Act(Action::Define(Box::new(target)))
        }
    }

    /// What a first start still needs. After it the root disk is never made again: a new, empty
    /// one in place of a lost one would hide the loss.
    fn provision(&self, intent: &Intent, record: &Record) -> Option<Action> {
        if record.done.starts > 0 {
            return None;
        }
        if !self.image_ready && !self.root_ready {
            return Some(Action::PullImage(intent.spec.root.clone()));
        }
        (!self.root_ready).then(|| Action::CreateRoot(intent.spec.root.clone()))
    }

    /// Whether a start here needs the controller's word: the pool is shared, so after a boot the
    /// instance may run elsewhere by now; or the node forgot whether it was told to let go of it.
    fn must_wait(&self, record: &Record) -> bool {
        let elsewhere = self.policy.pool_shared
            && !self.policy.power_loss_start
            && record.started_boot != Some(self.policy.boot);
        !self.confirmed && (self.unsure || elsewhere)
    }

    /// Why a domain that is off is off; none when it was not started for this count yet.
    pub(super) fn ended(&self, intent: &Intent, seen: &Seen) -> Option<Ended> {
        let record = &seen.record;
        let by_guest = record.ended_by_guest == Some(record.done.starts);
        if record.done.starts == 0 {
            return None;
        }
        if intent.power == Power::Stopped {
            return Some(if by_guest {
                Ended::ByGuest
            } else {
                Ended::ByIntent
            });
        }
        if has_moved(intent, seen) {
            return Some(Ended::ByOutsider);
        }
        let wanted = intent.counters;
        // A start that was made and seen to have ended before its domain was ever seen on.
        let made = self.started && self.fresh;
        let owed = (record.starting && !made)
            || wanted.starts > record.done.starts
            || wanted.restarts > record.done.restarts;
        if owed || self.asked.is_some() {
            return self.asked.map(|_| Ended::ByIntent);
        }
        if by_guest {
            return Some(Ended::ByGuest);
        }
        if record.started_boot != Some(self.policy.boot) {
            return Some(Ended::ByHost);
        }
        Some(match seen.off {
            Off::Shutdown => Ended::ByGuest,
            Off::Destroyed | Off::Moved => Ended::ByOutsider,
            Off::Crashed | Off::Failed | Off::Unknown => Ended::ByCrash,
        })
    }
}

/// Whether a domain that is on must go off.
pub(super) fn is_to_stop(intent: &Intent, record: &Record) -> bool {
    intent.power == Power::Stopped || intent.counters.restarts > record.done.restarts
}

/// Whether somebody moved it to another host since its intent last changed.
pub(super) fn has_moved(intent: &Intent, seen: &Seen) -> bool {
    match seen.record.moved {
        Some(under) => under >= intent.generation,
        None => seen.off == Off::Moved,
    }
}

fn fresh_record(intent: Intent) -> Record {
    Record {
        version: Record::VERSION,
        intent,
        done: Counters::default(),
        started_boot: None,
        ended_by_guest: None,
        starting: false,
        moved: None,
        machine: String::new(),
        virt_type: String::new(),
    }
}
