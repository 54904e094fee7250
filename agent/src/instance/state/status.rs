//! What the machine says of its incarnation.

use kapok_types::{
    Epoch, Generation, InstanceId,
    instance::{Counters, Power, RunPolicy},
    phase::{Ended, Phase, Status},
};
use uuid::Uuid;

use super::{
    Action, Machine, View,
    decide::{has_moved, is_to_stop},
};
use crate::driver::{Run, Seen};

/// Longest detail, in bytes.
const MAX_DETAIL: usize = 1024;
/// Most drift entries.
const MAX_DRIFT: usize = 16;

impl Machine {
    /// Where the incarnation stands. Never contains a time, so that it changes only when
    /// something did.
    pub fn status(&self) -> Status {
        let (phase, detail) = self.phase();
        let seen = match &self.view {
            View::Present(seen) => Some(seen.as_ref()),
            _ => None,
        };
        let ended = match (&self.intent, seen) {
            (Some(intent), Some(seen)) if seen.run == Run::Off => self.ended(intent, seen),
            _ => None,
        };
        let mut drift = seen.map(|seen| seen.drift.clone()).unwrap_or_default();
        if self.was_removed {
            drift.insert(0, "the definition was removed behind Kapok's back".into());
        }
        drift.truncate(MAX_DRIFT);
        let (size, resize_pending) = self.size();
        Status {
            incarnation: self.incarnation,
            instance: self.instance(),
            generation: self.held_generation(),
            epoch: self.held_epoch(),
            phase,
            done: self
                .remembered
                .as_ref()
                .map_or_else(Counters::default, |r| r.done),
            ended,
            progress_permille: self.progress.filter(|_| phase == Phase::Pulling),
            guest_agent: self.agent && matches!(phase, Phase::Running | Phase::Stopping),
            drift,
            detail: cut(detail, MAX_DETAIL),
            size,
            resize_pending,
            assignment: self.assignment(),
        }
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn instance(&self) -> InstanceId {
        match (&self.intent, &self.tombstone) {
            (Some(intent), _) => intent.instance,
            (None, Some(tombstone)) => tombstone.instance,
            (None, None) => InstanceId(Uuid::nil()),
        }
    }

    fn held_generation(&self) -> Generation {
        let held = self.intent.as_ref().map(|intent| intent.generation);
        let buried = self.tombstone.map(|tombstone| tombstone.generation);
        held.max(buried).unwrap_or_default()
    }

    fn held_epoch(&self) -> Epoch {
        let held = self.intent.as_ref().map(|intent| intent.epoch);
        let buried = self.tombstone.map(|tombstone| tombstone.epoch);
        held.max(buried).unwrap_or_default()
    }

    fn phase(&self) -> (Phase, String) {
        if self.gone {
            return (Phase::Gone, String::new());
        }
        if self.tombstone.is_some() {
            return (Phase::Deleting, self.obstacle().unwrap_or_default());
        }
        if let Some(busy) = self.main.as_ref().filter(|busy| busy.overdue) {
            let name = busy.action.name();
            return (
                Phase::Unknown,
                format!("the call \"{name}\" hasn't ended in time"),
            );
        }
        let Some(intent) = &self.intent else {
            let detail = self.obstacle();
            return (
                Phase::Unknown,
                detail.unwrap_or_else(|| "it was never seen".into()),
            );
        };
        if let View::Silent(reason) = &self.view {
            return (Phase::Unknown, reason.clone());
        }
        if let Some(trouble) = &self.trouble {
            return (
                Phase::Failing,
                format!("{}: {}", trouble.action, trouble.text),
            );
        }
        if self
            .main
            .as_ref()
            .is_some_and(|busy| matches!(busy.action, Action::PullImage(_)))
        {
            return (Phase::Pulling, String::new());
        }
        match &self.view {
            View::Unseen | View::Silent(_) => (Phase::Pending, String::new()),
            View::Absent => (Phase::Creating, String::new()),
            View::Present(seen) => match seen.run {
                Run::Off => self.phase_off(intent, seen),
                _ if is_to_stop(intent, &seen.record) || self.asked.is_some() => {
                    (Phase::Stopping, seen.note.clone())
                }
                Run::On => (Phase::Running, seen.note.clone()),
                Run::GoingDown => (Phase::Stopping, seen.note.clone()),
                Run::Paused => (Phase::Failing, format!("it is paused: {}", seen.note)),
            },
        }
    }

    fn phase_off(&self, intent: &kapok_types::Intent, seen: &Seen) -> (Phase, String) {
        if self.waiting {
            let why = if self.unsure {
                "the node lost its local store, so the controller must confirm it"
            } else {
                "the host booted; its pool is shared, so the controller must confirm it"
            };
            return (Phase::Waiting, why.into());
        }
        if seen.record.done.starts == 0 && !self.root_ready {
            return (Phase::Creating, String::new());
        }
        if intent.power == Power::Stopped {
            return (Phase::Stopped, seen.note.clone());
        }
        if has_moved(intent, seen) {
            return (
                Phase::Failing,
                "somebody moved it to another host; it isn't started here until its intent changes"
                    .into(),
            );
        }
        let ended = self.ended(intent, seen);
        let stays = intent.spec.run_policy == RunPolicy::RestartOnCrash;
        if ended == Some(Ended::ByGuest) && stays {
            return (Phase::Stopped, "the guest shut itself down".into());
        }
        if self.restart_at.is_some() {
            let why = match ended {
                Some(Ended::ByGuest) => "the guest shut itself down",
                Some(Ended::ByOutsider) => "somebody turned it off behind Kapok's back",
                _ => "it crashed",
            };
            return (
                Phase::Failing,
                format!("{why}; it is started again with back-off"),
            );
        }
        (Phase::Starting, String::new())
    }

    /// What stands in the way at present.
    fn obstacle(&self) -> Option<String> {
        if let Some(busy) = self.main.as_ref().filter(|busy| busy.overdue) {
            return Some(format!(
                "the call \"{}\" hasn't ended in time",
                busy.action.name()
            ));
        }
        if let View::Silent(reason) = &self.view {
            return Some(reason.clone());
        }
        let trouble = self.trouble.as_ref()?;
        Some(format!("{}: {}", trouble.action, trouble.text))
    }
}

/// The text, cut at a character's border.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
    text
}
