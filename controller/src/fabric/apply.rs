//! How facts change memory. Total: a fact about something unknown changes nothing.

use std::sync::Arc;

use kapok_scheduler::{self as scheduler, Delta, Distrust};
use kapok_types::{InstanceId, Name, OperationId, Timestamp, phase::Size};

use super::{
    Adoption, Amounts, Event, Fabric, Incarnation, Instance, Node, Operation, Tenant, Usages,
};

mod credential;
mod resize;

impl Fabric {
    /// The time of the entry whose facts are taken in next: the fold's only clock.
    pub fn begin_entry(&mut self, at: Timestamp) {
        self.accounting.begin(at);
    }

    /// Takes one fact in. The only way that memory changes.
    pub fn apply(&mut self, event: &Event) {
        let mut accounting = std::mem::take(&mut self.accounting);
        accounting.take(self, event);
        self.accounting = accounting;
        match event {
            // A record of what was done or refused; nothing is other than before.
            // Or it is the accounting's alone.
            Event::LeaderElected { .. }
            | Event::ConsoleGranted { .. }
            | Event::Refused { .. }
            | Event::UsageMeasured { .. }
            | Event::AvailabilityChanged { .. } => {}
            Event::NodeJoined { node } => self.put_node(node),
            Event::NodeRejoined {
                node,
                address,
                host,
            } => self.change_node(node, |node| {
                node.address.clone_from(address);
                node.host = host.clone();
                node.found = None;
                node.revoked = None;
            }),
            Event::NodeUpdated {
                node,
                address,
                vcpu_overcommit_permille,
            } => self.change_node(node, |node| {
                node.address.clone_from(address);
                node.vcpu_overcommit_permille = *vcpu_overcommit_permille;
            }),
            Event::NodeSited { node, site } => {
                self.change_node(node, |node| node.site = site.clone());
            }
            Event::NodeFingerprintChanged { node, found } => {
                self.change_node(node, |node| node.found.clone_from(found));
            }
            Event::NodeRebound { node, host } => self.change_node(node, |node| {
                node.host = host.clone();
                node.found = None;
            }),
            Event::NodeRevoked { node, revocation } => self.change_node(node, |node| {
                node.revoked = Some(revocation.clone());
                node.reachable = false;
            }),
            Event::NodeRemoved { node, id } => {
                self.nodes.remove(node);
                self.node_names.remove(id);
                self.on_node.remove(id);
                self.quarantined.remove(node);
                self.unsettled.remove(node);
                self.adopted(node);
                self.fleet.apply(Delta::NodeRemoved(*id));
            }
            Event::NodeChanged { node, capacity } => {
                self.change_node(node, |node| node.capacity = Some(*capacity));
            }
            Event::NodeEquipped { node, equipment } => {
                self.change_node(node, |node| node.equipment = Arc::clone(equipment));
            }
            Event::NodeReached { node } => self.change_node(node, |node| node.reachable = true),
            Event::NodeLost { node, .. } => self.change_node(node, |node| node.reachable = false),
            Event::NodeResyncing { node, waits } => {
                self.change_node(node, |node| node.resyncing = *waits);
            }
            Event::NodeCordoned { node, cordon } => {
                self.change_node(node, |node| node.cordoned = Some(cordon.clone()));
            }
            Event::NodeUncordoned { node } => self.change_node(node, |node| node.cordoned = None),
            Event::NodeJudged { node, health } => {
                self.change_node(node, |node| node.health = Some(health.clone()));
            }
            Event::NodeQuarantined { node, quarantine } => {
                self.change_node(node, |node| node.quarantine = Some(quarantine.clone()));
            }
            Event::NodeRecovering { node, since } => self.change_node(node, |node| {
                if let Some(quarantine) = &mut node.quarantine {
                    quarantine.well_since = *since;
                }
            }),
            Event::NodeQuarantineEnded { node } => {
                self.change_node(node, |node| node.quarantine = None);
            }
            Event::NodeReleased { node, release } => {
                self.change_node(node, |node| node.release = Some(release.clone()));
            }
            Event::NodeReleaseEnded { node } => self.change_node(node, |node| node.release = None),
            Event::NodeDrainRequested { node, at } => {
                self.change_node(node, |node| node.drain_requested = *at);
            }
            Event::NodePartsLearned { node, parts } => {
                self.change_node(node, |node| node.parts = Arc::new(parts.clone()));
            }
            Event::NodePartsChanged { node, changes } => self.change_node(node, |node| {
                let parts = Arc::make_mut(&mut node.parts);
                for change in changes {
                    match &change.after {
                        Some(is) => parts.insert(change.part.clone(), is.clone()),
                        None => parts.remove(&change.part),
                    };
                }
            }),
            Event::NodePartsAccepted { node, told } => {
                self.change_node(node, |node| node.accepting_parts = !told);
            }
            Event::ImageRegistered { image } => {
                let name = (image.tenant.clone(), image.name.clone());
                self.image_names.insert(name, image.id);
                self.images.insert(image.id, image.clone());
            }
            Event::ImageRemoved {
                image,
                tenant,
                name,
            } => {
                self.images.remove(image);
                self.image_names.remove(&(tenant.clone(), name.clone()));
            }
            Event::FlavorCreated { flavor } | Event::FlavorChanged { flavor } => {
                self.flavors.insert(flavor.name.clone(), flavor.clone());
            }
            Event::FlavorRemoved { flavor, .. } => {
                self.flavors.remove(flavor);
            }
            Event::SystemCreated { system } | Event::SystemChanged { system } => {
                self.put_system(system);
            }
            Event::SystemLive { tenant, name, at } => {
                let called = (tenant.clone(), name.clone());
                self.change_system(&called, |system| system.live_at = Some(*at));
            }
            Event::SystemEnding {
                tenant, name, days, ..
            } => {
                let called = (tenant.clone(), name.clone());
                self.change_system(&called, |system| system.warned = Some(*days));
            }
            Event::SystemRemoved { tenant, name } => {
                self.remove_system(&(tenant.clone(), name.clone()));
            }
            Event::GroupCreated { group } => {
                let called = (group.tenant.clone(), group.name.clone());
                self.groups.insert(called, group.clone());
            }
            Event::GroupRemoved { tenant, name } => {
                self.groups.remove(&(tenant.clone(), name.clone()));
            }
            Event::InstanceCreated { instance } => self.put_instance(instance),
            Event::IncarnationPlaced {
                instance,
                incarnation,
            } => {
                self.index_incarnation(*instance, incarnation);
                self.change_instance(*instance, |instance| {
                    instance.incarnations.push(incarnation.clone());
                });
            }
            Event::IntentChanged {
                instance,
                power,
                counters,
                generation,
                operation,
                ..
            } => {
                self.change_instance(*instance, |instance| {
                    instance.power = *power;
                    instance.counters = *counters;
                    instance.generation = *generation;
                    instance.operation = operation.unwrap_or(instance.operation);
                });
            }
            Event::InstanceSystemChanged {
                instance, system, ..
            } => self.change_system_of(*instance, system),
            Event::InstanceResized {
                instance,
                vcpus,
                memory,
                flavor,
                generation,
                operation,
            } => {
                let size = Size {
                    vcpus: *vcpus,
                    memory: *memory,
                };
                self.resize(*instance, size);
                self.change_instance(*instance, |instance| {
                    instance.flavor.clone_from(flavor);
                    instance.generation = *generation;
                    instance.operation = *operation;
                });
            }
            Event::ClaimChanged {
                instance,
                incarnation,
                node,
                claim,
            } => self.change_claim(*instance, *incarnation, *node, claim),
            Event::InstanceDeleting {
                instance,
                generation,
                operation,
            } => {
                self.change_instance(*instance, |instance| {
                    instance.deleting = true;
                    instance.generation = *generation;
                    instance.operation = *operation;
                });
            }
            Event::IncarnationEnded {
                instance,
                incarnation,
                node,
                ..
            } => {
                self.incarnations.remove(incarnation);
                if let Some(there) = self.on_node.get_mut(node) {
                    there.remove(incarnation);
                }
                self.fleet.apply(Delta::Released {
                    node: *node,
                    incarnation: *incarnation,
                });
                self.change_instance(*instance, |instance| {
                    instance.incarnations.retain(|one| one.id != *incarnation);
                });
            }
            Event::InstanceRemoved {
                instance,
                tenant,
                name,
            } => {
                if let Some(gone) = self.instances.remove(instance) {
                    self.leave_groups(&gone);
                    let amounts = Amounts::of_instance(&gone.spec);
                    self.usage.give_back(&self.tenants, &gone.tenant, amounts);
                    self.in_system.remove(&(gone.tenant, gone.system, gone.id));
                }
                self.instance_names.remove(&(tenant.clone(), name.clone()));
            }
            Event::OperationStarted { operation } => self.put_operation(operation),
            Event::OperationEnded { operation, end } => {
                self.running.remove(operation);
                if let Some(operation) = self.operations.get_mut(operation) {
                    operation.ended = Some(end.clone());
                }
            }
            Event::RequestAnswered {
                by,
                request_id,
                answered,
            } => {
                let (by, id) = (by.clone(), request_id.clone());
                self.requests_by_age
                    .insert((answered.at, by.clone(), id.clone()));
                self.requests.insert((by, id), answered.clone());
            }
            Event::RequestsExpired { before } => {
                while let Some((at, by, id)) = self.requests_by_age.get_min() {
                    if at >= before {
                        break;
                    }
                    let oldest = (*at, by.clone(), id.clone());
                    self.requests_by_age.remove(&oldest);
                    self.requests.remove(&(oldest.1, oldest.2));
                }
            }
            Event::OperationsExpired { operations } => {
                for operation in operations {
                    self.operations.remove(operation);
                }
            }
            Event::TenantCreated { tenant } => {
                let new = Tenant {
                    reserved: Amounts::ZERO,
                    ..tenant.clone()
                };
                self.tenants.insert(new.name.clone(), new);
                self.reserve(&tenant.name, tenant.reserved);
            }
            Event::TenantUpdated {
                tenant,
                display,
                contacts,
            } => self.change_tenant(tenant, |tenant| {
                tenant.display.clone_from(display);
                tenant.contacts.clone_from(contacts);
            }),
            Event::TenantStateChanged { tenant, state } => {
                self.change_tenant(tenant, |tenant| tenant.state = *state);
            }
            Event::TenantQuotaSet {
                tenant,
                quota,
                reserved,
            } => {
                self.reserve(tenant, *reserved);
                self.change_tenant(tenant, |tenant| tenant.quota = *quota);
            }
            Event::TenantIsolationSet { tenant, isolation } => {
                self.change_tenant(tenant, |tenant| tenant.isolation.clone_from(isolation));
            }
            Event::TenantDeleted { tenant, .. } => {
                self.reserve(tenant, Amounts::ZERO);
                self.tenants.remove(tenant);
            }
            Event::UserCreated { user } | Event::UserChanged { user } => {
                self.users.insert(user.subject.clone(), user.clone());
            }
            Event::UserDeleted { user } => {
                self.users.remove(user);
            }
            Event::TokenCreated { .. }
            | Event::TokenUsed { .. }
            | Event::TokenDeleted { .. }
            | Event::TokensExpired { .. }
            | Event::CertificateIssued { .. }
            | Event::CertificateRevoked { .. }
            | Event::CertificatesExpired { .. }
            | Event::AuthorityAdded { .. }
            | Event::AuthorityActivated { .. }
            | Event::AuthorityRetired { .. } => self.apply_credential(event),
            Event::AdoptionBegan {
                cause,
                at,
                backup_at,
                nodes,
            } => {
                let before = self.adoption.take();
                let before = before.map(|before| before.nodes).unwrap_or_default();
                self.put_adoption(Adoption {
                    cause: *cause,
                    began_at: *at,
                    backup_at: *backup_at,
                    nodes: before.union(nodes).cloned().collect(),
                });
            }
            Event::NodeAdopted { node } => self.adopted(node),
            Event::SegmentSealed { segment, newest } => {
                let record = crate::audit::SegmentRecord {
                    segment: segment.clone(),
                    newest: *newest,
                    deleted: None,
                };
                self.segments.insert(segment.first, record);
            }
            Event::SegmentDeleted { first, at } => {
                if let Some(record) = self.segments.get_mut(first) {
                    record.deleted = Some(*at);
                }
            }
        }
    }

