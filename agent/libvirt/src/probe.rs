//! Whether a hypervisor really boots a guest.
//!
//! `/dev/kvm` can open, and even run code, where Linux guests hang. So a tiny guest is booted
//! through libvirt, with the machine type in use, and must say a token on its serial line from
//! its *userland*. The caller decides when to probe and keeps the result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kapok_types::{MemoryMib, instance::Arch};
use uuid::Uuid;

use crate::{
    connection::Connection,
    console::{ConsoleReader, Output},
    domain::{Domain, Start},
    error::Error,
    xml::{domain::VirtType, probe::ProbeDomain},
};

/// What to boot. Paths are the operator's configuration and must be readable to QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// The short-lived domain's UUID.
    pub uuid: Uuid,
    /// A Linux kernel.
    pub kernel: String,
    /// An initramfs whose `init` prints the token on the console.
    pub initrd: String,
    /// What `init` prints; at least 8 bytes that a kernel doesn't print by itself.
    pub token: String,
    /// How it is to run.
    pub virt_type: VirtType,
    /// Architecture.
    pub arch: Arch,
    /// The versioned machine type in use.
    pub machine: String,
    /// The guest's memory.
    pub memory: MemoryMib,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Userland was reached.
    Userland {
        /// How long that took, from the guest's first instruction.
        after: Duration,
    },
    /// It wasn't: in the time given, or before the guest ended.
    NoUserland {
        /// The last that it printed, at most 2 KiB, for people.
        tail: String,
    },
}

/// Most output that is kept to look for the token in, and to show.
const TAIL: usize = 2048;
/// Room for output on its way.
const RING: usize = 256 * 1024;

/// Boots the probe's guest and waits at most `timeout` for its token. The guest is destroyed
/// before this returns, and by libvirtd if this process dies.
///
/// # Errors
///
/// If the guest can't even be started, for example [`crate::Kind::Unsupported`] for KVM without
/// `/dev/kvm`.
pub fn boot(
    connection: &Connection,
    config: &ProbeConfig,
    timeout: Duration,
) -> Result<Outcome, Error> {
    let xml = ProbeDomain {
        uuid: config.uuid,
        kernel: &config.kernel,
        initrd: &config.initrd,
        virt_type: config.virt_type,
        arch: config.arch,
        machine: &config.machine,
        memory: config.memory,
    }
    .to_xml()?;
    // Paused, so that nothing is printed before the console is open.
    let start = Start {
        paused: true,
        autodestroy: true,
    };
    let guest = Guest(connection.create_transient(&xml, start)?);
    let (reader, _writer) = guest.0.open_console(true, RING, &Arc::default())?;
    guest.0.resume()?;
    Ok(wait_for_token(&reader, config.token.as_bytes(), timeout))
}

/// A guest that must not stay.
struct Guest(Domain);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Err(error) = self.0.destroy(false) {
            tracing::debug!(%error, "the probe's guest was gone already");
        }
    }
}

fn wait_for_token(reader: &ConsoleReader, token: &[u8], timeout: Duration) -> Outcome {
    let began = Instant::now();
    let mut tail = Vec::new();
    while let Some(left) = timeout.checked_sub(began.elapsed()) {
        match reader.read(left) {
            Output::Bytes { bytes, .. } => {
                tail.extend_from_slice(&bytes);
                if contains(&tail, token) {
                    return Outcome::Userland {
                        after: began.elapsed(),
                    };
                }
                let surplus = tail.len().saturating_sub(TAIL);
                tail.drain(..surplus);
            }
            Output::Nothing => {}
            Output::Closed { .. } => break,
        }
    }
    Outcome::NoUserland {
        tail: String::from_utf8_lossy(&tail).into_owned(),
    }
}

fn contains(output: &[u8], token: &[u8]) -> bool {
    token.len() >= 8 && output.windows(token.len()).any(|window| window == token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_counts() {
        assert!(contains(
            b"[    1.0] Run /init\r\nkapok-userland-7f\r\n",
            b"kapok-userland-7f"
        ));
        assert!(!contains(b"kapok-userland-", b"kapok-userland-7f"));
        assert!(!contains(b"short", b"short"));
    }
}
