//! Adopting nodes after the record was restored or rebuilt, and what may not be done before.

use std::collections::{BTreeMap, BTreeSet};

use kapok_trust::Subject;
use kapok_types::{Digest, ImageId, Name, OperationId, Timestamp};

use super::{Context, Decision, certificate, fresh, instance, node, system};
use crate::fabric::{
    Adoption, CertificateRecord, Command, Denied, Event, Fabric, Fresh, Image, Incarnation,
    Instance, Node, Role,
    adoption::{self, Cause, Difference, Held, Kind},
    command::AdoptNode,
};

/// Longest name, in bytes.
const MAX_NAME: usize = 63;

/// What a command may not do while a node that it concerns is still to be adopted. None lets it go on.
pub(super) fn guard(context: Context<'_>) -> Option<Result<Decision, Denied>> {
    let fabric = context.fabric;
    let adoption = fabric.adoption.as_ref()?;
    let unsaid = || Some(Ok(Decision::done(Vec::new())));
    let denied = || Some(Err(adopting(adoption)));
    match &context.ask.command {
        // An agent's word changes no intent and ends no claim.
        Command::GuestStopped { node, .. }
        | Command::IncarnationGone { node, .. }
        | Command::SettleClaim { node, .. }
            if fabric.is_adopting_id(*node) =>
        {
            unsaid()
        }
        Command::StartInstance { instance }
        | Command::StopInstance { instance }
        | Command::RestartInstance { instance }
        | Command::DeleteInstance { instance, .. } => refused(context, instance).then(denied)?,
        Command::ResizeInstance(wish) => refused(context, &wish.instance).then(denied)?,
        // Taking a creation back is a deletion.
        Command::CancelOperation { operation } if is_about(fabric, *operation) => denied(),
        // What isn't known yet may be what it is wanted for.
        Command::CreateInstance(_) | Command::CreateInstances { .. }
            if fabric
                .nodes
                .keys()
                .all(|node| adoption.nodes.contains(node)) =>
        {
            denied()
        }
        Command::DeleteImage { .. } => denied(),
        Command::DeleteNode { node } if is_one(fabric, adoption, node) => denied(),
        _ => None,
    }
}

fn refused(context: Context<'_>, which: &str) -> bool {
    let instance = context.fabric.instance(which, context.home());
    let instance = instance.filter(|instance| context.covers(&instance.tenant));
    instance.is_some_and(|instance| context.fabric.is_adopting_any(instance))
}

fn is_about(fabric: &Fabric, operation: OperationId) -> bool {
    let operation = fabric.operations.get(&operation);
    let instance = operation.and_then(|one| fabric.instances.get(&one.instance));
    instance.is_some_and(|instance| fabric.is_adopting_any(instance))
}

fn is_one(fabric: &Fabric, adoption: &Adoption, which: &str) -> bool {
    let node = fabric.node(which);
    node.is_some_and(|node| adoption.nodes.contains(&node.name))
}

fn adopting(adoption: &Adoption) -> Denied {
    Denied::Adopting {
        cause: adoption.cause,
        nodes: adoption.nodes.len(),
    }
}

/// The record was restored or rebuilt: all nodes are to be adopted. Tokens may have been used since
/// the backup, so nobody can show one any more.
pub(super) fn begin(context: Context<'_>, cause: Cause, backup_at: Option<Timestamp>) -> Decision {
    let fabric = context.fabric;
    let tokens = fabric.tokens.values();
    let mut events: Vec<_> = tokens
        .filter(|token| token.one_use && token.used_at.is_none())
        .map(|token| Event::TokenDeleted { token: token.id })
        .collect();
    let nodes: BTreeSet<Name> = fabric.nodes.keys().cloned().collect();
    events.push(Event::AdoptionBegan {
        cause,
        at: context.now,
        backup_at,
        nodes,
    });
    Decision::done(events)
}

