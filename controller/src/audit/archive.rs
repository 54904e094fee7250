//! Moves old entries out of the store into sealed segments, and deletes those whose retention is
//! over.
//!
//! ```text
//!   round:  trim what is recorded and still there ─▶ remove files of deleted records, and files
//!           that nobody recorded ─▶ while due: seal, record, trim ─▶ delete one that is too old:
//!           record, then remove
//! ```
//!
//! A round takes no input but the log, so whatever a crash left is finished by the next. The
//! archive writes and verifies files; the log says what they hold; the order of the two is this
//! file's.

use std::{sync::Arc, time::Duration};

use kapok_store::{Archive, Error, LeaderToken, Span, Store, WriteError, archive};
use kapok_types::{Env, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MIN_RETENTION, Policy, SegmentRecord};
use crate::{
    fabric::{Command, Origin},
    ledger,
    log::{self, Record},
};

/// How often it is looked at.
const ROUND: Duration = Duration::from_mins(1);

/// What the rounds work on.
pub struct Keeper<S> {
    /// The log, store and segments.
    pub archive: Archive<S>,
    /// The leadership under which the store is trimmed.
    pub token: LeaderToken,
    /// What is kept.
    pub policy: Policy,
    /// Where segments are recorded.
    pub ledger: ledger::Handle,
    /// Clock.
    pub env: Arc<dyn Env>,
}

/// Why a round did not end.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The store or the segments' home failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The store was not trimmed.
    #[error(transparent)]
    Trim(#[from] WriteError),
    /// The log did not take the record.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The newest entry of a segment can't be read.
    #[error("the segment's last entry can't be read")]
    Entry(#[from] log::Error),
}

impl<S: Store> Keeper<S> {
    /// Keeps the archive until stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = round.tick() => {}
            }
            if let Err(error) = self.round(&stop).await {
                // The log stays whole: nothing leaves before it is elsewhere.
                warn!(%error, "old entries could not be moved out yet");
            }
        }
    }

    /// One round. May be repeated after a crash or an error at any place.
    ///
    /// # Errors
    ///
    /// [`Failed`]; the log stays whole.
    pub async fn round(&self, stop: &CancellationToken) -> Result<(), Failed> {
        let first = self.archive.store().extent().await?.first;
        let snapshot = self.ledger.snapshot();
        let records = &snapshot.fabric.segments;
        for record in records
            .values()
            .filter(|record| record.segment.last >= first)
        {
            self.archive.trim(&self.token, &record.segment).await?;
        }
        let recorded = |span: Span| {
            let record = records.get(&span.first);
            record.is_some_and(|record| record.segment.span() == span)
        };
        self.archive.sweep(recorded).await?;
        for record in records.values().filter(|record| record.deleted.is_some()) {
            self.remove(record).await?;
        }
        let policy = archive::Policy {
            keep_entries: self.policy.keep_entries,
            keep_bytes: self.policy.keep_bytes,
            ..archive::Policy::default()
        };
        while !stop.is_cancelled()
            && let Some(sealed) = self.archive.seal_next(&policy).await?
        {
            let newest = Record::decode(&sealed.newest)?.at;
            let segment = sealed.segment.clone();
            self.record(Command::RecordSegment { segment, newest })
                .await?;
            if self.archive.store().is_shared() {
                // With the next round: until then the other controllers write it, too, from what they
                // have.
                info!(segment = %sealed.segment.span(), "old entries are about to move out of the store");
                break;
            }
            self.archive.trim(&self.token, &sealed.segment).await?;
            info!(segment = %sealed.segment.span(), "old entries moved out of the store");
        }
        self.delete_one().await
    }

    /// Deletes the oldest segment if its retention is over: one a round, so that a clock that
    /// jumped ahead is noticed before much is gone.
    async fn delete_one(&self) -> Result<(), Failed> {
        let now = self.env.now();
        let snapshot = self.ledger.snapshot();
        let mut records = snapshot.fabric.segments.values();
        let Some(oldest) = records.find(|record| record.deleted.is_none()) else {
            return Ok(());
        };
        if !self.is_over(oldest, now) {
            return Ok(());
        }
        let first = oldest.segment.first;
        self.record(Command::DeleteSegment { first, at: now })
            .await?;
        self.remove(oldest).await?;
        info!(segment = %oldest.segment.span(), "a segment's retention is over; it was deleted");
        Ok(())
    }

    fn is_over(&self, record: &SegmentRecord, now: Timestamp) -> bool {
        let retention = self.policy.retention.max(MIN_RETENTION).as_millis();
        u128::from(now.get().saturating_sub(record.newest.get())) > retention
    }

    async fn remove(&self, record: &SegmentRecord) -> Result<(), Failed> {
        let segments = self.archive.segments();
        let removed = segments.remove(record.segment.span()).await;
        Ok(removed.map_err(Error::from)?)
    }

    async fn record(&self, command: Command) -> Result<(), Failed> {
        self.ledger
            .submit(Origin::controller(), None, command)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
