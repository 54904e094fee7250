//! How the store is, whichever it is: for people and metrics.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kapok_store::{
    Store,
    health::{Figures, Health},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// The servers of a store, if it has any.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// How each of them is.
    async fn health(&self) -> Option<Health>;

    /// What the calls to them have cost this process.
    fn figures(&self) -> Option<Figures>;
}

#[async_trait]
impl<S: Store> Servers for S {
    async fn health(&self) -> Option<Health> {
        Store::health(self).await
    }

    fn figures(&self) -> Option<Figures> {
        Store::figures(self)
    }
}

/// How often the servers are looked at, for metrics.
const EVERY: Duration = Duration::from_secs(15);

/// Looks at the servers now and then, and keeps what they said: a page of metrics asks nobody.
pub(crate) async fn look(servers: Arc<dyn Servers>, seen: watch::Sender<Option<Health>>) {
    let mut round = interval(EVERY);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        let Some(health) = servers.health().await else {
            // It has none, and won't have any.
            return std::future::pending().await;
        };
        seen.send_replace(Some(health));
    }
}
