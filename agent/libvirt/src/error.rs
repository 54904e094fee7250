//! How a libvirt call failed, in kinds that a caller can act on.
//!
//! libvirt answers many different failures with one code (`INTERNAL_ERROR`, `OPERATION_FAILED`,
//! `OPERATION_INVALID`); there the message decides. The classification is a pure function with a
//! table of tests.

use std::{ffi::c_int, fmt};

use virt::sys;

use crate::ffi;

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The domain, volume, pool, network or metadata doesn't exist. Only libvirt's own codes for
    /// that say so, never a message or an errno: somebody may take it as proof that a guest ended.
    NotFound,
    /// The connection to libvirtd is gone or couldn't be made; open another.
    Disconnected,
    /// libvirt gave up waiting, for example for a lock held by a stuck call on the same domain.
    Timeout,
    /// Something else uses it now (a pool's job, a volume, a running domain job); try later.
    Busy,
    /// Another process holds the image's lock: another QEMU may be running on this disk.
    Locked,
    /// The pool's file system has no room.
    NoSpace,
    /// A thing of that name or UUID is there already.
    AlreadyExists,
    /// The call isn't legal in the object's present state (running, stopped, in a job).
    InvalidState,
    /// This driver or hypervisor can't do it.
    Unsupported,
    /// The guest's agent isn't there or doesn't answer in time.
    AgentUnresponsive,
    /// Authentication or permission failed.
    Refused,
    /// An argument, or a document made from it, was refused; repeating it can't help.
    Invalid,
    /// Anything else; the message says more.
    Other,
}

impl Kind {
    /// A short word for logs and metrics labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Disconnected => "disconnected",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Locked => "locked",
            Self::NoSpace => "no_space",
            Self::AlreadyExists => "already_exists",
            Self::InvalidState => "invalid_state",
            Self::Unsupported => "unsupported",
            Self::AgentUnresponsive => "agent_unresponsive",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct Error {
    /// What a caller can do about it.
    pub kind: Kind,
    /// The libvirt function, or this crate's own check, that failed.
    pub call: &'static str,
    /// libvirt's error number (`virErrorNumber`); 0 when libvirt wasn't asked.
    pub code: i32,
    /// libvirt's words, or ours.
    pub message: String,
}

impl Error {
    /// An error of this crate's own making.
    pub(crate) fn new(kind: Kind, call: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            call,
            code: 0,
            message: message.into(),
        }
    }

    /// The calling thread's last libvirt error, which must stem from `call` just made.
    pub(crate) fn last(call: &'static str) -> Self {
        // SAFETY: takes nothing; the pointer is owned by libvirt and stays valid on this thread
        // until its next libvirt call, and it is read before that.
        let error = unsafe { sys::virGetLastError() };
        // SAFETY: null or valid, see above.
        let Some(error) = (unsafe { error.as_ref() }) else {
            return Self::new(Kind::Other, call, "failed without saying why");
        };
        // SAFETY: the message is null or a NUL-terminated string owned by the error.
        let message = unsafe { ffi::text(error.message) }.unwrap_or_default();
        Self {
            kind: classify(error.code, error.int1, &message),
            call,
            code: error.code,
            message,
        }
    }

    /// Whether this is `kind`.
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind
    }

    /// Whether libvirt says that a *volume* doesn't exist. [`Kind::NotFound`] is said of its pool
    /// too, whose absence proves nothing about its volumes.
    pub fn is_no_volume(&self) -> bool {
        u32::try_from(self.code) == Ok(sys::VIR_ERR_NO_STORAGE_VOL)
    }
}

/// Errno values that libvirt passes on in `int1` of a system error (Linux, all architectures).
mod errno {
    use std::ffi::c_int;
    pub(super) const EPERM: c_int = 1;
    pub(super) const EACCES: c_int = 13;
    pub(super) const EBUSY: c_int = 16;
    pub(super) const EEXIST: c_int = 17;
    pub(super) const ENOSPC: c_int = 28;
    pub(super) const EPIPE: c_int = 32;
    pub(super) const ECONNRESET: c_int = 104;
    pub(super) const ETIMEDOUT: c_int = 110;
    pub(super) const ECONNREFUSED: c_int = 111;
    pub(super) const EDQUOT: c_int = 122;
}

