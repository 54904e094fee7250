//! How many more of something a tenant's quotas leave room for: what people ask, decisions don't.
//!
//! The same sums that decide: what an instance would add on the way to the root, with reservations
//! taken in, against each quota there.

use kapok_types::Name;

use super::{Amounts, Dimension, Fabric, tenant};

/// More than this count as no limit.
const MOST: u64 = 1 << 32;

/// How many more of something quotas leave room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// As many as there may be.
    Unlimited,
    /// This many, and what is full then.
    Only {
        /// So many.
        count: u64,
        /// Whose quota: the first one on the way to the root.
        tenant: Name,
        /// Where it has no room for another one.
        dimensions: Vec<Dimension>,
    },
}

impl Fabric {
    /// How many more things of this size the quotas on a tenant's way to the root leave room for.
    pub fn quota_room(&self, tenant: &Name, each: Amounts) -> Room {
        let times = |count: u64| Amounts::each(|one| each.get(one).saturating_mul(count));
        let full = |count: u64| {
            let rises = self.usage.rises(&self.tenants, tenant, times(count));
            rises.into_iter().find_map(|rise| {
                let short = self.tenants.get(&rise.tenant)?.quota.short(&rise);
                (!short.is_empty()).then_some((rise.tenant, short))
            })
        };
        if full(MOST).is_none() {
            return Room::Unlimited;
        }
        // What doesn't fit once doesn't fit more often.
        let (mut fits, mut over) = (0, MOST);
        while over - fits > 1 {
            let middle = u64::midpoint(fits, over);
            if full(middle).is_some() {
                over = middle;
            } else {
                fits = middle;
            }
        }
        match full(over) {
            Some((tenant, short)) => Room::Only {
                count: fits,
                tenant,
                dimensions: short.into_iter().map(|one| one.dimension).collect(),
            },
            None => Room::Unlimited,
        }
    }

    /// The first tenant on the way to the root that makes nothing new at present.
    pub fn closed_tenant(&self, tenant: &Name) -> Option<&Name> {
        let mut path = tenant::upwards(&self.tenants, tenant);
        path.find(|one| !one.state.is_active()).map(|one| &one.name)
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::{MemoryMib, Vcpus};

    use super::*;
    use crate::fabric::{Quota, Tenant, city};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn vcpus(count: u64) -> Quota {
        Quota {
            vcpus: Some(count),
            ..Quota::default()
        }
    }

    fn each() -> Amounts {
        Amounts {
            vcpus: Vcpus(4).get().into(),
            memory_mib: MemoryMib(1024).get(),
            instances: 1,
            ..Amounts::ZERO
        }
    }

    /// "water" may have 20 vCPUs, "pumps" below it 12 of which 8 are kept for it.
    fn fabric() -> Fabric {
        let mut fabric = Fabric::default();
        let mut water = Tenant::new(name("water"), "water".into(), Some(city()));
        water.quota = vcpus(20);
        let mut pumps = Tenant::new(name("pumps"), "pumps".into(), Some(name("water")));
        pumps.quota = vcpus(12);
        pumps.reserved.vcpus = 8;
        for tenant in [water, pumps] {
            fabric.tenants.insert(tenant.name.clone(), tenant);
        }
        fabric.usage = super::super::Usages::counted(&fabric.tenants, std::iter::empty());
        fabric
    }

    #[test]
    fn the_smallest_quota_on_the_way_counts_and_reservations_of_others_are_taken() {
        let mut fabric = fabric();
        let room = |fabric: &Fabric, tenant: &str| match fabric.quota_room(&name(tenant), each()) {
            Room::Only {
                count,
                tenant,
                dimensions,
            } => (count, tenant.to_string(), dimensions),
            Room::Unlimited => panic!("there is a limit"),
        };
        let full = vec![Dimension::Vcpus];
        // 20 less 8 that are kept for pumps.
        assert_eq!(room(&fabric, "water"), (3, "water".into(), full.clone()));
        assert_eq!(room(&fabric, "pumps"), (3, "pumps".into(), full.clone()));
        let mut water = fabric.tenants[&name("water")].clone();
        water.quota = vcpus(8);
        fabric.tenants.insert(water.name.clone(), water);
        assert_eq!(room(&fabric, "pumps"), (2, "water".into(), full.clone()));
        assert_eq!(room(&fabric, "water"), (0, "water".into(), full));
        assert_eq!(fabric.quota_room(&city(), each()), Room::Unlimited);
    }
}
