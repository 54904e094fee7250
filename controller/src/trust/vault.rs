//! Where the authorities' keys lie.
//!
//! ```text
//!   DIR/authorities/FINGERPRINT/{certificate.pem, key.pem}      0600, directories 0700
//! ```
//!
//! A key appears as a whole or not at all: its directory is written under another name, flushed
//! and renamed. Keys of retired authorities are removed; whoever keeps a backup of them keeps the
//! power to sign for nobody.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use kapok_trust::{Authority, Fingerprint, authority};

const AUTHORITIES: &str = "authorities";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
/// What an unfinished directory's name begins with.
const UNFINISHED: &str = ".new-";

/// The authorities' keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None for a fabric that lives in memory only.
    dir: Option<PathBuf>,
    held: RwLock<BTreeMap<Fingerprint, Arc<Authority>>>,
}

/// Why keys can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("{}: can't be {doing}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file isn't what it should be.
    #[error("{}: is no authority's", path.display())]
    Damaged {
        /// The authority's directory.
        path: PathBuf,
        /// Why.
        source: authority::Error,
    },
    /// The key in a directory is another one than its name says.
    #[error("{}: holds the authority {found}", path.display())]
    Misplaced {
        /// The authority's directory.
        path: PathBuf,
        /// Whose key it holds.
        found: Fingerprint,
    },
}

impl Vault {
    /// Keys that end with the process: for fabrics that are simulated.
    pub fn memory() -> Self {
        Self(Arc::new(Inner {
            dir: None,
            held: RwLock::default(),
        }))
    }

    /// Reads the keys below a directory. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error`]: a key can't be read. One that isn't there is none.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let root = dir.join(AUTHORITIES);
        let mut held = BTreeMap::new();
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        for entry in entries.map_err(failed(&root, "read"))? {
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(UNFINISHED) {
                // Nobody has ever been told of it.
                fs::remove_dir_all(&path).map_err(failed(&path, "removed"))?;
                continue;
            }
            let Ok(named) = name.parse::<Fingerprint>() else {
                continue;
            };
            let authority = read(&path)?;
            let found = authority.fingerprint();
            if found != named {
                return Err(Error::Misplaced { path, found });
            }
            held.insert(named, Arc::new(authority));
        }
        Ok(Self(Arc::new(Inner {
            dir: Some(root),
            held: RwLock::new(held),
        })))
    }

    /// The authority with its key, if it is here.
    pub fn get(&self, fingerprint: Fingerprint) -> Option<Arc<Authority>> {
        self.held().get(&fingerprint).cloned()
    }

    /// All that are here.
    pub fn all(&self) -> Vec<Arc<Authority>> {
        self.held().values().cloned().collect()
    }

    /// Keeps an authority. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; nothing of it is left then.
    pub async fn put(&self, authority: Authority) -> Result<Arc<Authority>, Error> {
        let authority = Arc::new(authority);
        if let Some(root) = self.0.dir.clone() {
            let authority = authority.clone();
            blocking(move || write(&root, &authority)).await?;
        }
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        held.insert(authority.fingerprint(), authority.clone());
        Ok(authority)
    }

    /// Destroys an authority's key.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub async fn remove(&self, fingerprint: Fingerprint) -> Result<(), Error> {
        if let Some(root) = self.0.dir.clone() {
            blocking(move || {
                let path = root.join(fingerprint.to_string());
                let unfinished = root.join(format!("{UNFINISHED}{fingerprint}"));
                // First out of sight, so that no half of it is ever read.
                match fs::rename(&path, &unfinished) {
                    Ok(()) => fs::remove_dir_all(&unfinished).map_err(failed(&path, "removed")),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(failed(&path, "removed")(error)),
                }
            })
            .await?;
        }
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        held.remove(&fingerprint);
        Ok(())
    }

    fn held(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Fingerprint, Arc<Authority>>> {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs file work where it may block.
pub(super) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn read(path: &Path) -> Result<Authority, Error> {
    let text = |name: &str| {
        let file = path.join(name);
        fs::read_to_string(&file).map_err(failed(&file, "read"))
    };
    let (certificate, key) = (text(CERTIFICATE)?, zeroize::Zeroizing::new(text(KEY)?));
    Authority::from_pem(&certificate, &key).map_err(|source| Error::Damaged {
        path: path.to_owned(),
        source,
    })
}

fn write(root: &Path, authority: &Authority) -> Result<(), Error> {
    let name = authority.fingerprint().to_string();
    let (unfinished, path) = (root.join(format!("{UNFINISHED}{name}")), root.join(&name));
    make_dir(root)?;
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(failed(&unfinished, "removed"))?;
    }
    make_dir(&unfinished)?;
    write_secret(
        &unfinished.join(CERTIFICATE),
        authority.certificate_pem().as_bytes(),
    )?;
    write_secret(&unfinished.join(KEY), authority.key_pem().as_bytes())?;
    flush(&unfinished)?;
    fs::rename(&unfinished, &path).map_err(failed(&path, "made"))?;
    flush(root)
}

/// A new file that only its owner reads, flushed.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed(path, "made"))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed(path, "written"))
}

/// A directory that only its owner enters, with those above it.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path, "made"))
}

/// Makes the names in a directory durable.
pub(crate) fn flush(path: &Path) -> Result<(), Error> {
    fs::File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(failed(path, "flushed"))
}

pub(crate) fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io {
        path,
        doing,
        source,
    }
}
