//! Whichever backend a controller was told to use, behind one type.

use std::time::Duration;

use futures::stream::BoxStream;
use kapok_types::{Epoch, Seq};
use tokio::sync::watch;

#[cfg(feature = "etcd")]
use crate::Etcd;
#[cfg(feature = "redb")]
use crate::Redb;
use crate::{
    AppendError, Batch, Error, Extent, Follow, Head, Leader, LeaderToken, Leadership, Limits,
    LoadedCheckpoint, Part, Read, Store, Stored, Use, WriteError,
    health::{Figures, Health},
};

/// A store of one of the backends that this program was built with.
#[derive(Debug)]
pub enum AnyStore {
    /// Embedded.
    #[cfg(feature = "redb")]
    Redb(Redb),
    /// An etcd cluster.
    #[cfg(feature = "etcd")]
    Etcd(Etcd),
}

impl AnyStore {
    /// Gives back what others wait for. For a process that is about to end: nothing leads or
    /// follows here afterwards.
    pub async fn close(&self) {
        match self {
            #[cfg(feature = "redb")]
            Self::Redb(_) => {}
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.clone().close().await,
        }
    }
}

/// The same of whichever it is.
macro_rules! either {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            #[cfg(feature = "redb")]
            AnyStore::Redb($store) => $call,
            #[cfg(feature = "etcd")]
            AnyStore::Etcd($store) => $call,
        }
    };
}

impl Store for AnyStore {
    fn limits(&self) -> Limits {
        either!(self, store => store.limits())
    }

    async fn campaign_above(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        either!(self, store => store.campaign_above(candidate, floor).await)
    }

    async fn campaign_moving(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        either!(self, store => store.campaign_moving(candidate, floor).await)
    }

    fn lease_ttl(&self) -> Duration {
        either!(self, store => store.lease_ttl())
    }

    fn leaders(&self) -> watch::Receiver<Option<Leader>> {
        either!(self, store => store.leaders())
    }

    async fn health(&self) -> Option<Health> {
        either!(self, store => store.health().await)
    }

    fn figures(&self) -> Option<Figures> {
        either!(self, store => store.figures())
    }

    async fn get_use(&self) -> Result<Use, Error> {
        either!(self, store => store.get_use().await)
    }

    async fn put_use(&self, token: &LeaderToken, using: Use) -> Result<(), WriteError> {
        either!(self, store => store.put_use(token, using).await)
    }

    async fn append(
        &self,
        token: &LeaderToken,
        after: Seq,
        batch: &Batch,
    ) -> Result<(), AppendError> {
        either!(self, store => store.append(token, after, batch).await)
    }

    async fn begin(&self, token: &LeaderToken, at: Head) -> Result<(), WriteError> {
        either!(self, store => store.begin(token, at).await)
    }

    async fn head(&self) -> Result<Head, Error> {
        either!(self, store => store.head().await)
    }

    async fn read(&self, from: Seq, max_batches: usize) -> Result<Read, Error> {
        either!(self, store => store.read(from, max_batches).await)
    }

    async fn extent(&self) -> Result<Extent, Error> {
        either!(self, store => store.extent().await)
    }

    async fn stored(&self, from: Seq, max_batches: usize) -> Result<Vec<Stored>, Error> {
        either!(self, store => store.stored(from, max_batches).await)
    }

    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
        either!(self, store => store.follow(from))
    }

    async fn stage(&self, token: &LeaderToken, part: Part) -> Result<(), WriteError> {
        either!(self, store => store.stage(token, part).await)
    }

    async fn commit(&self, token: &LeaderToken, at: Head, parts: u32) -> Result<(), WriteError> {
        either!(self, store => store.commit(token, at, parts).await)
    }

    async fn load_checkpoint(&self) -> Result<Option<LoadedCheckpoint>, Error> {
        either!(self, store => store.load_checkpoint().await)
    }

    async fn trim(&self, token: &LeaderToken, before: Seq) -> Result<(), WriteError> {
        either!(self, store => store.trim(token, before).await)
    }
}
