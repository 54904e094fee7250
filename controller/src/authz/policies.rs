//! A site's policies on disk: `*.cedar` of one directory, in the order of their names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use kapok_authz::{Authz, load};

/// Why policies can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A policy is refused; the message names file, policy and reason.
    #[error(transparent)]
    Refused(#[from] load::Error),
}

/// The built-in policies and a directory's.
pub(super) fn read(directory: Option<&Path>) -> Result<Authz, Error> {
    let mut texts = Vec::new();
    if let Some(directory) = directory {
        for path in files(directory)? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let size = fs::metadata(&path).map_err(unread(&path))?.len();
            let bytes = usize::try_from(size).unwrap_or(usize::MAX);
            if bytes > load::MAX_FILE_BYTES {
                return Err(load::Error::TooLong { file: name, bytes }.into());
            }
            let text = fs::read_to_string(&path).map_err(unread(&path))?;
            texts.push((name, text));
        }
    }
    Ok(Authz::load(texts)?)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(unread(directory))? {
        let path = entry.map_err(unread(directory))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "cedar")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Read { path, source }
}
