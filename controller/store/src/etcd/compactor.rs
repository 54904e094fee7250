//! Keeping etcd's database small: it remembers every value that ever was, until told not to.
//!
//! The leader tells it, after each trim and whenever enough litter has gathered, to forget what is older
//! than the last time that it was told: so a read that is under way finds its revision for one round
//! longer. The history is the whole cluster's, so the cluster should be Kapok's alone. The file
//! doesn't shrink by this, its free pages are used again; `etcdctl defrag` shrinks it.

use std::sync::{Arc, Mutex, PoisonError};

use super::calls::{Calls, Failure, kv};
use crate::Error;

/// Litter that is worth a round, in bytes.
const LITTER_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Compactor {
    litter: Mutex<Litter>,
}

#[derive(Debug, Default)]
struct Litter {
    bytes: u64,
    /// The newest revision that this process wrote.
    revision: i64,
    /// The one that it was in the last round: to be forgotten in the next.
    marked: i64,
}

impl Compactor {
    /// Takes over that a write at `revision` made some.
    pub(super) fn littered(&self, revision: i64, bytes: u64) {
        let mut litter = self.litter.lock().unwrap_or_else(PoisonError::into_inner);
        litter.bytes = litter.bytes.saturating_add(bytes);
        litter.revision = litter.revision.max(revision);
    }

    /// The revision that it is time to compact to: now, if `trimmed`, or when there is enough.
    pub(super) fn due(&self, trimmed: bool) -> Option<i64> {
        let mut litter = self.litter.lock().unwrap_or_else(PoisonError::into_inner);
        if litter.bytes == 0 || (!trimmed && litter.bytes < LITTER_BYTES) {
            return None;
        }
        litter.bytes = 0;
        let newest = litter.revision;
        let marked = std::mem::replace(&mut litter.marked, newest);
        (marked > 0).then_some(marked)
    }
}

/// Lets etcd forget what is older than `revision`. Nothing rests on it.
pub(super) async fn compact(calls: Arc<Calls>, revision: i64) {
    let compacting = calls.read(
        "compacting etcd's history",
        calls.until(),
        |client| async move { kv(&client).compact(revision, None).await },
    );
    match compacting.await {
        Ok(_) => tracing::debug!(revision, "etcd's history compacted"),
        Err(Failure::Compacted(_)) => {}
        Err(failure) => {
            let error = Error::from(failure);
            tracing::warn!(%error, "etcd's history is not compacted this time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_behind() {
        let compactor = Compactor::default();
        assert_eq!(compactor.due(true), None);
        compactor.littered(10, 100);
        assert_eq!(compactor.due(false), None);
        assert_eq!(compactor.due(true), None, "nothing was marked before");
        compactor.littered(20, 100);
        assert_eq!(compactor.due(true), Some(10));
        compactor.littered(30, LITTER_BYTES);
        assert_eq!(compactor.due(false), Some(20));
        assert_eq!(compactor.due(true), None, "nothing since");
    }
}
