//! The directory of trust as bytes that can be locked, and back. Blocks.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::trust::vault;

/// Most files, and the longest path and file that are believed, in bytes.
const MAX_FILES: usize = 4096;
const MAX_PATH_BYTES: usize = 1024;
const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// What is in the directory: a file with its path, or where a link leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Link,
}

/// Why keys can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("{}: can't be used", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can't be written.
    #[error(transparent)]
    Write(#[from] vault::Error),
    /// What was locked is no directory of trust.
    #[error("the keys in the backup can't be read")]
    Malformed,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Io { path, source }
}

/// All files below a directory, as one secret. Unfinished ones are left out.
///
/// # Errors
/// [`Error::Io`].
pub fn pack(dir: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut out = Zeroizing::new(Vec::new());
    pack_below(dir, Path::new(""), &mut out)?;
    Ok(out)
}

fn pack_below(root: &Path, below: &Path, out: &mut Vec<u8>) -> Result<(), Error> {
    let dir = root.join(below);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(failed(&dir))? {
        names.push(entry.map_err(failed(&dir))?.file_name());
    }
    names.sort();
    for name in names {
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        let path = below.join(&name);
        let full = root.join(&path);
        let about = fs::symlink_metadata(&full).map_err(failed(&full))?;
        if about.is_dir() {
            pack_below(root, &path, out)?;
        } else if about.is_symlink() {
            let to = fs::read_link(&full).map_err(failed(&full))?;
            put(out, Kind::Link, &path, to.as_os_str().as_bytes());
        } else if about.is_file() {
            let content = Zeroizing::new(fs::read(&full).map_err(failed(&full))?);
            put(out, Kind::File, &path, &content);
        }
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, kind: Kind, path: &Path, content: &[u8]) {
    out.push(u8::from(kind == Kind::Link));
    for part in [path.as_os_str().as_bytes(), content] {
        out.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(part);
    }
}

/// Writes what [`pack`] gave into a new directory. Every file is flushed.
///
/// # Errors
/// [`Error`].
pub fn unpack(packed: &[u8], dir: &Path) -> Result<(), Error> {
    let mut rest = packed;
    let mut dirs = std::collections::BTreeSet::from([dir.to_owned()]);
    vault::make_dir(dir)?;
    let mut files = 0;
    while let Some((kind, tail)) = rest.split_first() {
        rest = tail;
        let path = part(&mut rest, MAX_PATH_BYTES)?;
        let content = part(&mut rest, MAX_FILE_BYTES)?;
        files += 1;
        if files > MAX_FILES {
            return Err(Error::Malformed);
        }
        let full = dir.join(inside(path)?);
        let above = full.parent().unwrap_or(dir);
        vault::make_dir(above)?;
        dirs.insert(above.to_owned());
        match kind {
            0 => vault::write_secret(&full, content)?,
            1 => {
                let to = inside(content)?;
                std::os::unix::fs::symlink(to, &full).map_err(failed(&full))?;
            }
            _ => return Err(Error::Malformed),
        }
    }
    for dir in dirs {
        vault::flush(&dir)?;
    }
    Ok(())
}

fn part<'a>(rest: &mut &'a [u8], most: usize) -> Result<&'a [u8], Error> {
    let (length, tail) = rest.split_first_chunk().ok_or(Error::Malformed)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(Error::Malformed);
    }
    let (part, tail) = tail.split_at_checked(length).ok_or(Error::Malformed)?;
    *rest = tail;
    Ok(part)
}

/// A path that stays below its directory, whoever wrote it.
fn inside(path: &[u8]) -> Result<PathBuf, Error> {
    let path = std::str::from_utf8(path).map_err(|_| Error::Malformed)?;
    let path = Path::new(path);
    let sound = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !sound || path.as_os_str().is_empty() {
        return Err(Error::Malformed);
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_comes_back_as_it_was_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("controller/version-7")).unwrap();
        fs::create_dir_all(from.join("authorities/.new-ab")).unwrap();
        fs::write(from.join("controller/version-7/key.pem"), "a key").unwrap();
        fs::write(from.join("authorities/.new-ab/key.pem"), "half").unwrap();
        symlink("version-7", from.join("controller/current")).unwrap();
        unpack(&pack(&from).unwrap(), &to).unwrap();
        let key = to.join("controller/current/key.pem");
        assert_eq!(fs::read_to_string(&key).unwrap(), "a key");
        assert_eq!(
            fs::metadata(key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!to.join("authorities").exists());
    }

    /// FAULTS 12: what comes from a file stays below its directory.
    #[test]
    fn no_path_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../out", "/etc/out", "a/../../out", ""] {
            let mut packed = Vec::new();
            put(&mut packed, Kind::File, Path::new(path), b"x");
            let to = folder.path().join("to");
            assert!(unpack(&packed, &to).is_err(), "{path}");
            let mut packed = Vec::new();
            put(&mut packed, Kind::Link, Path::new("a"), path.as_bytes());
            assert!(unpack(&packed, &to).is_err(), "{path}");
        }
        assert!(!folder.path().join("out").exists());
    }
}
