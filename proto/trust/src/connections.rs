//! Open connections, by the certificate that the other end showed.
//!
//! **Invariant:** no connection outlives its certificate by more than [`SWEEP`]. Whoever holds a
//! [`crate::Connection`] reads an error then, and so does the other end.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use kapok_types::{Env, Timestamp};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{Serial, certificate::Shown};

/// How often ended certificates are looked for.
pub const SWEEP: Duration = Duration::from_secs(1);

/// The open connections of one process. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    env: Arc<dyn Env>,
    table: Mutex<Table>,
}

/// In the order of their certificates' ends, so that a sweep looks only at what ends.
#[derive(Default)]
struct Table {
    next: u64,
    open: BTreeMap<Key, Entry>,
    sweeping: bool,
}

type Key = (Timestamp, u64);

struct Entry {
    shown: Arc<Shown>,
    end: CancellationToken,
}

impl Connections {
    pub(crate) fn new(env: Arc<dyn Env>) -> Self {
        let table = Mutex::default();
        Self(Arc::new(Inner { env, table }))
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.0.lock().open.len()
    }

    /// How many there are of each certificate.
    pub fn serials(&self) -> BTreeMap<Serial, usize> {
        let mut serials = BTreeMap::new();
        for entry in self.0.lock().open.values() {
            *serials.entry(entry.shown.certificate.serial).or_insert(0) += 1;
        }
        serials
    }

    /// Ends those that `wrong` names; answers how many.
    pub(crate) fn close_shown(&self, wrong: impl Fn(&Shown) -> bool) -> usize {
        let table = self.0.lock();
        let wrong = table.open.values().filter(|it| wrong(&it.shown));
        wrong.map(|entry| entry.end.cancel()).count()
    }

    /// Takes a connection in. Needs a runtime.
    pub(crate) fn register(&self, shown: Arc<Shown>) -> Lease {
        let mut table = self.0.lock();
        if !table.sweeping {
            table.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
        let key = (shown.certificate.not_after, table.next);
        table.next += 1;
        let end = CancellationToken::new();
        let ended = Box::pin(end.clone().cancelled_owned());
        table.open.insert(key, Entry { shown, end });
        Lease {
            key,
            ended,
            inner: self.0.clone(),
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.serials()).finish()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends what has ended, for as long as somebody holds a connection or the credentials.
async fn sweep(connections: Weak<Inner>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = connections.upgrade() else {
            return;
        };
        let now = inner.env.now();
        for entry in inner.lock().open.range(..(now, 0)).map(|(_, entry)| entry) {
            if !entry.end.is_cancelled() {
                tracing::info!(
                    subject = %entry.shown.certificate.subject(),
                    serial = %entry.shown.certificate.serial,
                    "connection ended: its certificate has expired"
                );
                entry.end.cancel();
            }
        }
    }
}

/// A connection's place in the table, for as long as it is open.
pub(crate) struct Lease {
    key: Key,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    inner: Arc<Inner>,
}

impl Lease {
    /// Ready once the connection must end; wakes then.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ended.as_mut().poll(cx)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.lock().open.remove(&self.key);
    }
}
