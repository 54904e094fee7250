//! Segments as files of a directory: `FIRST-LAST.log`, mode 0600.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Error, Segments, Span};

/// What a file is called until it is whole.
const DRAFT: &str = "draft.new";

/// A directory of segments. Clones are handles on the same one; one process writes to it.
#[derive(Debug, Clone)]
pub struct Directory {
    path: Arc<Path>,
}

impl Directory {
    /// The directory at `path`, made (mode 0700) if it isn't there.
    ///
    /// # Errors
    /// What the file system said.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path: PathBuf = path.into();
        let directory = Self {
            path: path.as_path().into(),
        };
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.map_err(directory.failed("making the directory"))?;
        Ok(directory)
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let place = self.path.display().to_string();
        move |source| Error::Io {
            doing,
            place,
            source,
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn write(&self, span: Span, content: &Bytes) -> Result<(), Error> {
        let (draft, path) = (self.path.join(DRAFT), self.path.join(span.to_string()));
        let written = (|| {
            // Left by a crash; nothing in it was ever relied on.
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            self.sync()
        })();
        written.map_err(self.failed("writing a segment"))?;
        if self.read(span)?.as_ref() == Some(content) {
            Ok(())
        } else {
            Err(Error::ReadBack { span })
        }
    }

    fn read(&self, span: Span) -> Result<Option<Bytes>, Error> {
        let read = File::open(self.path.join(span.to_string())).and_then(|mut file| {
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            Ok(Bytes::from(content))
        });
        match read {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("reading a segment")(error)),
        }
    }

    fn spans(&self) -> Result<Vec<Span>, Error> {
        let listed = fs::read_dir(&self.path).and_then(|items| {
            let mut spans = Vec::new();
            for item in items {
                // Files of other names are nobody's segments.
                if let Some(Ok(span)) = item?.file_name().to_str().map(str::parse) {
                    spans.push(span);
                }
            }
            spans.sort();
            Ok(spans)
        });
        listed.map_err(self.failed("listing segments"))
    }

    fn delete(&self, span: Span) -> Result<(), Error> {
        let removed = match fs::remove_file(self.path.join(span.to_string())) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        };
        removed.map_err(self.failed("removing a segment"))
    }

    /// Runs `call` where it may block.
    fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        let this = self.clone();
        Box::pin(async move {
            let ran = tokio::task::spawn_blocking(move || call(&this)).await;
            ran.unwrap_or_else(|error| {
                let stopped = self.failed("working on segments");
                Err(stopped(io::Error::other(error)))
            })
        })
    }
}

impl Segments for Directory {
    fn put(&self, span: Span, content: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        self.run(move |this| this.write(span, &content))
    }

    fn get(&self, span: Span) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        self.run(move |this| this.read(span))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Span>, Error>> {
        self.run(Self::spans)
    }

    fn remove(&self, span: Span) -> BoxFuture<'_, Result<(), Error>> {
        self.run(move |this| this.delete(span))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use kapok_types::Seq;

    use super::*;

    const SPAN: Span = Span {
        first: Seq(1),
        last: Seq(9),
    };

    #[tokio::test]
    async fn files_are_whole_private_and_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segments");
        let home = Directory::open(&path).unwrap();
        // What a crash may have left, and what isn't ours.
        fs::write(path.join(DRAFT), "half").unwrap();
        fs::write(path.join("notes.txt"), "by hand").unwrap();
        assert_eq!(home.get(SPAN).await.unwrap(), None);
        for content in ["one", "another"] {
            home.put(SPAN, content.into()).await.unwrap();
            assert_eq!(home.get(SPAN).await.unwrap().unwrap(), content);
        }
        let mode = fs::metadata(path.join(SPAN.to_string())).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert_eq!(home.list().await.unwrap(), [SPAN]);
        assert!(!path.join(DRAFT).exists());
        for _ in 0..2 {
            home.remove(SPAN).await.unwrap();
            assert_eq!(home.list().await.unwrap(), []);
        }
        assert!(path.join("notes.txt").exists());
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let home = Directory::open(folder.path().join("gone")).unwrap();
        fs::remove_dir(folder.path().join("gone")).unwrap();
        assert!(home.put(SPAN, Bytes::new()).await.is_err());
        assert!(home.list().await.is_err());
    }
}
