//! The file: frames of bytes, in order. All numbers are big-endian.
//!
//! ```text
//! "kapok backup" | version u16
//! frames: kind u8 | length u64 | bytes
//!   1 About (JSON) · 2 Object* · 3 Batch* · 4 Segment* · 5 Keys · 6 End
//! Object: length of the key u32 | key | value     Segment: first u64 | last u64 | file
//! Keys: locked, bound to the SHA-256 of all before     End: SHA-256 of all before
//! ```
//!
//! On the controller's socket the same comes without Keys. Kinds are only added, with a new version.

use std::io::{self, Read, Write};

use bytes::Bytes;
use kapok_store::{Hash, Span};
use kapok_types::{Epoch, Name, Seq, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::log;

const MAGIC: &[u8; 12] = b"kapok backup";
/// The version that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;
/// What a file begins with, in bytes.
const START_BYTES: usize = 12 + 2;
/// What a frame begins with, in bytes.
const HEADER_BYTES: usize = 1 + 8;
/// Longest frame that is believed, in bytes: a segment takes a few MiB.
const MAX_FRAME_BYTES: u64 = 256 * 1024 * 1024;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The fabric's name.
    pub fabric: Name,
    /// When it was made.
    pub taken_at: Timestamp,
    /// The epoch that led then.
    pub epoch: Epoch,
    /// The record's first entry that is outside of segments.
    pub first: Seq,
    /// The record's last entry, and its hash.
    pub head: Seq,
    /// That one's hash.
    pub head_hash: Hash,
    /// What the objects are the fold of; 0 for none.
    pub checkpoint: Seq,
    /// That entry's hash.
    pub checkpoint_hash: Hash,
    /// The form of entries that this version writes.
    pub entries: u32,
    /// The program's version.
    pub written_by: String,
}

/// A part of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// What it is of; the first.
    About(Box<About>),
    /// A folded object.
    Object(String, Bytes),
    /// A batch of the log, encoded.
    Batch(Bytes),
    /// A sealed segment's file.
    Segment(Span, Bytes),
    /// The keys, locked.
    Keys(Bytes),
    /// The end, and the digest of all before.
    End([u8; 32]),
}

/// Why a backup can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ends early, or can't be read.
    #[error("the backup can't be read")]
    Io(#[from] io::Error),
    /// It doesn't begin as a backup does.
    #[error("this is no backup of a kapok-controller")]
    NotABackup,
    /// A newer version wrote it.
    #[error(
        "the backup has form {found}, this version reads up to {known}; use the kapok-controller that \
         wrote it, or a later one"
    )]
    Newer {
        /// The form's version.
        found: u64,
        /// The newest that is read.
        known: u64,
    },
    /// Bytes that are no frame, or not at their place.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes frames and hashes them.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    hash: Sha256,
}

/// Reads frames and hashes them.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    hash: Sha256,
    /// The digest of all before the frame that was read last.
    before: [u8; 32],
}

/// What every backup begins with.
pub fn start() -> [u8; START_BYTES] {
    let mut start = [0; START_BYTES];
    start[..12].copy_from_slice(MAGIC);
    start[12..].copy_from_slice(&VERSION.to_be_bytes());
    start
}

