//! Owning what libvirt hands out: reference-counted objects, strings, arrays.
//!
//! The `virt` crate's own wrappers panic in `Drop` and `Clone` when libvirt answers an error, and
//! on NUL bytes in arguments; these don't. This module decides nothing else.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ops::Deref,
    ptr::NonNull,
    sync::OnceLock,
    thread,
    time::Duration,
};

use virt::sys;

use crate::error::{Error, Kind};

unsafe extern "C" {
    /// The C library's own, which frees libvirt's strings and arrays.
    fn free(pointer: *mut c_void);
}

/// A libvirt object type, by how a reference to it is given back.
pub(crate) trait Object {
    /// Gives one reference back.
    ///
    /// # Safety
    ///
    /// `pointer` must be a valid reference that the caller owns; it is gone afterwards.
    unsafe fn release(pointer: *mut Self) -> c_int;
}

macro_rules! objects {
    ($($object:ident => $free:ident;)*) => {$(
        impl Object for sys::$object {
            unsafe fn release(pointer: *mut Self) -> c_int {
                // SAFETY: passed on from the caller.
                unsafe { sys::$free(pointer) }
            }
        }
    )*};
}

objects! {
    virConnect => virConnectClose;
    virDomain => virDomainFree;
    virNetwork => virNetworkFree;
    virNodeDevice => virNodeDeviceFree;
    virStoragePool => virStoragePoolFree;
    virStorageVol => virStorageVolFree;
    virStream => virStreamFree;
}

/// One owned reference to a libvirt object.
#[derive(Debug)]
pub(crate) struct Handle<T: Object>(NonNull<T>);

// SAFETY: libvirt's objects are reference-counted with atomic counters, locked inside, and
// documented to be usable from several threads. Source: libvirt.org/threads, "API thread safety".
unsafe impl<T: Object> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T: Object> Sync for Handle<T> {}

impl<T: Object> Handle<T> {
    /// Takes over the reference that `call` returned, or its error.
    ///
    /// # Errors
    ///
    /// The thread's last error when `pointer` is null.
    ///
    /// # Safety
    ///
    /// `pointer` is null or a valid reference that nobody else gives back.
    pub(crate) unsafe fn adopt(call: &'static str, pointer: *mut T) -> Result<Self, Error> {
        NonNull::new(pointer)
            .map(Self)
            .ok_or_else(|| Error::last(call))
    }

    /// The pointer, to be used while `self` lives.
    pub(crate) fn raw(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Object> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: `self` owns this reference and is gone after this. An error can only mean that
        // there was nothing left to free.
        let _ = unsafe { T::release(self.0.as_ptr()) };
    }
}

/// Turns libvirt's "negative is an error" into a result.
///
/// # Errors
///
/// The thread's last error, which is `call`'s because its value is the argument.
pub(crate) fn check(call: &'static str, outcome: c_int) -> Result<c_int, Error> {
    if outcome < 0 {
        Err(Error::last(call))
    } else {
        Ok(outcome)
    }
}

/// A C string for an argument.
///
/// # Errors
///
/// [`Kind::Invalid`] if it contains a NUL byte.
pub(crate) fn c_string(call: &'static str, text: &str) -> Result<CString, Error> {
    CString::new(text)
        .map_err(|_| Error::new(Kind::Invalid, call, "an argument contains a NUL byte"))
}

/// Copies a string that libvirt keeps; bytes that aren't UTF-8 are replaced.
///
/// # Safety
///
/// `pointer` is null or a NUL-terminated string that stays valid during the call.
pub(crate) unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, and valid as the caller promises.
    Some(
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned(),
    )
}

/// Copies and frees a string that `call` gave away.
///
/// # Errors
///
/// The thread's last error when `pointer` is null.
///
/// # Safety
///
/// `pointer` is null or a NUL-terminated string that the caller must free.
pub(crate) unsafe fn take_text(call: &'static str, pointer: *mut c_char) -> Result<String, Error> {
    // SAFETY: null or valid, see above.
    let copy = unsafe { text(pointer) }.ok_or_else(|| Error::last(call))?;
    // SAFETY: ours to free, once, and not used afterwards.
    unsafe { free(pointer.cast()) };
    Ok(copy)
}

/// An array that libvirt allocated and that is freed at the end; its elements are not.
pub(crate) struct Array<T> {
    start: *mut T,
    len: usize,
}

impl<T> Array<T> {
    /// Takes over an array of `len` elements as a list call returned it.
    ///
    /// # Safety
    ///
    /// `start` is null or points to `len` initialized elements in memory that is ours to free.
    pub(crate) unsafe fn adopt(start: *mut T, len: c_int) -> Self {
        let len = if start.is_null() {
            0
        } else {
            usize::try_from(len).unwrap_or(0)
        };
        Self { start, len }
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: `adopt`'s caller promised `len` initialized elements; they live until `drop`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: ours to free, once; free takes null.
        unsafe { free(self.start.cast()) };
    }
}

/// Takes over a list of objects, array and references.
///
/// # Safety
///
/// As for [`Array::adopt`], and each element is a reference that the caller owns.
pub(crate) unsafe fn take_objects<T: Object>(start: *mut *mut T, len: c_int) -> Vec<Handle<T>> {
    // SAFETY: passed on from the caller.
    let array = unsafe { Array::adopt(start, len) };
    array
        .iter()
        .filter_map(|&pointer| NonNull::new(pointer))
        .map(Handle)
        .collect()
}

/// Makes libvirt ready, once a process: quiet errors, then the default event loop on its own
/// thread. libvirt wants the loop registered before the first connection is opened.
///
/// # Errors
///
/// The first attempt's error, every time.
pub(crate) fn init() -> Result<(), Error> {
    static READY: OnceLock<Result<(), Error>> = OnceLock::new();
    READY.get_or_init(start).clone()
}

fn start() -> Result<(), Error> {
    // SAFETY: takes nothing and may be called any number of times.
    check("virInitialize", unsafe { sys::virInitialize() })?;
    // SAFETY: the callback ignores its arguments and lives for ever.
    unsafe { sys::virSetErrorFunc(std::ptr::null_mut(), Some(quiet)) };
    // SAFETY: takes nothing; called once, before any connection exists.
    check("virEventRegisterDefaultImpl", unsafe {
        sys::virEventRegisterDefaultImpl()
    })?;
    thread::Builder::new()
        .name("libvirt-events".into())
        .spawn(run_events)
        .map(drop)
        .map_err(|error| Error::new(Kind::Other, "spawn libvirt-events", error.to_string()))
}

/// Replaces libvirt's habit of writing every error to stderr.
unsafe extern "C" fn quiet(_: *mut c_void, _: sys::virErrorPtr) {}

/// Serves the default loop for the life of the process.
fn run_events() {
    loop {
        // SAFETY: the default implementation is registered, and only this thread runs it.
        if unsafe { sys::virEventRunDefaultImpl() } < 0 {
            let error = Error::last("virEventRunDefaultImpl");
            tracing::warn!(%error, "libvirt's event loop stumbled");
            // A loop that fails at once must not eat a core.
            thread::park_timeout(Duration::from_millis(100));
        }
    }
}
