//! Whether a stream of bytes is what it is declared to be, decided while it streams.
//!
//! Keeps the beginning of the blob until its header is read, and nothing of the rest: memory is
//! bounded by [`HEAD_BYTES`] whatever the blob claims (FAULTS 11, 17).

use kapok_types::{
    Bytes, Violation,
    instance::{DiskFormat, MAX_DISK_BYTES},
};

use super::{
    magic,
    qcow2::{self, HEAD_BYTES, bad},
    tables::Walk,
};

/// Looks at a blob's pieces in order.
#[derive(Debug)]
pub struct Inspector {
    declared: DiskFormat,
    size: u64,
    seen: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The beginning so far.
    Head(Vec<u8>),
    /// A raw disk: nothing further to see.
    Raw,
    /// A qcow2 whose tables are still to come, or came.
    Qcow2 { virtual_bytes: u64, walk: Walk },
}

impl Inspector {
    /// Expects `size` bytes in the declared format.
    ///
    /// # Errors
    ///
    /// A size of 0 or above `limit`.
    pub fn new(declared: DiskFormat, size: Bytes, limit: Bytes) -> Result<Self, Violation> {
        let most = limit.get().min(MAX_DISK_BYTES);
        if size == Bytes::ZERO || size.get() > most {
            let reason = format!("is {}; must be 1 to {most} bytes ({limit})", size.get());
            return Err(Violation::new("size_bytes", reason));
        }
        Ok(Self {
            declared,
            size: size.get(),
            seen: 0,
            state: State::Head(Vec::new()),
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// What they break: `data` or `format`. Nothing may be fed after that.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Violation> {
        let offset = self.seen;
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.seen = offset.saturating_add(length);
        if self.seen > self.size {
            return Err(bad(format!(
                "is longer than the {} bytes announced",
                self.size
            )));
        }
        match &mut self.state {
            State::Raw => Ok(()),
            State::Qcow2 { walk, .. } => walk.feed(offset, piece),
            State::Head(head) => {
                let room = HEAD_BYTES.saturating_sub(head.len()).min(piece.len());
                let (first, rest) = piece.split_at_checked(room).unwrap_or((piece, &[]));
                head.extend_from_slice(first);
                if head.len() < HEAD_BYTES && self.seen < self.size {
                    return Ok(());
                }
                let head = std::mem::take(head);
                self.state = self.recognize(&head)?;
                let behind = self.seen - u64::try_from(rest.len()).unwrap_or(0);
                match &mut self.state {
                    State::Qcow2 { walk, .. } => walk.feed(behind, rest),
                    _ => Ok(()),
                }
            }
        }
    }

    /// All bytes were fed. Gives the size of the disk that the blob holds.
    ///
    /// # Errors
    ///
    /// There were fewer than announced.
    pub fn finish(self) -> Result<Bytes, Violation> {
        if self.seen != self.size {
            return Err(bad(format!(
                "ended after {} of the {} bytes announced",
                self.seen, self.size
            )));
        }
        match self.state {
            // QEMU sees a raw disk in whole sectors.
            State::Raw => Ok(Bytes(self.size.next_multiple_of(512))),
            State::Qcow2 { virtual_bytes, .. } => Ok(Bytes(virtual_bytes)),
            State::Head(_) => Err(bad("is empty")),
        }
    }

    fn recognize(&self, head: &[u8]) -> Result<State, Violation> {
        match self.declared {
            DiskFormat::Raw => match magic::foreign(head) {
                None => Ok(State::Raw),
                Some(what) => Err(Violation::new(
                    "format",
                    format!("is raw, but the data is {what}; raw and qcow2 are accepted"),
                )),
            },
            DiskFormat::Qcow2 if !head.starts_with(&qcow2::MAGIC) => {
                let what = magic::foreign(head).unwrap_or("no qcow2 image");
                let reason =
                    format!("is qcow2, but the data is {what}; raw and qcow2 are accepted");
                Err(Violation::new("format", reason))
            }
            DiskFormat::Qcow2 => {
                let header = qcow2::parse(head, self.size)?;
                let mut walk = Walk::new(&header, self.size);
                walk.feed(0, head)?;
                Ok(State::Qcow2 {
                    virtual_bytes: header.virtual_bytes,
                    walk,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
