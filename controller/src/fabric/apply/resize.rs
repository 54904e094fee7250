//! Instances of another size, and incarnations that hold another share of their node.

use kapok_scheduler::{Claim, Delta};
use kapok_types::{IncarnationId, InstanceId, NodeId, phase::Size};

use crate::fabric::{Amounts, Fabric};

impl Fabric {
    /// An instance counts for another size in its tenant's usage.
    pub(super) fn resize(&mut self, id: InstanceId, size: Size) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let before = Amounts::of_instance(&instance.spec);
        (instance.spec.vcpus, instance.spec.memory) = (size.vcpus, size.memory);
        let after = Amounts::of_instance(&instance.spec);
        let tenant = instance.tenant.clone();
        self.usage.give_back(&self.tenants, &tenant, before);
        self.usage.take(&self.tenants, &tenant, after);
    }

    /// An incarnation holds this much of its node, in place of what it held.
    pub(super) fn change_claim(
        &mut self,
        instance: InstanceId,
        incarnation: IncarnationId,
        node: NodeId,
        claim: &Claim,
    ) {
        let instance = self.instances.get_mut(&instance);
        let one = instance.and_then(|instance| {
            let mut there = instance.incarnations.iter_mut();
            there.find(|one| one.id == incarnation && one.node == node)
        });
        // A fact about one that has ended changes nothing.
        let Some(one) = one else {
            return;
        };
        one.claim = claim.clone();
        self.fleet.apply(Delta::Claimed {
            node,
            incarnation,
            claim: claim.clone(),
        });
    }
}