impl Frame {
    const fn kind(&self) -> u8 {
        match self {
            Self::About(_) => 1,
            Self::Object(..) => 2,
            Self::Batch(_) => 3,
            Self::Segment(..) => 4,
            Self::Keys(_) => 5,
            Self::End(_) => 6,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            // Plain data can't fail to be written.
            Self::About(about) => body = serde_json::to_vec(about).unwrap_or_default(),
            Self::Object(key, value) => {
                body.extend(u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
                body.extend(key.as_bytes());
                body.extend(&value[..]);
            }
            Self::Batch(bytes) | Self::Keys(bytes) => body.extend(&bytes[..]),
            Self::Segment(span, content) => {
                body.extend(span.first.get().to_be_bytes());
                body.extend(span.last.get().to_be_bytes());
                body.extend(&content[..]);
            }
            Self::End(digest) => body.extend(digest),
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.push(self.kind());
        out.extend(u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend(body);
        out
    }

    fn decode(kind: u8, body: Vec<u8>) -> Result<Self, Error> {
        let damaged = Error::Damaged;
        Ok(match kind {
            1 => Self::About(Box::new(about(&body)?)),
            2 => {
                let (length, rest) = body
                    .split_first_chunk()
                    .ok_or(damaged("an object has no key"))?;
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                let (key, value) = rest
                    .split_at_checked(length)
                    .ok_or(damaged("an object's key is cut"))?;
                let key = std::str::from_utf8(key);
                let key = key.map_err(|_| damaged("an object's key is no text"))?;
                Self::Object(key.to_owned(), Bytes::copy_from_slice(value))
            }
            3 => Self::Batch(body.into()),
            4 => {
                let cut = || damaged("a segment is cut");
                let (first, rest) = body.split_first_chunk().ok_or_else(cut)?;
                let (last, content) = rest.split_first_chunk().ok_or_else(cut)?;
                let span = Span {
                    first: Seq(u64::from_be_bytes(*first)),
                    last: Seq(u64::from_be_bytes(*last)),
                };
                Self::Segment(span, Bytes::copy_from_slice(content))
            }
            5 => Self::Keys(body.into()),
            6 => Self::End(
                body.try_into()
                    .map_err(|_| damaged("its end is of another length"))?,
            ),
            _ => return Err(damaged("a part is of a kind that isn't known")),
        })
    }
}

fn about(body: &[u8]) -> Result<About, Error> {
    #[derive(Deserialize)]
    struct Form {
        entries: u32,
    }
    let unreadable = |_| Error::Damaged("what it is of can't be read");
    let form: Form = serde_json::from_slice(body).map_err(unreadable)?;
    if form.entries > log::VERSION {
        return Err(Error::Newer {
            found: form.entries.into(),
            known: log::VERSION.into(),
        });
    }
    serde_json::from_slice(body).map_err(unreadable)
}

impl<W: Write> Writer<W> {
    /// Begins a backup.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(to: W) -> io::Result<Self> {
        let hash = Sha256::new();
        let mut writer = Self { to, hash };
        writer.bytes(&start())?;
        Ok(writer)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// What the system says.
    pub fn put(&mut self, frame: &Frame) -> io::Result<()> {
        self.bytes(&frame.encode())
    }

    /// The digest of all so far.
    pub fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Ends it.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(mut self) -> io::Result<W> {
        let digest = self.digest();
        self.put(&Frame::End(digest))?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`Error::NotABackup`], [`Error::Newer`], [`Error::Io`].
    pub fn new(mut from: R) -> Result<Self, Error> {
        let mut begin = [0; START_BYTES];
        match from.read_exact(&mut begin) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Error::NotABackup);
            }
            read => read?,
        }
        let (magic, version) = begin.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Error::NotABackup);
        }
        let found = version
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if found > u64::from(VERSION) {
            return Err(Error::Newer {
                found,
                known: VERSION.into(),
            });
        }
        let mut hash = Sha256::new();
        hash.update(begin);
        Ok(Self {
            from,
            hash,
            before: [0; 32],
        })
    }

    /// The next frame. After [`Frame::End`], whose digest was checked, nothing more comes.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(&mut self) -> Result<Frame, Error> {
        let mut header = [0; HEADER_BYTES];
        self.from.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let length = u64::from_be_bytes(length);
        if length > MAX_FRAME_BYTES {
            return Err(Error::Damaged("a part is too long"));
        }
        self.before = self.hash.clone().finalize().into();
        // What isn't there takes no memory.
        let mut body = Vec::new();
        let read = self.from.by_ref().take(length).read_to_end(&mut body)?;
        if u64::try_from(read).ok() != Some(length) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.hash.update(header);
        self.hash.update(&body);
        let frame = Frame::decode(kind, body)?;
        match frame {
            Frame::End(digest) if digest != self.before => {
                Err(Error::Damaged("its digest is another one"))
            }
            frame => Ok(frame),
        }
    }

    /// The digest of all before the frame that was read last.
    pub const fn before(&self) -> &[u8; 32] {
        &self.before
    }
}
