//! The functions that libvirt calls, and their boxed state.
//!
//! Each registration owns one box with one reference to the sink. A panic in a sink is caught:
//! it must not unwind into libvirt's frames.

use std::{
    ffi::{c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use uuid::Uuid;
use virt::sys;

use super::{CloseReason, Event, Lifecycle, Sink};
use crate::{domain::uuid_of, ffi};

type State = Sink;

/// A domain event's number with its callback.
type Registration = (c_int, sys::virConnectDomainEventGenericCallback);

/// The box that one registration owns; goes back through [`release`] exactly once.
pub(super) fn boxed(sink: &Sink) -> *mut c_void {
    Box::into_raw(Box::<State>::new(Arc::clone(sink))).cast()
}

/// libvirt's free callback.
///
/// # Safety
///
/// `state` must come from [`boxed`] and not be used again.
pub(super) unsafe extern "C" fn release(state: *mut c_void) {
    // SAFETY: promised by the caller; libvirt calls this once, after the last callback.
    let state = unsafe { Box::from_raw(state.cast::<State>()) };
    // A sink's own destructor mustn't unwind into libvirt either.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(state)));
}

/// Hands one event over.
///
/// # Safety
///
/// `state` must come from [`boxed`] and not be released yet.
unsafe fn deliver(state: *mut c_void, event: Option<Event>) {
    // SAFETY: promised by the caller.
    let sink = unsafe { state.cast::<State>().as_ref() };
    if let (Some(sink), Some(event)) = (sink, event)
        && catch_unwind(AssertUnwindSafe(|| sink(event))).is_err()
    {
        tracing::error!("an event sink panicked");
    }
}

/// The UUID of the domain that libvirt passes to a callback.
///
/// # Safety
///
/// `domain` is a valid reference during the callback.
unsafe fn uuid(domain: sys::virDomainPtr) -> Option<Uuid> {
    // SAFETY: promised by the caller.
    unsafe { uuid_of(domain) }.ok()
}

unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    state: *mut c_void,
) -> c_int {
    // SAFETY: libvirt passes a valid domain and the state of this registration.
    unsafe {
        let kind = Lifecycle::from_raw(event, detail);
        deliver(
            state,
            uuid(domain).map(|uuid| Event::Lifecycle { uuid, kind }),
        );
    }
    0
}

unsafe extern "C" fn reboot(_: sys::virConnectPtr, domain: sys::virDomainPtr, state: *mut c_void) {
    // SAFETY: libvirt passes a valid domain and the state of this registration.
    unsafe { deliver(state, uuid(domain).map(|uuid| Event::Reboot { uuid })) };
}

unsafe extern "C" fn control_error(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    state: *mut c_void,
) {
    // SAFETY: libvirt passes a valid domain and the state of this registration.
    unsafe { deliver(state, uuid(domain).map(|uuid| Event::ControlError { uuid })) };
}

unsafe extern "C" fn agent_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    agent: c_int,
    _reason: c_int,
    state: *mut c_void,
) {
    let connected =
        u32::try_from(agent) == Ok(sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED);
    // SAFETY: libvirt passes a valid domain and the state of this registration.
    unsafe {
        deliver(
            state,
            uuid(domain).map(|uuid| Event::AgentLifecycle { uuid, connected }),
        );
    };
}

unsafe extern "C" fn io_error(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _path: *const c_char,
    alias: *const c_char,
    _action: c_int,
    reason: *const c_char,
    state: *mut c_void,
) {
    // SAFETY: libvirt passes a valid domain, null or valid strings, and this registration's state.
    unsafe {
        let (disk, reason) = (ffi::text(alias), ffi::text(reason));
        deliver(
            state,
            uuid(domain).map(|uuid| Event::IoError {
                uuid,
                disk: disk.unwrap_or_default(),
                reason: reason.unwrap_or_default(),
            }),
        );
    }
}

unsafe extern "C" fn metadata_changed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    namespace: *const c_char,
    state: *mut c_void,
) {
    // SAFETY: libvirt passes a valid domain, a null or valid string, and this registration's state.
    unsafe {
        let namespace = ffi::text(namespace);
        deliver(
            state,
            uuid(domain).map(|uuid| Event::MetadataChanged { uuid, namespace }),
        );
    }
}

pub(super) unsafe extern "C" fn closed(_: sys::virConnectPtr, reason: c_int, state: *mut c_void) {
    // SAFETY: libvirt passes the state of this registration.
    unsafe {
        deliver(
            state,
            Some(Event::Closed {
                reason: CloseReason::from_raw(reason),
            }),
        );
    };
}

type Lifecycled =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type TwoNumbers =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
type IoErrored = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    *const c_char,
    c_int,
    *const c_char,
    *mut c_void,
);
type NumberAndText =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *const c_char, *mut c_void);
type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

/// Every domain event that is subscribed to.
pub(super) fn all() -> [Registration; 6] {
    // SAFETY: libvirt takes all callbacks as the generic type and calls each with the signature
    // of its event (VIR_DOMAIN_EVENT_CALLBACK in libvirt-domain.h), which is that of the
    // function it is registered with here.
    unsafe {
        [
            (
                number(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE),
                Some(std::mem::transmute::<Lifecycled, Generic>(lifecycle)),
            ),
            (number(sys::VIR_DOMAIN_EVENT_ID_REBOOT), Some(reboot)),
            (
                number(sys::VIR_DOMAIN_EVENT_ID_CONTROL_ERROR),
                Some(control_error),
            ),
            (
                number(sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE),
                Some(std::mem::transmute::<TwoNumbers, Generic>(agent_lifecycle)),
            ),
            (
                number(sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON),
                Some(std::mem::transmute::<IoErrored, Generic>(io_error)),
            ),
            (
                number(sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE),
                Some(std::mem::transmute::<NumberAndText, Generic>(
                    metadata_changed,
                )),
            ),
        ]
    }
}

fn number(id: sys::virDomainEventID) -> c_int {
    c_int::try_from(id).unwrap_or(c_int::MAX)
}
