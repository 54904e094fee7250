//! The parts that the server was accepted with, in `parts.json` of the state directory.
//!
//! **Invariants:**
//! - A file that can't be read is never taken for none: then nothing is known to be missing, that
//!   is said, and only a person's word replaces it.
//! - What is told as accepted is durable.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kapok_health::inventory::Parts;

/// The file in the state directory.
pub const FILE: &str = "parts.json";

/// Accepted parts, or why they can't be read; cheap to clone.
#[derive(Debug, Clone)]
pub struct Accepted {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// None for simulated servers.
    file: Option<PathBuf>,
    held: Mutex<Result<Option<Parts>, String>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Accepted {
    /// What the state directory holds. Blocks; call it at start.
    pub fn open(dir: &Path) -> Self {
        let file = dir.join(FILE);
        let held = read(&file);
        if let Err(reason) = &held {
            tracing::warn!(
                file = %file.display(),
                reason,
                "the accepted parts can't be read; `kapok node rebind` accepts the present ones"
            );
        }
        Self::new(Some(file), held)
    }

    /// For simulated servers: what was accepted survives the agent, not the process.
    pub fn in_memory() -> Self {
        Self::new(None, Ok(None))
    }

    fn new(file: Option<PathBuf>, held: Result<Option<Parts>, String>) -> Self {
        Self {
            inner: Arc::new(Inner {
                file,
                held: Mutex::new(held),
                turn: Arc::default(),
            }),
        }
    }

    /// The accepted parts; none if no parts ever were.
    ///
    /// # Errors
    ///
    /// Why they can't be read.
    pub fn parts(&self) -> Result<Option<Parts>, String> {
        self.lock().clone()
    }

    /// Accepts these. Returns when that is durable.
    ///
    /// # Errors
    ///
    /// What the file system said; then those of before are still accepted.
    pub async fn accept(&self, parts: Parts) -> io::Result<()> {
        let _turn = self.inner.turn.lock().await;
        if let Some(file) = self.inner.file.clone() {
            let text = serde_json::to_vec_pretty(&parts)?;
            let stored = tokio::task::spawn_blocking(move || store(&file, &text)).await;
            stored.map_err(io::Error::other)??;
        }
        *self.lock() = Ok(Some(parts));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Result<Option<Parts>, String>> {
        self.inner
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> Result<Option<Parts>, String> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| error.to_string())
}

fn store(file: &Path, text: &[u8]) -> io::Result<()> {
    let fresh = file.with_extension("new");
    let mut written = fs::File::create(&fresh)?;
    written.write_all(text)?;
    written.sync_all()?;
    fs::rename(&fresh, file)?;
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let mut parts = Parts::default();
        parts.ways.insert("memory".into(), "firmware".into());
        parts.lines.insert("memory/A1".into(), "16384 MiB".into());
        parts
    }

    #[tokio::test]
    async fn what_was_accepted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let accepted = Accepted::open(dir.path());
        assert_eq!(accepted.parts(), Ok(None));
        accepted.accept(parts()).await.unwrap();
        assert_eq!(Accepted::open(dir.path()).parts(), Ok(Some(parts())));
    }

    /// FAULTS 54: a damaged file is not an empty one.
    #[tokio::test]
    async fn a_damaged_file_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"lines\":").unwrap();
        let accepted = Accepted::open(dir.path());
        assert!(accepted.parts().is_err());
        accepted.accept(parts()).await.unwrap();
        assert_eq!(Accepted::open(dir.path()).parts(), Ok(Some(parts())));
    }
}
