//! The directory of the present tenants and users.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Directory;

/// Keeps the [`Directory`] of the state that it was last asked about.
///
/// The key is something cheap to compare that differs whenever tenants or users differ: persistent
/// maps compared by their root, or a version.
#[derive(Debug)]
pub struct Cache<K> {
    kept: Mutex<Kept<K>>,
}

#[derive(Debug)]
struct Kept<K> {
    of: Option<(K, Arc<Directory>)>,
    builds: u64,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            kept: Mutex::new(Kept {
                of: None,
                builds: 0,
            }),
        }
    }
}

impl<K: PartialEq> Cache<K> {
    /// The directory of a state; built if the last one asked about was another.
    pub fn get(&self, key: K, build: impl FnOnce() -> Directory) -> Arc<Directory> {
        // A build that panicked left what was there before it.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, directory)) = &kept.of
            && *of == key
        {
            return Arc::clone(directory);
        }
        let directory = Arc::new(build());
        kept.builds += 1;
        kept.of = Some((key, Arc::clone(&directory)));
        directory
    }

    /// How many were built so far.
    pub fn builds(&self) -> u64 {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .builds
    }
}
