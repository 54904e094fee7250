//! `kapok image import`: streams a file in, hashing what it sends.
//!
//! What counts is what was sent: the digest is taken from the very bytes that go out, and a file
//! that changes its length meanwhile ends the import before its last piece (FAULTS 16).

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use kapok_proto::{
    BLOB_PIECE_BYTES,
    common::v1 as common,
    fabric::v1::{
        ImportImageHeader, ImportImageRequest, image_service_client::ImageServiceClient as Images,
        import_image_request::Part,
    },
};
use kapok_types::{
    Digest, Name,
    instance::{Arch, DiskFormat},
};
use sha2::{Digest as _, Sha256};
use tokio::{fs::File, io::AsyncReadExt as _, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::image::LOOK;
use crate::{
    args::image::Import,
    client::{Client, call_failed},
    error::{Doing, Error, is_transient},
    human::plain,
    output::Out,
    progress::Progress,
    view::{View as _, image::Image},
};

/// How a qcow2 file begins.
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
/// How often the whole file is sent at most.
const ATTEMPTS: u32 = 3;

/// A file that is going to be sent.
struct Source {
    path: PathBuf,
    header: ImportImageHeader,
    expected: Option<Digest>,
}

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, import: Import) -> Result<(), Error> {
    let request_id = client.request_id(import.request.request_id.clone());
    let source = Source::open(import, request_id).await?;
    let doing = Doing::new(format!("import {}", source.path.display()), LOOK);
    let send = send_all(client, out, &source, &doing);
    let (image, sent) = match client.timeout() {
        None => send.await?,
        Some(after) => timeout(after, send).await.map_err(|_| Error::TimedOut {
            doing: doing.clone(),
            after,
            change: Some(source.header.request_id.clone()),
        })??,
    };
    if image.digest != sent.to_string() || image.size_bytes != source.header.size_bytes {
        return Err(Error::Content {
            message: format!(
                "the controller stored {} ({} bytes), but {sent} ({} bytes) was sent",
                image.digest, image.size_bytes, source.header.size_bytes
            ),
            hint: format!("don't use it; remove it: kapok image rm {}", image.name),
        });
    }
    if out.format().is_for_people() {
        let row = image.row(client.now(), true);
        out.remark(&format!("digest {sent}"));
        out.line(&format!(
            "{}: imported, {}, {}",
            plain(&image.name),
            row[1],
            row[3]
        ))
    } else {
        out.one(&image, client.now())
    }
}

async fn send_all(
    client: &Client,
    out: &Out,
    source: &Source,
    doing: &Doing,
) -> Result<(Image, Digest), Error> {
    let mut backoff = Client::backoff(Duration::from_millis(500), Duration::from_secs(5));
    let mut attempt = 1;
    loop {
        let progress = Progress::bytes(
            out.is_quiet(),
            source.header.size_bytes,
            &source.header.name,
        );
        let (pieces, stream) = mpsc::channel(4);
        let mut images = Images::new(client.channel());
        let mut call = pin!(images.import_image(ReceiverStream::new(stream)));
        let mut reading = pin!(source.read(pieces, &progress));
        // Leaving early drops the call, which resets the stream: the server registers nothing.
        let (answer, sent) = tokio::select! {
            biased;
            read = &mut reading => {
                let sent = read?;
                ((&mut call).await, Some(sent))
            }
            answer = &mut call => (answer, None),
        };
        let status = match (answer, sent) {
            (Ok(answer), Some(sent)) => return Ok((Image::from(answer.into_inner()), sent)),
            (Ok(answer), None) => {
                // The controller had the content already and needed no more of it.
                let image = Image::from(answer.into_inner());
                return Ok((image, source.hash().await?));
            }
            (Err(status), _) => status,
        };
        if !is_transient(&status) || attempt == ATTEMPTS {
            return Err(call_failed(
                doing,
                status,
                Some(source.header.request_id.clone()),
            ));
        }
        attempt += 1;
        client.pause_and_turn(&mut backoff).await;
    }
}

