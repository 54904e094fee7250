//! Dry runs: what every node says to a request.
//!
//! Looks at every node, always; people ask for it, decisions don't. To ask where a present
//! instance could go, ask a fleet in which its own claim is released.

use std::fmt;

use kapok_types::{Name, NodeId};
use serde::{Deserialize, Serialize};

use crate::{
    filter::Rejection,
    fleet::Fleet,
    place::Score,
    question::Question,
    rejections::Rejections,
    request::{Policy, Request},
};

/// Every node's answer: those that fit, best first, then the others by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The answers.
    pub per_node: Vec<NodeAnswer>,
}

/// One node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// What it says.
    pub answer: Answer,
}

/// Whether a node can take a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It can, and this is what it would be left with.
    Fits(Score),
    /// It can't, and this is the first reason.
    Rejected(Rejection),
}

/// Asks every node of `fleet` about `request`.
///
/// The first answer is what [`place`](crate::place()) would choose at the same moment.
pub fn explain(fleet: &Fleet, request: &Request, policy: &Policy) -> Explanation {
    let question = Question::new(fleet, request, *policy);
    let mut ranked: Vec<_> = fleet
        .nodes()
        .map(|view| {
            let node = view.node();
            let (rank, answer) = match question.answer(view) {
                Ok((rank, score)) => (Some(rank), Answer::Fits(score)),
                Err(rejection) => (None, Answer::Rejected(rejection)),
            };
            (
                rank,
                NodeAnswer {
                    node: node.id,
                    name: node.name.clone(),
                    answer,
                },
            )
        })
        .collect();
    // Stable: nodes come ordered by id, and those that don't fit stay so.
    ranked.sort_by_key(|(rank, _)| (rank.is_none(), *rank));
    Explanation {
        per_node: ranked.into_iter().map(|(_, answer)| answer).collect(),
    }
}

impl Explanation {
    /// The node that would be chosen, if any fits.
    pub fn chosen(&self) -> Option<&NodeAnswer> {
        self.per_node
            .first()
            .filter(|first| matches!(first.answer, Answer::Fits(_)))
    }

    /// The nodes that don't fit.
    pub fn rejections(&self) -> Rejections {
        let mut rejections = Rejections::default();
        for NodeAnswer { node, name, answer } in &self.per_node {
            if let Answer::Rejected(rejection) = answer {
                rejections.push(*node, name.clone(), rejection.clone());
            }
        }
        rejections
    }
}

impl fmt::Display for Explanation {
    /// One line per node, with all numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.per_node.is_empty() {
            return f.write_str("the fabric has no nodes");
        }
        for (line, NodeAnswer { name, answer, .. }) in self.per_node.iter().enumerate() {
            let separator = if line == 0 { "" } else { "\n" };
            match answer {
                Answer::Fits(score) => write!(f, "{separator}{name}: fits, {score}")?,
                Answer::Rejected(rejection) => write!(f, "{separator}{name}: {rejection:#}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{claim, claimed, node, put, released, request},
        place,
    };

    fn fleet() -> Fleet {
        let mut closed = node(1);
        closed.cordoned = true;
        Fleet::default().with([
            put(closed),
            put(node(2)),
            put(node(3)),
            claimed(3, 1, claim(15, 1024)),
            put(node(4)),
            claimed(4, 2, claim(1, 1024)),
        ])
    }

    #[test]
    fn every_node_answers() {
        let explanation = explain(&fleet(), &request(2, 1024), &Policy::default());
        assert_eq!(
            explanation.to_string(),
            "node-04: fits, leaves 13 vCPUs and 63200 MiB free\n\
             node-02: fits, leaves 14 vCPUs and 64364 MiB free\n\
             node-01: cordoned\n\
             node-03: vCPUs 1 free of 2 asked (4 physical × 4, 15 claimed, 0 foreign)"
        );
        let placed = place(&fleet(), &request(2, 1024), &Policy::default()).unwrap();
        assert_eq!(
            explanation.chosen().map(|chosen| chosen.node),
            Some(placed.node)
        );
        let text = serde_json::to_string(&explanation).unwrap();
        assert_eq!(
            serde_json::from_str::<Explanation>(&text).unwrap(),
            explanation
        );
    }

    #[test]
    fn a_what_if_frees_the_instances_own_claim() {
        let asked = request(15, 1024);
        let answers = |fleet: &Fleet| {
            let explanation = explain(fleet, &asked, &Policy::default());
            let chosen = explanation.chosen().map(|chosen| chosen.name.to_string());
            (chosen, explanation.rejections().per_node.len())
        };
        assert_eq!(answers(&fleet()), (Some("node-04".into()), 2));
        assert_eq!(
            answers(&fleet().with([released(3, 1)])),
            (Some("node-04".into()), 1)
        );
        let none = explain(&fleet(), &request(17, 1024), &Policy::default());
        assert_eq!(none.chosen(), None);
        assert_eq!(
            explain(&Fleet::default(), &asked, &Policy::default()).to_string(),
            "the fabric has no nodes"
        );
    }
}
