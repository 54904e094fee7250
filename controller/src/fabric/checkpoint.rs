//! The fabric as single objects, so that a checkpoint writes only what changed.
//!
//! Every event touches a known set of objects. The ledger collects their keys and hands the
//! store the present value of each (or its absence); loading all objects gives the same fabric
//! as folding the log up to that place.

use std::collections::BTreeSet;

use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{ImageId, InstanceId, Name, OperationId, Seq};
use serde::{Serialize, de::DeserializeOwned};

use super::{Accounting, Actor, Answered, Event, Fabric, Flavor, Image, Instance, Node, Operation};
use crate::audit::SegmentRecord;

/// The key of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A node.
    Node(Name),
    /// An instance with its incarnations.
    Instance(InstanceId),
    /// An image.
    Image(ImageId),
    /// A flavor.
    Flavor(Name),
    /// A system, by its tenant and name.
    System(Name, Name),
    /// A group, by its tenant and name.
    Group(Name, Name),
    /// An operation.
    Operation(OperationId),
    /// An answered request, by who asked and its id.
    Request(Actor, String),
    /// A tenant.
    Tenant(Name),
    /// A user.
    User(Subject),
    /// A token.
    Token(TokenId),
    /// A certificate.
    Certificate(Serial),
    /// An authority.
    Authority(Fingerprint),
    /// A part of the log that was moved out, by its first entry.
    Segment(Seq),
    /// Nodes that are still to be adopted.
    Adoption,
    /// What the accounting has one of.
    Accounting,
    /// The account of a system, by its tenant and name.
    Account(Name, Name),
    /// The meter of an instance.
    Meter(InstanceId),
    /// The peaks of a bureau.
    Peaks(Name),
    /// The peaks of all bureaus together.
    Pool,
}

/// A checkpoint that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of an unknown kind: a newer version wrote it.
    #[error("object {key:?} is of a kind that this version doesn't know")]
    UnknownKind {
        /// The key.
        key: String,
    },
    /// A value that isn't what its key says.
    #[error("object {key:?} can't be read")]
    Damaged {
        /// The key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Key {
    /// The key's text in the store.
    pub fn encode(&self) -> String {
        match self {
            Self::Node(name) => format!("node/{name}"),
            Self::Instance(id) => format!("instance/{id}"),
            Self::Image(id) => format!("image/{id}"),
            Self::Flavor(name) => format!("flavor/{name}"),
            Self::System(tenant, name) => format!("system/{tenant}/{name}"),
            Self::Group(tenant, name) => format!("group/{tenant}/{name}"),
            Self::Operation(id) => format!("operation/{id}"),
            // An actor's text has no space.
            Self::Request(by, id) => format!("request/{by} {id}"),
            Self::Tenant(name) => format!("tenant/{name}"),
            Self::User(subject) => format!("user/{subject}"),
            Self::Token(id) => format!("token/{id}"),
            Self::Certificate(serial) => format!("certificate/{serial}"),
            Self::Authority(fingerprint) => format!("authority/{fingerprint}"),
            Self::Segment(first) => format!("segment/{first}"),
            Self::Adoption => "adoption/".to_owned(),
            Self::Accounting => "accounting/".to_owned(),
            Self::Account(tenant, system) => format!("account/{tenant}/{system}"),
            Self::Meter(instance) => format!("meter/{instance}"),
            Self::Peaks(bureau) => format!("peaks/{bureau}"),
            Self::Pool => "pool/".to_owned(),
        }
    }
}

