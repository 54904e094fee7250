//! One instance's meter: what is known of its processor time, and how it was last seen.
//!
//! ```text
//!   known ──reading of the same run──▶ known           the difference is used
//!     │
//!     ├──its end, another run, a boot──▶ unknown       up to then; nothing is made up
//!     └──not seen──▶ a later reading of the same run proves all that lies between
//! ```
//!
//! A QEMU's counter begins at 0 with it, so what the first reading of a new run shows is that run's
//! since its beginning, and counts. What the run before used after it was last read is unknown.

use kapok_types::{IncarnationId, InstanceId, Name, Timestamp};
use serde::{Deserialize, Serialize};

use super::account::{Account, Reason, Standing, Unknown};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Days of which it is kept how much was used.
pub const KEPT_DAYS: u32 = 32;

/// What is known of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Up to when it is known how much it used, apart from the intervals that are recorded as
    /// unknown.
    pub known_to: Timestamp,
    /// The counter that was read last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
    /// It was there before anything was recorded of it.
    #[serde(default)]
    from_before: bool,
    /// Nobody saw it for some time since `known_to`.
    #[serde(default)]
    blind: bool,
    /// Whether it is meant to run.
    wanted: bool,
    /// How it was last seen.
    pub seen: Seen,
    /// Since when that and the intent are so.
    since: Timestamp,
    /// The last days, in order.
    #[serde(default)]
    days: Vec<Daily>,
}

/// How an instance was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Not yet since it was created.
    #[default]
    Never,
    /// It runs.
    On,
    /// It doesn't.
    Off,
    /// Its node can't be asked, or there was no controller to ask.
    Unseen,
}

/// A reading of one run of QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    incarnation: IncarnationId,
    boot: Box<str>,
    run: Box<str>,
    cpu_ms: u64,
    /// The run is known to have ended.
    #[serde(default)]
    ended: bool,
}

/// What a node's agent read of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Which.
    pub incarnation: IncarnationId,
    /// Which run of QEMU: another one's counter begins at 0.
    pub run: Box<str>,
    /// Processor time used by that run, in milliseconds.
    pub cpu_ms: u64,
    /// When it was read, by the controller's clock.
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Daily {
    /// Days since 1970-01-01.
    day: u64,
    cpu_ms: u64,
    known_ms: u64,
}

/// Whose meter it is, and where its figures go.
pub(super) struct Book<'a> {
    pub(super) instance: InstanceId,
    pub(super) name: &'a Name,
    pub(super) account: &'a mut Account,
}

impl Meter {
    pub(super) fn created(at: Timestamp, wanted: bool) -> Self {
        Self {
            known_to: at,
            mark: None,
            from_before: false,
            blind: false,
            wanted,
            seen: Seen::Never,
            since: at,
            days: Vec::new(),
        }
    }

    /// Of an instance from before anything was recorded.
    pub(super) fn from_before(since: Timestamp, wanted: bool) -> Self {
        Self {
            from_before: true,
            blind: true,
            seen: Seen::Unseen,
            ..Self::created(since, wanted)
        }
    }

    /// How it stands, if it is meant to run and was ever seen.
    const fn standing(&self) -> Option<Standing> {
        match (self.wanted, self.seen) {
            (false, _) | (_, Seen::Never) => None,
            (_, Seen::On) => Some(Standing::Up),
            (_, Seen::Off) => Some(Standing::Down),
            (_, Seen::Unseen) => Some(Standing::Unseen),
        }
    }

    /// How it stands until `now` goes into an account.
    pub(super) fn settle(&mut self, account: &mut Account, now: Timestamp) {
        account.stood(self.standing(), self.since, now);
        self.since = self.since.max(now);
    }

    /// It is meant to run, or not.
    pub(super) fn intends(&mut self, account: &mut Account, at: Timestamp, wanted: bool) {
        if self.wanted != wanted {
            self.settle(account, at);
            self.wanted = wanted;
        }
    }

    /// It was seen to run, or not to.
    pub(super) fn sees(&mut self, book: &mut Book<'_>, at: Timestamp, on: bool) {
        let at = at.max(self.since);
        self.settle(book.account, at);
        let off_until_now = matches!(self.seen, Seen::Never | Seen::Off) && !self.blind;
        if off_until_now {
            self.know(at, 0);
        } else if !on {
            let before = std::mem::take(&mut self.from_before);
            let reason = if before {
                Reason::BeforeMetering
            } else {
                Reason::Ended
            };
            self.skip(book, at, reason);
        }
        if !on {
            self.blind = false;
            if let Some(mark) = &mut self.mark {
                mark.ended = true;
            }
        }
        self.seen = if on { Seen::On } else { Seen::Off };
    }

