//! What was last heard of each domain, and when.
//!
//! The [sampler](super::sampler) writes, pages read. One lock, held for no call and no file.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::driver::statistics::{Answer, Glance};

/// How long a QEMU may take to answer before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// The samples of all domains. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Arc<Mutex<All>>);

/// All samples. Times are on the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct All {
    /// When all domains were last looked at.
    pub(super) glanced_at: Option<Duration>,
    pub(super) domains: BTreeMap<Uuid, Sample>,
}

/// What is known of one domain.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) glance: Glance,
    /// When it was first seen to be on, of late.
    on_since: Duration,
    /// What its QEMU said, and when.
    pub(super) answer: Option<(Answer, Duration)>,
    /// Since when its QEMU has been asked, while it hasn't answered.
    asked_at: Option<Duration>,
    /// Its QEMU is known to hang, and wasn't asked for that.
    quarantined: bool,
}

impl Samples {
    pub(super) fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All domains were looked at; gives those that are to be asked.
    pub(super) fn glanced(&self, glances: Vec<Glance>, now: Duration) -> Vec<Uuid> {
        let mut all = self.lock();
        all.glanced_at = Some(now);
        let mut old = std::mem::take(&mut all.domains);
        let mut due = Vec::new();
        for glance in glances {
            let uuid = glance.domain;
            let on = glance.state.is_on();
            let known = old.remove(&uuid);
            let was_on = known
                .as_ref()
                .is_some_and(|known| known.glance.state.is_on());
            let sample = match known {
                // A call that hasn't ended is waited for, also if the domain is off by now.
                Some(known) => Sample {
                    on_since: if was_on { known.on_since } else { now },
                    answer: known.answer.filter(|_| on && was_on),
                    glance,
                    ..known
                },
                None => Sample {
                    glance,
                    on_since: now,
                    answer: None,
                    asked_at: None,
                    quarantined: false,
                },
            };
            if on && sample.asked_at.is_none() {
                due.push(uuid);
            }
            all.domains.insert(uuid, sample);
        }
        due
    }

    /// The processor time of every domain that is on, as far as its QEMU has told.
    pub(crate) fn used(&self, now: Duration) -> Vec<Used> {
        let all = self.lock();
        let used = all.domains.iter().filter_map(|(domain, sample)| {
            let (answer, at) = sample.answer.as_ref()?;
            Some(Used {
                domain: *domain,
                run: answer.run?,
                cpu_time_ns: answer.cpu_time_ns?,
                age: now.saturating_sub(*at),
            })
        });
        used.collect()
    }

    /// A domain is asked from now on.
    pub(super) fn asked(&self, domain: Uuid, now: Duration) {
        if let Some(sample) = self.lock().domains.get_mut(&domain) {
            sample.asked_at = Some(now);
        }
    }

    /// A domain's answer has come, or none will.
    pub(super) fn answered(&self, domain: Uuid, heard: Heard, now: Duration) {
        if let Some(sample) = self.lock().domains.get_mut(&domain) {
            sample.asked_at = None;
            sample.quarantined = matches!(heard, Heard::Quarantined);
            match heard {
                Heard::Answer(answer) => sample.answer = Some((answer, now)),
                Heard::Off => sample.answer = None,
                Heard::Quarantined | Heard::Nothing => {}
            }
        }
    }
}

/// Processor time that a domain's present QEMU has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) domain: Uuid,
    /// Which run on this boot.
    pub(crate) run: u64,
    pub(crate) cpu_time_ns: u64,
    /// How long ago it said so.
    pub(crate) age: Duration,
}

/// What came of asking.
#[derive(Debug)]
pub(super) enum Heard {
    /// An answer.
    Answer(Answer),
    /// It has no QEMU.
    Off,
    /// A call on it is stuck.
    Quarantined,
    /// The call failed.
    Nothing,
}

impl Sample {
    /// How old the oldest part of it is that should be renewed.
    pub(super) fn age(&self, glanced_at: Option<Duration>, now: Duration) -> Duration {
        let glanced = glanced_at.unwrap_or_default();
        let oldest = if self.glance.state.is_on() {
            let answered = self.answer.as_ref().map_or(self.on_since, |(_, at)| *at);
            answered.min(glanced)
        } else {
            glanced
        };
        now.saturating_sub(oldest)
    }

    /// Whether its QEMU doesn't answer.
    pub(super) fn is_stuck(&self, now: Duration) -> bool {
        let waits = |since| now.saturating_sub(since) >= PATIENCE;
        self.quarantined || self.asked_at.is_some_and(waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::statistics::State;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn glance(number: u128, state: State) -> Glance {
        Glance {
            domain: Uuid::from_u128(number),
            name: "x".into(),
            state,
            nics: Box::default(),
        }
    }

    /// FAULTS 41: the age of a QEMU that doesn't answer grows, and it is asked no second time.
    #[test]
    fn a_silent_qemu_is_flagged_and_not_asked_again() {
        let samples = Samples::default();
        let one = Uuid::from_u128(1);
        let running = || vec![glance(1, State::Running), glance(2, State::Off)];
        assert_eq!(samples.glanced(running(), at(10)), [one]);
        samples.asked(one, at(10));
        samples.answered(one, Heard::Answer(Answer::default()), at(11));
        assert_eq!(samples.glanced(running(), at(13)), [one]);
        samples.asked(one, at(13));
        for now in [16, 19, 22] {
            assert!(samples.glanced(running(), at(now)).is_empty());
            let all = samples.lock();
            let sample = &all.domains[&one];
            assert!(sample.is_stuck(at(now)));
            assert_eq!(sample.age(all.glanced_at, at(now)), at(now - 11));
            let off = &all.domains[&Uuid::from_u128(2)];
            assert_eq!(off.age(all.glanced_at, at(now)), at(0));
            assert!(!off.is_stuck(at(now)));
        }
        samples.answered(one, Heard::Nothing, at(23));
        assert_eq!(samples.glanced(running(), at(24)), [one]);
        samples.answered(one, Heard::Quarantined, at(24));
        assert!(samples.lock().domains[&one].is_stuck(at(24)));
        samples.answered(one, Heard::Answer(Answer::default()), at(25));
        assert!(!samples.lock().domains[&one].is_stuck(at(30)));
    }

    #[test]
    fn numbers_of_an_earlier_run_go_with_it() {
        let samples = Samples::default();
        let one = Uuid::from_u128(1);
        samples.glanced(vec![glance(1, State::Running)], at(1));
        samples.answered(one, Heard::Answer(Answer::default()), at(1));
        samples.glanced(vec![glance(1, State::Off)], at(2));
        assert!(samples.lock().domains[&one].answer.is_none());
        samples.glanced(vec![glance(1, State::Running)], at(9));
        assert_eq!(samples.lock().domains[&one].age(Some(at(9)), at(10)), at(1));
        assert!(samples.glanced(Vec::new(), at(12)).is_empty());
        assert!(samples.lock().domains.is_empty());
    }
}
