//! Entries that don't match their hash: which were changed, which only moved, and which are whole
//! but stand behind one that was changed.
//!
//! Pure, and bounded: a few suspects are compared with each other; where there are more, each is
//! taken for an edit.

use bytes::Bytes;
use kapok_types::Seq;

use super::{Fault, FaultKind};
use crate::{Entry, Hash};

/// Most suspects that are compared with each other, and what their payloads may take together.
const MAX_SUSPECTS: usize = 32;
const MAX_BYTES: usize = 1024 * 1024;

/// An entry that doesn't match its hash where it stands.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    /// Where it stands.
    pub(super) place: Seq,
    /// What it says it is made after, and what really stands before it.
    prevs: [Hash; 2],
    hash: Hash,
    payload: Bytes,
}

impl Suspect {
    pub(super) fn new(place: Seq, before: Hash, entry: &Entry) -> Self {
        Self {
            place,
            prevs: [entry.prev, before],
            hash: entry.hash,
            // A copy, so that it doesn't keep a whole segment in memory.
            payload: Bytes::copy_from_slice(&entry.payload),
        }
    }

    /// Itself, if it can be compared with the others; else the fault that it is taken for.
    pub(super) fn admit(self, others: &[Self]) -> Result<Self, Fault> {
        let bytes = |suspect: &Self| suspect.payload.len();
        let taken: usize = others.iter().map(bytes).sum();
        if others.len() < MAX_SUSPECTS && taken + bytes(&self) <= MAX_BYTES {
            Ok(self)
        } else {
            Err(self.edited())
        }
    }

    fn edited(&self) -> Fault {
        Fault {
            seq: self.place,
            kind: FaultKind::Edited,
            message: "it is not what its hash says, or what stands before it was changed"
                .to_owned(),
        }
    }

    /// Whether it would be whole at `seq` behind an entry with one of these hashes.
    fn fits(&self, seq: Seq, mut prevs: impl Iterator<Item = Hash>) -> bool {
        prevs.any(|prev| Hash::link(prev, seq, &self.payload) == self.hash)
    }
}

/// The faults behind suspects, which come in the order in which they stand.
pub(super) fn explain(suspects: &[Suspect]) -> Vec<Fault> {
    // All that may once have stood before one of them: what they say, what is there, and what
    // those that were changed were before, if only their hash was.
    let known: Vec<Hash> = suspects
        .iter()
        .flat_map(|suspect| {
            let [said, there] = suspect.prevs;
            let mended = Hash::link(there, suspect.place, &suspect.payload);
            [said, there, suspect.hash, mended]
        })
        .collect();
    let mut faults = Vec::new();
    for (index, suspect) in suspects.iter().enumerate() {
        if index > 0 && suspect.fits(suspect.place, known.iter().copied()) {
            // Whole, behind another entry than now stands there: that one is named.
            continue;
        }
        let mut places = suspects.iter().map(|other| other.place);
        let moved =
            places.find(|seq| *seq != suspect.place && suspect.fits(*seq, known.iter().copied()));
        faults.push(match moved {
            Some(seq) => Fault {
                seq: suspect.place,
                kind: FaultKind::Reordered,
                message: format!("entry {seq} stands here"),
            },
            None => suspect.edited(),
        });
    }
    faults
}
