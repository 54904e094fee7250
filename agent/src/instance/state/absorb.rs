//! What an input changes in what the machine knows. Nothing is ordered here.

use std::time::Duration;

use kapok_types::{Intent, phase::Size};

use super::{
    Action, Busy, Input, Machine, Now, Outcome, SOON, STEADY, Slot, Trouble, View, backoff::Backoff,
};
use crate::driver::{Error, Off, Record, Run, Seen};

impl Machine {
    pub(super) fn absorb(&mut self, now: Now, input: Input) {
        match input {
            Input::Apply(intent) => self.take_intent(*intent),
            // It comes again with every survey.
            Input::Delete(_) if self.tombstone.is_some() => {}
            Input::Delete(tombstone) => {
                self.tombstone = Some(tombstone);
                self.clear_trouble();
                self.look_now();
            }
            Input::Look => self.hear_hint(),
            Input::Finished(slot, result) => self.finish(now, slot, result),
            Input::GuestAgent(answers) => {
                self.agent_asking = false;
                self.agent = answers && self.on_since.is_some();
                if let Some(since) = self.on_since {
                    let up = self.now.saturating_sub(since);
                    let wait = if self.agent {
                        Duration::from_secs(30)
                    } else {
                        (up / 8).clamp(Duration::from_millis(250), Duration::from_secs(15))
                    };
                    self.agent_at = Some(self.now + wait);
                }
            }
            Input::Progress(permille) => self.progress = Some(permille.min(1000)),
            Input::Tick => {}
        }
    }

    /// Hints may come in floods (FAULTS 61): the first leads to a look at once, those that follow
    /// closely to one together. The guest's agent is asked in its own time.
    fn hear_hint(&mut self) {
        self.hinted = true;
        // Most hints during an act are about that act: they don't hold up what follows it.
        let at = match self.main {
            None => self.now.max(self.hint_floor),
            Some(_) => self.now + SOON,
        };
        self.look_by(at);
    }

    fn take_intent(&mut self, intent: Intent) {
        self.confirmed = true;
        let newer = self
            .intent
            .as_ref()
            .is_none_or(|held| held.generation < intent.generation);
        if newer {
            self.was_removed = false;
            self.given_in_vain = None;
            self.clear_trouble();
        } else if matches!(&self.trouble, Some(trouble) if trouble.action == "pull image") {
            // The same intent again may name sources that have the image now.
            self.clear_trouble();
        }
        self.intent = Some(intent);
    }

    fn finish(&mut self, now: Now, slot: Slot, result: Result<Outcome, Error>) {
        let busy = match slot {
            Slot::Main => self.main.take(),
            Slot::Forced => self.forced.take(),
        };
        let Some(Busy {
            action, overdue, ..
        }) = busy
        else {
            return;
        };
        if overdue {
            // Whatever was known is old by now.
            self.fresh = false;
            self.look_now();
        }
        match result {
            Ok(outcome) => self.succeeded(now, &action, outcome),
            Err(error) => self.failed(now, &action, &error),
        }
    }

    fn succeeded(&mut self, now: Now, action: &Action, outcome: Outcome) {
        match (action, outcome) {
            (Action::Observe, Outcome::Seen(seen)) => return self.saw(now, seen),
            (Action::Define(_), Outcome::Defined(record)) => self.wrote(*record),
            (Action::PullImage(_), _) => {
                self.image_ready = true;
                self.progress = None;
            }
            (Action::CreateRoot(_), _) => self.root_ready = true,
            (Action::RemoveRoot, _) => self.root_gone = true,
            (Action::Reset, _) => {
                self.pressed = Some(self.pressing);
                self.look_now();
            }
            _ => {
                match action {
                    Action::Start => self.went_on(),
                    Action::Shutdown => {
                        if let Some(asked) = &mut self.asked {
                            asked.since.get_or_insert(self.now);
                        }
                    }
                    _ => {}
                }
                self.fresh = false;
                self.look_now();
            }
        }
        self.clear_trouble();
    }

    /// Folds a written record into the view, so that no look is needed for what is known.
    fn wrote(&mut self, record: Record) {
        if let View::Present(seen) = &mut self.view {
            seen.record = record.clone();
            seen.persistent = true;
            if seen.run == Run::Off && !seen.is_as(&record.intent) {
                // Somebody may have turned it on as it was: what it is is told once it was seen.
                self.fresh = false;
                self.look_by(self.now);
            }
        } else {
            self.view = View::Present(Box::new(Seen {
                record: record.clone(),
                run: Run::Off,
                off: Off::Unknown,
                size: Size::of(&record.intent.spec),
                assignment: Some(record.intent.assignment.clone()),
                most_vcpus: record.intent.spec.vcpus,
                persistent: true,
                drift: Vec::new(),
                note: String::new(),
            }));
            if self.remembered.is_some() {
                // It was there before and somebody removed it: what runs isn't known by itself.
                self.fresh = false;
                self.look_now();
            }
        }
        self.remembered = Some(record);
    }

