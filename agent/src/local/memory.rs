//! A store in memory, for simulated nodes: small, and its writes can be made to fail.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use kapok_types::NodeId;

use super::{Change, Error, Keep, State};

/// What a simulated node's state directory holds. Clones are the same directory, so it survives
/// the agent that writes to it.
#[derive(Debug, Clone)]
pub struct Memory {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    node: NodeId,
    state: State,
    full: bool,
    writes: u64,
}

impl Memory {
    /// A fresh directory of a node with this id.
    pub fn new(node: NodeId) -> Self {
        let state = State {
            node: Some(node),
            ..State::default()
        };
        Self {
            inner: Arc::new(Mutex::new(Inner {
                node,
                state,
                full: false,
                writes: 0,
            })),
        }
    }

    /// Makes writes fail from now on, as on a full disk, or succeed again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Loses everything but the node's id, as if the file had been removed.
    pub fn lose(&self) {
        let mut inner = self.lock();
        inner.state = State {
            node: Some(inner.node),
            ..State::default()
        };
    }

    /// Writes that became durable so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    pub(super) fn node(&self) -> NodeId {
        self.lock().node
    }

    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keep for Memory {
    fn save(&self, changes: &[Change]) -> Result<Option<State>, Error> {
        let mut inner = self.lock();
        if inner.full {
            return Err(Error::Io {
                file: PathBuf::from("memory"),
                reason: "no space left on device".into(),
            });
        }
        for change in changes {
            inner.state.apply(change);
        }
        inner.writes += 1;
        Ok(None)
    }

    fn blocks(&self) -> bool {
        false
    }
}
