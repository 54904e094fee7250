//! Where a node may fetch blobs from, and the right to do so.

use std::collections::BTreeMap;

use kapok_proto::agent::v1::PeerSource;
use kapok_types::{Digest, Epoch, NodeId, Timestamp};

use crate::trust::{self, SealedTicket, Trust};

/// The tickets of one session, by blob. An old one is replaced when the blob is asked for again.
#[derive(Debug, Default)]
pub(super) struct Sources {
    tickets: BTreeMap<Digest, SealedTicket>,
    /// When the first of them should be replaced.
    refresh_at: Option<Timestamp>,
}

impl Sources {
    /// Where a node gets a blob.
    pub(super) fn of(
        &mut self,
        trust: &Trust,
        advertise: &str,
        node: NodeId,
        digest: Digest,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<Vec<PeerSource>, trust::Error> {
        let fresh = self
            .tickets
            .get(&digest)
            .filter(|ticket| now < ticket.refresh_at);
        let ticket = if let Some(ticket) = fresh {
            ticket.bytes.clone()
        } else {
            let ticket = trust.ticket(node, digest, epoch)?;
            let bytes = ticket.bytes.clone();
            self.tickets.insert(digest, ticket);
            self.reckon();
            bytes
        };
        Ok(vec![PeerSource {
            address: advertise.to_owned(),
            node_id: String::new(),
            ticket: ticket.into(),
        }])
    }

    /// Whether tickets have grown old. Forgets them, so that it is said once.
    pub(super) fn have_aged(&mut self, now: Timestamp) -> bool {
        if self.refresh_at.is_none_or(|at| now < at) {
            return false;
        }
        self.tickets.retain(|_, ticket| now < ticket.refresh_at);
        self.reckon();
        true
    }

    fn reckon(&mut self) {
        self.refresh_at = self.tickets.values().map(|ticket| ticket.refresh_at).min();
    }
}
