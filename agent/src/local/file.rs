//! The store in a file: redb, every write durable before it returns.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use kapok_types::Timestamp;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use super::{Change, Error, Keep, State};

/// The store's file in the state directory.
pub const FILE: &str = "agent.redb";

/// The newest form that this version knows.
const VERSION: u32 = 1;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kapok");

/// Opens the database; called again after a failed write.
type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

pub(super) struct File {
    path: PathBuf,
    open: Open,
    /// None after a failed write: what is on disk must be read first.
    database: Mutex<Option<Database>>,
}

impl File {
    /// Opens the store of `dir`, or makes a fresh one whole and moves it into place.
    pub(super) fn open(dir: &Path) -> Result<(Self, State), Error> {
        let path = dir.join(FILE);
        let failed = |error: io::Error| Error::Io {
            file: path.clone(),
            reason: error.to_string(),
        };
        fs::create_dir_all(dir).map_err(failed)?;
        match fs::metadata(&path) {
            // Opening never makes one: an empty file is a damaged store.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fresh = path.with_extension("new");
                match fs::remove_file(&fresh) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed(error));
                    }
                    _ => {}
                }
                let database = Database::create(&fresh).map_err(|e| refusal(&path, e))?;
                initialize(&database).map_err(|error| Error::Io {
                    file: path.clone(),
                    reason: error.to_string(),
                })?;
                drop(database);
                fs::rename(&fresh, &path).map_err(failed)?;
                fs::File::open(dir)
                    .and_then(|dir| dir.sync_all())
                    .map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let again = path.clone();
        Self::with(
            path,
            Box::new(move || {
                Database::builder()
                    .set_check_integrity_on_open(true)
                    .open(&again)
            }),
        )
    }

    pub(super) fn with(path: PathBuf, open: Open) -> Result<(Self, State), Error> {
        let (database, state) = load(&path, &open)?;
        let keep = Self {
            path,
            open,
            database: Mutex::new(Some(database)),
        };
        Ok((keep, state))
    }
}

impl Keep for File {
    fn save(&self, changes: &[Change]) -> Result<Option<State>, Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read_again = None;
        let open = if let Some(open) = database.take() {
            open
        } else {
            let (open, mut state) = load(&self.path, &self.open)?;
            for change in changes {
                state.apply(change);
            }
            read_again = Some(state);
            open
        };
        // Not put back on failure: whether the write landed is only known by reading.
        write(&open, changes).map_err(|error| Error::Io {
            file: self.path.clone(),
            reason: error.to_string(),
        })?;
        *database = Some(open);
        Ok(read_again)
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// Moves the file aside; none there is fine.
pub(super) fn move_aside(dir: &Path, now: Timestamp) -> Result<PathBuf, Error> {
    let path = dir.join(FILE);
    let aside = dir.join(format!("{FILE}.damaged-{}", now.get()));
    match fs::rename(&path, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io {
            file: path,
            reason: error.to_string(),
        }),
        _ => Ok(aside),
    }
}

fn refusal(path: &Path, error: DatabaseError) -> Error {
    let file = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::InUse { file },
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData
                && error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            Error::Io {
                file,
                reason: error.to_string(),
            }
        }
        other => Error::Damaged {
            file,
            reason: other.to_string(),
        },
    }
}

/// Opens and reads everything, with all checksums. redb may panic on a file that was altered
/// outside: that too is a damaged file.
fn load(path: &Path, open: &Open) -> Result<(Database, State), Error> {
    catch_unwind(AssertUnwindSafe(|| {
        let database = open().map_err(|error| refusal(path, error))?;
        let state = read(path, &database)?;
        Ok((database, state))
    }))
    .unwrap_or_else(|_| {
        Err(Error::Damaged {
            file: path.to_owned(),
            reason: "its structure is broken".into(),
        })
    })
}

fn read(path: &Path, database: &Database) -> Result<State, Error> {
    let damaged = |reason: String| Error::Damaged {
        file: path.to_owned(),
        reason,
    };
    let entries = (|| -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let reading = database.begin_read()?;
        let table = reading.open_table(TABLE)?;
        let mut entries = Vec::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            entries.push((key.value().to_owned(), value.value().to_owned()));
        }
        Ok(entries)
    })()
    .map_err(|error| damaged(error.to_string()))?;
    let version = entries.iter().find(|(key, _)| key == "version");
    let (_, version) = version.ok_or_else(|| damaged("it has no version".into()))?;
    let found: u32 = decode(version).map_err(damaged)?;
    if found > VERSION {
        return Err(Error::Newer {
            file: path.to_owned(),
            found,
            known: VERSION,
        });
    }
    let mut state = State::default();
    for (key, value) in &entries {
        let change = match key.split_once('/').unwrap_or((key, "")) {
            ("version", _) => continue,
            ("node", _) => decode(value).map(Change::Node),
            ("epoch", _) => decode(value).map(Change::Epoch),
            ("resynced", _) => decode(value).map(|()| Change::Resynced),
            ("tombstone", _) => decode(value).map(Change::Bury),
            ("image", digest) => digest
                .parse()
                .map_err(|violation: kapok_types::Violation| violation.to_string())
                .and_then(|digest| decode(value).map(|image| Change::Image(digest, image))),
            ("probe", _) => decode(value).map(Change::Probe),
            ("head", place) => place
                .parse()
                .map(|place| Change::Head(place, value.clone().into()))
                .map_err(|error: std::num::ParseIntError| error.to_string()),
            _ => Err(format!("it has the unknown key {key}")),
        };
        state.apply(&change.map_err(damaged)?);
    }
    Ok(state)
}

pub(super) fn initialize(database: &Database) -> Result<(), redb::Error> {
    let mut writing = database.begin_write()?;
    writing.set_durability(redb::Durability::Immediate)?;
    {
        let mut table = writing.open_table(TABLE)?;
        table.insert("version", encode(&VERSION).as_slice())?;
    }
    writing.commit()?;
    Ok(())
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let mut writing = database.begin_write()?;
    writing.set_durability(redb::Durability::Immediate)?;
    {
        let mut table = writing.open_table(TABLE)?;
        for change in changes {
            let (key, value) = match change {
                Change::Node(node) => ("node".to_owned(), Some(encode(node))),
                Change::Epoch(epoch) => ("epoch".to_owned(), Some(encode(epoch))),
                Change::Resynced => ("resynced".to_owned(), Some(encode(&()))),
                Change::Bury(it) => (format!("tombstone/{}", it.incarnation), Some(encode(it))),
                Change::Forget(id) => (format!("tombstone/{id}"), None),
                Change::Image(digest, image) => (format!("image/{digest}"), Some(encode(image))),
                Change::DropImage(digest) => (format!("image/{digest}"), None),
                Change::Probe(result) => ("probe".to_owned(), Some(encode(result))),
                Change::Head(place, sealed) => (head(*place), Some(sealed.to_vec())),
                Change::DropHead(place) => (head(*place), None),
            };
            match value {
                Some(value) => {
                    table.insert(key.as_str(), value.as_slice())?;
                }
                None => {
                    table.remove(key.as_str())?;
                }
            }
        }
    }
    writing.commit()?;
    Ok(())
}

/// Padded, so that the file has them in order.
fn head(place: u64) -> String {
    format!("head/{place:020}")
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of ours always encode; an empty value would be refused when read.
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}