/// Adds the keys of the objects that an event touches. Must see the fabric *before* the event, and
/// the time of its entry.
pub fn touched(fabric: &Fabric, event: &Event, keys: &mut BTreeSet<Key>) {
    fabric.accounting.touched(fabric, event, keys);
    match event {
        Event::LeaderElected { .. }
        | Event::ConsoleGranted { .. }
        | Event::Refused { .. }
        | Event::UsageMeasured { .. }
        | Event::AvailabilityChanged { .. } => {}
        Event::NodeJoined { node } => {
            keys.insert(Key::Node(node.name.clone()));
        }
        Event::NodeRejoined { node, .. }
        | Event::NodeUpdated { node, .. }
        | Event::NodeSited { node, .. }
        | Event::NodeFingerprintChanged { node, .. }
        | Event::NodeRebound { node, .. }
        | Event::NodeRevoked { node, .. }
        | Event::NodeChanged { node, .. }
        | Event::NodeEquipped { node, .. }
        | Event::NodeReached { node }
        | Event::NodeLost { node, .. }
        | Event::NodeResyncing { node, .. }
        | Event::NodeCordoned { node, .. }
        | Event::NodeJudged { node, .. }
        | Event::NodeQuarantined { node, .. }
        | Event::NodeRecovering { node, .. }
        | Event::NodeQuarantineEnded { node }
        | Event::NodeReleased { node, .. }
        | Event::NodeReleaseEnded { node }
        | Event::NodeDrainRequested { node, .. }
        | Event::NodePartsLearned { node, .. }
        | Event::NodePartsChanged { node, .. }
        | Event::NodePartsAccepted { node, .. }
        | Event::NodeUncordoned { node } => {
            keys.insert(Key::Node(node.clone()));
        }
        Event::NodeRemoved { node, .. } => {
            keys.insert(Key::Node(node.clone()));
            if fabric.adoption.is_some() {
                keys.insert(Key::Adoption);
            }
        }
        Event::ImageRegistered { image } => {
            keys.insert(Key::Image(image.id));
        }
        Event::ImageRemoved { image, .. } => {
            keys.insert(Key::Image(*image));
        }
        Event::FlavorCreated { flavor } | Event::FlavorChanged { flavor } => {
            keys.insert(Key::Flavor(flavor.name.clone()));
        }
        Event::FlavorRemoved { flavor, .. } => {
            keys.insert(Key::Flavor(flavor.clone()));
        }
        Event::SystemCreated { system } | Event::SystemChanged { system } => {
            let (tenant, name) = (system.tenant.clone(), system.name.clone());
            keys.insert(Key::System(tenant, name));
        }
        Event::SystemLive { tenant, name, .. }
        | Event::SystemEnding { tenant, name, .. }
        | Event::SystemRemoved { tenant, name } => {
            keys.insert(Key::System(tenant.clone(), name.clone()));
        }
        Event::GroupCreated { group } => {
            keys.insert(Key::Group(group.tenant.clone(), group.name.clone()));
        }
        Event::GroupRemoved { tenant, name } => {
            keys.insert(Key::Group(tenant.clone(), name.clone()));
        }
        Event::InstanceCreated { instance } => {
            let (tenant, system) = (instance.tenant.clone(), instance.system.clone());
            keys.insert(Key::System(tenant, system));
            keys.insert(Key::Instance(instance.id));
        }
        Event::IncarnationPlaced { instance, .. }
        | Event::IntentChanged { instance, .. }
        | Event::InstanceResized { instance, .. }
        | Event::ClaimChanged { instance, .. }
        | Event::InstanceDeleting { instance, .. }
        | Event::IncarnationEnded { instance, .. } => {
            keys.insert(Key::Instance(*instance));
        }
        Event::InstanceSystemChanged {
            instance, system, ..
        } => {
            keys.insert(Key::Instance(*instance));
            let known = fabric.instances.get(instance);
            let systems = known
                .into_iter()
                .flat_map(|one| [&one.system, system].map(|it| (&one.tenant, it)));
            keys.extend(
                systems.map(|(tenant, system)| Key::System(tenant.clone(), system.clone())),
            );
        }
        Event::InstanceRemoved { instance, .. } => {
            keys.insert(Key::Instance(*instance));
            // One that came with the instance's old record, and was never written, stays.
            let known = fabric.instances.get(instance);
            keys.extend(known.map(|one| Key::System(one.tenant.clone(), one.system.clone())));
        }
        Event::OperationStarted { operation } => {
            keys.insert(Key::Operation(operation.id));
        }
        Event::OperationEnded { operation, .. } => {
            keys.insert(Key::Operation(*operation));
        }
        Event::RequestAnswered { by, request_id, .. } => {
            keys.insert(Key::Request(by.clone(), request_id.clone()));
        }
        Event::RequestsExpired { before } => {
            let ages = fabric.requests_by_age.iter();
            let old = ages.take_while(|(at, ..)| at < before);
            keys.extend(old.map(|(_, by, id)| Key::Request(by.clone(), id.clone())));
        }
        Event::OperationsExpired { operations } => {
            keys.extend(operations.iter().map(|id| Key::Operation(*id)));
        }
        Event::TenantCreated { tenant } => {
            keys.insert(Key::Tenant(tenant.name.clone()));
        }
        Event::TenantUpdated { tenant, .. }
        | Event::TenantStateChanged { tenant, .. }
        | Event::TenantQuotaSet { tenant, .. }
        | Event::TenantIsolationSet { tenant, .. }
        | Event::TenantDeleted { tenant, .. } => {
            keys.insert(Key::Tenant(tenant.clone()));
        }
        Event::UserCreated { user } | Event::UserChanged { user } => {
            keys.insert(Key::User(user.subject.clone()));
        }
        Event::UserDeleted { user } => {
            keys.insert(Key::User(user.clone()));
        }
        Event::TokenCreated { token } => {
            keys.insert(Key::Token(token.id));
        }
        Event::TokenUsed { token, .. } | Event::TokenDeleted { token } => {
            keys.insert(Key::Token(*token));
        }
        Event::TokensExpired { tokens } => keys.extend(tokens.iter().map(|id| Key::Token(*id))),
        Event::CertificateIssued { certificate } => {
            keys.insert(Key::Certificate(certificate.serial));
        }
        Event::CertificateRevoked { serial, .. } => {
            keys.insert(Key::Certificate(*serial));
        }
        Event::CertificatesExpired { before } => {
            let ends = fabric.certificates_by_end.iter();
            let old = ends.take_while(|(not_after, _)| not_after < before);
            keys.extend(old.map(|(_, serial)| Key::Certificate(*serial)));
        }
        Event::AuthorityAdded { authority } => {
            keys.insert(Key::Authority(authority.fingerprint));
        }
        Event::AuthorityActivated { authority, .. } => {
            keys.insert(Key::Authority(*authority));
            // The one before it changes, too.
            let before = fabric.active_authority();
            keys.extend(before.map(|before| Key::Authority(before.fingerprint)));
        }
        Event::AuthorityRetired { authority, .. } => {
            keys.insert(Key::Authority(*authority));
        }
        Event::AdoptionBegan { .. } | Event::NodeAdopted { .. } => {
            keys.insert(Key::Adoption);
        }
        Event::SegmentSealed { segment, .. } => {
            keys.insert(Key::Segment(segment.first));
        }
        Event::SegmentDeleted { first, .. } => {
            keys.insert(Key::Segment(*first));
        }
    }
}