/// A node that comes while others are adopted is to be adopted as well.
pub(super) fn joins(fabric: &Fabric, node: &Name) -> Option<Event> {
    let adoption = fabric.adoption.as_ref()?;
    (!adoption.nodes.contains(node)).then(|| Event::AdoptionBegan {
        cause: adoption.cause,
        at: adoption.began_at,
        backup_at: adoption.backup_at,
        nodes: [node.clone()].into(),
    })
}

/// Settles a node's differences as they were shown.
pub(super) fn adopt(context: Context<'_>, wish: &AdoptNode) -> Result<Decision, Denied> {
    let fabric = context.fabric;
    let node = node::present(context, &wish.node)?;
    if !fabric.is_adopting(&node.name) {
        return Err(Denied::NotAdopting {
            node: node.name.to_string(),
        });
    }
    let tenant = instance::tenant(context, wish.tenant.as_ref())?;
    let differences = adoption::compare(fabric, node.id, &wish.held);
    let present = adoption::etag(&differences);
    fresh("list of differences", &present, &wish.etag)?;
    let mut adopting = Adopting {
        context,
        tenant,
        taken: BTreeSet::new(),
        images: BTreeMap::new(),
        events: Vec::new(),
        fresh: wish.fresh.iter().copied(),
    };
    for difference in &differences {
        let held = wish
            .held
            .iter()
            .find(|held| held.intent.incarnation == difference.incarnation);
        adopting.settle(difference, held)?;
    }
    let mut events = adopting.events;
    events.extend(shown(context, node, wish.certificate.as_ref()));
    events.push(Event::NodeAdopted {
        node: node.name.clone(),
    });
    Ok(Decision::done(events))
}

/// The certificate that a node shows is put on record if it was given out since the backup: only an
/// authority's key can have made it.
fn shown(context: Context<'_>, node: &Node, shown: Option<&CertificateRecord>) -> Option<Event> {
    let record = shown.filter(|record| record.subject == Subject::Node(node.id))?;
    certificate::issued(context, record, None).ok()
}

/// One node's differences, being settled.
struct Adopting<'a, I> {
    context: Context<'a>,
    /// Where instances go whose own tenant isn't known.
    tenant: &'a Name,
    /// Names that were given in this decision.
    taken: BTreeSet<Name>,
    /// Images that were registered in it.
    images: BTreeMap<Digest, (ImageId, Name)>,
    events: Vec<Event>,
    fresh: I,
}

