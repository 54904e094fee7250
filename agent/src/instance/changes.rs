//! The one path of changes: epoch, tombstone, then the actor. One change at a time.
//!
//! Invariants:
//! - The epoch of a change is durable before anything is done in its name (FAULTS 31).
//! - A tombstone is durable before anything is removed, and no apply passes it (FAULTS 35).
//! - A refused change has done nothing, except that a higher epoch was noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kapok_types::{
    Epoch, Generation, IncarnationId, InstanceId, Intent, NodeId, TraceContext, phase::Phase,
};
use tokio::sync::{Mutex, watch};

use super::{
    registry::Registry,
    state::{Machine, Refusal},
};
use crate::{
    images::Source,
    local::{Local, Tombstone},
};

/// Most intents that one resync may carry.
pub const MAX_RESYNC: usize = 20_000;

/// A delete that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Delete {
    /// Which incarnation.
    pub incarnation: IncarnationId,
    /// Its instance.
    pub instance: InstanceId,
    /// The node that is meant.
    pub node: NodeId,
    /// Generation of the intent to delete.
    pub generation: Generation,
    /// The leadership that asks.
    pub epoch: Epoch,
    /// The trace of what it follows from.
    pub trace: Option<TraceContext>,
}

/// The intents that a node holds.
#[derive(Debug, Default)]
pub struct HeldIntents {
    /// Those that are known, by incarnation. What is being deleted isn't held any more.
    pub intents: Vec<Intent>,
    /// Incarnations here whose intent isn't known at present.
    pub unread: usize,
}

/// The path of changes.
pub struct Changes {
    local: Local,
    registry: Arc<Registry>,
    /// Whether the hypervisor was listed since the agent's start.
    listed: watch::Receiver<bool>,
    /// Held for the whole of a change, so that checks and effects of two can't interleave. What
    /// it guards: incarnations whose tombstones went lately, and until when they are remembered.
    turn: Mutex<BTreeMap<IncarnationId, Duration>>,
}

/// How long an acknowledged end is remembered: longer than a request can be on its way. A create
/// from a connection that the controller has given up must not find the place empty (FAULTS 35).
const REMEMBERED: Duration = Duration::from_mins(10);

impl Changes {
    /// The path of changes of one node.
    pub fn new(local: Local, registry: Arc<Registry>, listed: watch::Receiver<bool>) -> Self {
        Self {
            local,
            registry,
            listed,
            turn: Mutex::new(BTreeMap::new()),
        }
    }

    /// Takes an intent and the trace of what changed it; gives the generation that is held now.
    ///
    /// # Errors
    ///
    /// Any [`Refusal`]; then nothing was done.
    pub async fn apply(
        &self,
        intent: Intent,
        sources: Vec<Source>,
        trace: Option<TraceContext>,
    ) -> Result<Generation, Refusal> {
        let mut turn = self.turn.lock().await;
        self.is_here(intent.node)?;
        self.admit(intent.epoch).await?;
        let now = self.registry.context().env.monotonic();
        turn.retain(|_, until| *until > now);
        if turn.contains_key(&intent.incarnation) {
            return Err(Refusal::Released);
        }
        self.hand_over(intent, sources, trace, self.local.needs_resync())
            .await
    }

