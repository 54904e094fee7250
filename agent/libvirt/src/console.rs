//! A guest's serial line: output kept in a ring, input written as it comes.
//!
//! ```text
//! guest ──> "libvirt-events" thread ──> ring (oldest dropped) ──> ConsoleReader
//! guest <────────────────────────────────────────────────────────  ConsoleWriter
//! ```
//!
//! A guest that floods its line costs the ring's size and nothing more; what the ring had to drop
//! is counted, for the reader and for whoever gave the [`Meter`]. Both ends may be used from different threads; the line closes when both are gone
//! or one says so, which asks libvirtd and may block. The callback's boxed state holds the ring alone, never the stream, and is
//! freed by libvirt's free callback alone.

use std::{
    collections::VecDeque,
    ffi::{c_int, c_void},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use virt::sys;

use crate::{
    domain::{Domain, flag},
    error::{Error, Kind},
    ffi::{Handle, check},
};

/// Bytes taken from libvirt at a time, and handed out at most at a time.
const CHUNK: usize = 16 * 1024;
/// Most bytes that one callback takes, so that one guest can't keep the events' thread.
const MAX_ROUND: usize = 16;
/// libvirt's answer for "would block".
const WOULD_BLOCK: c_int = -2;

/// What came from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes, with how many were dropped just before them.
    Bytes {
        /// The bytes; not empty.
        bytes: Vec<u8>,
        /// Bytes that the ring dropped before these.
        dropped: u64,
    },
    /// Nothing within the time.
    Nothing,
    /// The line is closed; nothing will come any more.
    Closed {
        /// Why, if it wasn't a plain end.
        error: Option<Error>,
    },
}

/// How much came over lines, all those together that share it.
#[derive(Debug, Default)]
pub struct Meter {
    received: AtomicU64,
    dropped: AtomicU64,
}

impl Meter {
    /// Bytes that guests wrote.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes of these that rings dropped, also those that no reader was told of yet.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The reading end.
#[derive(Debug)]
pub struct ConsoleReader {
    line: Arc<Line>,
}

/// The writing end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsoleWriter {
    line: Arc<Line>,
}

impl Domain {
    /// Opens the domain's first serial line, keeping at most `capacity` bytes of its output.
    /// With `force`, whoever has it open now loses it. What comes is counted by `meter`.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if the guest is off, [`Kind::Busy`] if somebody has it open.
    pub fn open_console(
        &self,
        force: bool,
        capacity: usize,
        meter: &Arc<Meter>,
    ) -> Result<(ConsoleReader, ConsoleWriter), Error> {
        const NEW: &str = "virStreamNew";
        // SAFETY: the connection is valid; the reference is ours.
        let stream = unsafe {
            Handle::adopt(
                NEW,
                sys::virStreamNew(self.connection.raw(), sys::VIR_STREAM_NONBLOCK),
            )
        }?;
        let flags = flag(force, sys::VIR_DOMAIN_CONSOLE_FORCE);
        // SAFETY: domain and stream are valid; a null device is the first.
        let outcome =
            unsafe { sys::virDomainOpenConsole(self.raw(), ptr::null(), stream.raw(), flags) };
        check("virDomainOpenConsole", outcome)?;
        let ring = Arc::new(Ring::new(capacity, meter));
        let line = Arc::new(Line {
            stream,
            ring: Arc::clone(&ring),
        });
        line.watch()?;
        Ok((
            ConsoleReader {
                line: Arc::clone(&line),
            },
            ConsoleWriter { line },
        ))
    }
}

impl ConsoleReader {
    /// What has come since the last call, waiting at most `timeout` for the first byte.
    pub fn read(&self, timeout: Duration) -> Output {
        self.line.ring.take(timeout)
    }

    /// Closes the line for both ends. Asks libvirtd and may block.
    pub fn close(&self) {
        self.line.close();
    }
}

