//! The file that a pull writes into: resumable, hashed as it grows, never longer than announced.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kapok_types::Digest;
use sha2::{Digest as _, Sha256};

/// Files of pulls that broke off, kept for resuming; the oldest beyond this go.
pub(super) const KEPT: Kept = Kept {
    files: 4,
    bytes: 16 << 30,
};
/// None of them.
const NONE: Kept = Kept { files: 0, bytes: 0 };
/// What a pull leaves free where the local store is too: without room that can't be written.
pub(super) const FLOOR_BYTES: u64 = 512 << 20;
/// How often the room is looked at while a file grows.
const LOOK_BYTES: u64 = 32 << 20;
/// Read at a time when a kept file is hashed again.
const CHUNK_BYTES: usize = 256 * 1024;
/// Ends the name of every spool file.
const SUFFIX: &str = "part";

/// How much of what broke off is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

/// Tells the free bytes of the file system that a folder is on.
pub(super) type Free = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// What an unprivileged user may still write there.
pub(super) fn free(folder: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(folder)?;
    Ok(found
        .blocks_available()
        .saturating_mul(found.fragment_size()))
}

/// An open spool file. Its methods block.
pub(super) struct Spool {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
    limit: u64,
    free: Free,
    /// Bytes at which the room is looked at next.
    look_at: u64,
}

impl Spool {
    /// Opens the digest's file, with what an earlier pull left in it. A file that can't be its
    /// beginning (longer than announced) is emptied.
    pub(super) fn open(folder: &Path, digest: Digest, limit: u64, free: &Free) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let path = folder.join(format!("{}.{SUFFIX}", digest.hex()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&path)?;
        let mut spool = Self {
            path,
            file,
            hash: Sha256::new(),
            bytes: 0,
            limit,
            free: Arc::clone(free),
            look_at: 0,
        };
        if spool.file.metadata()?.len() > limit {
            spool.clear()?;
        } else {
            spool.read_back()?;
        }
        Ok(spool)
    }

    /// Makes sure that the rest will find room, at the cost of what broke off earlier.
    pub(super) fn make_room(&self, folder: &Path, used: &[Digest]) -> io::Result<()> {
        let rest = self.limit.saturating_sub(self.bytes);
        if self.room(folder, rest).is_err() {
            tidy(folder, used, NONE)?;
        }
        self.room(folder, rest)
    }

    fn room(&self, folder: &Path, wanted: u64) -> io::Result<()> {
        let free = (self.free)(folder)?;
        if free >= wanted.saturating_add(FLOOR_BYTES) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "{} has {free} bytes free; {wanted} are wanted, and {FLOOR_BYTES} must stay free",
                folder.display()
            ),
        ))
    }

    fn read_back(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            let read = self.file.read(&mut chunk)?;
            let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else {
                return Ok(());
            };
            self.hash.update(part);
            self.bytes += u64::try_from(read).unwrap_or(u64::MAX);
        }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a piece. False, and nothing written, if it would grow beyond the limit.
    pub(super) fn append(&mut self, piece: &Bytes) -> io::Result<bool> {
        let grown = u64::try_from(piece.len())
            .ok()
            .and_then(|len| self.bytes.checked_add(len))
            .filter(|grown| *grown <= self.limit);
        let Some(grown) = grown else { return Ok(false) };
        if grown >= self.look_at {
            let folder = self.path.parent().unwrap_or(&self.path);
            self.room(folder, 0)?;
            self.look_at = grown.saturating_add(LOOK_BYTES);
        }
        self.file.write_all(piece)?;
        self.hash.update(piece);
        self.bytes = grown;
        Ok(true)
    }

    /// Makes it durable and gives the digest of its bytes.
    pub(super) fn finish(&mut self) -> io::Result<Digest> {
        self.file.sync_all()?;
        Ok(Digest(self.hash.clone().finalize().into()))
    }

    /// Empties it.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        (self.bytes, self.look_at) = (0, 0);
        Ok(())
    }

    /// Removes it.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Removes the digest's file if there is one.
pub(super) fn forget(folder: &Path, digest: Digest) {
    // Absent is the usual case; another trouble shows when the folder is next used.
    let _ = fs::remove_file(folder.join(format!("{}.{SUFFIX}", digest.hex())));
}

/// Removes the oldest files that no pull is using, but for those to be kept.
pub(super) fn tidy(folder: &Path, used: &[Digest], kept: Kept) -> io::Result<()> {
    let used: Vec<String> = used
        .iter()
        .map(|digest| format!("{}.{SUFFIX}", digest.hex()))
        .collect();
    let mut idle = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let ours = Path::new(&name)
            .extension()
            .is_some_and(|end| end == SUFFIX);
        if ours && !used.iter().any(|used| name == **used) {
            let meta = entry.metadata()?;
            idle.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    idle.sort();
    let (mut files, mut bytes) = (0, 0_u64);
    for (_, length, path) in idle.into_iter().rev() {
        files += 1;
        bytes = bytes.saturating_add(length);
        if files > kept.files || bytes > kept.bytes {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
