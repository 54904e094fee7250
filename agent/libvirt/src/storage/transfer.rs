//! Bytes into and out of volumes, through libvirtd.
//!
//! Each transfer has a stream of its own and blocks its thread. A transfer that ends early, for
//! whatever reason, aborts its stream, so libvirtd lets go of the volume.

use std::{
    ffi::c_int,
    io::{self, Read, Write},
};

use virt::sys;

use super::Volume;
use crate::{
    connection::Connection,
    error::{Error, Kind},
    ffi::{Handle, check},
};

/// Bytes a message. Source: `VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX` (262,120), which every libvirtd
/// takes.
const CHUNK: usize = 256_000;

/// A transfer that didn't end well.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// libvirt's side.
    #[error("libvirt ended the transfer")]
    Libvirt(#[from] Error),
    /// The caller's reader or writer.
    #[error("the transfer's other end failed after {done} bytes")]
    Local {
        /// Bytes moved until then.
        done: u64,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The caller's reader had fewer bytes than it promised.
    #[error("the source ended after {done} of {expected} bytes")]
    Short {
        /// Bytes read.
        done: u64,
        /// Bytes promised.
        expected: u64,
    },
}

impl Volume {
    /// Writes exactly `length` bytes from `source` at `offset`; returns how many. Zero bytes are
    /// nothing to do (libvirt would take it as "to the end").
    ///
    /// # Errors
    ///
    /// [`TransferError`]; the volume's content is undefined then.
    pub fn upload(
        &self,
        offset: u64,
        length: u64,
        source: impl Read,
    ) -> Result<u64, TransferError> {
        if length == 0 {
            return Ok(0);
        }
        let stream = Stream::new(&self.connection)?;
        // SAFETY: volume and stream are valid.
        let outcome =
            unsafe { sys::virStorageVolUpload(self.raw(), stream.raw(), offset, length, 0) };
        check("virStorageVolUpload", outcome)?;
        let done = stream.send_all(source.take(length))?;
        if done < length {
            return Err(TransferError::Short {
                done,
                expected: length,
            });
        }
        stream.finish()?;
        Ok(done)
    }

    /// Reads `length` bytes at `offset` (to the end of the file for 0) into `sink`; returns how
    /// many there were. For qcow2 these are the file's own bytes, not the guest's.
    ///
    /// # Errors
    ///
    /// [`TransferError`].
    pub fn download(
        &self,
        offset: u64,
        length: u64,
        sink: impl Write,
    ) -> Result<u64, TransferError> {
        let stream = Stream::new(&self.connection)?;
        // SAFETY: volume and stream are valid.
        let outcome =
            unsafe { sys::virStorageVolDownload(self.raw(), stream.raw(), offset, length, 0) };
        check("virStorageVolDownload", outcome)?;
        let done = stream.receive_all(sink)?;
        stream.finish()?;
        Ok(done)
    }
}

/// A blocking stream that is aborted unless it was finished.
struct Stream {
    handle: Handle<sys::virStream>,
    finished: bool,
}

impl Stream {
    fn new(connection: &Connection) -> Result<Self, Error> {
        const CALL: &str = "virStreamNew";
        // SAFETY: the connection is valid; the reference is ours.
        let handle = unsafe { Handle::adopt(CALL, sys::virStreamNew(connection.raw(), 0)) }?;
        Ok(Self {
            handle,
            finished: false,
        })
    }

    fn raw(&self) -> sys::virStreamPtr {
        self.handle.raw()
    }

    fn send_all(&self, mut source: impl Read) -> Result<u64, TransferError> {
        let mut buffer = vec![0_u8; CHUNK];
        let mut done = 0_u64;
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(TransferError::Local { done, source }),
            };
            let mut rest = buffer.get(..read).unwrap_or_default();
            while !rest.is_empty() {
                // SAFETY: the stream is valid, and so are so many bytes.
                let sent =
                    unsafe { sys::virStreamSend(self.raw(), rest.as_ptr().cast(), rest.len()) };
                let sent = moved("virStreamSend", sent)?;
                if sent == 0 {
                    let message = "libvirtd takes no more bytes";
                    return Err(Error::new(Kind::Other, "virStreamSend", message).into());
                }
                rest = rest.get(sent..).unwrap_or_default();
            }
            done = done.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
    }

    fn receive_all(&self, mut sink: impl Write) -> Result<u64, TransferError> {
        let mut buffer = vec![0_u8; CHUNK];
        let mut done = 0_u64;
        loop {
            // SAFETY: the stream is valid, and the buffer has so many bytes.
            let received =
                unsafe { sys::virStreamRecv(self.raw(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let received = moved("virStreamRecv", received)?;
            if received == 0 {
                return Ok(done);
            }
            let bytes = buffer.get(..received).unwrap_or_default();
            sink.write_all(bytes)
                .map_err(|source| TransferError::Local { done, source })?;
            done = done.saturating_add(u64::try_from(received).unwrap_or(u64::MAX));
        }
    }

    fn finish(mut self) -> Result<(), Error> {
        self.finished = true;
        // SAFETY: the stream is valid and in use.
        check("virStreamFinish", unsafe {
            sys::virStreamFinish(self.raw())
        })
        .map(drop)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // SAFETY: the stream is valid. A stream that never began answers an error.
            let _ = unsafe { sys::virStreamAbort(self.raw()) };
        }
    }
}

/// How many bytes a blocking call moved; both of its negative answers are errors here.
fn moved(call: &'static str, outcome: c_int) -> Result<usize, Error> {
    check(call, outcome).map(|moved| usize::try_from(moved).unwrap_or(0))
}
