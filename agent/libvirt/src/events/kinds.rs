//! The events, in types.

use std::ffi::c_int;

use uuid::Uuid;
use virt::sys;

/// Something that libvirt told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A domain's life took a turn.
    Lifecycle {
        /// Which domain.
        uuid: Uuid,
        /// Which turn.
        kind: Lifecycle,
    },
    /// A guest rebooted.
    Reboot {
        /// Which domain.
        uuid: Uuid,
    },
    /// A guest's agent came or went.
    AgentLifecycle {
        /// Which domain.
        uuid: Uuid,
        /// Whether it is there now.
        connected: bool,
    },
    /// A disk failed or is full.
    IoError {
        /// Which domain.
        uuid: Uuid,
        /// The disk's alias within QEMU.
        disk: String,
        /// Why, for example `enospc`.
        reason: String,
    },
    /// libvirt lost the control of a domain's QEMU.
    ControlError {
        /// Which domain.
        uuid: Uuid,
    },
    /// Somebody changed a domain's metadata.
    MetadataChanged {
        /// Which domain.
        uuid: Uuid,
        /// The changed element's namespace; absent for title and description.
        namespace: Option<String>,
    },
    /// The connection ended; nothing will come after this.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// A turn of a domain's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// It was defined, or its definition was changed.
    Defined,
    /// It was undefined.
    Undefined,
    /// It was started.
    Started,
    /// Its guest was paused.
    Paused,
    /// Its guest runs on.
    Resumed,
    /// Its QEMU ended.
    Stopped(StopReason),
    /// Its guest has finished shutting down; its QEMU is about to end.
    ShuttingDown {
        /// Whether the guest did so by itself (as opposed to a request through libvirt).
        by_guest: bool,
    },
    /// Its guest put itself to sleep.
    Suspended,
    /// Its guest crashed.
    Crashed,
    /// Something that this crate doesn't know.
    Other {
        /// libvirt's number of the event.
        event: i32,
        /// libvirt's number of the detail.
        detail: i32,
    },
}

/// Why a QEMU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The guest shut down.
    Shutdown,
    /// Somebody ended it.
    Destroyed,
    /// The guest or QEMU crashed.
    Crashed,
    /// It moved to another host.
    Migrated,
    /// Its memory was saved.
    Saved,
    /// libvirt gave up on it.
    Failed,
    /// A snapshot taken while off was restored.
    FromSnapshot,
    /// Anything else.
    Unknown,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The socket broke.
    Error,
    /// libvirtd closed it.
    Eof,
    /// libvirtd gave no sign of life.
    Keepalive,
    /// This side closed it.
    Client,
    /// Anything else.
    Unknown,
}

impl Lifecycle {
    pub(super) fn from_raw(event: c_int, detail: c_int) -> Self {
        let other = Self::Other { event, detail };
        let (Ok(number), Ok(why)) = (u32::try_from(event), u32::try_from(detail)) else {
            return other;
        };
        match number {
            sys::VIR_DOMAIN_EVENT_DEFINED => Self::Defined,
            sys::VIR_DOMAIN_EVENT_UNDEFINED => Self::Undefined,
            sys::VIR_DOMAIN_EVENT_STARTED => Self::Started,
            sys::VIR_DOMAIN_EVENT_SUSPENDED => Self::Paused,
            sys::VIR_DOMAIN_EVENT_RESUMED => Self::Resumed,
            sys::VIR_DOMAIN_EVENT_STOPPED => Self::Stopped(StopReason::from_raw(why)),
            sys::VIR_DOMAIN_EVENT_SHUTDOWN => Self::ShuttingDown {
                by_guest: why == sys::VIR_DOMAIN_EVENT_SHUTDOWN_GUEST,
            },
            sys::VIR_DOMAIN_EVENT_PMSUSPENDED => Self::Suspended,
            sys::VIR_DOMAIN_EVENT_CRASHED => Self::Crashed,
            _ => other,
        }
    }
}

impl StopReason {
    fn from_raw(detail: u32) -> Self {
        match detail {
            sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => Self::Shutdown,
            sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => Self::Destroyed,
            sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => Self::Crashed,
            sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => Self::Migrated,
            sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => Self::Saved,
            sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => Self::Failed,
            sys::VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT => Self::FromSnapshot,
            _ => Self::Unknown,
        }
    }
}

impl CloseReason {
    pub(super) fn from_raw(reason: c_int) -> Self {
        match u32::try_from(reason).unwrap_or(u32::MAX) {
            sys::VIR_CONNECT_CLOSE_REASON_ERROR => Self::Error,
            sys::VIR_CONNECT_CLOSE_REASON_EOF => Self::Eof,
            sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => Self::Keepalive,
            sys::VIR_CONNECT_CLOSE_REASON_CLIENT => Self::Client,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_turns() {
        assert_eq!(Lifecycle::from_raw(2, 0), Lifecycle::Started);
        assert_eq!(
            Lifecycle::from_raw(5, 2),
            Lifecycle::Stopped(StopReason::Crashed)
        );
        assert_eq!(
            Lifecycle::from_raw(5, 99),
            Lifecycle::Stopped(StopReason::Unknown)
        );
        assert_eq!(
            Lifecycle::from_raw(6, 1),
            Lifecycle::ShuttingDown { by_guest: true }
        );
        assert_eq!(
            Lifecycle::from_raw(99, 1),
            Lifecycle::Other {
                event: 99,
                detail: 1
            }
        );
        assert_eq!(CloseReason::from_raw(2), CloseReason::Keepalive);
    }
}