    /// Puts a node in.
    pub(super) fn put_node(&mut self, node: &Node) {
        self.node_names.insert(node.id, node.name.clone());
        self.nodes.insert(node.name.clone(), node.clone());
        self.index_node(&node.name);
        self.refresh_fleet(&node.name);
    }

    /// Says which nodes are to be adopted. None is none.
    pub(super) fn put_adoption(&mut self, adoption: Adoption) {
        let nodes = adoption.nodes.clone();
        self.adoption = Some(adoption).filter(|adoption| !adoption.nodes.is_empty());
        for node in nodes {
            self.refresh_fleet(&node);
        }
    }

    /// A node is no longer to be adopted. With the last one it is over.
    fn adopted(&mut self, node: &Name) {
        let Some(adoption) = &mut self.adoption else {
            return;
        };
        adoption.nodes.remove(node);
        if adoption.nodes.is_empty() {
            self.adoption = None;
        }
        self.refresh_fleet(node);
    }

    /// Puts an instance in with whatever incarnations it carries.
    pub(super) fn put_instance(&mut self, instance: &Instance) {
        let name = (instance.tenant.clone(), instance.name.clone());
        self.instance_names.insert(name, instance.id);
        for one in &instance.incarnations {
            self.index_incarnation(instance.id, one);
        }
        let amounts = Amounts::of_instance(&instance.spec);
        self.usage.take(&self.tenants, &instance.tenant, amounts);
        self.index_system(instance);
        self.index_groups(instance);
        self.instances.insert(instance.id, instance.clone());
    }

