//! The audit: the log is the record of every change; what is added here makes it complete, keeps it
//! for as long as it must be kept, and shows that nobody changed it.
//!
//! ```text
//!   who was refused ─▶ refusals ─▶ one entry of the log, every few seconds at most
//!   the log's head  ─▶ heads ─▶ sealed: to every agent, and to the journal
//!   old entries     ─▶ archive ─▶ sealed segments, recorded in the log, then trimmed; deleted when
//!                                 their retention is over
//!   verify ◀─ segments, store, what the log says of segments, and the heads that agents keep
//! ```
//!
//! Owns the three tasks of [`Audit::run`]. Invariants:
//! - Nobody can fill the store with refusals: the kinds that are told apart are bounded, and so is
//!   what is written in a time. What is over is counted all the same.
//! - Entries leave the store only when their segment was read back and the log says what it holds;
//!   a segment is deleted only after the log says so, and never before [`MIN_RETENTION`].
//! - An idle fabric writes nothing.
//!
//! Absent on purpose: secrets. A refusal carries who, what and a code, never what was shown.

use std::{sync::Arc, time::Duration};

use kapok_store::{Archive, LeaderToken, Segment, Store};
use kapok_trust::Credentials;
use kapok_types::{Env, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{ledger, link::Links};

mod archive;
mod heads;
mod history;
mod refusal;
mod refusals;
mod verify;

pub use archive::{Failed, Keeper};
pub use history::History;
pub use refusal::Refusal;
pub use refusals::Refusals;
pub use verify::Verified;

/// The shortest time that entries may be kept for.
pub const MIN_RETENTION: Duration = Duration::from_hours(180 * 24);

/// What is kept of the log, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long sealed segments are kept; at least [`MIN_RETENTION`].
    pub retention: Duration,
    /// The newest entries that stay in the store.
    pub keep_entries: u64,
    /// What stays in the store of a log of large entries, in bytes.
    pub keep_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        let kapok_store::archive::Policy {
            keep_entries,
            keep_bytes,
            ..
        } = kapok_store::archive::Policy::default();
        Self {
            retention: MIN_RETENTION,
            keep_entries,
            keep_bytes,
        }
    }
}

/// What the log remembers of a segment, also when its file is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// What it holds, and its hashes.
    pub segment: Segment,
    /// The time of its newest entry.
    pub newest: Timestamp,
    /// When it was deleted, its retention being over.
    pub deleted: Option<Timestamp>,
}

/// The audit, for those who note refusals and those who read. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Who was refused.
    pub refusals: Refusals,
    /// The whole log.
    pub history: Arc<dyn History>,
    /// Held during a check: they read everything, so one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What the audit's tasks work on.
pub struct Parts<S> {
    /// The log, store and segments.
    pub archive: Archive<S>,
    /// The leadership under which the store is trimmed.
    pub token: LeaderToken,
    /// What is kept.
    pub policy: Policy,
    /// Where refusals and segments are recorded.
    pub ledger: ledger::Handle,
    /// The agents, for heads.
    pub links: Links,
    /// The controller's own key, for seals.
    pub credentials: Credentials,
    /// Clock.
    pub env: Arc<dyn Env>,
}

impl Audit {
    /// The audit of a log.
    pub fn new<S: Store>(archive: Archive<S>, env: Arc<dyn Env>) -> Self {
        Self {
            refusals: Refusals::new(env),
            history: Arc::new(archive),
            turn: Arc::default(),
        }
    }

    /// Writes refusals, seals heads and moves old entries out, until stopped.
    pub async fn run<S: Store>(self, parts: Parts<S>, stop: CancellationToken) {
        let Parts {
            archive,
            token,
            policy,
            ledger,
            links,
            credentials,
            env,
        } = parts;
        let keeper = Keeper {
            archive,
            token,
            policy,
            ledger: ledger.clone(),
            env: Arc::clone(&env),
        };
        tokio::join!(
            refusals::run(self.refusals, ledger.clone(), stop.clone()),
            heads::run(credentials, ledger, links, env, stop.clone()),
            keeper.run(stop),
        );
    }

    /// Checks the whole log, against what it says of its segments and against the heads that the
    /// agents keep.
    ///
    /// # Errors
    ///
    /// The store or the segments' home failed. What is wrong with the log is in the result.
    pub async fn verify(
        &self,
        ledger: &ledger::Handle,
        links: &Links,
    ) -> Result<Verified, kapok_store::Error> {
        let _turn = self.turn.lock().await;
        let snapshot = ledger.snapshot();
        verify::verify(self.history.as_ref(), &snapshot, links).await
    }
}