impl ConsoleWriter {
    /// Writes all of `bytes`, waiting at most `timeout` while the guest takes none.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] once the line is closed, [`Kind::Timeout`] if the guest takes no
    /// more; how much it took isn't known then.
    pub fn write(&self, bytes: &[u8], timeout: Duration) -> Result<(), Error> {
        const CALL: &str = "virStreamSend";
        let end = Instant::now() + timeout;
        for mut rest in bytes.chunks(CHUNK) {
            while !rest.is_empty() {
                if self.line.ring.is_closed() {
                    return Err(Error::new(
                        Kind::InvalidState,
                        CALL,
                        "the console is closed",
                    ));
                }
                self.line.ring.lock().writable = false;
                // SAFETY: the stream is valid, and so are so many bytes.
                let sent = unsafe {
                    sys::virStreamSend(self.line.stream.raw(), rest.as_ptr().cast(), rest.len())
                };
                if sent == WOULD_BLOCK {
                    self.line.want(READING | sys::VIR_STREAM_EVENT_WRITABLE)?;
                    self.line.ring.wait_writable(end)?;
                } else {
                    let sent = usize::try_from(check(CALL, sent)?).unwrap_or(0);
                    rest = rest.get(sent..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    /// Closes the line for both ends. Asks libvirtd and may block.
    pub fn close(&self) {
        self.line.close();
    }
}

const READING: u32 =
    sys::VIR_STREAM_EVENT_READABLE | sys::VIR_STREAM_EVENT_ERROR | sys::VIR_STREAM_EVENT_HANGUP;

/// An open line.
struct Line {
    stream: Handle<sys::virStream>,
    ring: Arc<Ring>,
}

impl Line {
    fn watch(&self) -> Result<(), Error> {
        let state: *mut c_void = Box::into_raw(Box::new(Arc::clone(&self.ring))).cast();
        // SAFETY: the stream is valid; the state stays valid until libvirt calls `release`.
        let outcome = unsafe {
            sys::virStreamEventAddCallback(
                self.stream.raw(),
                bits(READING),
                Some(ready),
                state,
                Some(release),
            )
        };
        check("virStreamEventAddCallback", outcome)
            .map(drop)
            .inspect_err(|_| {
                // SAFETY: libvirt didn't take the state, so it is still ours, once.
                unsafe { release(state) };
            })
    }

    fn want(&self, events: u32) -> Result<(), Error> {
        // SAFETY: the stream is valid.
        let outcome = unsafe { sys::virStreamEventUpdateCallback(self.stream.raw(), bits(events)) };
        check("virStreamEventUpdateCallback", outcome).map(drop)
    }

    /// Once; later calls find it done.
    fn close(&self) {
        if !std::mem::replace(&mut self.ring.lock().released, true) {
            // SAFETY: the stream is valid. Errors say that the other side was quicker.
            unsafe {
                let _ = sys::virStreamEventRemoveCallback(self.stream.raw());
                let _ = sys::virStreamAbort(self.stream.raw());
            }
        }
        self.ring.end(None);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("closed", &self.ring.is_closed())
            .finish_non_exhaustive()
    }
}

fn bits(events: u32) -> c_int {
    c_int::try_from(events).unwrap_or(0)
}

/// libvirt's event callback; runs on the events' thread.
unsafe extern "C" fn ready(stream: sys::virStreamPtr, events: c_int, state: *mut c_void) {
    // SAFETY: the state of this registration, not released yet.
    let Some(ring) = (unsafe { state.cast::<Arc<Ring>>().as_ref() }) else {
        return;
    };
    let events = u32::try_from(events).unwrap_or(0);
    // SAFETY: libvirt passes a valid stream.
    let drain = || unsafe { drain(stream, events, ring) };
    if catch_unwind(AssertUnwindSafe(drain)).is_err() {
        tracing::error!("a console's callback panicked");
    }
}

/// # Safety
///
/// `stream` must be valid and have its callback registered.
unsafe fn drain(stream: sys::virStreamPtr, events: u32, ring: &Ring) {
    if events & sys::VIR_STREAM_EVENT_WRITABLE != 0 {
        // Else it would fire for ever.
        // SAFETY: promised by the caller.
        let _ = unsafe { sys::virStreamEventUpdateCallback(stream, bits(READING)) };
        ring.set_writable();
    }
    if events & READING == 0 {
        return;
    }
    let mut buffer = [0_u8; CHUNK];
    let (mut ended, mut error) = (false, None);
    for _ in 0..MAX_ROUND {
        // SAFETY: the stream is valid, and the buffer has so many bytes.
        let received =
            unsafe { sys::virStreamRecv(stream, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(received) {
            Ok(0) => ended = true,
            Ok(count) => {
                ring.push(buffer.get(..count).unwrap_or_default());
                continue;
            }
            Err(_) if received == WOULD_BLOCK => {}
            Err(_) => (ended, error) = (true, Some(Error::last("virStreamRecv"))),
        }
        break;
    }
    if ended {
        // An ended stream would stay readable and fire for ever.
        // SAFETY: promised by the caller.
        let _ = unsafe { sys::virStreamEventUpdateCallback(stream, 0) };
        ring.end(error);
    }
}

/// libvirt's free callback.
///
/// # Safety
///
/// `state` must be the state of a registration and not be used again.
unsafe extern "C" fn release(state: *mut c_void) {
    // SAFETY: promised by the caller; libvirt calls this once, after the last callback.
    drop(unsafe { Box::from_raw(state.cast::<Arc<Ring>>()) });
}

/// Output on its way from libvirt's thread to the reader.
struct Ring {
    inner: Mutex<Inner>,
    changed: Condvar,
    capacity: usize,
    meter: Arc<Meter>,
}

struct Inner {
    bytes: VecDeque<u8>,
    dropped: u64,
    writable: bool,
    /// The line ended.
    ended: bool,
    /// What ended it, if it wasn't a plain end.
    error: Option<Error>,
    /// The callback was taken back.
    released: bool,
}

impl Ring {
    fn new(capacity: usize, meter: &Arc<Meter>) -> Self {
        let inner = Inner {
            bytes: VecDeque::new(),
            dropped: 0,
            writable: false,
            ended: false,
            error: None,
            released: false,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            capacity: capacity.max(1),
            meter: Arc::clone(meter),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can be left half done by a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.meter
            .received
            .fetch_add(count(bytes.len()), Ordering::Relaxed);
        let mut inner = self.lock();
        let skipped = bytes.len().saturating_sub(self.capacity);
        let bytes = bytes.get(skipped..).unwrap_or_default();
        let surplus = (inner.bytes.len() + bytes.len()).saturating_sub(self.capacity);
        inner.bytes.drain(..surplus);
        inner.bytes.extend(bytes);
        let lost = count(skipped + surplus);
        inner.dropped = inner.dropped.saturating_add(lost);
        self.meter.dropped.fetch_add(lost, Ordering::Relaxed);
        drop(inner);
        self.changed.notify_all();
    }

    fn end(&self, error: Option<Error>) {
        let mut inner = self.lock();
        // The first end is the one that counts.
        if !std::mem::replace(&mut inner.ended, true) {
            inner.error = error;
        }
        drop(inner);
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.lock().ended
    }

    fn set_writable(&self) {
        self.lock().writable = true;
        self.changed.notify_all();
    }

    fn take(&self, timeout: Duration) -> Output {
        let idle = |inner: &mut Inner| inner.bytes.is_empty() && !inner.ended;
        let (mut inner, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if !inner.bytes.is_empty() {
            let count = inner.bytes.len().min(CHUNK);
            let bytes = inner.bytes.drain(..count).collect();
            return Output::Bytes {
                bytes,
                dropped: std::mem::take(&mut inner.dropped),
            };
        }
        if inner.ended {
            return Output::Closed {
                error: inner.error.clone(),
            };
        }
        Output::Nothing
    }

    fn wait_writable(&self, end: Instant) -> Result<(), Error> {
        let left = end.saturating_duration_since(Instant::now());
        let stuck = |inner: &mut Inner| !inner.writable && !inner.ended;
        let (_inner, waited) = self
            .changed
            .wait_timeout_while(self.lock(), left, stuck)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let message = "the guest takes no more input";
            return Err(Error::new(Kind::Timeout, "virStreamSend", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAULTS 61: a flood keeps the newest output and counts the rest.
    #[test]
    fn a_flood_costs_the_oldest_output() {
        let meter = Arc::<Meter>::default();
        let ring = Ring::new(8, &meter);
        ring.push(b"0123456789");
        ring.push(b"ab");
        assert_eq!((meter.received_bytes(), meter.dropped_bytes()), (12, 4));
        assert_eq!(
            ring.take(Duration::ZERO),
            Output::Bytes {
                bytes: b"456789ab".to_vec(),
                dropped: 4
            }
        );
        assert_eq!(ring.take(Duration::ZERO), Output::Nothing);
        ring.push(b"z");
        ring.end(None);
        assert_eq!(
            ring.take(Duration::ZERO),
            Output::Bytes {
                bytes: b"z".to_vec(),
                dropped: 0
            }
        );
        assert_eq!(ring.take(Duration::ZERO), Output::Closed { error: None });
    }

    #[test]
    fn the_first_end_is_the_one_that_counts() {
        let ring = Ring::new(8, &Arc::default());
        let error = Error::new(Kind::Disconnected, "virStreamRecv", "gone");
        ring.end(Some(error.clone()));
        ring.end(None);
        assert_eq!(
            ring.take(Duration::ZERO),
            Output::Closed { error: Some(error) }
        );
    }

    #[test]
    fn a_full_line_times_out_and_an_ended_one_wakes() {
        let ring = Ring::new(8, &Arc::default());
        assert!(
            ring.wait_writable(Instant::now())
                .unwrap_err()
                .is(Kind::Timeout)
        );
        ring.end(None);
        assert_eq!(
            ring.wait_writable(Instant::now() + Duration::from_mins(1)),
            Ok(())
        );
    }
}
