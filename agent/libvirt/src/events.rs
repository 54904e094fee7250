//! What libvirt tells by itself: events, delivered from one thread to whoever subscribed.
//!
//! ```text
//! libvirtd ──> "libvirt-events" thread ──> sink (only enqueues) ──> the agent's own thread
//! ```
//!
//! Events are hints: they can be lost (a full queue counts what it drops, a broken connection
//! delivers nothing), and lead to a fresh observation, never to a decision. The boxed sink of a
//! callback is freed by libvirt's free callback alone, because that is the one moment at which
//! no other thread can still be inside it.

use std::{
    ffi::c_int,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use virt::sys;

use crate::{connection::Connection, error::Error, ffi::check};

mod callbacks;
mod kinds;

pub use kinds::{CloseReason, Event, Lifecycle, StopReason};

/// Takes events on libvirt's thread. It must return at once: it holds up all other events.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// A subscription; ends when dropped. Dropping sends messages to libvirtd and may block.
pub struct EventSubscription {
    connection: Connection,
    ids: Vec<c_int>,
    close: bool,
}

impl EventSubscription {
    /// Subscribes `sink` to all events of all domains and to the connection's own end. One
    /// subscription a connection: libvirt keeps one close callback only.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Invalid`] for a second one, else any of a libvirt call.
    pub fn new(connection: &Connection, sink: &Sink) -> Result<Self, Error> {
        let mut subscription = Self {
            connection: connection.clone(),
            ids: Vec::new(),
            close: false,
        };
        // The test driver never closes, and would keep the boxed sink for ever.
        if !connection.is_test() {
            subscription.register_close(sink)?;
        }
        for (event, callback) in callbacks::all() {
            // On an error, dropping what there is so far takes the others back.
            subscription.register(event, callback, sink)?;
        }
        Ok(subscription)
    }

    fn register(
        &mut self,
        event: c_int,
        callback: sys::virConnectDomainEventGenericCallback,
        sink: &Sink,
    ) -> Result<(), Error> {
        let state = callbacks::boxed(sink);
        // SAFETY: the callback's real signature belongs to `event`; the state stays valid until
        // libvirt calls `release`, and null means all domains.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.connection.raw(),
                std::ptr::null_mut(),
                event,
                callback,
                state,
                Some(callbacks::release),
            )
        };
        match check("virConnectDomainEventRegisterAny", id) {
            Ok(id) => {
                self.ids.push(id);
                Ok(())
            }
            Err(error) => {
                // SAFETY: libvirt didn't take the state, so it is still ours, once.
                unsafe { callbacks::release(state) };
                Err(error)
            }
        }
    }

    fn register_close(&mut self, sink: &Sink) -> Result<(), Error> {
        let state = callbacks::boxed(sink);
        // SAFETY: as for `register`.
        let outcome = unsafe {
            sys::virConnectRegisterCloseCallback(
                self.connection.raw(),
                Some(callbacks::closed),
                state,
                Some(callbacks::release),
            )
        };
        if let Err(error) = check("virConnectRegisterCloseCallback", outcome) {
            // SAFETY: libvirt didn't take the state, so it is still ours, once.
            unsafe { callbacks::release(state) };
            return Err(error);
        }
        self.close = true;
        Ok(())
    }
}

impl Drop for EventSubscription {
    fn drop(&mut self) {
        // Errors mean that the connection is gone, and its callbacks with it.
        for &id in &self.ids {
            // SAFETY: the connection is valid and the id is one of its own.
            let _ = unsafe { sys::virConnectDomainEventDeregisterAny(self.connection.raw(), id) };
        }
        if self.close {
            // SAFETY: the connection is valid; libvirt compares the callback with its own.
            let _ = unsafe {
                sys::virConnectUnregisterCloseCallback(
                    self.connection.raw(),
                    Some(callbacks::closed),
                )
            };
        }
    }
}

impl fmt::Debug for EventSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSubscription")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// A bounded queue of events that counts what it had to drop.
#[derive(Debug)]
pub struct EventReceiver {
    events: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
}

impl EventReceiver {
    /// The next event, or nothing within `timeout` or once the subscription has ended.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// The next event if there is one.
    pub fn try_recv(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// How many events were dropped since this was last asked. After any, everything must be
    /// looked at afresh.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// Subscribes a queue of `capacity` events: see [`EventSubscription::new`].
///
/// # Errors
///
/// As there.
pub fn subscribe(
    connection: &Connection,
    capacity: usize,
) -> Result<(EventSubscription, EventReceiver), Error> {
    let (sender, events) = mpsc::sync_channel(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    let dropped = Arc::clone(&lost);
    let sink: Sink = Arc::new(move |event| {
        if sender.try_send(event).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok((
        EventSubscription::new(connection, &sink)?,
        EventReceiver { events, lost },
    ))
}
