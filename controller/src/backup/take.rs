//! Making a backup's file, and reading one. Blocks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use kapok_trust::{Fingerprint, locked};
use zeroize::Zeroizing;

use super::{
    check::{self, Checked, Checker},
    format::{self, Frame, Reader, Writer},
    keys,
};
use crate::trust::vault::{self, Vault};

/// What a file's name ends with until it is whole.
const DRAFT: &str = "new";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be written or read.
    #[error("{}: can't be {doing}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The record, or the backup, isn't whole.
    #[error(transparent)]
    Check(#[from] check::Error),
    /// The keys can't be locked or opened.
    #[error("the keys in the backup")]
    Locked(#[from] locked::Error),
    /// The keys can't be read or written.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The keys can't be read.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The key that signs is missing.
    #[error(
        "the key of the fabric's authority {fingerprint} isn't in {}: a backup without it is of no use",
        dir.display()
    )]
    NoKey {
        /// Which authority.
        fingerprint: Fingerprint,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// There are no keys in it.
    #[error("the backup holds no keys; it was cut or isn't one")]
    NoKeys,
}

impl From<format::Error> for Error {
    fn from(error: format::Error) -> Self {
        Self::Check(error.into())
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        path,
        doing,
        source,
    }
}

/// Takes the record from a stream and the keys from their directory into a file, checked. Until it is
/// whole, a file that was there before stays.
///
/// # Errors
/// [`Error`]; then nothing is there under the name that wasn't.
pub fn take(
    from: impl Read,
    trust: &Path,
    passphrase: &[u8],
    file: &Path,
) -> Result<Checked, Error> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".");
    draft.push(DRAFT);
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(&draft, "removed")(error));
        }
        _ => {}
    }
    let taken = write(from, trust, passphrase, &draft)
        .and_then(|()| read(&draft, Some(passphrase)))
        .and_then(|read| has_key(&read.checked, trust).map(|()| read.checked));
    let checked = taken.inspect_err(|_| {
        // Of no use to anybody.
        let _ = fs::remove_file(&draft);
    })?;
    fs::rename(&draft, file).map_err(failed(file, "made"))?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    vault::flush(dir.unwrap_or(Path::new(".")))?;
    Ok(checked)
}

fn write(from: impl Read, trust: &Path, passphrase: &[u8], draft: &Path) -> Result<(), Error> {
    let failed = |doing| failed(draft, doing);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)
        .map_err(failed("made"))?;
    let mut reader = Reader::new(from)?;
    let mut writer = Writer::new(BufWriter::new(file)).map_err(failed("written"))?;
    loop {
        let frame = reader.read()?;
        if let Frame::End(_) = frame {
            break;
        }
        writer.put(&frame).map_err(failed("written"))?;
    }
    let secret = keys::pack(trust)?;
    let keys = locked::lock(passphrase, &writer.digest(), &secret)?;
    let keys = Frame::Keys(keys.into());
    writer.put(&keys).map_err(failed("written"))?;
    let mut file = writer.end().map_err(failed("written"))?;
    file.flush().map_err(failed("written"))?;
    file.get_ref().sync_all().map_err(failed("written"))
}

/// Whether the key that signs is among those that were locked.
fn has_key(checked: &Checked, trust: &Path) -> Result<(), Error> {
    let Some(active) = checked.fabric.active_authority() else {
        return Ok(());
    };
    let fingerprint = active.fingerprint;
    match Vault::open(trust)?.get(fingerprint) {
        Some(_) => Ok(()),
        None => Err(Error::NoKey {
            fingerprint,
            dir: trust.to_owned(),
        }),
    }
}

/// What a backup holds.
#[derive(Debug)]
pub struct Content {
    /// The record.
    pub checked: Checked,
    /// The keys, packed; none if no passphrase was given, or none are there.
    pub keys: Option<Zeroizing<Vec<u8>>>,
}

/// Reads a backup from its first byte to its last and checks it.
///
/// # Errors
/// [`Error`].
pub fn read(file: &Path, passphrase: Option<&[u8]>) -> Result<Content, Error> {
    let opened = File::open(file).map_err(failed(file, "read"))?;
    read_from(BufReader::new(opened), passphrase, |_| Ok(()))
}

/// The same of any bytes; each frame is shown.
///
/// # Errors
/// [`Error`], or whoever is shown the frames says so.
pub fn read_from(
    from: impl Read,
    passphrase: Option<&[u8]>,
    mut show: impl FnMut(&Frame) -> Result<(), Error>,
) -> Result<Content, Error> {
    let mut reader = Reader::new(from)?;
    let mut checker = Checker::default();
    let mut keys = None;
    loop {
        let frame = reader.read()?;
        checker.take(&frame)?;
        show(&frame)?;
        match (&frame, passphrase) {
            (Frame::Keys(locked), Some(passphrase)) => {
                keys = Some(locked::open(passphrase, reader.before(), locked)?);
            }
            (Frame::End(_), _) => break,
            _ => {}
        }
    }
    let checked = checker.finish()?;
    Ok(Content { checked, keys })
}
