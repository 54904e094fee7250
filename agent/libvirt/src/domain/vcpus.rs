//! How many virtual CPUs a running guest has, and how many of them it uses.

use std::time::{Duration, Instant};

use virt::sys;

use super::Domain;
use crate::{error::Error, ffi::check};

/// Pause before a guest is asked again to use what it was given.
const AGAIN: Duration = Duration::from_millis(200);

impl Domain {
    /// Gives the running guest this many virtual CPUs, up to its maximum. Its definition stays as
    /// it is. More ones are plugged in one after the other: after a failure some may be in.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`](crate::Kind::InvalidState) if it is off; QEMU's own refusal.
    pub fn set_vcpus(&self, vcpus: u32) -> Result<(), Error> {
        self.set_vcpus_with(vcpus, sys::VIR_DOMAIN_VCPU_LIVE)
    }

    /// Asks the guest's agent to use this many of its virtual CPUs, until it does or `patience` is
    /// over: the guest needs a moment to notice new ones, and many systems leave them unused.
    ///
    /// # Errors
    ///
    /// [`Kind::AgentUnresponsive`](crate::Kind::AgentUnresponsive) without an agent; the guest's
    /// own refusal.
    pub fn use_vcpus(&self, vcpus: u32, patience: Duration) -> Result<(), Error> {
        self.bound_agent()?;
        let end = Instant::now() + patience;
        loop {
            let asked = self.set_vcpus_with(vcpus, sys::VIR_DOMAIN_VCPU_GUEST);
            if asked.is_ok() || Instant::now() >= end {
                return asked;
            }
            std::thread::park_timeout(AGAIN);
        }
    }

    fn set_vcpus_with(&self, vcpus: u32, flags: u32) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        let outcome = unsafe { sys::virDomainSetVcpusFlags(self.raw(), vcpus, flags) };
        check("virDomainSetVcpusFlags", outcome).map(drop)
    }
}
