//! The pool itself: where it is, what is in it, and what its absence means.
//!
//! Every call here may hang with the pool, so all of them are made through the lanes of storage.

use std::sync::{Arc, atomic::Ordering};

use kapok_libvirt::{
    Connection, Error as Failure, Kind,
    storage::{Pool, Volume},
};

use super::{
    Inner, Libvirt, error,
    lanes::{Call, LaneName},
    lock,
};
use crate::driver::Error;

impl Inner {
    /// The pool, started.
    pub(super) fn pool(&self, connection: &Connection) -> Result<Pool, Error> {
        let name = &self.options.pool;
        let failed = |reason| Error::Failed {
            call: "looking the pool up",
            reason,
        };
        let pool = match connection.pool(name) {
            Ok(pool) => pool,
            Err(failure) if failure.is(Kind::NotFound) => {
                return Err(failed(format!(
                    "libvirt has no storage pool {name:?}; define it, or name another in agent.toml"
                )));
            }
            Err(failure) => return Err(from(failure)),
        };
        if pool.is_active().map_err(from)? {
            Ok(pool)
        } else {
            Err(failed(format!(
                "the storage pool {name:?} isn't started: virsh pool-start {name}"
            )))
        }
    }

    /// The pool, and its folder, noted for calls on domains.
    pub(super) fn pool_at(&self, connection: &Connection) -> Result<(Pool, String), Error> {
        let pool = self.pool(connection)?;
        let view = pool.view().map_err(from)?;
        let path = view.target_path.ok_or_else(|| Error::Failed {
            call: "looking the pool up",
            reason: format!("the pool {:?} has no folder", self.options.pool),
        })?;
        *lock(&self.pool_path) = Some(path.clone());
        Ok((pool, path))
    }

    /// Notes the pool's folder by the path of a volume in it.
    pub(super) fn note_folder_of(&self, volume: &str) {
        if let Some((folder, _)) = volume.rsplit_once('/') {
            *lock(&self.pool_path) = Some(folder.to_owned());
        }
    }

    pub(super) fn known_pool_path(&self) -> Option<String> {
        lock(&self.pool_path).clone()
    }
}

impl Libvirt {
    /// The pool's folder. Once it is known the pool isn't asked: a hung one must not keep calls on
    /// domains waiting. Each new root disk looks at it anew.
    pub(super) async fn pool_path(&self) -> Result<String, Error> {
        if let Some(known) = self.inner.known_pool_path() {
            return Ok(known);
        }
        let inner = Arc::clone(&self.inner);
        self.lanes
            .run(Call::on(LaneName::Storage), move |connection| {
                inner.pool_at(connection).map(|(_, path)| path)
            })
            .await
    }

    /// Has somebody ask for the pool's folder if it isn't known yet; it may stay so for a while.
    pub(super) fn learn_pool_path(&self) {
        let inner = Arc::clone(&self.inner);
        if inner.known_pool_path().is_some() || inner.learning.swap(true, Ordering::SeqCst) {
            return;
        }
        // Also when the call is refused, it is dropped, and the next listing tries again.
        let learning = Learning(inner);
        let posted = self
            .lanes
            .post(Call::on(LaneName::Storage), move |connection| {
                if let Err(error) = learning.0.pool_at(connection) {
                    tracing::debug!(%error, "the pool's folder isn't known");
                }
                Ok(())
            });
        if let Err(error) = posted {
            tracing::debug!(%error, "the pool's folder isn't known");
        }
    }
}

/// A call that asks for the pool's folder waits or runs.
struct Learning(Arc<Inner>);

impl Drop for Learning {
    fn drop(&mut self) {
        self.0.learning.store(false, Ordering::SeqCst);
    }
}

/// The volume with this name, by libvirt's list.
pub(super) fn find(pool: &Pool, name: &str) -> Result<Option<Volume>, Error> {
    found(pool.volume(name))
}

fn found<T>(outcome: Result<T, Failure>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(volume) => Ok(Some(volume)),
        Err(failure) if failure.is_no_volume() => Ok(None),
        Err(failure) => Err(from(failure)),
    }
}

/// Makes libvirt look at the disk. While it fills a volume it can't, and its list is kept anew
/// by itself.
pub(super) fn refresh(pool: &Pool) -> Result<(), Error> {
    match pool.refresh() {
        Err(failure) if failure.is(Kind::Busy) => Err(Error::Busy { lane: "storage" }),
        other => other.map_err(from),
    }
}

/// As [`refresh`], where libvirt's list of before has to do while it fills a volume.
pub(super) fn refresh_if_free(pool: &Pool) -> Result<(), Error> {
    match refresh(pool) {
        Err(Error::Busy { .. }) => Ok(()),
        other => other,
    }
}

/// The path that a volume stands on. One that went away meanwhile stands on nothing.
pub(super) fn backing_of(volume: &Volume) -> Result<Option<String>, Error> {
    let view = found(volume.view())?;
    Ok(view
        .and_then(|view| view.backing)
        .map(|backing| backing.path))
}

/// Removes a volume; one that is gone is removed.
pub(super) fn delete(volume: &Volume) -> Result<(), Error> {
    found(volume.delete()).map(drop)
}

/// What a failed call on the pool or a volume means. That the *pool* is gone proves nothing about
/// a volume: its file lies where it lay.
pub(super) fn from(failure: Failure) -> Error {
    if failure.is(Kind::NotFound) && !failure.is_no_volume() {
        return Error::Failed {
            call: failure.call,
            reason: failure.message,
        };
    }
    error::from(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: `virterror.h`.
    const NO_POOL: i32 = 49;
    const NO_VOLUME: i32 = 50;

    #[test]
    fn a_missing_pool_is_no_missing_volume() {
        let failure = |code| Failure {
            kind: Kind::NotFound,
            call: "virStorageVolLookupByName",
            code,
            message: "no such thing".into(),
        };
        assert_eq!(found::<()>(Err(failure(NO_VOLUME))), Ok(None));
        let gone = found::<()>(Err(failure(NO_POOL)));
        assert!(matches!(gone, Err(Error::Failed { .. })), "{gone:?}");
        let absent = from(failure(NO_VOLUME));
        assert!(matches!(absent, Error::Absent { .. }), "{absent:?}");
    }
}
