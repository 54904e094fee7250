//! The right to open a console once (FAULTS 29).
//!
//! Kept in memory alone: a controller that starts anew knows none, and whoever wants one asks
//! again. Only hashes are kept, so that nobody who reads the memory's dump opens a console.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kapok_trust::Subject;
use kapok_types::{Digest, Env, IncarnationId, InstanceId};
use zeroize::Zeroizing;

/// How long a ticket is good for.
pub(super) const LIFE: Duration = Duration::from_secs(30);
/// Tickets at a time: of one subject, where the oldest makes place, and of all.
const OF_ONE: usize = 16;
const OF_ALL: usize = 16 * 1024;

/// A ticket's text. Never printed by accident.
pub(in crate::api) struct Secret(Zeroizing<String>);

/// What a ticket opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct Opens {
    /// Whose console.
    pub(in crate::api) instance: InstanceId,
    /// And in which of its lives: a ticket for one that has ended opens no other.
    pub(in crate::api) incarnation: IncarnationId,
}

/// The tickets that were given and not shown yet. Cheap to clone.
#[derive(Clone)]
pub struct Tickets {
    env: Arc<dyn Env>,
    given: Arc<Mutex<BTreeMap<Digest, Given>>>,
}

struct Given {
    opens: Opens,
    to: Subject,
    /// On the monotonic clock: nobody's clock change revives it.
    until: Duration,
}

impl Secret {
    fn new(env: &dyn Env) -> Self {
        use fmt::Write as _;
        let mut text = Zeroizing::new(String::with_capacity(64));
        for _ in 0..4 {
            let _ = write!(text, "{:016x}", env.random());
        }
        Self(text)
    }

    /// Its text, for the one who asked.
    pub(in crate::api) fn reveal(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    /// None yet.
    pub fn new(env: Arc<dyn Env>) -> Self {
        Self {
            env,
            given: Arc::default(),
        }
    }

    /// A new ticket for somebody; none when too many are about.
    pub(in crate::api) fn give(&self, opens: Opens, to: &Subject) -> Option<Secret> {
        let now = self.env.monotonic();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, one| now < one.until);
        let own = given.iter().filter(|(_, one)| one.to == *to);
        if own.clone().count() >= OF_ONE {
            let oldest = own.min_by_key(|(_, one)| one.until).map(|(key, _)| *key);
            oldest.and_then(|oldest| given.remove(&oldest));
        }
        if given.len() >= OF_ALL {
            return None;
        }
        let secret = Secret::new(&*self.env);
        let one = Given {
            opens,
            to: to.clone(),
            until: now + LIFE,
        };
        given.insert(Digest::of(secret.0.as_bytes()), one);
        Some(secret)
    }

    /// Takes a ticket that is shown: good once, within its life, for the one it was given to.
    /// Whoever else shows it ends it: it has been seen by the wrong eyes.
    pub(super) fn take(&self, shown: &str, by: &Subject) -> Option<Opens> {
        let now = self.env.monotonic();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let one = given.remove(&Digest::of(shown.as_bytes()))?;
        (one.to == *by && now < one.until).then_some(one.opens)
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;

    fn somebody(name: &str) -> Subject {
        Subject::User(name.parse().unwrap())
    }

    fn opens(env: &dyn Env) -> Opens {
        Opens {
            instance: env.instance_id(),
            incarnation: env.incarnation_id(),
        }
    }

    /// FAULTS 29: once, in time, by the one it was given to.
    #[test]
    fn a_ticket_opens_once_in_time_for_one() {
        let env = Seeded::new(1);
        let tickets = Tickets::new(env.clone());
        let (li, wang) = (somebody("li"), somebody("wang"));
        let opens = opens(&*env);

        let ticket = tickets.give(opens, &li).unwrap().reveal();
        assert_eq!(tickets.take(&ticket, &li), Some(opens));
        assert_eq!(tickets.take(&ticket, &li), None, "used");

        let ticket = tickets.give(opens, &li).unwrap().reveal();
        assert_eq!(tickets.take(&ticket, &wang), None, "another's");
        assert_eq!(tickets.take(&ticket, &li), None, "it was seen");

        let ticket = tickets.give(opens, &li).unwrap().reveal();
        env.advance(LIFE.saturating_sub(Duration::from_millis(1)));
        let fresh = tickets.give(opens, &li).unwrap().reveal();
        env.advance(Duration::from_millis(1));
        assert_eq!(tickets.take(&ticket, &li), None, "ended");
        assert_eq!(tickets.take(&fresh, &li), Some(opens));
        assert_eq!(tickets.take("", &li), None);
    }

    #[test]
    fn tickets_are_long_different_hashed_and_never_printed() {
        let env = Seeded::new(1);
        let tickets = Tickets::new(env.clone());
        let (first, second) = (
            tickets.give(opens(&*env), &somebody("li")).unwrap(),
            tickets.give(opens(&*env), &somebody("li")).unwrap(),
        );
        assert_eq!(first.reveal().len(), 64);
        assert_ne!(first.reveal(), second.reveal());
        let printed = format!("{first:?} {tickets:?}");
        assert!(!printed.contains(&first.reveal()), "{printed}");
        let kept = tickets.given.lock().unwrap();
        let keys: Vec<String> = kept.keys().map(Digest::hex).collect();
        assert!(!keys.contains(&first.reveal()));
    }

    #[test]
    fn tickets_are_bounded() {
        let env = Seeded::new(1);
        let tickets = Tickets::new(env.clone());
        let li = somebody("li");
        let all: Vec<String> = (0..=OF_ONE)
            .map(|_| {
                env.advance(Duration::from_millis(1));
                tickets.give(opens(&*env), &li).unwrap().reveal()
            })
            .collect();
        assert_eq!(tickets.given.lock().unwrap().len(), OF_ONE);
        assert_eq!(tickets.take(&all[0], &li), None, "the oldest made place");
        assert!(tickets.take(&all[1], &li).is_some());
    }
}