    /// Ends an incarnation, seen before or not. Returns when the tombstone is durable.
    ///
    /// # Errors
    ///
    /// Any [`Refusal`]; then nothing was done.
    pub async fn delete(&self, delete: Delete) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.is_here(delete.node)?;
        self.admit(delete.epoch).await?;
        let incarnation = delete.incarnation;
        if let Some(actor) = self.registry.get(incarnation) {
            actor.may_delete(delete.instance, delete.generation).await?;
        }
        let tombstone = Tombstone {
            incarnation,
            instance: delete.instance,
            generation: delete.generation,
            epoch: delete.epoch,
        };
        self.local.bury(tombstone).await.map_err(Refusal::Store)?;
        let policy = &self.registry.context().policy;
        self.registry
            .get_or_spawn(incarnation, || Machine::buried(policy.clone(), tombstone))
            .delete(tombstone, delete.trace);
        Ok(())
    }

    /// Forgets incarnations whose end the controller has recorded. One that isn't gone yet keeps
    /// its tombstone.
    ///
    /// # Errors
    ///
    /// A stale epoch, or the local store can't be written.
    pub async fn acknowledge(
        &self,
        epoch: Epoch,
        incarnations: &[IncarnationId],
    ) -> Result<(), Refusal> {
        let mut turn = self.turn.lock().await;
        self.admit(epoch).await?;
        let hub = &self.registry.context().hub;
        let gone: Vec<_> = incarnations
            .iter()
            .copied()
            .filter(|id| {
                hub.status(*id)
                    .is_some_and(|status| status.phase == Phase::Gone)
            })
            .collect();
        self.local.forget(&gone).await.map_err(Refusal::Store)?;
        let until = self.registry.context().env.monotonic() + REMEMBERED;
        for incarnation in gone {
            turn.insert(incarnation, until);
            self.registry.remove(incarnation);
        }
        Ok(())
    }

    /// Notes the epoch that a resync or an image request speaks in.
    ///
    /// # Errors
    ///
    /// A stale epoch, or the local store can't be written.
    pub async fn enter(&self, epoch: Epoch) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        self.admit(epoch).await
    }

    /// Does other work in the name of an epoch, while no change of another epoch comes between.
    ///
    /// # Errors
    ///
    /// A stale epoch, or the local store can't be written; then nothing was done.
    pub async fn admitted<T>(
        &self,
        epoch: Epoch,
        work: impl Future<Output = T> + Send,
    ) -> Result<T, Refusal> {
        let _turn = self.turn.lock().await;
        self.admit(epoch).await?;
        Ok(work.await)
    }

    /// Takes the controller's full intent and ends `needs_resync`. Gives the incarnations here
    /// that it lacks; they are left alone.
    ///
    /// # Errors
    ///
    /// A refusal that concerns the whole; intents before it may have been taken, which the next
    /// resync repeats.
    pub async fn resync(
        &self,
        epoch: Epoch,
        intents: Vec<(Intent, Vec<Source>)>,
    ) -> Result<Vec<IncarnationId>, Refusal> {
        let _turn = self.turn.lock().await;
        self.admit(epoch).await?;
        self.is_listed()?;
        for (intent, _) in &intents {
            self.is_here(intent.node)?;
        }
        let wanted: BTreeSet<_> = intents
            .iter()
            .map(|(intent, _)| intent.incarnation)
            .collect();
        for (intent, sources) in intents {
            let incarnation = intent.incarnation;
            match self.hand_over(intent, sources, None, false).await {
                Ok(_) => {}
                // The watch shows these to the controller better than a refused whole would.
                Err(
                    refusal @ (Refusal::Released
                    | Refusal::StaleGeneration { .. }
                    | Refusal::ContentMismatch { .. }
                    | Refusal::Immutable(_)
                    | Refusal::NotOffered(_)),
                ) => tracing::warn!(%incarnation, %refusal, "left as it is in a resync"),
                Err(refusal) => return Err(refusal),
            }
        }
        self.local.set_resynced().await.map_err(Refusal::Store)?;
        let mut strays = self.registry.incarnations();
        strays.retain(|id| !wanted.contains(id) && self.local.tombstone(*id).is_none());
        for incarnation in &strays {
            tracing::warn!(%incarnation, "the controller's intent lacks it; it is left alone");
        }
        Ok(strays)
    }

    /// The intents that are held at present. No change comes between them.
    pub async fn held(&self) -> HeldIntents {
        let _turn = self.turn.lock().await;
        let mut held = HeldIntents::default();
        for incarnation in self.registry.incarnations() {
            if self.local.tombstone(incarnation).is_some() {
                continue;
            }
            let Some(actor) = self.registry.get(incarnation) else {
                held.unread += 1;
                continue;
            };
            match actor.intent().await {
                Ok(Some(intent)) => held.intents.push(*intent),
                Ok(None) | Err(_) => held.unread += 1,
            }
        }
        held
    }

    async fn hand_over(
        &self,
        intent: Intent,
        sources: Vec<Source>,
        trace: Option<TraceContext>,
        needs_resync: bool,
    ) -> Result<Generation, Refusal> {
        let incarnation = intent.incarnation;
        if self.local.tombstone(incarnation).is_some() {
            return Err(Refusal::Released);
        }
        let actor = if let Some(actor) = self.registry.get(incarnation) {
            actor
        } else {
            // Before the first listing nobody knows what is here already.
            self.is_listed()?;
            if needs_resync {
                return Err(Refusal::NeedsResync);
            }
            let policy = &self.registry.context().policy;
            self.registry.get_or_spawn(incarnation, || {
                Machine::unknown(policy.clone(), incarnation)
            })
        };
        actor.apply(intent, sources, trace).await
    }

    async fn admit(&self, sent: Epoch) -> Result<(), Refusal> {
        if self.registry.is_closed() {
            return Err(Refusal::Stopping);
        }
        let stored = self.local.epoch();
        if sent < stored {
            return Err(Refusal::StaleEpoch { sent, stored });
        }
        self.local.raise_epoch(sent).await.map_err(Refusal::Store)
    }

    fn is_here(&self, sent: NodeId) -> Result<(), Refusal> {
        let here = self.local.node_id();
        if sent == here {
            Ok(())
        } else {
            Err(Refusal::WrongNode { here, sent })
        }
    }

    fn is_listed(&self) -> Result<(), Refusal> {
        if *self.listed.borrow() {
            Ok(())
        } else {
            Err(Refusal::Starting {
                retry: Duration::from_secs(1),
            })
        }
    }
}
