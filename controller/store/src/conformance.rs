//! What every backend of the store must do, as tests that assume no backend.
//!
//! A backend implements [`Backend`] for a place that outlives its stores, and its test file says
//! `kapok_store::conformance_suite!(make)`, where `make` evaluates to a blank one. Each case is a
//! function here and becomes one test there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure of a test is a panic"
)]

mod appending;
mod beginning;
mod checkpoints;
mod leadership;
mod reading;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use kapok_types::Seq;

pub use appending::{
    a_batch_needs_entries, a_conflict_names_the_head, another_history_is_refused,
    appends_land_in_order, the_size_limit_is_exact,
};
pub use beginning::{
    a_blank_log_begins_anywhere, only_a_blank_log_is_begun, only_an_open_store_is_led,
};
pub use checkpoints::{
    a_checkpoint_is_one_with_the_log, a_large_checkpoint_goes_in_parts, an_object_has_a_limit,
    checkpoints_are_incremental, parts_are_one_leaderships, parts_show_only_when_committed,
    trims_keep_what_is_not_folded, trims_take_whole_batches,
};
pub use leadership::{
    a_floor_is_passed, a_frozen_leader_is_fenced, a_lost_leadership_is_signalled,
    epochs_survive_reopening, one_of_many_candidates_appends,
};
pub use reading::{
    followers_miss_nothing, followers_of_trimmed_entries_are_told, reads_begin_anywhere,
    stored_values_are_the_batches, the_extent_is_exact, the_log_survives_reopening,
};

use crate::{Batch, Chain, Head, LeaderToken, Read, Store};

/// A place where one store's data lives, beyond the stores that are opened on it.
pub trait Backend: Send + Sync + 'static {
    /// The backend's store.
    type Store: Store;

    /// Opens the store that lives here: at first a blank one, later what was left. Called only
    /// when the store opened before was dropped, which may be a moment ago.
    fn open(&self) -> impl Future<Output = Self::Store> + Send;
}

/// How long a case waits for something that must happen.
pub const BOUND: Duration = Duration::from_secs(20);

/// Waits for `future`, at most [`BOUND`].
///
/// # Panics
/// When it takes longer.
pub async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future)
        .await
        .expect("it took longer than the bound")
}

/// Makes one test of every case. The argument is an expression that makes a [`Backend`].
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr) => {
        $crate::conformance_suite! { $make =>
            appends_land_in_order
            a_conflict_names_the_head
            another_history_is_refused
            a_batch_needs_entries
            the_size_limit_is_exact
            a_frozen_leader_is_fenced
            a_lost_leadership_is_signalled
            a_floor_is_passed
            epochs_survive_reopening
            one_of_many_candidates_appends
            reads_begin_anywhere
            the_log_survives_reopening
            followers_miss_nothing
            followers_of_trimmed_entries_are_told
            the_extent_is_exact
            stored_values_are_the_batches
            checkpoints_are_incremental
            a_large_checkpoint_goes_in_parts
            parts_show_only_when_committed
            parts_are_one_leaderships
            an_object_has_a_limit
            a_checkpoint_is_one_with_the_log
            trims_keep_what_is_not_folded
            trims_take_whole_batches
            a_blank_log_begins_anywhere
            only_a_blank_log_is_begun
            only_an_open_store_is_led
        }
    };
    ($make:expr => $($case:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::conformance::$case($make).await;
        }
    )*};
}

/// Batches of the given sizes, in entries, that continue `chain`, which moves along.
fn batches(chain: &mut Chain, sizes: &[usize]) -> Vec<Batch> {
    let make = |&size: &usize| {
        let seq = chain.head_seq.get();
        let payloads = (0..size)
            .map(|n| Bytes::from(format!("after {seq}, {n}")))
            .collect();
        let batch = chain.seal(payloads);
        chain.advance(&batch).unwrap();
        batch
    };
    sizes.iter().map(make).collect()
}

/// Appends batches of the given sizes at the store's head and gives them back.
async fn fill(store: &impl Store, token: &LeaderToken, sizes: &[usize]) -> Vec<Batch> {
    let mut chain = Chain::at(store.head().await.unwrap());
    let made = batches(&mut chain, sizes);
    for batch in &made {
        store.append(token, batch.after().seq, batch).await.unwrap();
    }
    assert_eq!(store.head().await.unwrap(), chain.head());
    made
}

/// Every batch of the log, in several reads, with its chain verified from `after`.
async fn read_all(store: &impl Store, after: Head) -> Vec<Batch> {
    let mut chain = Chain::at(after);
    let mut all = Vec::new();
    loop {
        match store.read(chain.head_seq.next(), 3).await.unwrap() {
            Read::Batches(batches) if batches.is_empty() => return all,
            Read::Batches(batches) => {
                assert!(
                    batches.len() <= 3,
                    "a read gives at most what it was asked for"
                );
                for batch in batches {
                    chain.advance(&batch).unwrap();
                    all.push(batch);
                }
            }
            Read::Trimmed { first } => panic!("trimmed up to {first}"),
        }
    }
}

/// Where the log stands at `seq`, which ends a batch of `made`.
fn end_at(made: &[Batch], seq: u64) -> Head {
    made.iter()
        .map(Batch::head)
        .find(|head| head.seq == Seq(seq))
        .unwrap()
}
