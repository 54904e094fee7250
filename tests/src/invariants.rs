//! What must hold whatever happens, sampled all along and checked at a test's end.

use std::{collections::BTreeSet, time::Duration};

use kapok_types::{IncarnationId, instance::Power};

use crate::{cluster::Cluster, node::Node};

/// How long a fabric without faults may take to come to rest.
const REST: Duration = Duration::from_mins(15);

impl Cluster {
    /// Looks at what can be seen at any moment: no instance is on at two nodes, no stored epoch
    /// falls.
    pub fn sample(&self) {
        let twice = self
            .running()
            .into_iter()
            .filter(|(_, nodes)| nodes.len() > 1);
        let twice: Vec<_> = twice
            .map(|(instance, nodes)| format!("{instance} runs on {nodes:?}"))
            .collect();
        let mut seen = self.seen();
        seen.violations.extend(twice);
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(epoch) = node.epoch() else { continue };
            let before = seen.epochs.insert(index, epoch).unwrap_or_default();
            if epoch < before {
                seen.violations.push(format!(
                    "{}'s epoch fell from {before} to {epoch}",
                    node.name
                ));
            }
        }
    }

    /// A node's local store is lost, as if somebody had removed the file: its epoch starts anew.
    pub fn lose_local_store(&mut self, index: usize) {
        self.nodes[index].kill();
        self.nodes[index].memory.lose();
        self.seen().epochs.remove(&index);
        self.nodes[index].start();
    }

    /// Waits until the fabric rests, then checks every invariant. Faults must be over and a
    /// controller must run.
    pub async fn finish(&self) {
        self.finish_with_strays(&[]).await;
    }

    /// The same in a fabric where these incarnations are known to be strays.
    pub async fn finish_with_strays(&self, strays: &[IncarnationId]) {
        self.eventually(REST, "the fabric rests", async || {
            self.unrest(strays).await.is_empty()
        })
        .await;
        self.check_invariants().await;
    }

    /// Checks what may never be broken, at rest or not.
    pub async fn check_invariants(&self) {
        self.sample();
        let fold = self.fold().await;
        assert_eq!(fold.violations, Vec::<String>::new());
        assert_eq!(self.seen().violations, Vec::<String>::new());
    }

    /// Why the fabric doesn't rest yet.
    pub async fn unrest(&self, strays: &[IncarnationId]) -> Vec<String> {
        let fabric = self.fabric().await;
        let mut why: Vec<String> = fabric
            .running
            .keys()
            .map(|operation| format!("operation {operation} runs"))
            .collect();
        let nodes = fabric
            .nodes
            .values()
            .filter(|node| !node.reachable || node.resyncing);
        why.extend(nodes.map(|node| format!("{} isn't in touch", node.name)));
        for instance in fabric
            .instances
            .values()
            .filter(|instance| instance.deleting)
        {
            why.push(format!("{} is being deleted", instance.name));
        }
        for node in &self.nodes {
            let known: BTreeSet<IncarnationId> = fabric
                .on_node
                .get(&node.id)
                .map(|there| there.keys().copied().collect())
                .unwrap_or_default();
            why.extend(astray(node, &known, strays));
            for id in &known {
                let Some((instance, _)) = fabric.incarnation(*id) else {
                    continue;
                };
                let wanted = instance.power == Power::Running;
                if node.host.is_on(*id) != Some(wanted) {
                    let is = node.host.is_on(*id);
                    why.push(format!("{} is {is:?}, wanted {wanted}", instance.name));
                } else if node
                    .host
                    .record(*id)
                    .is_none_or(|record| record.intent.generation != instance.generation)
                {
                    why.push(format!("{}'s intent isn't held", instance.name));
                }
            }
        }
        why
    }
}

/// Domains and disks on a node that nobody stands for.
fn astray(node: &Node, known: &BTreeSet<IncarnationId>, strays: &[IncarnationId]) -> Vec<String> {
    let unknown = |id: &IncarnationId| !known.contains(id) && !strays.contains(id);
    let domains = node.host.domains().into_iter().filter(unknown);
    let disks = node.host.disks().into_iter().filter(unknown);
    domains
        .map(|id| format!("{} has an orphan domain {id}", node.name))
        .chain(disks.map(|id| format!("{} has an orphan disk {id}", node.name)))
        .collect()
}
