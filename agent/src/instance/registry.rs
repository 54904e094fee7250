//! All actors of the node: makes them, finds them, ends them.
//!
//! An actor that ends by a panic is noticed here and made again from what the hypervisor shows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt as _;
use kapok_types::IncarnationId;
use tokio_util::task::AbortOnDropHandle;

use super::{
    actor::{self, Context, Handle},
    state::Machine,
};
use crate::watch::Key;

/// All actors.
pub struct Registry {
    context: Arc<Context>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    actors: BTreeMap<IncarnationId, Entry>,
    closed: bool,
}

struct Entry {
    handle: Handle,
    task: AbortOnDropHandle<()>,
}

impl Registry {
    /// A registry without actors.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            all: Mutex::default(),
        }
    }

    /// What its actors share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The actor of an incarnation.
    pub fn get(&self, incarnation: IncarnationId) -> Option<Handle> {
        let all = self.lock();
        let entry = all.actors.get(&incarnation)?;
        (!entry.task.is_finished()).then(|| entry.handle.clone())
    }

    /// The actor of an incarnation, made from `machine` if there is none.
    pub fn get_or_spawn(
        &self,
        incarnation: IncarnationId,
        machine: impl FnOnce() -> Machine,
    ) -> Handle {
        let mut all = self.lock();
        if let Some(entry) = all.actors.get(&incarnation) {
            if !entry.task.is_finished() {
                return entry.handle.clone();
            }
            tracing::error!(%incarnation, "its runner ended early and is made again");
        }
        let (handle, run) = actor::new(Arc::clone(&self.context), machine());
        if all.closed {
            // Its queue is closed: whoever uses it is told so.
            return handle;
        }
        let entry = Entry {
            handle: handle.clone(),
            task: AbortOnDropHandle::new(tokio::spawn(run)),
        };
        all.actors.insert(incarnation, entry);
        handle
    }

    /// Ends an incarnation's actor; nothing will be said of it any more.
    pub fn remove(&self, incarnation: IncarnationId) {
        let entry = self.lock().actors.remove(&incarnation);
        drop(entry);
        self.context.hub.remove(Key::Instance(incarnation));
    }

    /// Removes actors whose runner ended: by itself, because nothing stands behind it, or by a
    /// panic, after which the next survey makes another.
    pub fn reap(&self) {
        let mut all = self.lock();
        let ended: Vec<_> = all
            .actors
            .iter()
            .filter(|(_, entry)| entry.task.is_finished())
            .map(|(incarnation, _)| *incarnation)
            .collect();
        for incarnation in ended {
            let outcome = all
                .actors
                .remove(&incarnation)
                .and_then(|entry| entry.task.now_or_never());
            if let Some(Ok(())) = outcome {
                self.context.hub.remove(Key::Instance(incarnation));
            } else {
                // What was published of it stays: nothing proves that it is gone.
                tracing::error!(%incarnation, "its runner panicked and is made again");
            }
        }
    }

    /// All incarnations that have an actor.
    pub fn incarnations(&self) -> Vec<IncarnationId> {
        self.lock().actors.keys().copied().collect()
    }

    /// Wakes one actor; false if there is none.
    pub fn look(&self, incarnation: IncarnationId) -> bool {
        let found = self.get(incarnation);
        found.inspect(Handle::look).is_some()
    }

    /// Wakes every actor.
    pub fn look_everywhere(&self) {
        for entry in self.lock().actors.values() {
            entry.handle.look();
        }
    }

    /// Ends all actors and takes no more. Guests run on.
    pub fn close(&self) {
        let actors = {
            let mut all = self.lock();
            all.closed = true;
            std::mem::take(&mut all.actors)
        };
        drop(actors);
    }

    /// Whether no actor is made any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