/// The present value of an object, or none when it is no more.
///
/// # Errors
///
/// Serialization of plain data, which doesn't fail in practice.
pub fn object(fabric: &Fabric, key: &Key) -> Result<Option<Vec<u8>>, serde_json::Error> {
    fn encode<T: Serialize>(value: Option<&T>) -> Result<Option<Vec<u8>>, serde_json::Error> {
        value.map(serde_json::to_vec).transpose()
    }
    match key {
        Key::Node(name) => encode(fabric.nodes.get(name)),
        Key::Instance(id) => encode(fabric.instances.get(id)),
        Key::Image(id) => encode(fabric.images.get(id)),
        Key::Flavor(name) => encode(fabric.flavors.get(name)),
        Key::System(tenant, name) => encode(fabric.systems.get(&(tenant.clone(), name.clone()))),
        Key::Group(tenant, name) => encode(fabric.groups.get(&(tenant.clone(), name.clone()))),
        Key::Operation(id) => encode(fabric.operations.get(id)),
        Key::Request(by, id) => encode(fabric.requests.get(&(by.clone(), id.clone()))),
        Key::Tenant(name) => encode(fabric.tenants.get(name)),
        Key::User(subject) => encode(fabric.users.get(subject)),
        Key::Token(id) => encode(fabric.tokens.get(id)),
        Key::Certificate(serial) => encode(fabric.certificates.get(serial)),
        Key::Authority(fingerprint) => encode(fabric.authorities.get(fingerprint)),
        Key::Segment(first) => encode(fabric.segments.get(first)),
        Key::Adoption => encode(fabric.adoption.as_ref()),
        Key::Accounting | Key::Account(..) | Key::Meter(_) | Key::Peaks(_) | Key::Pool => {
            fabric.accounting.object(key)
        }
    }
}