impl Source {
    async fn open(import: Import, request_id: String) -> Result<Self, Error> {
        let path = import.file;
        let unreadable = |error: io::Error| Error::Usage {
            message: format!("can't read {}: {error}", path.display()),
            hint: String::new(),
        };
        let mut file = File::open(&path).await.map_err(unreadable)?;
        let metadata = file.metadata().await.map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(Error::Usage {
                message: format!("{} is no file with content", path.display()),
                hint: "images are regular files; convert a device with qemu-img first".to_owned(),
            });
        }
        let mut begin = [0_u8; 4];
        let seen = match file.read_exact(&mut begin).await {
            Ok(_) if begin == *QCOW2_MAGIC => DiskFormat::Qcow2,
            Ok(_) => DiskFormat::Raw,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => DiskFormat::Raw,
            Err(error) => return Err(unreadable(error)),
        };
        let format = import.format.map_or(seen, Into::into);
        let name = match import.name {
            Some(name) => name,
            None => name_of(&path)?,
        };
        let header = ImportImageHeader {
            name: name.to_string(),
            format: common::DiskFormat::from(format).into(),
            size_bytes: metadata.len(),
            expected_digest: import
                .sha256
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            arch: common::Arch::from(Arch::from(import.arch)).into(),
            request_id,
            tenant: import
                .tenant
                .map(|tenant| tenant.to_string())
                .unwrap_or_default(),
        };
        Ok(Self {
            path,
            header,
            expected: import.sha256,
        })
    }

    /// Reads, hashes and hands out the file. Never ends when nobody takes the pieces any more: then
    /// the call has its answer.
    async fn read(
        &self,
        pieces: mpsc::Sender<ImportImageRequest>,
        progress: &Progress,
    ) -> Result<Digest, Error> {
        let send = async |part| {
            pieces
                .send(ImportImageRequest { part: Some(part) })
                .await
                .is_ok()
        };
        if !send(Part::Header(self.header.clone())).await {
            return std::future::pending().await;
        }
        let size = self.header.size_bytes;
        let mut file = self.reopen().await?;
        let mut hasher = Sha256::new();
        let mut done = 0;
        loop {
            let mut piece = vec![0; BLOB_PIECE_BYTES];
            let length = fill(&mut file, &mut piece)
                .await
                .map_err(|error| self.broken(&error))?;
            piece.truncate(length);
            done += u64::try_from(length).unwrap_or(u64::MAX);
            let ended = done >= size;
            if done > size || (length == 0 && !ended) {
                return Err(self.changed());
            }
            hasher.update(&piece);
            if ended {
                self.check(&mut file, Digest(hasher.clone().finalize().into()))
                    .await?;
            }
            if !send(Part::Data(Bytes::from(piece))).await {
                return std::future::pending().await;
            }
            progress.set_bytes(done);
            if ended {
                return Ok(Digest(hasher.finalize().into()));
            }
        }
    }

    /// The last look before the last piece goes out: nothing more in the file, and the digest
    /// that was asked for.
    async fn check(&self, file: &mut File, digest: Digest) -> Result<(), Error> {
        let mut more = [0_u8; 1];
        if fill(file, &mut more)
            .await
            .map_err(|error| self.broken(&error))?
            > 0
        {
            return Err(self.changed());
        }
        match self.expected {
            Some(expected) if expected != digest => Err(Error::Content {
                message: format!(
                    "{} has the digest {digest}, not {expected}; nothing was imported",
                    self.path.display()
                ),
                hint: "fetch the file again, or correct --sha256".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    async fn hash(&self) -> Result<Digest, Error> {
        let mut file = self.reopen().await?;
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; BLOB_PIECE_BYTES]);
        loop {
            match fill(&mut file, &mut piece)
                .await
                .map_err(|error| self.broken(&error))?
            {
                0 => return Ok(Digest(hasher.finalize().into())),
                length => hasher.update(&piece[..length]),
            }
        }
    }

    async fn reopen(&self) -> Result<File, Error> {
        File::open(&self.path)
            .await
            .map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &io::Error) -> Error {
        Error::io(format!("can't read {}", self.path.display()), error)
    }

    fn changed(&self) -> Error {
        Error::Content {
            message: format!("{} changed while it was read", self.path.display()),
            hint: "nothing was imported; try again when nobody writes to it".to_owned(),
        }
    }
}

/// Reads until `piece` is full or the file ends.
async fn fill(file: &mut File, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match file.read(&mut piece[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

fn name_of(path: &Path) -> Result<Name, Error> {
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy())
        .unwrap_or_default();
    stem.parse().map_err(|violation| Error::Usage {
        message: format!("the file's name {stem:?} is no image name: {violation}"),
        hint: "give one with --name".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content: &[u8], size_bytes: u64) -> (Result<Digest, Error>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, content).unwrap();
        let header = ImportImageHeader {
            size_bytes,
            ..ImportImageHeader::default()
        };
        let source = Source {
            path,
            header,
            expected: None,
        };
        let (pieces, mut stream) = mpsc::channel(64);
        let progress = Progress::steps(true);
        let reading = source.read(pieces, &progress);
        let outcome = timeout(Duration::from_secs(30), reading).await.unwrap();
        let mut sent = 0;
        while let Some(message) = stream.recv().await {
            if let Some(Part::Data(data)) = message.part {
                sent += u64::try_from(data.len()).unwrap();
            }
        }
        (outcome, sent)
    }

    /// FAULTS 16: a file that grew or shrank since it was announced is never sent as a whole.
    #[tokio::test]
    async fn a_file_that_changes_meanwhile_is_not_imported() {
        let content = vec![7; BLOB_PIECE_BYTES * 2 + 5];
        let length = u64::try_from(content.len()).unwrap();
        let (outcome, sent) = read(&content, length).await;
        assert_eq!((outcome.unwrap(), sent), (Digest::of(&content), length));
        for announced in [1, length - 5, length - 1, length + 1] {
            let (outcome, sent) = read(&content, announced).await;
            let report = outcome.unwrap_err().report();
            assert!(
                report.message.contains("changed while it was read"),
                "{report:?}"
            );
            assert!(
                sent < announced.max(2),
                "{sent} of {announced} bytes went out"
            );
        }
    }
}
