//! Serial consoles: the [`Console`] seam.
//!
//! Each open console has a connection of its own and two threads, because reading, writing and
//! closing block. A guest that floods its line, and a reader that is slow, cost the ring's size
//! and two small queues; what had to be dropped is counted.

use std::{sync::Arc, thread, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use kapok_libvirt::{
    Connection,
    console::{ConsoleReader, ConsoleWriter, Output},
};
use kapok_types::IncarnationId;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Libvirt, error, foreign,
    lanes::{Call, LaneName},
};
use crate::driver::{Console, ConsoleOutput, Error, OpenConsole};

/// Most consoles that are open at once.
pub(super) const MAX_OPEN: usize = 16;
/// Output kept for a slow reader, in bytes.
const RING_BYTES: usize = 64 * 1024;
/// Pieces on their way to the reader, and from the writer.
const QUEUE: usize = 8;
/// How often the reading thread looks whether somebody still listens.
const LOOK_UP: Duration = Duration::from_millis(500);
/// How long a guest may take no input before the console is closed.
const DEAF: Duration = Duration::from_secs(10);
/// Stack of each thread.
const STACK_BYTES: usize = 256 * 1024;

#[async_trait]
impl Console for Libvirt {
    async fn open(&self, incarnation: IncarnationId, force: bool) -> Result<OpenConsole, Error> {
        let place = Arc::clone(&self.consoles)
            .try_acquire_owned()
            .map_err(|_| Error::Busy { lane: "console" })?;
        let inner = Arc::clone(&self.inner);
        let meter = Arc::clone(&self.meter);
        // Opening asks no QEMU. The connection is the console's own: its flood is nobody else's.
        let call = Call::of(LaneName::Query, incarnation.0);
        let (connection, reader, writer) = self
            .lanes
            .run(call, move |_| {
                let connection = inner.link.connect()?;
                match inner.claim(&connection, incarnation.0)? {
                    None => Err(Error::Absent {
                        what: format!("the domain {incarnation}"),
                    }),
                    Some((_, None)) => Err(foreign(incarnation, "console")),
                    Some((domain, Some(_))) => {
                        let (reader, writer) = domain
                            .open_console(force, RING_BYTES, &meter)
                            .map_err(error::from)?;
                        Ok((connection, reader, writer))
                    }
                }
            })
            .await?;
        start(connection, place, reader, writer).map_err(|error| Error::Failed {
            call: "starting the console's threads",
            reason: error.to_string(),
        })
    }
}

/// Starts the threads. The place and the connection go when the last of them has ended.
fn start(
    connection: Connection,
    place: OwnedSemaphorePermit,
    reader: ConsoleReader,
    writer: ConsoleWriter,
) -> std::io::Result<OpenConsole> {
    let held = Arc::new((connection, place));
    let (to_reader, output) = mpsc::channel(QUEUE);
    let (input, from_writer) = mpsc::channel(QUEUE);
    let thread = |name: &str| {
        thread::Builder::new()
            .name(name.into())
            .stack_size(STACK_BYTES)
    };
    let theirs = Arc::clone(&held);
    thread("console-out").spawn(move || {
        read(&reader, &to_reader);
        drop(reader);
        drop(theirs);
    })?;
    thread("console-in").spawn(move || {
        write(&writer, from_writer);
        drop(writer);
        drop(held);
    })?;
    Ok(OpenConsole { input, output })
}

fn read(reader: &ConsoleReader, output: &mpsc::Sender<ConsoleOutput>) {
    while !output.is_closed() {
        match reader.read(LOOK_UP) {
            Output::Bytes { bytes, dropped } => {
                let piece = ConsoleOutput {
                    data: bytes.into(),
                    dropped,
                };
                if output.blocking_send(piece).is_err() {
                    break;
                }
            }
            Output::Nothing => {}
            Output::Closed { error } => {
                if let Some(error) = error {
                    tracing::debug!(%error, "a console ended");
                }
                break;
            }
        }
    }
    reader.close();
}

fn write(writer: &ConsoleWriter, mut input: mpsc::Receiver<Bytes>) {
    while let Some(piece) = input.blocking_recv() {
        if let Err(error) = writer.write(&piece, DEAF) {
            tracing::debug!(%error, "a console takes no input");
            break;
        }
    }
    // The end of input is the end of the console: its owner has dropped it.
    writer.close();
}