    /// It can't be seen.
    pub(super) fn loses(&mut self, account: &mut Account, at: Timestamp) {
        if self.seen == Seen::Never && self.mark.is_none() {
            // What has never been is still to come.
            self.blind = true;
            return;
        }
        self.settle(account, at);
        self.seen = Seen::Unseen;
        self.blind = true;
    }

    /// Its counter was read.
    pub(super) fn reads(&mut self, book: &mut Book<'_>, boot: &str, reading: &Reading) {
        let Reading {
            incarnation,
            run,
            cpu_ms,
            at,
        } = reading;
        let blind = self.seen == Seen::Unseen;
        if let Some(mark) = &mut self.mark
            && mark.incarnation == *incarnation
            && *mark.boot == *boot
            && mark.run == *run
        {
            let more = cpu_ms.checked_sub(std::mem::replace(&mut mark.cpu_ms, *cpu_ms));
            match more {
                Some(more) => {
                    book.account.used(more, *at);
                    self.know(*at, more);
                }
                None => self.skip(book, *at, Reason::CounterFell),
            }
            self.blind = blind;
            return;
        }
        if *at < self.known_to {
            // Of a run that has ended since.
            return;
        }
        let before = std::mem::take(&mut self.from_before);
        let runs = self.mark.as_ref().filter(|mark| !mark.ended);
        let reason = if before {
            Some(Reason::BeforeMetering)
        } else if runs.is_some_and(|mark| *mark.boot != *boot) {
            Some(Reason::NodeBooted)
        } else if runs.is_some() || self.blind {
            Some(Reason::Restarted)
        } else {
            None
        };
        if !before {
            book.account.used(*cpu_ms, *at);
        }
        match reason {
            Some(reason) => {
                self.skip(book, *at, reason);
                if !before {
                    self.day(*at).cpu_ms += cpu_ms;
                }
            }
            None => self.know(*at, *cpu_ms),
        }
        self.blind = blind;
        self.mark = Some(Mark {
            incarnation: *incarnation,
            boot: boot.into(),
            run: run.clone(),
            cpu_ms: *cpu_ms,
            ended: false,
        });
    }

    /// Whether its counter is one of this incarnation's.
    pub(super) fn reads_of(&self, incarnation: IncarnationId) -> bool {
        let runs = self.mark.as_ref().filter(|mark| !mark.ended);
        runs.is_none_or(|mark| mark.incarnation == incarnation)
    }

    /// What it used and how long that is known, in milliseconds, since a moment on a day's border.
    pub fn used_since(&self, from: Timestamp, now: Timestamp) -> (u64, u64) {
        let first = from.get() / DAY_MS;
        let days = self.days.iter().filter(|day| day.day >= first);
        let (cpu, known) = days.fold((0, 0), |(cpu, known), day| {
            (cpu + day.cpu_ms, known + day.known_ms)
        });
        let is_off = matches!(self.seen, Seen::Never | Seen::Off) && !self.blind;
        let off = if is_off {
            now.millis_since(self.known_to.max(from))
        } else {
            0
        };
        (cpu, known + off)
    }

    /// The time up to `now` that nobody has read yet, in milliseconds.
    pub fn unread_ms(&self, now: Timestamp) -> u64 {
        let is_off = matches!(self.seen, Seen::Never | Seen::Off) && !self.blind;
        if is_off {
            0
        } else {
            now.millis_since(self.known_to)
        }
    }

    /// It used this much until `to`.
    fn know(&mut self, to: Timestamp, cpu_ms: u64) {
        let oldest = (to.get() / DAY_MS).saturating_sub(u64::from(KEPT_DAYS));
        let mut at = self.known_to.max(Timestamp(oldest * DAY_MS));
        while at < to {
            let until = Timestamp((at.get() / DAY_MS + 1) * DAY_MS).min(to);
            self.day(at).known_ms += until.millis_since(at);
            at = until;
        }
        if cpu_ms > 0 {
            self.day(to).cpu_ms += cpu_ms;
        }
        self.known_to = self.known_to.max(to);
    }

    /// How much it used until `to` isn't known.
    fn skip(&mut self, book: &mut Book<'_>, to: Timestamp, reason: Reason) {
        book.account.unknown(Unknown {
            instance: book.instance,
            name: book.name.clone(),
            from: self.known_to,
            to,
            reason,
        });
        self.known_to = self.known_to.max(to);
    }

    fn day(&mut self, at: Timestamp) -> &mut Daily {
        let day = at.get() / DAY_MS;
        let place = match self.days.binary_search_by_key(&day, |one| one.day) {
            Ok(place) => place,
            Err(place) => {
                let new = Daily {
                    day,
                    cpu_ms: 0,
                    known_ms: 0,
                };
                self.days.insert(place, new);
                let most = usize::try_from(KEPT_DAYS).unwrap_or(usize::MAX);
                if self.days.len() > most && place > 0 {
                    self.days.remove(0);
                    place - 1
                } else {
                    place
                }
            }
        };
        &mut self.days[place]
    }
}
