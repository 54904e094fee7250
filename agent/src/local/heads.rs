//! Sealed heads of the fabric's log: this node's share in noticing that the log was changed.
//!
//! The store keeps the newest, a bounded number, as they came. What they say is nobody's here:
//! the controller asks for them when it verifies its log.

use bytes::Bytes;

use super::{Change, Error, Local};

/// How many are kept: a day's, when one comes each minute.
pub const MAX_HEADS: usize = 1440;

impl Local {
    /// Keeps a sealed head if it `may` follow the newest that is kept, in place of the oldest if
    /// there are too many. The same again changes nothing. Says whether it is kept.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub async fn keep_head(
        &self,
        sealed: Bytes,
        may: impl FnOnce(&[u8]) -> bool,
    ) -> Result<bool, Error> {
        let mut kept = true;
        self.write(|state| {
            let newest = state.heads.last_key_value();
            if newest.is_some_and(|(_, kept)| *kept == sealed) {
                return Vec::new();
            }
            if newest.is_some_and(|(_, newest)| !may(newest)) {
                kept = false;
                return Vec::new();
            }
            let place = newest.map_or(0, |(place, _)| place + 1);
            let excess = (state.heads.len() + 1).saturating_sub(MAX_HEADS);
            let oldest = state.heads.keys().take(excess);
            let mut changes: Vec<Change> = oldest.map(|place| Change::DropHead(*place)).collect();
            changes.push(Change::Head(place, sealed));
            changes
        })
        .await?;
        Ok(kept)
    }

    /// The heads that are kept, oldest first.
    pub fn heads(&self) -> Vec<Bytes> {
        self.read(|state| state.heads.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::{NodeId, env::Seeded};
    use uuid::Uuid;

    use super::*;
    use crate::local::Memory;

    #[tokio::test]
    async fn the_newest_are_kept_and_no_more() {
        let memory = Memory::new(NodeId(Uuid::nil()));
        let local = Local::in_memory(&memory, Seeded::new(1));
        let head = |n: usize| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..MAX_HEADS + 7 {
            assert!(local.keep_head(head(n), |_| true).await.unwrap());
        }
        let writes = memory.writes();
        let newest = head(MAX_HEADS + 6);
        assert!(local.keep_head(newest.clone(), |_| false).await.unwrap());
        let refused = local.keep_head(head(0), |kept| kept != newest);
        assert!(!refused.await.unwrap());
        assert_eq!(memory.writes(), writes, "the same again is no write");
        let kept = local.heads();
        assert_eq!(kept.len(), MAX_HEADS);
        assert_eq!(kept[0], head(7));
        assert_eq!(kept[MAX_HEADS - 1], head(MAX_HEADS + 6));
    }

    #[tokio::test]
    async fn heads_survive_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Local::open(folder.path(), Seeded::new(1)).unwrap();
        let local = open();
        for sealed in [vec![1, 255], vec![2; 1000]] {
            local.keep_head(sealed.into(), |_| true).await.unwrap();
        }
        let kept = local.heads();
        assert_eq!(kept.len(), 2);
        drop(local);
        assert_eq!(open().heads(), kept);
    }
}
