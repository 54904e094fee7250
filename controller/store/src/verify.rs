//! Whether the log is still what was written, and where it isn't.
//!
//! A [`Verifier`] is fed the log's entries in the order in which they stand and computes every
//! hash anew. It doesn't stop at a fault: what stands behind it is checked against what stands
//! before, so that one change is one fault (`diagnose` tells a change from its consequences).
//!
//! A chain that was recomputed from some place on, or cut at its end, is whole in itself. Only
//! heads that are kept elsewhere tell: they are given as [`Expected`], and the fault lies behind
//! the last that agrees.

mod archive;
mod diagnose;
mod file;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use kapok_types::Seq;

pub use archive::archive;
pub use file::lines;

use self::diagnose::Suspect;
use crate::{Entry, Hash, Head};

/// Most faults that a report names.
pub const MAX_FAULTS: usize = 100;

/// What kind of change was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// An entry is not what its hash, or the entry after it, says.
    Edited,
    /// An entry stands at another's place.
    Reordered,
    /// Entries are missing.
    Cut,
    /// The chain holds, but it is another one than was sealed elsewhere.
    Recomputed,
    /// Something stands where an entry should that can't be read as one.
    Unreadable,
    /// A head that was kept elsewhere was not sealed by a controller of the fabric.
    BadSeal,
}

/// Something wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The place.
    pub seq: Seq,
    /// What kind.
    pub kind: FaultKind,
    /// What was found, in words.
    pub message: String,
}

/// A head that is kept elsewhere: what the log held at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its place and hash.
    pub head: Head,
    /// Who keeps it, for people: "node-3".
    pub by: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Entries that were checked.
    pub entries: u64,
    /// The first place that was checked; 0 when none was.
    pub first: Seq,
    /// The last place that was checked, and its hash.
    pub last: Head,
    /// Heads from elsewhere that were compared.
    pub heads: u32,
    /// What is wrong, the earliest place first; at most [`MAX_FAULTS`].
    pub faults: Vec<Fault>,
}

/// Checks a log, entry by entry.
#[derive(Debug, Default)]
pub struct Verifier {
    /// Where the chain stands; nothing before its beginning is known.
    at: Option<Head>,
    first: Seq,
    entries: u64,
    expected: BTreeMap<Seq, Vec<Expected>>,
    heads: u32,
    /// The last head from elsewhere that agrees.
    agreed: Seq,
    /// The place behind the last that agreed before the first that doesn't, that one's place, and
    /// who keeps it.
    disagreed: Option<(Seq, Seq, String)>,
    suspects: Vec<Suspect>,
    /// Faults before the first entry that could be read: their places follow from its own.
    early: u64,
    /// What was missed, first place to last.
    gaps: BTreeMap<Seq, Seq>,
    faults: Vec<Fault>,
}

