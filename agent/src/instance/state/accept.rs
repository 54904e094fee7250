//! Which requests are legal, and the named reason why one isn't.

use std::time::Duration;

use kapok_types::{Epoch, Generation, InstanceId, Intent, NodeId, Violation};

use super::Machine;
use crate::local;

/// Why a request about an incarnation was refused. Nothing was done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// An earlier leadership sent it.
    #[error("epoch {sent} is below {stored}, the highest that this node has stored")]
    StaleEpoch {
        /// The request's.
        sent: Epoch,
        /// The node's.
        stored: Epoch,
    },
    /// It is meant for another node.
    #[error("this node is {here}, the request is for {sent}")]
    WrongNode {
        /// This one.
        here: NodeId,
        /// The request's.
        sent: NodeId,
    },
    /// The incarnation was deleted here.
    #[error("the incarnation was released on this node")]
    Released,
    /// The node lost its local store and needs the full intent before it takes a create.
    #[error("this node needs the controller's full intent before it takes a create")]
    NeedsResync,
    /// A newer intent is held.
    #[error("generation {sent} is below {held}, which this node holds")]
    StaleGeneration {
        /// The request's.
        sent: Generation,
        /// The node's.
        held: Generation,
    },
    /// The same generation came with other content before.
    #[error("generation {generation} is held with other content")]
    ContentMismatch {
        /// Which generation.
        generation: Generation,
    },
    /// Something was to change that can't change in an incarnation.
    #[error("{0}")]
    Immutable(Violation),
    /// It hands out what this node doesn't offer.
    #[error("this node doesn't offer that: {0}")]
    NotOffered(Violation),
    /// The instance's queue is full.
    #[error("too many requests wait for this instance")]
    Busy,
    /// The hypervisor hasn't been listed since the agent's start.
    #[error("the hypervisor hasn't answered since the agent's start")]
    Starting {
        /// When to try again.
        retry: Duration,
    },
    /// The request asks for more than is allowed at once.
    #[error("{what} has {count}, at most {limit} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many came.
        count: usize,
        /// How many are taken.
        limit: usize,
    },
    /// The local store can't be written: nothing may be promised.
    #[error("the local store can't be written")]
    Store(#[source] local::Error),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl Machine {
    /// Whether an intent may be taken; an equal one may, and changes nothing.
    ///
    /// # Errors
    ///
    /// Released, stale, or other content under the same generation.
    pub fn accept(&self, intent: &Intent) -> Result<(), Refusal> {
        if self.tombstone.is_some() {
            return Err(Refusal::Released);
        }
        let Some(held) = &self.intent else {
            return Ok(());
        };
        if intent.generation < held.generation {
            return Err(Refusal::StaleGeneration {
                sent: intent.generation,
                held: held.generation,
            });
        }
        if intent.generation == held.generation && !same_content(held, intent) {
            return Err(Refusal::ContentMismatch {
                generation: held.generation,
            });
        }
        let fixed = [
            ("instance_id", held.instance == intent.instance),
            ("spec.arch", held.spec.arch == intent.spec.arch),
            ("spec.root", held.spec.root == intent.spec.root),
        ];
        for (field, same) in fixed {
            if !same {
                return Err(Refusal::Immutable(Violation::new(
                    field,
                    "can't change in an incarnation; make a new one",
                )));
            }
        }
        Ok(())
    }

    /// Whether the intent that is held already needs this, and is assigned this.
    pub fn holds_equipment_of(&self, intent: &Intent) -> bool {
        let of = |intent: &Intent| (intent.spec.needs.clone(), intent.assignment.clone());
        self.intent
            .as_ref()
            .is_some_and(|held| of(held) == of(intent))
    }

    /// Whether a delete may be taken; a second one may.
    ///
    /// # Errors
    ///
    /// A generation below the held one, or another instance's id.
    pub fn accept_delete(
        &self,
        instance: InstanceId,
        generation: Generation,
    ) -> Result<(), Refusal> {
        if self.tombstone.is_some() {
            return Ok(());
        }
        let Some(held) = &self.intent else {
            return Ok(());
        };
        if instance != held.instance {
            return Err(Refusal::Immutable(Violation::new(
                "instance_id",
                format!(
                    "is {instance}; the incarnation belongs to {}",
                    held.instance
                ),
            )));
        }
        if generation < held.generation {
            return Err(Refusal::StaleGeneration {
                sent: generation,
                held: held.generation,
            });
        }
        Ok(())
    }
}

/// Whether two intents ask for the same. Who sent them, and for which operation, is no content.
pub(super) fn same_content(a: &Intent, b: &Intent) -> bool {
    let plain = |intent: &Intent| Intent {
        epoch: Epoch::ZERO,
        operation: None,
        ..intent.clone()
    };
    plain(a) == plain(b)
}
