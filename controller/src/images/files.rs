//! Blobs as files: `DIR/<64 hex digits>`, and `DIR/incoming.N` while one is being written.
//!
//! Names come from digests and a counter only (FAULTS 12). A blob appears by a rename after it
//! and its directory are on the disk, so there is never half a one under a digest. One process
//! owns the directory; leftovers of one that crashed go when the next opens it.
//!
//! Room is promised when a blob begins and counted down as it is written: blobs that come in at
//! the same time never take the reserve together.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes as Piece;
use kapok_types::{Bytes, Digest, quantity::MIB};
use nix::sys::statvfs::statvfs;

use super::blob::{BlobStore, BlobWriter, Error, Reader, Tally};

/// Room on the disk that blobs never take: the log is on the same one, as a rule.
const RESERVE: Bytes = Bytes(256 * MIB);

const INCOMING: &str = "incoming.";

/// Blobs in a directory.
#[derive(Debug)]
pub struct Files {
    dir: Arc<Path>,
    next: AtomicU64,
    reserve: Bytes,
    promised: Promised,
}

/// Bytes that blobs under way will still take.
#[derive(Debug, Clone, Default)]
struct Promised(Arc<Mutex<u64>>);

/// One blob's share of them, which goes with it.
#[derive(Debug)]
struct Promise {
    all: Promised,
    left: u64,
}

impl Promised {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    /// Counts bytes that are on the disk by now.
    fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let mut all = self.all.lock();
        *all = all.saturating_sub(bytes);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.written(self.left);
    }
}

impl Files {
    /// Opens a directory, or makes it. The caller must be its only owner.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it can't be made, read, or tidied up.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir: Arc<Path> = dir.into().into();
        let there = Arc::clone(&dir);
        blocking("opening the blobs' directory", move || {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&there)?;
            for entry in fs::read_dir(&there)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(INCOMING) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        })
        .await?;
        Ok(Self {
            dir,
            next: AtomicU64::new(0),
            reserve: RESERVE,
            promised: Promised::default(),
        })
    }

    /// The same directory with another reserve, for tests of a full disk.
    #[cfg(test)]
    fn reserving(self, reserve: Bytes) -> Self {
        Self { reserve, ..self }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }
}

#[async_trait::async_trait]
impl BlobStore for Files {
    async fn begin(&self, size: Bytes) -> Result<Box<dyn BlobWriter>, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{INCOMING}{number}"));
        let (dir, reserve) = (Arc::clone(&self.dir), self.reserve);
        let promised = self.promised.clone();
        let incoming = blocking("beginning a blob", move || {
            // Looked at and promised in one go: two that begin together don't share the room.
            let mut all = promised.lock();
            let disk = statvfs(&*dir).map_err(io::Error::from)?;
            let free = Bytes(disk.blocks_available().saturating_mul(disk.fragment_size()));
            let free = free.saturating_sub(Bytes(*all));
            if free.saturating_sub(reserve) < size {
                return Ok(Err(Error::Full {
                    size,
                    free,
                    reserve,
                }));
            }
            *all = all.saturating_add(size.get());
            drop(all);
            let promise = Promise {
                all: promised,
                left: size.get(),
            };
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            Ok(Ok(Incoming {
                file,
                path,
                dir,
                tally: Tally::new(size),
                size,
                reserve,
                kept: false,
                promise,
            }))
        })
        .await??;
        Ok(Box::new(Writer {
            incoming: Some(Box::new(incoming)),
        }))
    }

    async fn open(&self, digest: Digest, offset: u64) -> Result<Reader, Error> {
        let path = self.path(digest);
        let file = blocking("opening a blob", move || {
            let mut file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Err(Error::Absent { digest }));
                }
                opened => opened?,
            };
            let size = file.metadata()?.len();
            if offset > size {
                return Ok(Err(Error::Behind { offset, size }));
            }
            file.seek(SeekFrom::Start(offset))?;
            Ok(Ok(file))
        })
        .await??;
        Ok(Box::pin(tokio::fs::File::from_std(file)))
    }

    async fn remove(&self, digest: Digest) -> Result<bool, Error> {
        let path = self.path(digest);
        blocking("removing a blob", move || match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Digest>, Error> {
        let dir = Arc::clone(&self.dir);
        blocking("listing blobs", move || {
            let mut digests = Vec::new();
            for entry in fs::read_dir(&dir)? {
                let name = entry?.file_name();
                // Anything else isn't ours: left alone.
                digests.extend(format!("sha256:{}", name.to_string_lossy()).parse::<Digest>());
            }
            digests.sort_unstable();
            Ok(digests)
        })
        .await
    }
}

/// The blob under way, or nothing while a call works on it or after one was dropped.
#[derive(Debug)]
struct Writer {
    incoming: Option<Box<Incoming>>,
}

/// A file that goes with its value unless it was kept.
#[derive(Debug)]
struct Incoming {
    file: File,
    path: PathBuf,
    dir: Arc<Path>,
    tally: Tally,
    size: Bytes,
    reserve: Bytes,
    kept: bool,
    promise: Promise,
}

#[async_trait::async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, piece: Piece) -> Result<(), Error> {
        let mut incoming = self.incoming.take().ok_or_else(gone)?;
        let (incoming, written) = blocking("writing a blob", move || {
            let written = incoming.write(&piece);
            Ok((incoming, written))
        })
        .await?;
        self.incoming = Some(incoming);
        written
    }

    async fn commit(mut self: Box<Self>, expected: Option<Digest>) -> Result<Digest, Error> {
        let incoming = self.incoming.take().ok_or_else(gone)?;
        blocking("committing a blob", move || Ok(incoming.commit(expected))).await?
    }
}

