//! How facts change memory. Total: a fact about something unknown changes nothing.

use kapok_scheduler::{self as scheduler, Delta};
use kapok_types::{InstanceId, Name, OperationId};

use super::{Event, Fabric, Instance, Node, Operation};

impl Fabric {
    /// Takes one fact in. The only way that memory changes.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::LeaderElected { .. } => {}
            Event::NodeConfigured {
                node,
                address,
                vcpu_overcommit_permille,
            } => {
                let entry = self.nodes.entry(node.clone()).or_insert_with(|| Node {
                    name: node.clone(),
                    address: String::new(),
                    configured: true,
                    vcpu_overcommit_permille: *vcpu_overcommit_permille,
                    enrolled: None,
                    reachable: false,
                    resyncing: false,
                    cordoned: None,
                });
                entry.address.clone_from(address);
                entry.configured = true;
                entry.vcpu_overcommit_permille = *vcpu_overcommit_permille;
                self.refresh_fleet(node);
            }
            Event::NodeUnconfigured { node } => self.change_node(node, |node| {
                node.configured = false;
                node.reachable = false;
            }),
            Event::NodeEnrolled { node, enrolled } => {
                self.node_names.insert(enrolled.id, node.clone());
                self.change_node(node, |node| node.enrolled = Some(enrolled.clone()));
            }
            Event::NodeChanged { node, capacity } => self.change_node(node, |node| {
                if let Some(enrolled) = &mut node.enrolled {
                    enrolled.capacity = *capacity;
                }
            }),
            Event::NodeReached { node } => self.change_node(node, |node| node.reachable = true),
            Event::NodeLost { node, .. } => self.change_node(node, |node| node.reachable = false),
            Event::NodeResyncing { node, waits } => {
                self.change_node(node, |node| node.resyncing = *waits);
            }
            Event::NodeCordoned { node, cordon } => {
                self.change_node(node, |node| node.cordoned = Some(cordon.clone()));
            }
            Event::NodeUncordoned { node } => self.change_node(node, |node| node.cordoned = None),
            Event::ImageRegistered { image } => {
                self.image_names.insert(image.name.clone(), image.id);
                self.images.insert(image.id, image.clone());
            }
            Event::ImageRemoved { image, name } => {
                self.images.remove(image);
                self.image_names.remove(name);
            }
            Event::InstanceCreated { instance } => self.put_instance(instance),
            Event::IncarnationPlaced {
                instance,
                incarnation,
            } => {
                let (id, node, claim) = (incarnation.id, incarnation.node, incarnation.claim);
                self.index_incarnation(*instance, id, node, claim);
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
            Event::InstanceRemoved { instance, name } => {
                self.instances.remove(instance);
                self.instance_names.remove(name);
            }
            Event::OperationStarted { operation } => self.put_operation(operation),
            Event::OperationEnded { operation, end } => {
                self.running.remove(operation);
                if let Some(operation) = self.operations.get_mut(operation) {
                    operation.ended = Some(end.clone());
                }
            }
            Event::RequestAnswered {
                request_id,
                answered,
            } => {
                self.requests_by_age
                    .insert((answered.at, request_id.clone()), ());
                self.requests.insert(request_id.clone(), answered.clone());
            }
            Event::RequestsExpired { before } => {
                while let Some(((at, request_id), ())) = self.requests_by_age.get_min() {
                    if at >= before {
                        break;
                    }
                    let key = (*at, request_id.clone());
                    self.requests.remove(&key.1);
                    self.requests_by_age.remove(&key);
                }
            }
            Event::OperationsExpired { operations } => {
                for operation in operations {
                    self.operations.remove(operation);
                }
            }
        }
    }

    /// Puts an instance in with whatever incarnations it carries.
    pub(super) fn put_instance(&mut self, instance: &Instance) {
        self.instance_names
            .insert(instance.name.clone(), instance.id);
        for one in &instance.incarnations {
            self.index_incarnation(instance.id, one.id, one.node, one.claim);
        }
        self.instances.insert(instance.id, instance.clone());
    }

    /// Puts an operation in.
    pub(super) fn put_operation(&mut self, operation: &Operation) {
        if operation.is_running() {
            self.running.insert(operation.id, operation.instance);
        }
        self.operations.insert(operation.id, operation.clone());
    }

    /// Brings the scheduler's picture of a node up to date.
    pub(super) fn refresh_fleet(&mut self, name: &Name) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let Some(enrolled) = &node.enrolled else {
            return;
        };
        let capacity = enrolled.capacity;
        self.fleet.apply(Delta::NodePut(scheduler::Node {
            id: enrolled.id,
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
            reachable: node.reachable,
            resyncing: node.resyncing,
        }));
    }

    fn index_incarnation(
        &mut self,
        instance: InstanceId,
        incarnation: kapok_types::IncarnationId,
        node: kapok_types::NodeId,
        claim: scheduler::Claim,
    ) {
        self.incarnations.insert(incarnation, instance);
        self.on_node
            .entry(node)
            .or_default()
            .insert(incarnation, instance);
        self.fleet.apply(Delta::Claimed {
            node,
            incarnation,
            claim,
        });
    }

    fn change_node(&mut self, name: &Name, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(name) {
            change(node);
            self.refresh_fleet(name);
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