/// Maps libvirt's code, its `int1` (an errno for system errors) and its message to a kind.
fn classify(code: c_int, int1: c_int, message: &str) -> Kind {
    let Ok(code) = u32::try_from(code) else {
        return Kind::Other;
    };
    match code {
        sys::VIR_ERR_NO_DOMAIN
        | sys::VIR_ERR_NO_NETWORK
        | sys::VIR_ERR_NO_STORAGE_POOL
        | sys::VIR_ERR_NO_STORAGE_VOL
        | sys::VIR_ERR_NO_DOMAIN_METADATA
        | sys::VIR_ERR_NO_DOMAIN_SNAPSHOT
        | sys::VIR_ERR_NO_DOMAIN_CHECKPOINT
        | sys::VIR_ERR_NO_SECRET
        | sys::VIR_ERR_NO_NODE_DEVICE
        | sys::VIR_ERR_DEVICE_MISSING => Kind::NotFound,
        sys::VIR_ERR_INVALID_CONN | sys::VIR_ERR_NO_SERVER => Kind::Disconnected,
        sys::VIR_ERR_OPERATION_TIMEOUT => Kind::Timeout,
        sys::VIR_ERR_RESOURCE_BUSY => Kind::Busy,
        sys::VIR_ERR_DOM_EXIST | sys::VIR_ERR_NETWORK_EXIST | sys::VIR_ERR_STORAGE_VOL_EXIST => {
            Kind::AlreadyExists
        }
        sys::VIR_ERR_NO_SUPPORT
        | sys::VIR_ERR_NO_CONNECT
        | sys::VIR_ERR_ARGUMENT_UNSUPPORTED
        | sys::VIR_ERR_CONFIG_UNSUPPORTED
        | sys::VIR_ERR_OPERATION_UNSUPPORTED => Kind::Unsupported,
        sys::VIR_ERR_AGENT_UNRESPONSIVE
        | sys::VIR_ERR_AGENT_UNSYNCED
        | sys::VIR_ERR_AGENT_COMMAND_TIMEOUT => Kind::AgentUnresponsive,
        sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_AUTH_UNAVAILABLE
        | sys::VIR_ERR_OPERATION_DENIED
        | sys::VIR_ERR_ACCESS_DENIED => Kind::Refused,
        sys::VIR_ERR_INVALID_ARG
        | sys::VIR_ERR_XML_ERROR
        | sys::VIR_ERR_XML_DETAIL
        | sys::VIR_ERR_XML_INVALID_SCHEMA
        | sys::VIR_ERR_INVALID_MAC => by_message(message).unwrap_or(Kind::Invalid),
        sys::VIR_ERR_SYSTEM_ERROR => by_errno(int1)
            .or_else(|| by_message(message))
            .unwrap_or(Kind::Other),
        sys::VIR_ERR_OPERATION_INVALID => by_message(message).unwrap_or(Kind::InvalidState),
        _ => by_message(message).unwrap_or(Kind::Other),
    }
}

fn by_errno(errno: c_int) -> Option<Kind> {
    Some(match errno {
        errno::EPERM | errno::EACCES => Kind::Refused,
        errno::EBUSY => Kind::Busy,
        errno::EEXIST => Kind::AlreadyExists,
        errno::ENOSPC | errno::EDQUOT => Kind::NoSpace,
        errno::EPIPE | errno::ECONNRESET | errno::ECONNREFUSED => Kind::Disconnected,
        errno::ETIMEDOUT => Kind::Timeout,
        _ => return None,
    })
}

