//! Systems: the tenants' business systems, each a named group of instances.
//!
//! Every instance belongs to one. Who names none gets the tenant's "default", and so do instances
//! from before there were systems: the fold makes that one along with the first of them.
//!
//! Absent on purpose: what an availability class asks for (nothing is restarted here), and the end of
//! anything at an end date: its people are warned, and nothing is stopped.

use std::sync::LazyLock;

use kapok_types::{InstanceId, Name, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Actor, Fabric, Instance, etag, named};

/// Days before a system's end on which its people are warned, each once.
pub const WARNINGS: [u32; 3] = [30, 7, 1];
const DAY_MS: u64 = 24 * 3600 * 1000;

/// The system of instances that name none.
static DEFAULT: LazyLock<Name> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "a constant that is a name")]
    "default".parse().expect("\"default\" is a name")
});

/// A business system of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// The tenant that it belongs to.
    pub tenant: Name,
    /// Its name, unique in its tenant.
    pub name: Name,
    /// Its name for people.
    pub display: String,
    /// Who answers for it.
    pub owner: String,
    /// Whom to call and how.
    pub contacts: Vec<String>,
    /// What a lost node means for its instances.
    pub class: AvailabilityClass,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it went live.
    pub live_at: Option<Timestamp>,
    /// When it is to end.
    pub ends_at: Option<Timestamp>,
    /// The last warning of this end: so many days before it.
    pub warned: Option<u32>,
    /// When its record was made.
    pub created_at: Timestamp,
    /// Who made its record.
    pub created_by: Actor,
}

/// What a lost node means for the instances of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AvailabilityClass {
    /// They are gone until the node is back.
    #[default]
    None,
    /// They are started elsewhere with the same disks.
    Restart,
    /// They are made anew from their images.
    Recreate,
}

/// One thing about a system that is to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemChange {
    /// Its name for people.
    Display(String),
    /// Who answers for it.
    Owner(String),
    /// Whom to call and how.
    Contacts(Vec<String>),
    /// What a lost node means.
    Class(AvailabilityClass),
    /// When it was asked for.
    RequestedAt(Timestamp),
    /// When it went live.
    LiveAt(Option<Timestamp>),
    /// When it is to end. Another end is warned of anew.
    EndsAt(Option<Timestamp>),
}

/// The name of the system of instances that name none.
pub fn default_system() -> Name {
    DEFAULT.clone()
}

/// Whether an instance belongs to the system that needs no mention.
pub(super) fn is_default(name: &Name) -> bool {
    *name == *DEFAULT
}

impl System {
    /// A system of which nothing is known but its name.
    pub fn bare(tenant: Name, name: Name, at: Timestamp, by: Actor) -> Self {
        Self {
            display: name.to_string(),
            tenant,
            name,
            owner: String::new(),
            contacts: Vec::new(),
            class: AvailabilityClass::None,
            requested_at: at,
            live_at: None,
            ends_at: None,
            warned: None,
            created_at: at,
            created_by: by,
        }
    }

    /// All that people record of it as one opaque text that changes when any of it does.
    pub fn etag(&self) -> String {
        etag(&Self {
            warned: None,
            ..self.clone()
        })
    }

    /// The same with a change.
    #[must_use]
    pub fn with(mut self, change: &SystemChange) -> Self {
        match change.clone() {
            SystemChange::Display(text) => self.display = text,
            SystemChange::Owner(text) => self.owner = text,
            SystemChange::Contacts(texts) => self.contacts = texts,
            SystemChange::Class(class) => self.class = class,
            SystemChange::RequestedAt(at) => self.requested_at = at,
            SystemChange::LiveAt(at) => self.live_at = at,
            SystemChange::EndsAt(at) if at != self.ends_at => {
                self.ends_at = at;
                self.warned = None;
            }
            SystemChange::EndsAt(_) => {}
        }
        self
    }

    /// When its people are to be warned of its end next.
    pub fn next_warning(&self) -> Option<Timestamp> {
        self.warnings().next().map(|(_, at)| at)
    }

    /// The warning that is to be given now: of those whose time has come, the nearest to the end.
    pub fn warning(&self, now: Timestamp) -> Option<u32> {
        let due = self.warnings().take_while(|(_, at)| *at <= now);
        due.last().map(|(days, _)| days)
    }

    /// Warnings still to be given, by their time.
    fn warnings(&self) -> impl Iterator<Item = (u32, Timestamp)> {
        let (end, warned) = (self.ends_at, self.warned);
        let left = WARNINGS
            .into_iter()
            .filter(move |days| warned.is_none_or(|warned| *days < warned));
        left.filter_map(move |days| {
            let before = u64::from(days) * DAY_MS;
            Some((days, Timestamp(end?.get().saturating_sub(before))))
        })
    }
}

impl Fabric {
    /// A system as people name it: "NAME" in their home tenant, or "TENANT/NAME".
    pub fn system(&self, which: &str, home: &Name) -> Option<&System> {
        self.systems.get(&named(which, home)?)
    }

    /// The instances of a system.
    pub fn instances_of(&self, system: &System) -> impl Iterator<Item = &Instance> {
        let (tenant, name) = (system.tenant.clone(), system.name.clone());
        let first = (tenant.clone(), name.clone(), InstanceId(Uuid::nil()));
        self.in_system
            .range(first..)
            .take_while(move |(of, within, _)| *of == tenant && *within == name)
            .filter_map(|(.., id)| self.instances.get(id))
    }

    /// Puts a system in, in the place of the one that was called so.
    pub(super) fn put_system(&mut self, system: &System) {
        let called = (system.tenant.clone(), system.name.clone());
        self.forget_end(&called);
        if let Some(at) = system.next_warning() {
            let (tenant, name) = called.clone();
            self.system_ends.insert((at, tenant, name));
        }
        self.systems.insert(called, system.clone());
    }

    pub(super) fn remove_system(&mut self, called: &(Name, Name)) {
        self.forget_end(called);
        self.systems.remove(called);
    }

    /// Changes a system, if it is there.
    pub(super) fn change_system(
        &mut self,
        called: &(Name, Name),
        change: impl FnOnce(&mut System),
    ) {
        if let Some(mut system) = self.systems.get(called).cloned() {
            change(&mut system);
            self.put_system(&system);
        }
    }

    /// The system of an instance; an old record's is made along with its tenant's first.
    pub(super) fn index_system(&mut self, instance: &Instance) {
        let (tenant, name) = (instance.tenant.clone(), instance.system.clone());
        if !self.systems.contains_key(&(tenant.clone(), name.clone())) {
            let (at, by) = (instance.created_at, instance.created_by.clone());
            self.put_system(&System::bare(tenant.clone(), name.clone(), at, by));
        }
        self.in_system.insert((tenant, name, instance.id));
    }

    /// An instance belongs to another system from now on.
    pub(super) fn change_system_of(&mut self, id: InstanceId, system: &Name) {
        let Some(mut instance) = self.instances.get(&id).cloned() else {
            return;
        };
        let before = std::mem::replace(&mut instance.system, system.clone());
        self.in_system
            .remove(&(instance.tenant.clone(), before, id));
        self.index_system(&instance);
        self.instances.insert(id, instance);
    }

    fn forget_end(&mut self, called: &(Name, Name)) {
        let at = self.systems.get(called).and_then(System::next_warning);
        if let Some(at) = at {
            let (tenant, name) = called.clone();
            self.system_ends.remove(&(at, tenant, name));
        }
    }
}
