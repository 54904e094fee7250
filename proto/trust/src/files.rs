//! A material on disk.
//!
//! ```text
//!  DIR/current ──> version-7/   chain.pem  key.pem  bundle.pem  crl.pem
//! ```
//!
//! **Invariant:** `current` names a directory whose four files were written and flushed before it
//! was; a reader sees the old material or the new, never a certificate with another's key. Files
//! are 0600 and directories 0700. Versions that `current` doesn't name are what a crash left;
//! the next write removes them.
//!
//! Writers, also in several processes, take turns: each holds an exclusive lock on DIR. Readers
//! need none. Everything here blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
    },
    path::{Path, PathBuf},
};

use crate::Material;

/// The chain's path within the directory.
pub const CHAIN: &str = "current/chain.pem";
/// The private key's path within the directory.
pub const KEY: &str = "current/key.pem";
/// The trusted authorities' path within the directory.
pub const BUNDLE: &str = "current/bundle.pem";
/// The revocation lists' path within the directory.
pub const CRL: &str = "current/crl.pem";

/// What a version's directory begins with.
const VERSION: &str = "version-";
/// The next `current`, before it is one.
const NEXT: &str = "current.next";

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why a material couldn't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was ever stored there.
    #[error("{} holds no certificate", dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// A part is missing: nobody but [`store`] should write there.
    #[error("{} is missing; the certificate's directory is incomplete", path.display())]
    Incomplete {
        /// The missing file.
        path: PathBuf,
    },
    /// Others than the owner may read the private key.
    #[error("{} may be read by others (mode {mode:o}); it must be 0600", path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file is far too long to be what it should.
    #[error("{} is longer than {MAX_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("could not access {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Reads the material in `dir`.
///
/// # Errors
/// There is none, it is incomplete, its key is exposed, or the system refuses.
pub fn load(dir: &Path) -> Result<Material, Error> {
    let current = dir.join("current");
    loop {
        // Resolved once, so that all files are of one version.
        let version = match fs::read_link(&current) {
            Ok(version) => version,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Absent { dir: dir.into() });
            }
            Err(source) => return Err(io_error(&current)(source)),
        };
        match read_version(&dir.join(&version)) {
            // A writer has replaced it meanwhile.
            Err(Error::Incomplete { .. })
                if self::version(dir).is_some_and(|it| it.name != version) => {}
            read => return read,
        }
    }
}

fn read_version(version: &Path) -> Result<Material, Error> {
    let key = version.join("key.pem");
    let read = |name: &str| read(&version.join(name));
    let chain_pem = read("chain.pem")?;
    let mode = fs::metadata(&key)
        .map_err(missing(&key))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: key, mode });
    }
    Ok(Material {
        chain_pem,
        key_pem: read("key.pem")?,
        bundle_pem: read("bundle.pem")?,
        crl_pem: read("crl.pem")?,
    })
}

/// Writes `material` to `dir`, which is made if need be, and switches to it at once.
///
/// # Errors
/// The system refuses; what was there before is still in use.
pub fn store(dir: &Path, material: &Material) -> Result<(), Error> {
    Writer::open(dir)?.store(material).map(drop)
}

/// Which version `dir` holds, to be compared with; none if nothing was ever stored there.
pub fn version(dir: &Path) -> Option<Version> {
    let current = dir.join("current");
    let link = fs::symlink_metadata(&current).ok()?;
    Some(Version {
        name: fs::read_link(&current).ok()?,
        inode: link.ino(),
        made: (link.mtime(), link.mtime_nsec()),
    })
}

/// One writing of a directory's material. Equal only to itself, also when the directory was moved
/// away and another one begun in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    name: PathBuf,
    inode: u64,
    made: (i64, i64),
}

/// The only writer of a directory, until it is dropped.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    /// Dropped, it frees the lock.
    _lock: File,
}

impl Writer {
    /// Makes `dir` if need be, and waits until nobody else writes there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        make_dir(dir, true)?;
        let lock = File::open(dir).map_err(io_error(dir))?;
        lock.lock().map_err(io_error(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As [`store`]. Gives the new version.
    ///
    /// # Errors
    /// The system refuses; what was there before is still in use.
    pub fn store(&self, material: &Material) -> Result<Version, Error> {
        write_version(&self.dir, material)?;
        let dir = &self.dir;
        version(dir).ok_or_else(|| Error::Absent { dir: dir.clone() })
    }
}

fn write_version(dir: &Path, material: &Material) -> Result<(), Error> {
    let number = versions(dir)?.last().map_or(1, |(number, _)| number + 1);
    let name = format!("{VERSION}{number}");
    let version = dir.join(&name);
    make_dir(&version, false)?;
    write(&version.join("chain.pem"), &material.chain_pem)?;
    write(&version.join("key.pem"), &material.key_pem)?;
    write(&version.join("bundle.pem"), &material.bundle_pem)?;
    write(&version.join("crl.pem"), &material.crl_pem)?;
    sync(&version)?;

    let next = dir.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(&next)(error));
        }
        Ok(()) | Err(_) => {}
    }
    symlink(&name, &next).map_err(io_error(&next))?;
    sync(dir)?;
    fs::rename(&next, dir.join("current")).map_err(io_error(&next))?;
    sync(dir)?;
    for (_, old) in versions(dir)?.into_iter().filter(|(it, _)| *it < number) {
        fs::remove_dir_all(&old).map_err(io_error(&old))?;
    }
    Ok(())
}