/// What libvirt 9.0 and QEMU 7.2 say where their code says nothing. First match wins, so the
/// more dangerous reading comes first: a held image lock must never look like a plain failure.
const MESSAGES: &[(&str, Kind)] = &[
    ("\"write\" lock", Kind::Locked),
    ("\"consistent read\" lock", Kind::Locked),
    ("is another process using the image", Kind::Locked),
    ("no space left on device", Kind::NoSpace),
    ("disk quota exceeded", Kind::NoSpace),
    ("client socket is closed", Kind::Disconnected),
    (
        "connection closed due to keepalive timeout",
        Kind::Disconnected,
    ),
    ("end of file while reading data", Kind::Disconnected),
    ("received hangup", Kind::Disconnected),
    ("broken pipe", Kind::Disconnected),
    ("connection reset by peer", Kind::Disconnected),
    ("cannot acquire state change lock", Kind::Timeout),
    ("has asynchronous jobs running", Kind::Busy),
    ("is still being allocated", Kind::Busy),
    ("is still in use", Kind::Busy),
    ("already in use", Kind::Busy),
    ("active console session exists", Kind::Busy),
    ("already exists", Kind::AlreadyExists),
    ("is already defined", Kind::AlreadyExists),
    ("file exists", Kind::AlreadyExists),
    ("unsupported flags", Kind::Unsupported),
    ("is not running", Kind::InvalidState),
    ("not running", Kind::InvalidState),
    ("already running", Kind::InvalidState),
    ("already active", Kind::InvalidState),
    ("is not active", Kind::InvalidState),
    ("permission denied", Kind::Refused),
];

fn by_message(message: &str) -> Option<Kind> {
    let message = message.to_lowercase();
    MESSAGES
        .iter()
        .find(|(part, _)| message.contains(part))
        .map(|&(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_messages_become_kinds() {
        let table: &[(u32, c_int, &str, Kind)] = &[
            (
                sys::VIR_ERR_NO_DOMAIN,
                0,
                "Domain not found",
                Kind::NotFound,
            ),
            (
                sys::VIR_ERR_NO_DOMAIN_METADATA,
                0,
                "metadata not found",
                Kind::NotFound,
            ),
            (
                sys::VIR_ERR_OPERATION_INVALID,
                0,
                "domain is not running",
                Kind::InvalidState,
            ),
            (
                sys::VIR_ERR_OPERATION_INVALID,
                0,
                "volume 'a' is still being allocated.",
                Kind::Busy,
            ),
            (
                sys::VIR_ERR_INTERNAL_ERROR,
                0,
                "process exited while connecting to monitor: qemu-system-x86_64: -blockdev …: \
                 Failed to get \"write\" lock\nIs another process using the image [/p/a]?",
                Kind::Locked,
            ),
            (
                sys::VIR_ERR_INTERNAL_ERROR,
                0,
                "client socket is closed",
                Kind::Disconnected,
            ),
            (
                sys::VIR_ERR_INTERNAL_ERROR,
                0,
                "pool 'a' has asynchronous jobs running.",
                Kind::Busy,
            ),
            (
                sys::VIR_ERR_OPERATION_FAILED,
                0,
                "domain 'a' already exists with uuid b",
                Kind::AlreadyExists,
            ),
            (
                sys::VIR_ERR_OPERATION_FAILED,
                0,
                "something new",
                Kind::Other,
            ),
            (sys::VIR_ERR_SYSTEM_ERROR, 28, "cannot write", Kind::NoSpace),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                13,
                "Failed to connect socket",
                Kind::Refused,
            ),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                0,
                "Cannot write data: Broken pipe",
                Kind::Disconnected,
            ),
            (
                sys::VIR_ERR_OPERATION_TIMEOUT,
                0,
                "cannot acquire state change lock (held by monitor=remoteDispatchDomainReset)",
                Kind::Timeout,
            ),
            (
                sys::VIR_ERR_AGENT_UNRESPONSIVE,
                0,
                "QEMU guest agent is not connected",
                Kind::AgentUnresponsive,
            ),
            // Some file that a call needed is missing, not what the call was about.
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                2,
                "Couldn't create lock file: No such file or directory",
                Kind::Other,
            ),
            (sys::VIR_ERR_XML_ERROR, 0, "missing name", Kind::Invalid),
            (
                sys::VIR_ERR_INVALID_ARG,
                0,
                "unsupported flags (0x4) in function f",
                Kind::Unsupported,
            ),
            (sys::VIR_ERR_AUTH_UNAVAILABLE, 0, "no agent", Kind::Refused),
        ];
        for &(code, int1, message, kind) in table {
            let code = c_int::try_from(code).unwrap();
            assert_eq!(classify(code, int1, message), kind, "{message}");
        }
        assert_eq!(classify(-1, 0, ""), Kind::Other);
    }
}
