//! The engine's life: made, opened, verified, locked, and opened afresh after a failure.
//!
//! redb refuses every call after a failed one until it is opened again, and what a failed commit
//! left behind shows only then. So [`Engine::with`] drops a failed engine and the next call opens
//! it, with the whole verification of a first opening. While the cause lasts (a full disk), each
//! call says so.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use ::redb::{
    Builder, Database, Durability, ReadableDatabase as _, ReadableTable as _, WriteTransaction,
};
use kapok_types::{Epoch, Seq};
use tokio::sync::watch;

use super::{
    MemoryDisk, tables,
    writes::{Failure, leads_to},
};
use crate::{Error, Head, Leader};

/// Memory that redb may use for its pages; the fabric itself is in memory already.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Where the store's bytes live.
#[derive(Debug)]
pub(super) enum Home {
    File(PathBuf),
    Memory(MemoryDisk),
}

/// The leadership in force, as far as this process knows.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) epoch: Epoch,
    pub(super) lost: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) struct Engine {
    home: Home,
    /// Nothing while it failed and was not opened again yet.
    database: RwLock<Option<Database>>,
    failed: AtomicBool,
    /// The head as last committed or found, for followers.
    pub(super) head: watch::Sender<Seq>,
    pub(super) leader: Mutex<Option<InForce>>,
    /// Who that is, for followers.
    pub(super) leaders: watch::Sender<Option<Leader>>,
}

/// Runs `call`; a panic of the engine, which its checks for impossible states are in debug
/// builds, becomes an error.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| tables::corrupt("the engine met a state that no store can have"))
}

/// Turns what redb says into what the store says.
pub(super) fn failed<E: Into<::redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
    move |error| match error.into() {
        ::redb::Error::Io(source) => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Error::Full {
                    doing,
                    source: source.into(),
                }
            }
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                tables::corrupt(format!("{doing}: {source}"))
            }
            _ => Error::Io {
                doing,
                source: source.into(),
            },
        },
        ::redb::Error::Corrupted(what) => tables::corrupt(format!("{doing}: {what}")),
        error @ (::redb::Error::TableTypeMismatch { .. }
        | ::redb::Error::TableDoesNotExist(_)
        | ::redb::Error::TableIsMultimap(_)
        | ::redb::Error::TypeDefinitionChanged { .. }
        | ::redb::Error::UpgradeRequired(_)) => tables::corrupt(format!("{doing}: {error}")),
        error => Error::Io {
            doing,
            source: error.into(),
        },
    }
}

impl Engine {
    /// Opens the store at `home`, or makes it where nothing is.
    pub(super) fn open(home: Home) -> Result<Self, Error> {
        let (database, head) = guarded(|| home.open())??;
        tracing::debug!(head = head.seq.get(), "store opened");
        Ok(Self {
            home,
            database: RwLock::new(Some(database)),
            failed: AtomicBool::new(false),
            head: watch::Sender::new(head.seq),
            leader: Mutex::new(None),
            leaders: watch::Sender::new(None),
        })
    }

    /// Whether calls are made in place, not on the blocking pool.
    pub(super) const fn is_inline(&self) -> bool {
        matches!(self.home, Home::Memory(_))
    }

    /// Tells followers how far the log reaches now.
    pub(super) fn publish(&self, head: Seq) {
        self.head.send_if_modified(|known| {
            let newer = head > *known;
            *known = head.max(*known);
            newer
        });
    }

    /// Runs `call` on the open engine, after opening it again if it failed before.
    pub(super) fn with<T, E: Failure>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = guard.as_ref()
                && !self.failed.load(Ordering::Acquire)
            {
                // Set during the call: a panic inside must not leave a broken engine in use.
                let called = guarded(|| call(database));
                let result = called.unwrap_or_else(|panic| Err(E::unknown(panic)));
                if result
                    .as_ref()
                    .is_err_and(|error| leads_to(error).is_some())
                {
                    self.failed.store(true, Ordering::Release);
                }
                return result;
            }
            drop(guard);
            self.reopen()?;
        }
    }

    fn reopen(&self) -> Result<(), Error> {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() && !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        tracing::warn!("the store failed and is opened afresh");
        guarded(|| *slot = None)?;
        let (database, head) = guarded(|| self.home.open())??;
        *slot = Some(database);
        self.failed.store(false, Ordering::Release);
        drop(slot);
        self.publish(head.seq);
        Ok(())
    }

    /// Runs `call` in a write transaction and commits it durably if it succeeds.
    pub(super) fn transact<T, E: Failure>(
        &self,
        call: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact_as(Durability::Immediate, call)
    }

    /// Runs `call` in a write transaction that is durable along with the next one that is, or gone
    /// with a crash before: for what nobody was told of.
    pub(super) fn transact_softly<T, E: Failure>(
        &self,
        call: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact_as(Durability::None, call)
    }

    fn transact_as<T, E: Failure>(
        &self,
        durability: Durability,
        call: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.with(|database| {
            let mut transaction = begin(database)?;
            transaction
                .set_durability(durability)
                .map_err(|error| tables::corrupt(format!("beginning a write: {error}")))?;
            let value = call(&transaction)?;
            let committed = transaction
                .commit()
                .map_err(failed("committing to the store"));
            committed.map_err(E::unknown)?;
            Ok(value)
        })
    }
}

