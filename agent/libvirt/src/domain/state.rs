//! What state a domain is in, and why, in types.

use std::ffi::c_int;

use virt::sys;

/// A domain's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The guest runs (or waits for a processor).
    Running,
    /// The guest stands still, its memory kept.
    Paused(PausedReason),
    /// The guest was asked to shut down, or is doing so.
    ShuttingDown,
    /// There is no QEMU.
    Shutoff(ShutoffReason),
    /// The guest crashed and its QEMU was kept.
    Crashed,
    /// The guest put itself to sleep.
    Suspended,
    /// libvirt says something that this crate doesn't know.
    Other {
        /// libvirt's number of the state.
        state: i32,
        /// libvirt's number of the reason.
        reason: i32,
    },
}

/// Why a guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PausedReason {
    /// Somebody paused it.
    User,
    /// A migration, save, dump or snapshot is going on.
    Job,
    /// A disk failed or is full.
    IoError,
    /// Its watchdog fired.
    Watchdog,
    /// It was restored from a snapshot and not resumed.
    FromSnapshot,
    /// It is shutting down.
    ShuttingDown,
    /// It crashed.
    Crashed,
    /// It is being started.
    StartingUp,
    /// A post-copy migration goes on, or failed.
    PostCopy,
    /// Anything else.
    Unknown,
}

/// Why there is no QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutoffReason {
    /// The guest shut down, of itself or when asked.
    Shutdown,
    /// Somebody ended its QEMU.
    Destroyed,
    /// The guest or its QEMU crashed.
    Crashed,
    /// It moved to another host.
    Migrated,
    /// Its memory was saved.
    Saved,
    /// It couldn't be started.
    Failed,
    /// It was restored from a snapshot taken while off.
    FromSnapshot,
    /// libvirtd lost it, as after a host's boot.
    Daemon,
    /// libvirt doesn't know: it wasn't started since libvirtd or the host was.
    Unknown,
}

impl State {
    /// From libvirt's two numbers.
    pub fn from_raw(state: c_int, reason: c_int) -> Self {
        let other = Self::Other { state, reason };
        let Ok(number) = u32::try_from(state) else {
            return other;
        };
        match number {
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => Self::Running,
            sys::VIR_DOMAIN_PAUSED => Self::Paused(PausedReason::from_raw(reason)),
            sys::VIR_DOMAIN_SHUTDOWN => Self::ShuttingDown,
            sys::VIR_DOMAIN_SHUTOFF => Self::Shutoff(ShutoffReason::from_raw(reason)),
            sys::VIR_DOMAIN_CRASHED => Self::Crashed,
            sys::VIR_DOMAIN_PMSUSPENDED => Self::Suspended,
            _ => other,
        }
    }

    /// Whether there is no QEMU.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Shutoff(_))
    }
}

impl PausedReason {
    fn from_raw(reason: c_int) -> Self {
        match u32::try_from(reason).unwrap_or(u32::MAX) {
            sys::VIR_DOMAIN_PAUSED_USER => Self::User,
            sys::VIR_DOMAIN_PAUSED_MIGRATION
            | sys::VIR_DOMAIN_PAUSED_SAVE
            | sys::VIR_DOMAIN_PAUSED_DUMP
            | sys::VIR_DOMAIN_PAUSED_SNAPSHOT => Self::Job,
            sys::VIR_DOMAIN_PAUSED_IOERROR => Self::IoError,
            sys::VIR_DOMAIN_PAUSED_WATCHDOG => Self::Watchdog,
            sys::VIR_DOMAIN_PAUSED_FROM_SNAPSHOT => Self::FromSnapshot,
            sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => Self::ShuttingDown,
            sys::VIR_DOMAIN_PAUSED_CRASHED => Self::Crashed,
            sys::VIR_DOMAIN_PAUSED_STARTING_UP => Self::StartingUp,
            sys::VIR_DOMAIN_PAUSED_POSTCOPY | sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED => {
                Self::PostCopy
            }
            _ => Self::Unknown,
        }
    }
}

impl ShutoffReason {
    fn from_raw(reason: c_int) -> Self {
        match u32::try_from(reason).unwrap_or(u32::MAX) {
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => Self::Shutdown,
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => Self::Destroyed,
            sys::VIR_DOMAIN_SHUTOFF_CRASHED => Self::Crashed,
            sys::VIR_DOMAIN_SHUTOFF_MIGRATED => Self::Migrated,
            sys::VIR_DOMAIN_SHUTOFF_SAVED => Self::Saved,
            sys::VIR_DOMAIN_SHUTOFF_FAILED => Self::Failed,
            sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT => Self::FromSnapshot,
            sys::VIR_DOMAIN_SHUTOFF_DAEMON => Self::Daemon,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_states_and_unknown_ones_stay_visible() {
        assert_eq!(State::from_raw(1, 1), State::Running);
        assert_eq!(State::from_raw(3, 5), State::Paused(PausedReason::IoError));
        assert_eq!(
            State::from_raw(5, 1),
            State::Shutoff(ShutoffReason::Shutdown)
        );
        assert_eq!(
            State::from_raw(5, 99),
            State::Shutoff(ShutoffReason::Unknown)
        );
        assert_eq!(
            State::from_raw(77, 2),
            State::Other {
                state: 77,
                reason: 2
            }
        );
        assert_eq!(
            State::from_raw(-1, 0),
            State::Other {
                state: -1,
                reason: 0
            }
        );
    }
}