/// The versions there are, oldest first.
fn versions(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let entry = entry.map_err(io_error(dir))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(VERSION));
        found.extend(
            number
                .and_then(|n| n.parse().ok())
                .map(|n| (n, entry.path())),
        );
    }
    found.sort_unstable();
    Ok(found)
}

fn make_dir(path: &Path, parents: bool) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(parents)
        .mode(0o700)
        .create(path)
        .map_err(io_error(path))?;
    // The mode above holds for what is made now, and is subject to the umask.
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io_error(path))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(io_error(path))
}

fn read(path: &Path) -> Result<String, Error> {
    let length = fs::metadata(path).map_err(missing(path))?.len();
    if length > MAX_BYTES {
        return Err(Error::TooLong { path: path.into() });
    }
    fs::read_to_string(path).map_err(missing(path))
}

fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(dir))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Io { path, source }
}

fn missing(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| match source.kind() {
        io::ErrorKind::NotFound => Error::Incomplete { path },
        _ => Error::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material(tag: &str) -> Material {
        Material {
            chain_pem: format!("chain {tag}"),
            key_pem: format!("key {tag}"),
            bundle_pem: format!("bundle {tag}"),
            crl_pem: String::new(),
        }
    }

    #[test]
    fn a_material_is_private_and_replaced_as_a_whole() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("trust");
        assert!(matches!(load(&dir), Err(Error::Absent { .. })));
        for tag in ["one", "two", "three"] {
            store(&dir, &material(tag)).unwrap();
            assert_eq!(load(&dir).unwrap(), material(tag));
        }
        let mode = |path: &str| {
            let of = fs::metadata(dir.join(path)).unwrap().permissions();
            of.mode() & 0o777
        };
        assert_eq!([".", "current/."].map(mode), [0o700; 2]);
        assert_eq!([CHAIN, KEY, BUNDLE, CRL].map(mode), [0o600; 4]);
        assert_eq!(versions(&dir).unwrap().len(), 1, "old keys are gone");
    }

    /// A crash at any point before the switch leaves the old material in use.
    #[test]
    fn what_a_crash_left_is_never_read() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        store(dir, &material("old")).unwrap();
        fs::create_dir(dir.join("version-2")).unwrap();
        fs::write(dir.join("version-2/chain.pem"), "chain new").unwrap();
        symlink("version-2", dir.join(NEXT)).unwrap();
        assert_eq!(load(dir).unwrap(), material("old"));
        store(dir, &material("new")).unwrap();
        assert_eq!(load(dir).unwrap(), material("new"));
        assert_eq!(versions(dir).unwrap().len(), 1);
    }

    #[test]
    fn writers_take_turns() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("trust");
        let writer = Writer::open(&dir).unwrap();
        assert!(File::open(&dir).unwrap().try_lock().is_err());
        assert_eq!(version(&dir), None);
        let stored = writer.store(&material("one")).unwrap();
        assert_eq!(version(&dir), Some(stored));
        drop(writer);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let dir = &dir;
                scope.spawn(move || {
                    for n in 0..8 {
                        store(dir, &material(&format!("{writer}.{n}"))).unwrap();
                        load(dir).unwrap();
                    }
                });
            }
        });
        assert_eq!(version(&dir).unwrap().name, Path::new("version-33"));
        assert_eq!(versions(&dir).unwrap().len(), 1);
    }

    #[test]
    fn a_half_written_or_exposed_directory_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        store(dir, &material("one")).unwrap();
        fs::set_permissions(dir.join(KEY), Permissions::from_mode(0o640)).unwrap();
        let refused = load(dir).unwrap_err();
        assert!(matches!(refused, Error::Exposed { mode: 0o640, .. }));
        fs::remove_file(dir.join(KEY)).unwrap();
        let refused = load(dir).unwrap_err();
        assert!(matches!(refused, Error::Incomplete { .. }));
        assert!(refused.to_string().contains("key.pem"), "{refused}");
        store(dir, &material("two")).unwrap();
        fs::remove_file(dir.join(BUNDLE)).unwrap();
        assert!(matches!(load(dir), Err(Error::Incomplete { .. })));
    }
}
