//! The hub: the latest state of every thing, and who wants to hear of changes.
//!
//! Each subscriber gets a snapshot and then changes, in order. Changes to one thing that a slow
//! subscriber hasn't read yet are folded into the latest one, so nothing is queued for it and
//! nothing goes stale: it holds a position in the hub, not a buffer. One that falls [`MAX_LAG`]
//! changes behind is let go, because things that are no more are kept until all have heard of it.
//!
//! Actors, [`dispatch`](crate::dispatch) and [`health`](crate::health) publish; the server
//! subscribes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kapok_types::{IncarnationId, phase::Status};
use tokio::sync::watch;
use uuid::Uuid;

use self::facts::NodeFacts;
use crate::{
    driver::Foreign,
    health::{HealthNews, PartNews},
};

pub mod facts;

/// Most changes that a subscriber may be behind.
const MAX_LAG: u64 = 50_000;

/// What an item is about; orders a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The node itself.
    Node,
    /// An incarnation.
    Instance(IncarnationId),
    /// A foreign domain.
    Foreign(Uuid),
    /// How the server does.
    Health,
    /// What the server is made of.
    Parts,
}

/// The present state of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The node's facts.
    Node(NodeFacts),
    /// An incarnation.
    Instance(Status),
    /// A foreign domain.
    Foreign(Foreign),
    /// How the server does.
    Health(HealthNews),
    /// What the server is made of.
    Parts(PartNews),
}

/// A change: the new state, or none when the thing is no more.
pub type Change = (Key, Option<Arc<Item>>);

#[derive(Debug)]
struct Entry {
    revision: u64,
    item: Option<Arc<Item>>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    entries: BTreeMap<Key, Entry>,
    by_revision: BTreeMap<u64, Key>,
    /// Positions of subscribers; what all have passed and is removed can be dropped.
    positions: BTreeMap<u64, u64>,
    next_subscriber: u64,
}

/// The hub; shared by reference.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    moved: watch::Sender<u64>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            moved: watch::Sender::new(0),
        }
    }
}

impl Hub {
    /// Publishes the state of a thing; the same state again is no change.
    pub fn put(&self, key: Key, item: Item) {
        let mut inner = self.lock();
        let same = inner
            .entries
            .get(&key)
            .and_then(|entry| entry.item.as_deref())
            .is_some_and(|held| *held == item);
        if !same {
            self.set(&mut inner, key, Some(Arc::new(item)));
        }
    }

    /// Publishes that a thing is no more.
    pub fn remove(&self, key: Key) {
        let mut inner = self.lock();
        let present = inner
            .entries
            .get(&key)
            .is_some_and(|entry| entry.item.is_some());
        if present {
            self.set(&mut inner, key, None);
            inner.sweep();
        }
    }

    /// The present state of a thing.
    pub fn get(&self, key: Key) -> Option<Arc<Item>> {
        self.lock().entries.get(&key)?.item.clone()
    }

    /// Everything at present, in the order of keys.
    pub fn all(&self) -> Vec<Arc<Item>> {
        let inner = self.lock();
        inner
            .entries
            .values()
            .filter_map(|entry| entry.item.clone())
            .collect()
    }

    /// The incarnation's status as last published.
    pub fn status(&self, incarnation: IncarnationId) -> Option<Status> {
        match self.get(Key::Instance(incarnation))?.as_ref() {
            Item::Instance(status) => Some(status.clone()),
            _ => None,
        }
    }

    /// Subscribes: everything at present, and a position to read changes from.
    pub fn subscribe(self: &Arc<Self>) -> (Vec<Arc<Item>>, Subscription) {
        let mut inner = self.lock();
        let id = inner.next_subscriber;
        inner.next_subscriber += 1;
        let revision = inner.revision;
        inner.positions.insert(id, revision);
        let items = inner
            .entries
            .values()
            .filter_map(|entry| entry.item.clone())
            .collect();
        let moved = self.moved.subscribe();
        drop(inner);
        let subscription = Subscription {
            hub: Arc::clone(self),
            id,
            position: revision,
            moved,
        };
        (items, subscription)
    }

    fn set(&self, inner: &mut Inner, key: Key, item: Option<Arc<Item>>) {
        inner.revision += 1;
        let revision = inner.revision;
        if let Some(old) = inner.entries.insert(key, Entry { revision, item }) {
            inner.by_revision.remove(&old.revision);
        }
        inner.by_revision.insert(revision, key);
        let oldest = revision.saturating_sub(MAX_LAG);
        inner.positions.retain(|_, position| *position >= oldest);
        self.moved.send_replace(revision);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Drops removed things that every subscriber has heard of.
    fn sweep(&mut self) {
        let passed = self.positions.values().min().copied().unwrap_or(u64::MAX);
        let by_revision = &mut self.by_revision;
        self.entries.retain(|_, entry| {
            let keep = entry.item.is_some() || entry.revision > passed;
            if !keep {
                by_revision.remove(&entry.revision);
            }
            keep
        });
    }
}

/// One subscriber's position. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    position: u64,
    moved: watch::Receiver<u64>,
}

impl Subscription {
    /// Up to `most` changes, oldest first; waits while there are none. None for one that fell
    /// too far behind: it must subscribe again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the position moves only when changes are given.
    pub async fn next(&mut self, most: usize) -> Option<Vec<Change>> {
        loop {
            self.moved.borrow_and_update();
            let changes = self.take(most)?;
            if !changes.is_empty() {
                return Some(changes);
            }
            // The hub is held by this subscription, so its sender lives.
            self.moved.changed().await.ok()?;
        }
    }

    fn take(&mut self, most: usize) -> Option<Vec<Change>> {
        let mut inner = self.hub.lock();
        if !inner.positions.contains_key(&self.id) {
            return None;
        }
        let mut changes = Vec::new();
        let mut position = self.position;
        for (revision, key) in inner.by_revision.range(self.position + 1..).take(most) {
            position = *revision;
            let item = inner.entries.get(key).and_then(|entry| entry.item.clone());
            changes.push((*key, item));
        }
        if position != self.position {
            self.position = position;
            inner.positions.insert(self.id, position);
            if changes.iter().any(|(_, item)| item.is_none()) {
                inner.sweep();
            }
        }
        Some(changes)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        inner.positions.remove(&self.id);
        inner.sweep();
    }
}

#[cfg(test)]
mod tests;
