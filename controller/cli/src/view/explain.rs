//! Why an instance is where it is, or why nodes refuse it.

use kapok_proto::fabric::v1 as wire;
use kapok_types::MemoryMib;
use serde::Serialize;

use super::{equipment::Assignment, some, yes_no};
use crate::{
    human::{dash, or_dash, plain},
    output::{columns, pairs},
};

/// An answer to `explain`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explanation {
    /// Null when every node refuses.
    node: Option<String>,
    summary: String,
    claim_vcpus: u32,
    claim_memory: Option<Claim>,
    /// Null when nothing of its node is its own.
    assignment: Option<Assignment>,
    counts: Vec<Count>,
    nodes: Vec<Answer>,
}

/// How a memory claim adds up.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys carry the unit")]
struct Claim {
    guest_mib: u64,
    tables_mib: u64,
    vcpus_mib: u64,
    fixed_mib: u64,
    total_mib: u64,
}

/// How many nodes a filter refuses.
#[derive(Debug, Clone, Serialize)]
struct Count {
    filter: String,
    nodes: u32,
}

/// One node's answer.
#[derive(Debug, Clone, Serialize)]
struct Answer {
    node_id: Option<String>,
    node: String,
    fits: bool,
    filter: Option<String>,
    reason: String,
}

impl From<wire::ExplainInstanceResponse> for Explanation {
    fn from(answer: wire::ExplainInstanceResponse) -> Self {
        let claim = |claim: wire::MemoryClaim| Claim {
            guest_mib: claim.guest_mib,
            tables_mib: claim.tables_mib,
            vcpus_mib: claim.vcpus_mib,
            fixed_mib: claim.fixed_mib,
            total_mib: claim.total_mib,
        };
        let node = |node: wire::NodeAnswer| Answer {
            node_id: some(node.node_id),
            node: node.node_name,
            fits: node.fits,
            filter: some(node.filter),
            reason: node.reason,
        };
        let count = |count: wire::FilterCount| Count {
            filter: count.filter,
            nodes: count.nodes,
        };
        Self {
            node: some(answer.node_name),
            summary: answer.summary,
            claim_vcpus: answer.claim_vcpus,
            claim_memory: answer.claim_memory.map(claim),
            assignment: answer.assignment.map(Assignment::from),
            counts: answer.counts.into_iter().map(count).collect(),
            nodes: answer.nodes.into_iter().map(node).collect(),
        }
    }
}

impl Explanation {
    /// The answer for people.
    pub(crate) fn text(&self) -> String {
        let memory = self.claim_memory.as_ref().map_or_else(dash, |claim| {
            format!(
                "{} = guest {} + tables {} MiB + vCPUs {} MiB + QEMU {} MiB",
                MemoryMib(claim.total_mib),
                MemoryMib(claim.guest_mib),
                claim.tables_mib,
                claim.vcpus_mib,
                claim.fixed_mib
            )
        });
        let counts = self.counts.iter();
        let counts = counts.map(|count| format!("{} {}", count.filter, count.nodes));
        let head = pairs(&[
            ("Answer", plain(&self.summary)),
            ("Node", or_dash(self.node.as_deref().unwrap_or_default())),
            (
                "Claim",
                format!("{} vCPUs, memory {memory}", self.claim_vcpus),
            ),
            (
                "Its own",
                (self.assignment.as_ref()).map_or_else(dash, |own| or_dash(&own.to_string())),
            ),
            (
                "Refused by",
                or_dash(&counts.collect::<Vec<_>>().join(", ")),
            ),
        ]);
        let rows = self.nodes.iter().map(|node| {
            vec![
                plain(&node.node),
                yes_no(node.fits),
                or_dash(node.filter.as_deref().unwrap_or_default()),
                or_dash(&node.reason),
            ]
        });
        head + "\n" + &columns(&["NODE", "FITS", "REFUSED BY", "REASON"], rows)
    }
}
