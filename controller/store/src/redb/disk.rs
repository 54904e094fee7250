//! A disk in memory, for stores that need not last and for tests of what disks do.
//!
//! It outlives the stores opened on it, one at a time, as a file does. A recording one can lose
//! its power: what was written since the last sync is then gone, from any write on.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ::redb::StorageBackend;

use crate::Error;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// How a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing more can be written; what is there can be read and synced.
    Full,
    /// Writes and syncs fail without effect; reads work.
    Unwritable,
    /// Syncs do their work, and fail all the same.
    SyncUnheard,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Which opening is the current one; earlier handles are dead.
    opening: u64,
    open: bool,
    fault: Option<Planned>,
    journal: Option<Journal>,
}

#[derive(Debug, Clone, Copy)]
struct Planned {
    after_calls: u64,
    fault: Fault,
}

/// What was synced, and every change since.
#[derive(Debug, Default)]
struct Journal {
    synced: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            bytes,
            opening,
            open,
            fault,
            ..
        } = self;
        f.debug_struct("State")
            .field("len", &bytes.len())
            .field("opening", opening)
            .field("open", open)
            .field("fault", fault)
            .finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// A blank disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A blank disk that records what was not synced yet, so that [`MemoryDisk::lose_power`] can
    /// take it away. Costs the disk's size again.
    pub fn recording() -> Self {
        let disk = Self::new();
        disk.state().journal = Some(Journal::default());
        disk
    }

    /// Lets `after_calls` more writes, resizes and syncs pass and then fails as `fault` says,
    /// until [`MemoryDisk::heal`].
    pub fn fail(&self, after_calls: u64, fault: Fault) {
        self.state().fault = Some(Planned { after_calls, fault });
    }

    /// Whether no fault has been met: none was planned, or it is still to come.
    pub fn is_well(&self) -> bool {
        let state = self.state();
        (state.fault.as_ref()).is_none_or(|planned| planned.after_calls > 0)
    }

    /// Ends the fault.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// How many changes were made since the last sync; 0 on a disk that doesn't record.
    pub fn unsynced(&self) -> usize {
        self.state()
            .journal
            .as_ref()
            .map_or(0, |journal| journal.changes.len())
    }

    /// Cuts the power: the open store is cut off, and of what was not synced only the first
    /// `kept` changes stay. On a disk that doesn't record, all of them do.
    pub fn lose_power(&self, kept: usize) {
        let mut state = self.state();
        state.opening = state.opening.wrapping_add(1);
        state.open = false;
        if let Some(mut journal) = state.journal.take() {
            journal.changes.truncate(kept);
            journal.sync();
            state.bytes.clone_from(&journal.synced);
            state.journal = Some(journal);
        }
    }

    /// A copy of what is on the disk.
    pub fn image(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// A disk with `image` on it.
    pub fn with_image(image: Vec<u8>) -> Self {
        let disk = Self::new();
        disk.state().bytes = image;
        disk
    }

    pub(super) fn is_blank(&self) -> bool {
        self.state().bytes.is_empty()
    }

    /// Opens the disk for one store.
    pub(super) fn open(&self) -> Result<Handle, Error> {
        let mut state = self.state();
        if state.open {
            return Err(Error::Locked {
                path: PathBuf::from("(in memory)"),
            });
        }
        state.open = true;
        state.opening = state.opening.wrapping_add(1);
        Ok(Handle {
            disk: self.clone(),
            opening: state.opening,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            change.apply(&mut self.synced);
        }
    }
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset.saturating_add(data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[offset..end].copy_from_slice(&data);
            }
            Self::Resize(len) => bytes.resize(len, 0),
        }
    }
}

impl State {
    /// The fault that this call meets, if any.
    fn fault(&mut self) -> Option<Fault> {
        let planned = self.fault.as_mut()?;
        if planned.after_calls > 0 {
            planned.after_calls -= 1;
            return None;
        }
        Some(planned.fault)
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        match self.fault() {
            Some(Fault::Full) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Unwritable) => return Err(io::Error::other("the disk can't be written")),
            Some(Fault::SyncUnheard) | None => {}
        }
        if let Some(journal) = self.journal.as_mut() {
            journal.changes.push(change.clone());
        }
        change.apply(&mut self.bytes);
        Ok(())
    }
}

/// One opening of the disk.
#[derive(Debug)]
pub(super) struct Handle {
    disk: MemoryDisk,
    opening: u64,
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.opening == self.opening {
            Ok(state)
        } else {
            Err(io::Error::other("the disk lost its power"))
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state() {
            state.open = false;
        }
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.state()?.bytes.len()).unwrap_or(u64::MAX))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, offset) = (self.state()?, position(offset)?);
        let found = state.bytes.get(offset..offset.saturating_add(out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state()?.change(Change::Resize(position(len)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let fault = state.fault();
        if fault == Some(Fault::Unwritable) {
            return Err(io::Error::other("the disk can't be synced"));
        }
        if let Some(journal) = state.journal.as_mut() {
            journal.sync();
        }
        if fault == Some(Fault::SyncUnheard) {
            return Err(io::Error::other("the disk didn't say whether it synced"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let change = Change::Write {
            offset: position(offset)?,
            data: data.to_vec(),
        };
        self.state()?.change(change)
    }
}
