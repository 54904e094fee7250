//! How large a guest is against how large it is meant to be.
//!
//! vCPUs are added while the guest runs, as many as its definition left room for when it was
//! started. Everything else (fewer vCPUs, other memory, what the guest or QEMU refuses) comes with
//! the next start: the definition has it by then. What was done is never taken for what is: only a
//! look says how large the guest is.
//!
//! A guest that is bound to cells is given nothing while it runs: its vCPUs, threads and pages belong
//! together, and its definition leaves no room.

use kapok_types::{Assignment, Intent, Vcpus, phase::Size};

use super::{Action, Machine, View};
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

    /// What is in effect, and whether only the next start makes it what the intent asks for. The
    /// controller gives the rest to others by this word, so it waits for the definition.
    pub(super) fn size(&self) -> (Option<Size>, bool) {
        let View::Present(seen) = &self.view else {
            return (None, false);
        };
        let Some(intent) = &self.intent else {
            return (Some(seen.size), false);
        };
        let pending =
            seen.run != Run::Off && !seen.is_as(intent) && self.to_give(intent, seen).is_none();
        (self.is_defined(intent, seen).then_some(seen.size), pending)
    }

    /// What is its own, while a start would give it just that.
    pub(super) fn assignment(&self) -> Option<Box<Assignment>> {
        let (View::Present(seen), Some(intent)) = (&self.view, &self.intent) else {
            return None;
        };
        let own = &intent.assignment;
        let told = !own.is_none()
            && seen.assignment.as_ref() == Some(own)
            && self.is_defined(intent, seen);
        told.then(|| Box::new(own.clone()))
    }

    /// Whether a start under any intent that was ever written here would make it what this one asks
    /// for. An agent that ends before it has written an intent knows the one before.
    fn is_defined(&self, intent: &Intent, seen: &Seen) -> bool {
        let same = |of: &Intent| {
            Size::of(&of.spec) == Size::of(&intent.spec) && of.assignment == intent.assignment
        };
        // What is being written may land later than it is seen.
        let lands = self.main.as_ref().is_some_and(|busy| match &busy.action {
            Action::Define(record) => !same(&record.intent),
            _ => false,
        });
        same(&seen.record.intent) && !lands
    }
}

impl Seen {
    /// Whether what is in effect is what an intent asks for.
    pub(super) fn is_as(&self, intent: &Intent) -> bool {
        self.size == Size::of(&intent.spec) && self.assignment.as_ref() == Some(&intent.assignment)
    }
}
