//! Accounting: what was held, what was used, what ran, and the most that was held at once.
//!
//! ```text
//!   InstanceCreated, Resized, SystemChanged, Removed ──▶ accounts: held × time, by month
//!                                                    └─▶ peaks: of each bureau, and of all
//!   UsageMeasured ──▶ meters ──▶ accounts: used, or unknown
//!   AvailabilityChanged, IntentChanged, NodeLost ──▶ meters ──▶ accounts: up, down, unseen
//! ```
//!
//! A fold of the log and of nothing else: its clock is the time of the entries, which
//! [`Fabric::begin_entry`](super::Fabric::begin_entry) tells. `apply` keeps it in steps; a step
//! costs what its event is about, whatever the fabric's size, but for the change of a leadership
//! and the first entry of a month, which look at everything once.
//!
//! **Invariants.**
//! - Months are UTC's. An interval is split exactly where months meet. Used processor time is a
//!   difference between two readings and counts in the month of the later one.
//! - What was before the first entry that this was folded from is unknown, and
//!   [`Accounting::since`] says so; nothing is ever estimated.
//! - Bounded: [`KEPT_MONTHS`], [`KEPT_UNKNOWN`] and [`KEPT_DAYS`]; a meter goes with its instance, an
//!   account with its last month.
//! - What instances hold is counted anew when a checkpoint is loaded; property tests say that both
//!   ways, and a checkpoint with a tail, give the same.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use kapok_types::{InstanceId, Name, NodeId, Timestamp, instance::Power};
use serde::{Deserialize, Serialize};

use super::{Event, Fabric, Instance, System, checkpoint::Key};

mod account;
mod meter;
pub mod month;
mod peaks;
#[cfg(test)]
mod tests;

use self::meter::Book;
pub use self::{
    account::{Account, Held, KEPT_MONTHS, KEPT_UNKNOWN, Reason, Sums, Unknown},
    meter::{KEPT_DAYS, Meter, Reading, Seen},
    month::Month,
    peaks::{Moment, Peak, Peaks, Shape},
};

/// An instance was seen to run, or not to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailabilityChange {
    /// Which.
    pub instance: InstanceId,
    /// Whether it runs.
    pub up: bool,
    /// Since when it was seen so.
    pub at: Timestamp,
    /// What was seen, in words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// The folded figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounting {
    /// What is one of a kind.
    pub(super) general: General,
    /// Accounts by tenant and system.
    pub accounts: OrdMap<(Name, Name), Arc<Account>>,
    /// Meters of the instances that there are. One from before has none until something is
    /// recorded of it.
    pub meters: OrdMap<InstanceId, Arc<Meter>>,
    /// Peaks by bureau: the tenants right below the root, each with all below it, and the root
    /// with its own.
    pub bureaus: OrdMap<Name, Arc<Peaks>>,
    /// Peaks of all together.
    pub pool: Arc<Peaks>,
    /// Nodes that carry something now: counted anew when a checkpoint is loaded.
    nodes: u32,
}

/// What is one of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct General {
    /// The time of the first entry that was folded.
    since: Option<Timestamp>,
    /// The time of the newest entry; never goes back.
    as_of: Timestamp,
    /// That of the one before it.
    before: Timestamp,
    /// The month in which old months were last forgotten.
    tidied: Option<Month>,
    /// Most nodes that carried something at one moment, by month.
    nodes: OrdMap<Month, u32>,
}

impl Accounting {
    /// From when on anything is known: what was before isn't.
    pub fn since(&self) -> Timestamp {
        self.general.since.unwrap_or(self.general.as_of)
    }

    /// The time of the newest entry.
    pub fn as_of(&self) -> Timestamp {
        self.general.as_of
    }

    /// An instance's meter.
    pub fn meter(&self, instance: &Instance) -> Meter {
        let known = self.meters.get(&instance.id).map(|meter| (**meter).clone());
        known.unwrap_or_else(|| Meter::from_before(self.since(), is_wanted(instance)))
    }

    /// How an instance was last seen, without a copy of its meter.
    pub fn seen(&self, instance: InstanceId) -> Seen {
        self.meters
            .get(&instance)
            .map_or(Seen::Unseen, |meter| meter.seen)
    }