    /// Counts anew what tenants use and hold: after objects were put in, in whatever order.
    pub(super) fn count_usage(&mut self) {
        let mut accounting = std::mem::take(&mut self.accounting);
        accounting.recount(self);
        self.accounting = accounting;
        self.usage = Usages::counted(&self.tenants, self.instances.values());
    }

    /// Puts an operation in.
    pub(super) fn put_operation(&mut self, operation: &Operation) {
        if operation.is_running() {
            self.running.insert(operation.id, operation.instance);
        }
        self.operations.insert(operation.id, operation.clone());
    }

    /// Brings the scheduler's picture of a node up to date.
    fn refresh_fleet(&mut self, name: &Name) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let Some(capacity) = node.capacity else {
            return;
        };
        let distrust = if node.revoked.is_some() {
            Some(Distrust::Revoked)
        } else {
            node.found.as_ref().map(|_| Distrust::FingerprintChanged)
        };
        self.fleet.apply(Delta::NodePut(scheduler::Node {
            id: node.id,
            name: node.name.clone(),
            arch: capacity.arch,
            capacity: scheduler::Capacity {
                vcpus: kapok_types::Vcpus(capacity.cpus),
                memory: capacity.memory,
                foreign_vcpus: capacity.foreign_vcpus,
                foreign_memory: capacity.foreign_memory,
            },
            vcpu_overcommit_permille: node.vcpu_overcommit_permille,
            cordoned: node.cordoned.is_some(),
            quarantined: node.is_quarantined(),
            reachable: node.reachable,
            resyncing: node.resyncing || self.is_adopting(name),
            distrust,
            tier: node.tier(),
            rack: node.site.rack.clone(),
            room: node.site.room.clone(),
            labels: node.site.labels.clone(),
            isolation: node.site.isolation.clone(),
            equipment: Arc::clone(&node.equipment),
        }));
    }

    fn index_incarnation(&mut self, instance: InstanceId, incarnation: &Incarnation) {
        self.incarnations.insert(incarnation.id, instance);
        self.on_node
            .entry(incarnation.node)
            .or_default()
            .insert(incarnation.id, instance);
        self.fleet.apply(Delta::Claimed {
            node: incarnation.node,
            incarnation: incarnation.id,
            claim: incarnation.claim.clone(),
        });
    }

    fn change_node(&mut self, name: &Name, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(name) {
            change(node);
            self.index_node(name);
            self.refresh_fleet(name);
        }
    }

    /// Keeps the sets of nodes true in which one stands by its health.
    fn index_node(&mut self, name: &Name) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        for (set, belongs) in [
            (&mut self.quarantined, node.is_quarantined()),
            (&mut self.unsettled, node.is_unsettled()),
        ] {
            match (belongs, set.contains(name)) {
                (true, false) => drop(set.insert(name.clone())),
                (false, true) => drop(set.remove(name)),
                _ => {}
            }
        }
    }

    fn change_tenant(&mut self, name: &Name, change: impl FnOnce(&mut Tenant)) {
        if let Some(tenant) = self.tenants.get_mut(name) {
            change(tenant);
        }
    }

    /// Another amount than before is kept for a tenant.
    fn reserve(&mut self, name: &Name, reserved: Amounts) {
        if let Some(before) = self.tenants.get(name) {
            self.usage.reserve(&self.tenants, before, reserved);
            self.change_tenant(name, |tenant| tenant.reserved = reserved);
        }
    }

    fn change_instance(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance)) {
        if let Some(instance) = self.instances.get_mut(&id) {
            change(instance);
        }
    }

    /// The operation that an instance's present intent came from, if it still runs.
    pub fn running_operation(&self, instance: &Instance) -> Option<OperationId> {
        self.running
            .contains_key(&instance.operation)
            .then_some(instance.operation)
    }
}