impl<I: Iterator<Item = Fresh>> Adopting<'_, I> {
    fn settle(&mut self, difference: &Difference, held: Option<&Held>) -> Result<(), Denied> {
        let known = self.context.fabric.instances.get(&difference.instance);
        match (difference.kind, known, held) {
            (Kind::Unknown, _, Some(held)) => self.take_up(held),
            (Kind::Ahead, Some(known), Some(held)) => {
                self.follow(known, held);
                Ok(())
            }
            (Kind::Missing, Some(known), _) => {
                if !known.deleting {
                    let fresh = self.next();
                    let gone = instance::begin_delete_as(self.context, known, fresh.operation);
                    self.events.extend(gone.events);
                }
                Ok(())
            }
            // The node follows, or nobody touches it.
            _ => Ok(()),
        }
    }

    fn next(&mut self) -> Fresh {
        self.fresh.next().unwrap_or(self.context.ask.fresh)
    }

    /// An instance that the record doesn't know, as its node has it.
    fn take_up(&mut self, held: &Held) -> Result<(), Denied> {
        let (context, intent) = (self.context, &held.intent);
        let fresh = self.next();
        let (system, first) = system::of_new(context, self.tenant, None)?;
        if self.taken.is_empty() {
            self.events.extend(first);
        }
        let name = self.free_name(&intent.name, &intent.instance.0.simple().to_string());
        self.taken.insert(name.clone());
        let (image, image_name) = self.image(held, fresh.image)?;
        let instance = Instance {
            id: intent.instance,
            tenant: self.tenant.clone(),
            name,
            system,
            image,
            image_name,
            flavor: None,
            groups: BTreeSet::new(),
            spec: intent.spec.clone(),
            power: intent.power,
            counters: intent.counters,
            generation: intent.generation,
            created_at: context.now,
            created_by: context.by().clone(),
            deleting: false,
            operation: intent.operation.unwrap_or(fresh.operation),
            incarnations: Vec::new(),
        };
        self.events.push(Event::InstanceCreated {
            instance: Box::new(instance),
        });
        self.events.push(Event::IncarnationPlaced {
            instance: intent.instance,
            incarnation: Incarnation {
                id: intent.incarnation,
                node: intent.node,
                role: Role::Active,
                claim: held.claim(),
            },
        });
        Ok(())
    }

    /// The image that it was made from. One of which the record knows nothing is registered by what
    /// is known of it, so that its blob stays.
    fn image(&mut self, held: &Held, id: ImageId) -> Result<(ImageId, Name), Denied> {
        let root = &held.intent.spec.root;
        let mut alike = self.context.fabric.images.values();
        if let Some(known) = alike.find(|image| image.digest == root.image) {
            return Ok((known.id, known.name.clone()));
        }
        if let Some(known) = self.images.get(&root.image) {
            return Ok(known.clone());
        }
        let hex = root.image.hex();
        let name = format!("unknown-{}", hex.get(..12).unwrap_or_default());
        let name: Name = name.parse().map_err(|wrong| Denied::Invalid(vec![wrong]))?;
        let image = Image {
            id,
            tenant: self.tenant.clone(),
            name: name.clone(),
            digest: root.image,
            format: root.image_format,
            size: root.image_bytes,
            // No less than that, for all that is known.
            virtual_size: root.size,
            arch: held.intent.spec.arch,
            created_at: self.context.now,
            created_by: self.context.by().clone(),
        };
        self.events.push(Event::ImageRegistered { image });
        self.images.insert(root.image, (id, name.clone()));
        Ok((id, name))
    }

    /// What was changed since the backup counts.
    fn follow(&mut self, known: &Instance, held: &Held) {
        let intent = &held.intent;
        let events = &mut self.events;
        events.extend(instance::superseded(self.context, known));
        let (was, is) = (&known.spec, &intent.spec);
        if (was.vcpus, was.memory) != (is.vcpus, is.memory) {
            events.push(Event::InstanceResized {
                instance: known.id,
                vcpus: is.vcpus,
                memory: is.memory,
                flavor: None,
                generation: intent.generation,
                operation: known.operation,
            });
        }
        events.push(Event::IntentChanged {
            instance: known.id,
            power: intent.power,
            counters: intent.counters,
            generation: intent.generation,
            operation: None,
            by_guest: false,
        });
        let there = known
            .incarnations
            .iter()
            .find(|one| one.id == intent.incarnation);
        let claim = held.claim();
        if let Some(there) = there.filter(|there| there.claim != claim) {
            events.push(Event::ClaimChanged {
                instance: known.id,
                incarnation: there.id,
                node: there.node,
                claim,
            });
        }
    }

    /// The name that it has on its node, or that with a part of its id where another has it.
    fn free_name(&self, name: &Name, id: &str) -> Name {
        let is_free = |name: &Name| {
            let called = (self.tenant.clone(), name.clone());
            !self.taken.contains(name) && !self.context.fabric.instance_names.contains_key(&called)
        };
        if is_free(name) {
            return name.clone();
        }
        // Ids begin with a time: their ends differ.
        let tail = id.get(id.len().saturating_sub(12)..).unwrap_or(id);
        let kept = name.as_str().len().min(MAX_NAME - 13);
        let kept = name.as_str().get(..kept).unwrap_or_default();
        let other = format!("{kept}-{tail}").parse();
        other.unwrap_or_else(|_| name.clone())
    }
}