    /// The most nodes that carried something at one moment of some months.
    pub fn most_nodes(&self, months: std::ops::RangeInclusive<Month>, now: Timestamp) -> u32 {
        let last = self.general.nodes.get_max().map(|(month, _)| *month);
        let carried = last.is_none_or(|last| last < Month::of(now) && last < *months.end());
        let most = self
            .general
            .nodes
            .range(months)
            .map(|(_, most)| *most)
            .max();
        most.unwrap_or(0).max(if carried { self.nodes } else { 0 })
    }

    /// An account as of now: with what goes on.
    pub fn account(
        &self,
        fabric: &Fabric,
        called: &(Name, Name),
        now: Timestamp,
    ) -> Option<Account> {
        let mut account = (**self.accounts.get(called)?).clone();
        account.settle(self.since(), now);
        let first = (
            called.0.clone(),
            called.1.clone(),
            InstanceId(uuid::Uuid::nil()),
        );
        let its = fabric.in_system.range(first..);
        let its = its.take_while(|(of, within, _)| (of, within) == (&called.0, &called.1));
        for (.., id) in its {
            if let Some(instance) = fabric.instances.get(id) {
                self.meter(instance).settle(&mut account, now);
            }
        }
        Some(account)
    }

    /// The time of the entry whose events come next.
    pub(super) fn begin(&mut self, at: Timestamp) {
        let General {
            since,
            as_of,
            before,
            ..
        } = &mut self.general;
        *before = *as_of;
        *as_of = (*as_of).max(at);
        since.get_or_insert(*as_of);
    }

    /// Takes one fact in; `fabric` is as it was before it, without these figures.
    pub(super) fn take(&mut self, fabric: &Fabric, event: &Event) {
        self.tidy(fabric);
        match event {
            Event::InstanceCreated { instance } => {
                let at = self.as_of();
                let meter = Meter::created(at, is_wanted(instance));
                self.meters.insert(instance.id, Arc::new(meter));
                self.hold(fabric, instance);
            }
            Event::InstanceRemoved { instance, .. } => {
                let Some(instance) = fabric.instances.get(instance) else {
                    return;
                };
                let at = self.as_of();
                self.metered(instance, |meter, book| {
                    meter.sees(book, at, false);
                });
                self.release(fabric, instance);
                self.meters.remove(&instance.id);
            }
            Event::InstanceSystemChanged {
                instance, system, ..
            } => {
                let Some(before) = fabric.instances.get(instance) else {
                    return;
                };
                let at = self.as_of();
                self.metered(before, |meter, book| meter.settle(book.account, at));
                let after = Instance {
                    system: system.clone(),
                    ..before.clone()
                };
                self.move_held(fabric, before, &after);
            }
            Event::InstanceResized {
                instance,
                vcpus,
                memory,
                ..
            } => {
                if let Some(before) = fabric.instances.get(instance) {
                    let mut after = before.clone();
                    (after.spec.vcpus, after.spec.memory) = (*vcpus, *memory);
                    self.move_held(fabric, before, &after);
                }
            }
            Event::IntentChanged {
                instance, power, ..
            } => {
                let (at, wanted) = (self.as_of(), *power == Power::Running);
                if let Some(instance) = fabric.instances.get(instance) {
                    let wanted = wanted && !instance.deleting;
                    self.metered(instance, |meter, book| {
                        meter.intends(book.account, at, wanted);
                    });
                }
            }
            Event::InstanceDeleting { instance, .. } => {
                let at = self.as_of();
                if let Some(instance) = fabric.instances.get(instance) {
                    self.metered(instance, |meter, book| {
                        meter.intends(book.account, at, false);
                    });
                }
            }
            Event::IncarnationPlaced { incarnation, .. } => {
                let there = fabric.on_node.get(&incarnation.node);
                if there.is_none_or(OrdMap::is_empty) {
                    self.use_nodes(1);
                }
            }
            Event::IncarnationEnded {
                instance,
                incarnation,
                node,
                ..
            } => {
                let there = fabric.on_node.get(node);
                if there.is_some_and(|there| there.len() == 1 && there.contains_key(incarnation)) {
                    self.use_nodes(-1);
                }
                let at = self.as_of();
                if let Some(instance) = fabric.instances.get(instance)
                    && let [last] = instance.incarnations.as_slice()
                    && last.id == *incarnation
                {
                    self.metered(instance, |meter, book| {
                        if meter.reads_of(*incarnation) {
                            meter.sees(book, at, false);
                        }
                    });
                }
            }
            Event::NodeRemoved { id, .. } => {
                let there = fabric.on_node.get(id);
                self.use_nodes(-i32::from(there.is_some_and(|there| !there.is_empty())));
            }
            Event::NodeLost { node, .. } | Event::NodeRevoked { node, .. } => {
                let at = self.as_of();
                for instance in carried(fabric, fabric.nodes.get(node).map(|node| node.id)) {
                    self.metered(instance, |meter, book| meter.loses(book.account, at));
                }
            }
            Event::LeaderElected { .. } => {
                // Nobody wrote since the last entry, so nobody looked.
                let at = self.general.before;
                for instance in fabric.instances.values() {
                    self.metered(instance, |meter, book| meter.loses(book.account, at));
                }
            }
            Event::UsageMeasured { boot, readings, .. } => {
                for reading in readings {
                    let at = reading.at.min(self.as_of());
                    let reading = Reading {
                        at,
                        ..reading.clone()
                    };
                    if let Some((instance, _)) = fabric.incarnation(reading.incarnation) {
                        self.metered(instance, |meter, book| meter.reads(book, boot, &reading));
                    }
                }
            }
            Event::AvailabilityChanged { changes, .. } => {
                for change in changes {
                    let at = change.at.min(self.as_of());
                    if let Some(instance) = fabric.instances.get(&change.instance) {
                        self.metered(instance, |meter, book| meter.sees(book, at, change.up));
                    }
                }
            }
            Event::SystemCreated { system } | Event::SystemChanged { system } => {
                self.record(fabric, system, system.live_at);
            }
            Event::SystemLive { tenant, name, at } => {
                if let Some(system) = fabric.systems.get(&(tenant.clone(), name.clone())) {
                    self.record(fabric, system, Some(*at));
                }
            }
            _ => {}
        }
    }