impl FaultKind {
    /// Its stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Reordered => "reordered",
            Self::Cut => "cut",
            Self::Recomputed => "recomputed",
            Self::Unreadable => "unreadable",
            Self::BadSeal => "bad_seal",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Verifier {
    /// A check against heads that are kept elsewhere, in any order.
    pub fn new(expected: impl IntoIterator<Item = Expected>) -> Self {
        let mut verifier = Self::default();
        for head in expected {
            let place = verifier.expected.entry(head.head.seq).or_default();
            // Most nodes keep the same head: one of them speaks for all that agree.
            if !place.iter().any(|known| known.head == head.head) {
                place.push(head);
            }
        }
        verifier
    }

    /// Says what stands before the first entry that is to come. Without it the first entry is
    /// believed about that, unless it is the log's first.
    pub fn begin(&mut self, after: Head) {
        self.at = Some(after);
    }

    /// The place of the next entry, as far as it is known.
    pub fn next_place(&self) -> Option<Seq> {
        self.at.map(|at| at.seq.next())
    }

    /// Takes the next entry as it stands.
    pub fn entry(&mut self, entry: &Entry) {
        let at = *self.at.get_or_insert_with(|| {
            let before = entry.seq.get().saturating_sub(1);
            Head {
                seq: Seq(before),
                // Before the log's first entry stands nothing, whatever it says.
                hash: if before == 0 { Hash::ZERO } else { entry.prev },
            }
        });
        if self.entries == 0 {
            self.first = at.seq.next();
            for fault in self
                .faults
                .iter_mut()
                .filter(|fault| fault.seq == Seq::ZERO)
            {
                fault.seq = Seq(self.first.get().saturating_sub(self.early));
                self.early = self.early.saturating_sub(1);
            }
        }
        self.entries += 1;
        let Entry {
            seq,
            prev,
            hash,
            payload,
        } = entry;
        let place = at.seq.next();
        if Hash::link(at.hash, place, payload) == *hash && *prev == at.hash && *seq == place {
            self.reach(Head {
                seq: place,
                hash: *hash,
            });
            return;
        }
        if *seq != place {
            if Hash::link(at.hash, place, payload) == *hash {
                self.fault(
                    place,
                    FaultKind::Edited,
                    format!("its number is given as {seq}"),
                );
            } else if Hash::link(*prev, *seq, payload) == *hash {
                self.out_of_place(place, entry);
                return;
            } else {
                self.suspect(Suspect::new(place, at.hash, entry));
            }
        } else if *prev == at.hash {
            self.suspect(Suspect::new(place, at.hash, entry));
        } else if Hash::link(at.hash, place, payload) == *hash {
            let message = "what it gives as the hash before it is another one";
            self.fault(place, FaultKind::Edited, message.to_owned());
        } else if Hash::link(*prev, place, payload) == *hash {
            // Whole in itself. Whoever was found at fault just before explains it.
            let known = self.is_suspect(at.seq) || self.is_faulty(at.seq);
            if !known && at.seq >= self.first {
                let message = format!("it is not the entry that entry {place} was made after");
                self.fault(at.seq, FaultKind::Edited, message);
            } else if !known {
                let message = "it was made after another entry than the one before it";
                self.fault(place, FaultKind::Edited, message.to_owned());
            }
        } else {
            self.suspect(Suspect::new(place, at.hash, entry));
        }
        self.reach(Head {
            seq: place,
            hash: *hash,
        });
    }

    /// A whole entry that stands before its time, or after it.
    fn out_of_place(&mut self, place: Seq, entry: &Entry) {
        if entry.seq > place {
            let last = Seq(entry.seq.get() - 1);
            self.gaps.insert(place, last);
            self.reach(Head {
                seq: entry.seq,
                hash: entry.hash,
            });
            return;
        }
        let gap = self.gaps.range(..=entry.seq).next_back();
        let gap = gap.map(|(first, last)| (*first, *last));
        let message = match gap.filter(|(_, last)| *last >= entry.seq) {
            Some((first, last)) => {
                self.gaps.remove(&first);
                if first < entry.seq {
                    self.gaps.insert(first, Seq(entry.seq.get() - 1));
                }
                if entry.seq < last {
                    self.gaps.insert(entry.seq.next(), last);
                }
                format!("it stands behind entry {}", place.get() - 1)
            }
            None => format!("it stands once more behind entry {}", place.get() - 1),
        };
        self.fault(entry.seq, FaultKind::Reordered, message);
    }

    /// Something stands where the next `count` entries should (0: nobody knows how many), and
    /// can't be read.
    pub fn unreadable(&mut self, count: u64, message: impl Into<String>) {
        let place = self.next_place().unwrap_or_default();
        self.fault(place, FaultKind::Unreadable, message.into());
        match &mut self.at {
            Some(at) => at.seq = Seq(at.seq.get().saturating_add(count)),
            None => self.early += count,
        }
    }

    /// The entries from the next one up to `end` are missing; the chain goes on behind that.
    pub fn missing(&mut self, end: Head, message: impl Into<String>) {
        let place = self.next_place().unwrap_or_default();
        if !self.is_faulty(place) {
            self.fault(place, FaultKind::Cut, message.into());
        }
        self.at = Some(end);
    }

    /// Notes a fault that the chain doesn't show.
    pub fn fault(&mut self, seq: Seq, kind: FaultKind, message: String) {
        // Far more than are named, so that the earliest are among them.
        if self.faults.len() < MAX_FAULTS * 10 {
            self.faults.push(Fault { seq, kind, message });
        }
    }

    fn suspect(&mut self, suspect: Suspect) {
        match suspect.admit(&self.suspects) {
            Ok(suspect) => self.suspects.push(suspect),
            Err(fault) => self.fault(fault.seq, fault.kind, fault.message),
        }
    }

    /// How much was found so far, explained or not.
    fn found(&self) -> usize {
        self.faults.len() + self.suspects.len()
    }

    fn is_suspect(&self, seq: Seq) -> bool {
        self.suspects.last().is_some_and(|last| last.place == seq)
    }

    fn is_faulty(&self, seq: Seq) -> bool {
        self.faults.iter().rev().any(|fault| fault.seq == seq)
    }

    fn reach(&mut self, head: Head) {
        self.at = Some(head);
        if let Some(kept) = self.expected.get(&head.seq) {
            for kept in kept {
                self.heads += 1;
                if kept.head.hash == head.hash {
                    self.agreed = self.agreed.max(head.seq);
                } else if self.disagreed.is_none() {
                    let from = self.agreed.next().max(self.first);
                    self.disagreed = Some((from, head.seq, kept.by.clone()));
                }
            }
        }
    }

    /// Ends the check.
    pub fn finish(mut self) -> Report {
        let last = self.at.unwrap_or_default();
        for fault in diagnose::explain(&std::mem::take(&mut self.suspects)) {
            self.fault(fault.seq, fault.kind, fault.message);
        }
        for (first, end) in std::mem::take(&mut self.gaps) {
            let message = if first == end {
                "it is missing".to_owned()
            } else {
                format!("it is missing, as is all up to entry {end}")
            };
            // What couldn't be read there was named already.
            if !self.is_faulty(first) {
                self.fault(first, FaultKind::Cut, message);
            }
        }
        if let Some((from, seq, by)) = self.disagreed.take() {
            let explained = |fault: &Fault| (from..=seq).contains(&fault.seq);
            if !self.faults.iter().any(explained) {
                let message = format!(
                    "{by} keeps another entry {seq}: what stands from here up to it was made anew"
                );
                self.fault(from, FaultKind::Recomputed, message);
            }
        }
        let beyond = self.expected.range(last.seq.next()..).next_back();
        if let Some((seq, kept)) = beyond {
            let by = kept.first().map_or("somebody", |kept| &kept.by);
            let message = format!("the log ends before it, and {by} keeps the head {seq}");
            self.fault(last.seq.next(), FaultKind::Cut, message);
            self.heads += 1;
        }
        self.faults.sort_by_key(|fault| (fault.seq, fault.kind));
        self.faults.dedup_by_key(|fault| (fault.seq, fault.kind));
        self.faults.truncate(MAX_FAULTS);
        Report {
            entries: self.entries,
            first: self.first,
            last,
            heads: self.heads,
            faults: self.faults,
        }
    }
}
