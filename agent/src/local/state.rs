//! What the store holds, and the changes it knows.

use std::collections::BTreeMap;

use bytes::Bytes;
use kapok_types::{
    Digest, Epoch, Generation, IncarnationId, InstanceId, NodeId, instance::DiskFormat,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An incarnation that was released here: no apply of it is taken any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which incarnation.
    pub incarnation: IncarnationId,
    /// Its instance.
    pub instance: InstanceId,
    /// Generation of the delete.
    pub generation: Generation,
    /// Epoch of the delete.
    pub epoch: Epoch,
}

/// An image that was checked whole on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownImage {
    /// Its layout.
    pub format: DiskFormat,
    /// Its size in bytes.
    pub bytes: u64,
    /// The host's boot in which its bytes were written; none once they were read back in a later
    /// one, so that they are known to be on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_in: Option<Uuid>,
    /// When its bytes had last changed then, if the pool says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ns: Option<u64>,
}

/// Everything in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) node: Option<NodeId>,
    pub(super) epoch: Epoch,
    pub(super) resynced: bool,
    pub(super) tombstones: BTreeMap<IncarnationId, Tombstone>,
    pub(super) images: BTreeMap<Digest, KnownImage>,
    pub(super) probe: Option<String>,
    /// Sealed heads of the log, by the order in which they came.
    pub(super) heads: BTreeMap<u64, Bytes>,
}

/// One change.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Node(NodeId),
    Epoch(Epoch),
    Resynced,
    Bury(Tombstone),
    Forget(IncarnationId),
    Image(Digest, KnownImage),
    DropImage(Digest),
    Probe(String),
    Head(u64, Bytes),
    DropHead(u64),
}

impl State {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Node(node) => self.node = Some(*node),
            Change::Epoch(epoch) => self.epoch = *epoch,
            Change::Resynced => self.resynced = true,
            Change::Bury(tombstone) => {
                self.tombstones.insert(tombstone.incarnation, *tombstone);
            }
            Change::Forget(incarnation) => {
                self.tombstones.remove(incarnation);
            }
            Change::Image(digest, image) => {
                self.images.insert(*digest, *image);
            }
            Change::DropImage(digest) => {
                self.images.remove(digest);
            }
            Change::Probe(result) => self.probe = Some(result.clone()),
            Change::Head(place, sealed) => {
                self.heads.insert(*place, sealed.clone());
            }
            Change::DropHead(place) => {
                self.heads.remove(place);
            }
        }
    }
}