    /// An instance holds what it holds from now on.
    fn hold(&mut self, fabric: &Fabric, instance: &Instance) {
        let (since, at) = (self.since(), self.as_of());
        let account = self.open(fabric, &instance.tenant, &instance.system);
        account.settle(since, at);
        account.held.add(Held::of(&instance.spec));
        let shape = Shape::of(&instance.spec);
        let bureau = self.bureau(fabric, &instance.tenant);
        bureau.change(since, at, |held| held.add(shape));
        Arc::make_mut(&mut self.pool).change(since, at, |held| held.add(shape));
    }

    /// It doesn't any more.
    fn release(&mut self, fabric: &Fabric, instance: &Instance) {
        let (since, at) = (self.since(), self.as_of());
        let account = self.open(fabric, &instance.tenant, &instance.system);
        account.settle(since, at);
        account.held.take(Held::of(&instance.spec));
        let shape = Shape::of(&instance.spec);
        let bureau = self.bureau(fabric, &instance.tenant);
        bureau.change(since, at, |held| held.take(shape));
        Arc::make_mut(&mut self.pool).change(since, at, |held| held.take(shape));
    }

    /// An instance is another size, or belongs to another system: at no moment is it both or
    /// neither.
    fn move_held(&mut self, fabric: &Fabric, before: &Instance, after: &Instance) {
        let (since, at) = (self.since(), self.as_of());
        let account = self.open(fabric, &before.tenant, &before.system);
        account.settle(since, at);
        account.held.take(Held::of(&before.spec));
        let account = self.open(fabric, &after.tenant, &after.system);
        account.settle(since, at);
        account.held.add(Held::of(&after.spec));
        let (old, new) = (Shape::of(&before.spec), Shape::of(&after.spec));
        if old != new {
            let change = |held: &mut Moment| {
                held.take(old);
                held.add(new);
            };
            self.bureau(fabric, &before.tenant)
                .change(since, at, change);
            Arc::make_mut(&mut self.pool).change(since, at, change);
        }
    }

    /// What is recorded of a system.
    fn record(&mut self, fabric: &Fabric, system: &System, live_at: Option<Timestamp>) {
        let account = self.open(fabric, &system.tenant, &system.name);
        account.requested_at = Some(system.requested_at);
        account.live_at = live_at;
    }

