//! The fabric as single objects, so that a checkpoint writes only what changed.
//!
//! Every event touches a known set of objects. The ledger collects their keys and hands the
//! store the present value of each (or its absence); loading all objects gives the same fabric
//! as folding the log up to that place.

use std::collections::BTreeSet;

use kapok_types::{ImageId, InstanceId, Name, OperationId};
use serde::{Serialize, de::DeserializeOwned};

use super::{Answered, Event, Fabric, Image, Instance, Node, Operation};

/// The key of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A node.
    Node(Name),
    /// An instance with its incarnations.
    Instance(InstanceId),
    /// An image.
    Image(ImageId),
    /// An operation.
    Operation(OperationId),
    /// An answered request.
    Request(String),
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
            Self::Operation(id) => format!("operation/{id}"),
            Self::Request(id) => format!("request/{id}"),
        }
    }
}

/// Adds the keys of the objects that an event touches. Must see the fabric *before* the event.
pub fn touched(fabric: &Fabric, event: &Event, keys: &mut BTreeSet<Key>) {
    match event {
        Event::LeaderElected { .. } => {}
        Event::NodeConfigured { node, .. }
        | Event::NodeUnconfigured { node }
        | Event::NodeEnrolled { node, .. }
        | Event::NodeChanged { node, .. }
        | Event::NodeReached { node }
        | Event::NodeLost { node, .. }
        | Event::NodeResyncing { node, .. }
        | Event::NodeCordoned { node, .. }
        | Event::NodeUncordoned { node } => {
            keys.insert(Key::Node(node.clone()));
        }
        Event::ImageRegistered { image } => {
            keys.insert(Key::Image(image.id));
        }
        Event::ImageRemoved { image, .. } => {
            keys.insert(Key::Image(*image));
        }
        Event::InstanceCreated { instance } => {
            keys.insert(Key::Instance(instance.id));
        }
        Event::IncarnationPlaced { instance, .. }
        | Event::IntentChanged { instance, .. }
        | Event::InstanceDeleting { instance, .. }
        | Event::IncarnationEnded { instance, .. }
        | Event::InstanceRemoved { instance, .. } => {
            keys.insert(Key::Instance(*instance));
        }
        Event::OperationStarted { operation } => {
            keys.insert(Key::Operation(operation.id));
        }
        Event::OperationEnded { operation, .. } => {
            keys.insert(Key::Operation(*operation));
        }
        Event::RequestAnswered { request_id, .. } => {
            keys.insert(Key::Request(request_id.clone()));
        }
        Event::RequestsExpired { before } => {
            let old = fabric
                .requests_by_age
                .keys()
                .take_while(|(at, _)| at < before);
            keys.extend(old.map(|(_, id)| Key::Request(id.clone())));
        }
        Event::OperationsExpired { operations } => {
            keys.extend(operations.iter().map(|id| Key::Operation(*id)));
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
        Key::Operation(id) => encode(fabric.operations.get(id)),
        Key::Request(id) => encode(fabric.requests.get(id)),
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
    let mut fabric = Fabric::default();
    for (key, value) in objects {
        match key.split_once('/').unwrap_or((key, "")) {
            ("node", _) => {
                let node: Node = decode(key, value)?;
                let name = node.name.clone();
                if let Some(enrolled) = &node.enrolled {
                    fabric.node_names.insert(enrolled.id, name.clone());
                }
                fabric.nodes.insert(name.clone(), node);
                fabric.refresh_fleet(&name);
            }
            ("instance", _) => fabric.put_instance(&decode::<Instance>(key, value)?),
            ("image", _) => {
                let image: Image = decode(key, value)?;
                fabric.apply(&Event::ImageRegistered { image });
            }
            ("operation", _) => fabric.put_operation(&decode::<Operation>(key, value)?),
            ("request", request_id) => {
                let answered: Answered = decode(key, value)?;
                fabric.apply(&Event::RequestAnswered {
                    request_id: request_id.into(),
                    answered,
                });
            }
            _ => {
                return Err(Error::UnknownKind {
                    key: key.to_owned(),
                });
            }
        }
    }
    Ok(fabric)
}