/// A write transaction of the kind that this store uses throughout.
fn begin(database: &Database) -> Result<WriteTransaction, Error> {
    let mut transaction = database
        .begin_write()
        .map_err(failed("beginning a write"))?;
    // See the module above: damage is reported, never taken for a commit that didn't finish.
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

impl Home {
    fn open(&self) -> Result<(Database, Head), Error> {
        let database = match self {
            Self::File(path) => {
                if !path.try_exists().map_err(failed("looking for the store"))? {
                    create(path)?;
                }
                engine(path, builder().open(path))?
            }
            Self::Memory(disk) => {
                let blank = disk.is_blank();
                let handle = disk.open()?;
                let opened = builder().create_with_backend(handle);
                let database = opened.map_err(failed("opening the store"))?;
                if blank {
                    initialise(&database)?;
                }
                database
            }
        };
        let head = verify(&database)?;
        Ok((database, head))
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

fn engine(path: &Path, opened: Result<Database, ::redb::DatabaseError>) -> Result<Database, Error> {
    opened.map_err(|error| match error {
        ::redb::DatabaseError::DatabaseAlreadyOpen => Error::Locked {
            path: path.to_path_buf(),
        },
        error => failed("opening the store")(error),
    })
}

/// Makes a new store beside `path` and links it there once it is whole, so that a crash half-way
/// leaves no half store, and nobody's store is ever replaced.
fn create(path: &Path) -> Result<(), Error> {
    const DOING: &str = "making the store";
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);

    // Not readable by others: the log says who did what.
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.open(&draft).map_err(failed(DOING))?;
    let database = match engine(path, builder().create(&draft)) {
        Err(Error::Corrupt { .. }) => {
            // Left by a crash while it was made; nothing was ever stored in it.
            std::fs::remove_file(&draft).map_err(failed(DOING))?;
            options.open(&draft).map_err(failed(DOING))?;
            engine(path, builder().create(&draft))?
        }
        made => made?,
    };
    initialise(&database)?;
    database.close().map_err(failed(DOING))?;
    match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(DOING)(error)),
        _ => {}
    }
    std::fs::remove_file(&draft).map_err(failed(DOING))?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new("."))).map_err(failed(DOING))?;
    folder.sync_all().map_err(failed(DOING))
}

fn initialise(database: &Database) -> Result<(), Error> {
    const DOING: &str = "making the store";
    let transaction = begin(database)?;
    {
        let mut meta = transaction
            .open_table(tables::META)
            .map_err(failed(DOING))?;
        meta.insert(tables::FORMAT, tables::format_bytes().as_slice())
            .map_err(failed(DOING))?;
        let head = tables::head_bytes(Head::default());
        meta.insert(tables::HEAD, head.as_slice())
            .map_err(failed(DOING))?;
        for zero in [tables::EPOCH, tables::LOG_BYTES] {
            meta.insert(zero, 0_u64.to_be_bytes().as_slice())
                .map_err(failed(DOING))?;
        }
        transaction.open_table(tables::LOG).map_err(failed(DOING))?;
        transaction
            .open_table(tables::OBJECTS)
            .map_err(failed(DOING))?;
        for parts in [tables::STAGED, tables::SETTLING] {
            transaction.open_table(parts).map_err(failed(DOING))?;
        }
    }
    transaction.commit().map_err(failed(DOING))
}

/// Checks the format, and that the head is the one of the log's last batch or, where the log was
/// trimmed empty, of the checkpoint, or where it begins. The rest of the chain is verified as it is
/// read.
fn verify(database: &Database) -> Result<Head, Error> {
    const DOING: &str = "verifying the store";
    let transaction = database.begin_read().map_err(failed(DOING))?;
    let meta = transaction
        .open_table(tables::META)
        .map_err(failed(DOING))?;
    match tables::number(&meta, tables::FORMAT)? {
        Some(0) | None => return Err(tables::corrupt("it has no format")),
        Some(found) if found > u64::from(tables::KNOWN_FORMAT) => {
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            return Err(Error::Newer {
                found,
                known: tables::KNOWN_FORMAT,
            });
        }
        Some(_) => {}
    }
    let head = tables::head(&meta, tables::HEAD)?.ok_or_else(|| tables::corrupt("no head"))?;
    tables::number(&meta, tables::EPOCH)?.ok_or_else(|| tables::corrupt("no epoch"))?;
    tables::number(&meta, tables::LOG_BYTES)?.ok_or_else(|| tables::corrupt("no size"))?;
    let log = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
    let end = match log.last().map_err(failed(DOING))? {
        Some((_, value)) => super::reads::batch(value.value())?.head(),
        None => match tables::head(&meta, tables::CHECKPOINT)? {
            Some(checkpoint) => checkpoint,
            None => tables::head(&meta, tables::BEGUN)?.unwrap_or_default(),
        },
    };
    if end != head {
        let (end, head) = (end.seq, head.seq);
        return Err(tables::corrupt(format!(
            "its head is at {head} and its log ends at {end}"
        )));
    }
    Ok(head)
}
