//! How large a guest is against how large it is meant to be.
//!
//! vCPUs are added while the guest runs, as many as its definition left room for when it was
//! started. Everything else (fewer vCPUs, other memory, what the guest or QEMU refuses) comes with
//! the next start: the definition has it by then. What was done is never taken for what is: only a
//! look says how large the guest is.

use kapok_types::{Intent, Vcpus, phase::Size};

use super::{Machine, View};
use crate::driver::{Run, Seen};

impl Machine {
    /// The vCPUs that the running guest is still to be given.
    pub(super) fn to_give(&self, intent: &Intent, seen: &Seen) -> Option<Vcpus> {
        let wanted = intent.spec.vcpus;
        let fits = wanted > seen.size.vcpus && wanted <= seen.most_vcpus;
        (fits && self.given_in_vain != Some(wanted)).then_some(wanted)
    }

    /// A look after vCPUs were given: it is tried once, or a guest that doesn't take them would be
    /// asked for ever.
    pub(super) fn check_given(&mut self, seen: &Seen) {
        if let Some(given) = self.given.take()
            && seen.run != Run::Off
            && seen.size.vcpus < given
        {
            self.given_in_vain = Some(given);
        }
    }

    /// What is in effect, and whether only the next start makes it what the intent asks for.
    pub(super) fn size(&self) -> (Option<Size>, bool) {
        let View::Present(seen) = &self.view else {
            return (None, false);
        };
        let pending = self.intent.as_ref().is_some_and(|intent| {
            seen.run != Run::Off
                && seen.size != Size::of(&intent.spec)
                && self.to_give(intent, seen).is_none()
        });
        (Some(seen.size), pending)
    }
}