    /// A start is answered when the guest runs: that is told at once. What to do next waits for the
    /// look that follows.
    fn went_on(&mut self) {
        self.started = true;
        if let View::Present(seen) = &mut self.view {
            seen.run = Run::On;
        }
    }

    fn failed(&mut self, now: Now, action: &Action, error: &Error) {
        self.fresh = false;
        if *action == Action::Shutdown {
            self.was_not_asked(error);
        }
        if matches!(action, Action::SetVcpus(_)) {
            match error {
                // Nobody was asked; later.
                Error::Unavailable { .. } | Error::Quarantined | Error::Busy { .. } => {
                    self.given = None;
                }
                // The guest runs on as it is, and the next start is as it should be.
                _ => return self.look_now(),
            }
        }
        self.look_refused = *action == Action::Observe && matches!(error, Error::Failed { .. });
        if matches!(error, Error::Unavailable { .. } | Error::Quarantined)
            || *action == Action::Observe
        {
            self.view = View::Silent(error.to_string());
            self.look_at = self.now + self.look_failures.next(now, Duration::from_secs(30));
            if *action == Action::Destroy {
                self.force_at = self.look_at;
            }
            return;
        }
        if matches!(action, Action::CreateRoot(_)) && matches!(error, Error::Absent { .. }) {
            self.image_ready = false;
        }
        let wait = self.failures.next(now, Duration::from_mins(1));
        self.trouble = Some(Trouble {
            action: action.name(),
            text: error.to_string(),
            until: self.now + wait,
        });
        self.force_at = self.now + wait;
        self.look_now();
    }

    /// A call for a shutdown failed. When others are to blame, the guest heard of nothing, and
    /// its grace doesn't run; else it runs from the first attempt, or it would never end.
    fn was_not_asked(&mut self, error: &Error) {
        let Some(asked) = self.asked.as_mut().filter(|it| it.since.is_none()) else {
            return;
        };
        match error {
            Error::Busy { .. } | Error::Unavailable { .. } => self.asked = None,
            _ => asked.since = Some(asked.first),
        }
    }

    fn saw(&mut self, now: Now, seen: Option<Box<Seen>>) {
        self.fresh = true;
        self.look_refused = false;
        let unproven = std::mem::take(&mut self.unproven);
        self.look_failures = Backoff::default();
        let spread = self.policy.observe_every / 5;
        let less = spread * now.jitter_permille.saturating_sub(800).min(400) / 400;
        self.look_at = self.now + self.policy.observe_every.saturating_sub(less);
        if std::mem::take(&mut self.look_again) {
            // Not at once: a flood of hints must not keep decisions from being taken.
            self.look_at = self.now + SOON;
        }
        let Some(seen) = seen else {
            self.view = View::Absent;
            self.is_off();
            if unproven && !self.confirmed {
                // The listing was older than its end.
                (self.intent, self.remembered) = (None, None);
            }
            return;
        };
        self.adopt(&seen.record);
        self.check_given(&seen);
        if seen.run != Run::Off {
            self.started = false;
        }
        match seen.run {
            Run::On => {
                if self.on_since.is_none() {
                    self.on_since = Some(self.now);
                    self.agent_at = Some(self.now);
                }
            }
            Run::GoingDown | Run::Paused => self.agent_at = None,
            Run::Off => self.is_off(),
        }
        self.view = View::Present(seen);
    }

    fn is_off(&mut self) {
        if let Some(since) = self.on_since.take()
            && self.now.saturating_sub(since) >= STEADY
        {
            self.restarts = Backoff::default();
        }
        self.agent = false;
        self.agent_at = None;
        self.lag_since = None;
        self.pressed = None;
        (self.given, self.given_in_vain) = (None, None);
    }

    /// Takes over what a record knows, unless a newer intent is held.
    pub(super) fn adopt(&mut self, record: &Record) {
        let older = self
            .intent
            .as_ref()
            .is_none_or(|held| held.generation < record.intent.generation);
        if older && self.tombstone.is_none() {
            self.intent = Some(record.intent.clone());
        }
        self.remembered = Some(record.clone());
    }
}
