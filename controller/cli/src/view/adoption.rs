//! What the fabric and its nodes hold differently, after the record was restored or rebuilt.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, time};
use crate::{
    human::{or_dash, plain},
    output::pairs,
};

/// All that is different.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Adoption {
    /// Whether any node is still to be adopted.
    pub(crate) adopting: bool,
    cause: String,
    begin_time: Option<Time>,
    backup_time: Option<Time>,
    pub(crate) nodes: Vec<NodeDifferences>,
}

/// What is different of one node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeDifferences {
    pub(crate) node: String,
    /// Whether it could be asked.
    pub(crate) asked: bool,
    detail: String,
    pub(crate) etag: String,
    differences: Vec<Difference>,
}

#[derive(Debug, Clone, Serialize)]
struct Difference {
    kind: String,
    instance_id: String,
    incarnation_id: String,
    tenant: String,
    name: String,
    detail: String,
}

/// A line of the table: a difference, or what else is to be said of a node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    node: String,
    instance: String,
    kind: String,
    detail: String,
}

impl From<wire::ListDifferencesResponse> for Adoption {
    fn from(answer: wire::ListDifferencesResponse) -> Self {
        Self {
            adopting: answer.adopting,
            cause: answer.cause,
            begin_time: time(answer.begin_time),
            backup_time: time(answer.backup_time),
            nodes: answer
                .nodes
                .into_iter()
                .map(NodeDifferences::from)
                .collect(),
        }
    }
}

impl From<wire::NodeDifferences> for NodeDifferences {
    fn from(node: wire::NodeDifferences) -> Self {
        let differences = node.differences.into_iter();
        Self {
            node: node.node,
            asked: node.asked,
            detail: node.detail,
            etag: node.etag,
            differences: differences
                .map(|one| Difference {
                    kind: super::word!(wire::DifferenceKind, "DIFFERENCE_KIND_", one.kind),
                    instance_id: one.instance_id,
                    incarnation_id: one.incarnation_id,
                    tenant: one.tenant,
                    name: one.name,
                    detail: one.detail,
                })
                .collect(),
        }
    }
}

impl Adoption {
    /// As lines, those of the nodes that are meant.
    pub(crate) fn rows(&self, is_meant: impl Fn(&str) -> bool) -> Vec<Row> {
        let nodes = self.nodes.iter().filter(|node| is_meant(&node.node));
        nodes.flat_map(NodeDifferences::rows).collect()
    }
}

impl NodeDifferences {
    fn rows(&self) -> Vec<Row> {
        let row = |kind: &str, detail: &str| Row {
            node: self.node.clone(),
            instance: String::new(),
            kind: kind.to_owned(),
            detail: detail.to_owned(),
        };
        if !self.asked {
            return vec![row("unasked", &self.detail)];
        }
        if self.differences.is_empty() {
            return vec![row("same", "it holds what the fabric's record says")];
        }
        let differences = self.differences.iter();
        differences
            .map(|one| Row {
                instance: format!("{}/{}", one.tenant, one.name),
                ..row(&one.kind, &one.detail)
            })
            .collect()
    }
}

impl View for Row {
    fn columns(_wide: bool) -> Vec<&'static str> {
        vec!["NODE", "INSTANCE", "DIFFERS", "WHAT ADOPTING DOES"]
    }

    fn row(&self, _now: Timestamp, _wide: bool) -> Vec<String> {
        vec![
            plain(&self.node),
            or_dash(&self.instance),
            plain(&self.kind),
            plain(&self.detail),
        ]
    }

    fn details(&self, _now: Timestamp) -> String {
        pairs(&[
            ("Node", plain(&self.node)),
            ("Instance", or_dash(&self.instance)),
            ("Differs", plain(&self.kind)),
            ("What adopting does", plain(&self.detail)),
        ])
    }
}
