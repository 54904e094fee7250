//! How much each tenant uses, and what counts against its quota: a fold of the instances.
//!
//! ```text
//!   held(tenant) = its own instances  +  sum over the tenants right below of
//!                                        max(held(below), reserved(below))
//! ```
//!
//! A reservation counts in the tenant above from the moment it is made. So whoever has one finds
//! room for that much there, whatever its neighbours do, and what stays within it raises nothing
//! further up.
//!
//! An instance counts from `InstanceCreated` to `InstanceRemoved`, running or not. Kept up to date
//! by `apply` in steps from a tenant to the root; never stored: a checkpoint's objects are counted
//! anew. **Invariant:** both ways give the same, and a property test says so.

use std::collections::BTreeMap;

use imbl::OrdMap;
use kapok_types::Name;

use super::{
    Amounts, Instance,
    quota::Rise,
    tenant::{Tenant, Tenants, upwards},
};

/// How much one tenant has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Used by its own instances.
    pub own: Amounts,
    /// Used by its own and by those of all tenants below it.
    pub used: Amounts,
    /// What counts against its quota: its own, and of each tenant right below it what that one
    /// holds or has reserved, whichever is more.
    pub held: Amounts,
}

/// How much each tenant has. Equal if they say the same, however they came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usages(
    /// None that is nothing.
    OrdMap<Name, Usage>,
);

impl Usages {
    /// How much one tenant has.
    pub fn of(&self, tenant: &Name) -> Usage {
        self.0.get(tenant).copied().unwrap_or_default()
    }

    /// Counted from nothing but the tenants and the instances.
    pub fn counted<'i>(tenants: &Tenants, instances: impl Iterator<Item = &'i Instance>) -> Self {
        let mut usages: BTreeMap<Name, Usage> = BTreeMap::new();
        for instance in instances.filter(|one| tenants.contains_key(&one.tenant)) {
            let usage = usages.entry(instance.tenant.clone()).or_default();
            usage.own = usage.own.plus(Amounts::of_instance(&instance.spec));
        }
        let depth = |tenant: &Tenant| upwards(tenants, &tenant.name).count();
        let mut deepest_first: Vec<&Tenant> = tenants.values().collect();
        deepest_first.sort_by_key(|tenant| std::cmp::Reverse(depth(tenant)));
        for tenant in deepest_first {
            let usage = usages.entry(tenant.name.clone()).or_default();
            usage.used = usage.used.plus(usage.own);
            usage.held = usage.held.plus(usage.own);
            let Usage { used, held, .. } = *usage;
            let Some(parent) = &tenant.parent else {
                continue;
            };
            let above = usages.entry(parent.clone()).or_default();
            above.used = above.used.plus(used);
            above.held = above.held.plus(held.or_more(tenant.reserved));
        }
        usages.retain(|_, usage| *usage != Usage::default());
        Self(usages.into_iter().collect())
    }

    /// What one tenant's instances using more adds on the way to the root, its own quota first.
    pub fn rises(&self, tenants: &Tenants, tenant: &Name, more: Amounts) -> Vec<Rise> {
        let mut more = more;
        let rise = |tenant: &Tenant| {
            let held = self.of(&tenant.name).held;
            let added = more;
            let before = held.or_more(tenant.reserved);
            more = held.plus(added).or_more(tenant.reserved).minus(before);
            Rise {
                tenant: tenant.name.clone(),
                held,
                more: added,
            }
        };
        upwards(tenants, tenant).map(rise).collect()
    }

    /// What another reservation for a tenant adds to what those above it hold.
    pub fn rises_by_reserving(
        &self,
        tenants: &Tenants,
        tenant: &Tenant,
        reserved: Amounts,
    ) -> Vec<Rise> {
        let held = self.of(&tenant.name).held;
        let more = held.or_more(reserved).minus(held.or_more(tenant.reserved));
        let parent = tenant.parent.as_ref();
        parent.map_or_else(Vec::new, |parent| self.rises(tenants, parent, more))
    }

    /// Some of a tenant's instances came.
    pub(super) fn take(&mut self, tenants: &Tenants, tenant: &Name, amounts: Amounts) {
        self.change(tenant, |usage| usage.own = usage.own.plus(amounts));
        self.step(tenants, tenant, amounts, amounts, Amounts::plus);
    }

    /// Some of a tenant's instances went.
    pub(super) fn give_back(&mut self, tenants: &Tenants, tenant: &Name, amounts: Amounts) {
        self.change(tenant, |usage| usage.own = usage.own.minus(amounts));
        self.step(tenants, tenant, amounts, amounts, Amounts::minus);
    }

    /// Another amount is reserved for a tenant than what `tenant` says.
    pub(super) fn reserve(&mut self, tenants: &Tenants, tenant: &Tenant, reserved: Amounts) {
        let Some(parent) = &tenant.parent else {
            return;
        };
        let held = self.of(&tenant.name).held;
        let (before, after) = (held.or_more(tenant.reserved), held.or_more(reserved));
        let (none, more, less) = (Amounts::ZERO, after.minus(before), before.minus(after));
        self.step(tenants, parent, none, more, Amounts::plus);
        self.step(tenants, parent, none, less, Amounts::minus);
    }

    /// Carries a change from a tenant up to the root. `how` is plus or minus.
    fn step(
        &mut self,
        tenants: &Tenants,
        tenant: &Name,
        used: Amounts,
        mut held: Amounts,
        how: fn(Amounts, Amounts) -> Amounts,
    ) {
        for tenant in upwards(tenants, tenant) {
            self.change(&tenant.name, |usage| {
                let before = usage.held.or_more(tenant.reserved);
                usage.used = how(usage.used, used);
                usage.held = how(usage.held, held);
                let after = usage.held.or_more(tenant.reserved);
                held = after.minus(before).plus(before.minus(after));
            });
        }
    }

    fn change(&mut self, tenant: &Name, change: impl FnOnce(&mut Usage)) {
        let mut usage = self.of(tenant);
        change(&mut usage);
        if usage == Usage::default() {
            self.0.remove(tenant);
        } else {
            self.0.insert(tenant.clone(), usage);
        }
    }
}