/// Builds a fabric from all objects of a checkpoint.
///
/// # Errors
///
/// [`Error`] names the object that can't be read; nothing is guessed in its place.
pub fn load<'a>(objects: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Fabric, Error> {
    fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(value).map_err(|source| Error::Damaged {
            key: key.to_owned(),
            source,
        })
    }
    let (mut fabric, mut accounting) = (Fabric::default(), Accounting::default());
    for (key, value) in objects {
        match key.split_once('/').unwrap_or((key, "")) {
            ("node", _) => fabric.put_node(&decode::<Node>(key, value)?),
            ("instance", _) => fabric.put_instance(&decode::<Instance>(key, value)?),
            ("image", _) => {
                let image: Image = decode(key, value)?;
                fabric.apply(&Event::ImageRegistered { image });
            }
            ("flavor", _) => {
                let flavor: Flavor = decode(key, value)?;
                fabric.apply(&Event::FlavorCreated { flavor });
            }
            ("system", _) => fabric.put_system(&decode(key, value)?),
            ("group", _) => {
                let group = decode(key, value)?;
                fabric.apply(&Event::GroupCreated { group });
            }
            ("operation", _) => fabric.put_operation(&decode::<Operation>(key, value)?),
            ("request", request) => {
                let (by, request_id) = request.split_once(' ').unwrap_or((request, ""));
                let answered: Answered = decode(key, value)?;
                fabric.apply(&Event::RequestAnswered {
                    by: Actor(by.into()),
                    request_id: request_id.into(),
                    answered,
                });
            }
            ("tenant", _) => {
                let tenant = decode(key, value)?;
                fabric.apply(&Event::TenantCreated { tenant });
            }
            ("user", _) => {
                let user = decode(key, value)?;
                fabric.apply(&Event::UserCreated { user });
            }
            ("token", _) => {
                let token = decode(key, value)?;
                fabric.apply(&Event::TokenCreated { token });
            }
            ("certificate", _) => fabric.put_certificate(&decode(key, value)?),
            ("authority", _) => {
                let authority = decode(key, value)?;
                fabric.apply(&Event::AuthorityAdded { authority });
            }
            ("adoption", _) => fabric.put_adoption(decode(key, value)?),
            ("segment", _) => {
                let record: SegmentRecord = decode(key, value)?;
                fabric.segments.insert(record.segment.first, record);
            }
            _ => {
                let put = accounting.put(key, value);
                let put = put.map_err(|source| Error::Damaged {
                    key: key.to_owned(),
                    source,
                })?;
                if !put {
                    return Err(Error::UnknownKind {
                        key: key.to_owned(),
                    });
                }
            }
        }
    }
    fabric.accounting = accounting;
    fabric.count_usage();
    Ok(fabric)
}
