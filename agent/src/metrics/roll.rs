//! Which instance each of Kapok's domains is, as the last survey found it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kapok_types::{InstanceId, MemoryMib, Name, Vcpus};
use uuid::Uuid;

use crate::driver::Listing;

/// The roll. Cheap to clone; [`dispatch`](crate::dispatch) writes it.
#[derive(Debug, Clone, Default)]
pub struct Roll(Arc<Mutex<BTreeMap<Uuid, Entry>>>);

/// An instance, as its domain's record names it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) instance: InstanceId,
    pub(crate) name: Name,
    pub(crate) memory: MemoryMib,
    pub(crate) vcpus: Vcpus,
}

impl Roll {
    /// Notes what was listed. One that was silent stays as it was.
    pub(crate) fn take(&self, listing: &Listing) {
        let mut held = self.lock();
        let mut old = std::mem::take(&mut *held);
        for seen in &listing.ours {
            let intent = &seen.record.intent;
            let entry = Entry {
                instance: intent.instance,
                name: intent.name.clone(),
                memory: intent.spec.memory,
                vcpus: intent.spec.vcpus,
            };
            held.insert(intent.incarnation.0, entry);
        }
        for silent in &listing.silent {
            if let Some(entry) = old.remove(&silent.0) {
                held.entry(silent.0).or_insert(entry);
            }
        }
    }

    /// Whether a domain is one of Kapok's.
    pub(crate) fn has(&self, domain: Uuid) -> bool {
        self.lock().contains_key(&domain)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