impl Drop for Writer {
    /// Taking a large file away can take a while: not on a task's thread.
    fn drop(&mut self) {
        if let (Some(incoming), Ok(runtime)) =
            (self.incoming.take(), tokio::runtime::Handle::try_current())
        {
            drop(runtime.spawn_blocking(move || drop(incoming)));
        }
    }
}

impl Incoming {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.tally.take(piece)?;
        self.file
            .write_all(piece)
            .map_err(|error| self.failed("writing a blob", error))?;
        // After the write: counted twice for a moment, but never not at all.
        self.promise
            .written(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn commit(mut self, expected: Option<Digest>) -> Result<Digest, Error> {
        let digest = self.tally.finish(expected)?;
        self.file
            .sync_all()
            .map_err(|error| self.failed("syncing a blob", error))?;
        fs::rename(&self.path, self.dir.join(digest.hex()))
            .map_err(Error::io("renaming a blob"))?;
        self.kept = true;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io("syncing the blobs' directory"))?;
        Ok(digest)
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                size: self.size,
                free: Bytes::ZERO,
                reserve: self.reserve,
            },
            _ => Error::Io { doing, source },
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The next start removes it.
            tracing::warn!(path = %self.path.display(), %error, "a partial blob stays for now");
        }
    }
}

fn gone() -> Error {
    Error::Io {
        doing: "writing a blob",
        source: io::Error::other("an earlier write was dropped"),
    }
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| io::Error::other("the runtime is shutting down"))
        .and_then(|result| result)
        .map_err(Error::io(doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().join("blobs"))
            .await
            .unwrap()
            .reserving(Bytes::ZERO);
        (dir, files)
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path().join("blobs")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    async fn until_empty(dir: &tempfile::TempDir) {
        for _ in 0..1000 {
            if names(dir).is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{:?} stayed", names(dir));
    }

    #[tokio::test]
    async fn a_dropped_writer_leaves_nothing() {
        let (dir, files) = store().await;
        let mut writer = files.begin(Bytes(5)).await.unwrap();
        writer.write("abc".into()).await.unwrap();
        assert_eq!(names(&dir).len(), 1);
        drop(writer);
        until_empty(&dir).await;
    }

    /// FAULTS 37: what a crash left of an import is gone after the next start; blobs stay.
    #[tokio::test]
    async fn leftovers_go_at_the_next_start() {
        let (dir, files) = store().await;
        let mut writer = files.begin(Bytes(3)).await.unwrap();
        writer.write("abc".into()).await.unwrap();
        let digest = writer.commit(None).await.unwrap();
        fs::write(dir.path().join("blobs/incoming.7"), "half").unwrap();
        fs::write(dir.path().join("blobs/README"), "somebody's").unwrap();
        drop(files);
        let files = Files::open(dir.path().join("blobs")).await.unwrap();
        assert_eq!(files.list().await.unwrap(), [digest]);
        let mut left = names(&dir);
        left.sort();
        let mut kept = ["README".to_owned(), digest.hex()];
        kept.sort();
        assert_eq!(left, kept);
    }

    /// FAULTS 53: a blob that doesn't fit is refused before its first byte.
    #[tokio::test]
    async fn a_full_disk_is_noticed_first() {
        let (dir, files) = store().await;
        let refused = files.begin(Bytes(u64::MAX)).await.unwrap_err();
        assert!(matches!(refused, Error::Full { .. }), "{refused}");
        let files = files.reserving(Bytes(u64::MAX));
        assert!(matches!(
            files.begin(Bytes(1)).await,
            Err(Error::Full { .. })
        ));
        assert!(names(&dir).is_empty());
    }

    /// FAULTS 53: blobs that come in together don't take the reserve that each would leave alone.
    #[tokio::test]
    async fn room_is_promised_once() {
        let (dir, files) = store().await;
        let disk = statvfs(dir.path()).unwrap();
        let free = disk.blocks_available() * disk.fragment_size();
        let most = Bytes(free / 3 * 2);
        let mut first = files.begin(most).await.unwrap();
        let refused = files.begin(most).await.unwrap_err();
        assert!(matches!(refused, Error::Full { .. }), "{refused}");
        // What was written counts as taken by the disk itself, and what is dropped counts no more.
        first.write("abc".into()).await.unwrap();
        assert_eq!(*files.promised.lock(), most.get() - 3);
        drop(first);
        until_empty(&dir).await;
        let mut small = files.begin(Bytes(3)).await.unwrap();
        small.write("abc".into()).await.unwrap();
        small.commit(None).await.unwrap();
        for _ in 0..1000 {
            if *files.promised.lock() == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        files.begin(most).await.unwrap();
    }
}