    /// Something happened to an instance's meter.
    fn metered(&mut self, instance: &Instance, change: impl FnOnce(&mut Meter, &mut Book<'_>)) {
        let mut meter = self.meter(instance);
        let called = (instance.tenant.clone(), instance.system.clone());
        let account = self.accounts.entry(called).or_default();
        let mut book = Book {
            instance: instance.id,
            name: &instance.name,
            account: Arc::make_mut(account),
        };
        change(&mut meter, &mut book);
        self.meters.insert(instance.id, Arc::new(meter));
    }

    fn open(&mut self, fabric: &Fabric, tenant: &Name, system: &Name) -> &mut Account {
        let account = self.accounts.entry((tenant.clone(), system.clone()));
        let account = Arc::make_mut(account.or_default());
        let above = || fabric.upwards(tenant).skip(1);
        if fabric.tenants.contains_key(tenant) && !above().eq(&account.above) {
            account.above = above().cloned().collect();
        }
        account
    }

    fn bureau(&mut self, fabric: &Fabric, tenant: &Name) -> &mut Peaks {
        let bureau = self.bureaus.entry(bureau(fabric, tenant));
        Arc::make_mut(bureau.or_default())
    }

    /// One node more carries something, or one less.
    fn use_nodes(&mut self, more: i32) {
        let (since, at) = (self.since(), self.as_of());
        let months = &mut self.general.nodes;
        let last = months.get_max().map(|(month, _)| *month);
        let mut month = last.map_or_else(|| Month::of(since), Month::next);
        while month <= Month::of(at) {
            months.insert(month, self.nodes);
            month = month.next();
        }
        self.nodes = self.nodes.saturating_add_signed(more);
        let most = months.entry(Month::of(at)).or_insert(0);
        *most = (*most).max(self.nodes);
    }

    /// Whether old months are to be forgotten now.
    fn is_untidy(&self) -> bool {
        self.general.tidied != Some(Month::of(self.as_of()))
    }

    /// Forgets months that are too old, once a month.
    fn tidy(&mut self, fabric: &Fabric) {
        if !self.is_untidy() {
            return;
        }
        let month = Month::of(self.as_of());
        self.general.tidied = Some(month);
        let first = month.back(KEPT_MONTHS - 1);
        let mut accounts = OrdMap::new();
        for (called, account) in std::mem::take(&mut self.accounts) {
            let mut account = account;
            if account.is_older_than(first) {
                Arc::make_mut(&mut account).forget_before(first);
            }
            if !account.is_empty() || fabric.systems.contains_key(&called) {
                accounts.insert(called, account);
            }
        }
        self.accounts = accounts;
        let mut bureaus = OrdMap::new();
        for (name, peaks) in std::mem::take(&mut self.bureaus) {
            let mut peaks = peaks;
            if Arc::make_mut(&mut peaks).forget_before(first) {
                bureaus.insert(name, peaks);
            }
        }
        self.bureaus = bureaus;
        Arc::make_mut(&mut self.pool).forget_before(first);
        while let Some((month, _)) = self.general.nodes.get_min()
            && *month < first
        {
            let month = *month;
            self.general.nodes.remove(&month);
        }
    }

    /// Counts anew what is held, after objects were put in.
    pub(super) fn recount(&mut self, fabric: &Fabric) {
        for instance in fabric.instances.values() {
            let account = self.open(fabric, &instance.tenant, &instance.system);
            account.held.add(Held::of(&instance.spec));
            let shape = Shape::of(&instance.spec);
            self.bureau(fabric, &instance.tenant).now.add(shape);
            Arc::make_mut(&mut self.pool).now.add(shape);
        }
        let used = fabric.on_node.values().filter(|there| !there.is_empty());
        self.nodes = u32::try_from(used.count()).unwrap_or(u32::MAX);
    }

    /// Puts an object of a checkpoint in; whether it is of a kind that is kept here.
    pub(super) fn put(&mut self, key: &str, value: &[u8]) -> Result<bool, serde_json::Error> {
        match key.split_once('/').unwrap_or((key, "")) {
            ("accounting", _) => self.general = serde_json::from_slice(value)?,
            ("pool", _) => self.pool = Arc::new(serde_json::from_slice(value)?),
            ("account", called) => {
                let (tenant, system) = called.split_once('/').unwrap_or_default();
                let called = (name(tenant)?, name(system)?);
                let account = Arc::new(serde_json::from_slice(value)?);
                self.accounts.insert(called, account);
            }
            ("peaks", bureau) => {
                let peaks = Arc::new(serde_json::from_slice(value)?);
                self.bureaus.insert(name(bureau)?, peaks);
            }
            ("meter", instance) => {
                let id = instance.parse().map_err(serde::de::Error::custom)?;
                let meter = Arc::new(serde_json::from_slice(value)?);
                self.meters.insert(id, meter);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The present value of an object, or none when it is no more or of another kind.
    pub(super) fn object(&self, key: &Key) -> Result<Option<Vec<u8>>, serde_json::Error> {
        fn encode(value: Option<&impl Serialize>) -> Result<Option<Vec<u8>>, serde_json::Error> {
            value.map(serde_json::to_vec).transpose()
        }
        match key {
            Key::Accounting => encode(Some(&self.general)),
            Key::Pool => encode(Some(&*self.pool)),
            Key::Account(tenant, system) => {
                let account = self.accounts.get(&(tenant.clone(), system.clone()));
                encode(account.map(|account| &**account))
            }
            Key::Peaks(bureau) => encode(self.bureaus.get(bureau).map(|peaks| &**peaks)),
            Key::Meter(instance) => encode(self.meters.get(instance).map(|meter| &**meter)),
            _ => Ok(None),
        }
    }

    /// Adds the keys of the objects that an event touches. Must see the fabric before it, and the
    /// time of its entry.
    pub(super) fn touched(&self, fabric: &Fabric, event: &Event, keys: &mut BTreeSet<Key>) {
        keys.insert(Key::Accounting);
        if self.is_untidy() {
            let accounts = self.accounts.keys().cloned();
            keys.extend(accounts.map(|(tenant, system)| Key::Account(tenant, system)));
            keys.extend(self.bureaus.keys().cloned().map(Key::Peaks));
            keys.insert(Key::Pool);
        }
        let mut touch = |instance: &Instance, holds: bool| {
            let (tenant, system) = (instance.tenant.clone(), instance.system.clone());
            keys.insert(Key::Meter(instance.id));
            keys.insert(Key::Account(tenant, system));
            if holds {
                keys.insert(Key::Peaks(bureau(fabric, &instance.tenant)));
                keys.insert(Key::Pool);
            }
        };
        let known = |id: &InstanceId| fabric.instances.get(id);
        match event {
            Event::InstanceCreated { instance } => touch(instance, true),
            Event::InstanceRemoved { instance, .. } | Event::InstanceResized { instance, .. } => {
                if let Some(one) = known(instance) {
                    touch(one, true);
                }
            }
            Event::InstanceSystemChanged {
                instance,
                tenant,
                system,
            } => {
                if let Some(one) = known(instance) {
                    touch(one, true);
                }
                keys.insert(Key::Account(tenant.clone(), system.clone()));
            }
            Event::IntentChanged { instance, .. }
            | Event::InstanceDeleting { instance, .. }
            | Event::IncarnationEnded { instance, .. } => {
                if let Some(one) = known(instance) {
                    touch(one, false);
                }
            }
            Event::NodeLost { node, .. } | Event::NodeRevoked { node, .. } => {
                let node = fabric.nodes.get(node).map(|node| node.id);
                for one in carried(fabric, node) {
                    touch(one, false);
                }
            }
            Event::LeaderElected { .. } => {
                for one in fabric.instances.values() {
                    touch(one, false);
                }
            }
            Event::UsageMeasured { readings, .. } => {
                let measured = readings.iter().map(|reading| reading.incarnation);
                let measured = measured.filter_map(|id| fabric.incarnation(id));
                measured.for_each(|(one, _)| touch(one, false));
            }
            Event::AvailabilityChanged { changes, .. } => {
                let changed = changes.iter().filter_map(|change| known(&change.instance));
                changed.for_each(|one| touch(one, false));
            }
            Event::SystemCreated { system } | Event::SystemChanged { system } => {
                keys.insert(Key::Account(system.tenant.clone(), system.name.clone()));
            }
            Event::SystemLive { tenant, name, .. } => {
                keys.insert(Key::Account(tenant.clone(), name.clone()));
            }
            _ => {}
        }
    }
}

/// Whether an instance is meant to run.
fn is_wanted(instance: &Instance) -> bool {
    instance.power == Power::Running && !instance.deleting
}

/// The instances on a node.
fn carried(fabric: &Fabric, node: Option<NodeId>) -> Vec<&Instance> {
    let there = node.and_then(|node| fabric.on_node.get(&node));
    let ids = there.into_iter().flat_map(OrdMap::values);
    ids.filter_map(|id| fabric.instances.get(id)).collect()
}

/// The tenant right below the root that a tenant is or belongs to; the root for its own.
pub fn bureau(fabric: &Fabric, tenant: &Name) -> Name {
    let mut last = [tenant, tenant];
    for above in fabric.upwards(tenant) {
        last = [last[1], above];
    }
    let [bureau, _root] = last;
    bureau.clone()
}

fn name(text: &str) -> Result<Name, serde_json::Error> {
    text.parse().map_err(serde::de::Error::custom)
}
