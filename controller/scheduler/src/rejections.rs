//! Why nodes were passed over, counted and per node.

use std::{collections::BTreeMap, fmt};

use kapok_types::{Name, NodeId};
use serde::{Deserialize, Serialize};

use crate::filter::{Filter, Rejection};

/// The nodes that can't take a request, each with its first rejection.
///
/// Of a [`NoFit`](crate::NoFit) it covers every node, and `Display` says so ("no node fits: …");
/// the alternate form (`{:#}`) adds a line per node with all numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rejections {
    /// Node, its name, and why not; ordered by id.
    pub per_node: Vec<(NodeId, Name, Rejection)>,
    /// How many nodes each filter rejected.
    pub counts: BTreeMap<Filter, usize>,
}

impl Rejections {
    /// Notes that a node was rejected.
    pub(crate) fn push(&mut self, node: NodeId, name: Name, rejection: Rejection) {
        *self.counts.entry(rejection.filter()).or_default() += 1;
        self.per_node.push((node, name, rejection));
    }

    /// Whether no node was rejected.
    pub fn is_empty(&self) -> bool {
        self.per_node.is_empty()
    }

    /// The counts in words, most frequent first: "2 lack memory, 1 is cordoned". Empty if no node
    /// was rejected.
    pub fn summary(&self) -> String {
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort_by_key(|(filter, count)| (std::cmp::Reverse(**count), **filter));
        let words = counts
            .iter()
            .map(|(filter, count)| format!("{count} {}", filter.predicate(**count != 1)));
        words.collect::<Vec<_>>().join(", ")
    }

    /// One line per node: "node-07: memory 12 GiB free of 64 GiB asked".
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.per_node
            .iter()
            .map(|(_, name, rejection)| format!("{name}: {rejection}"))
    }
}

impl fmt::Display for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("the fabric has no nodes");
        }
        write!(f, "no node fits: {}", self.summary())?;
        if f.alternate() {
            for (_, name, rejection) in &self.per_node {
                write!(f, "\n  {name}: {rejection:#}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Fleet, Policy,
        fixture::{node, put, request},
        place,
    };

    fn refused() -> Rejections {
        let mut cordoned = node(2);
        cordoned.cordoned = true;
        let fleet = Fleet::default().with([put(node(7)), put(cordoned), put(node(3))]);
        let refused = place(&fleet, &request(1, 64 * 1024), &Policy::default());
        refused.unwrap_err().rejections().clone()
    }

    #[test]
    fn people_read_what_is_missing() {
        let refused = refused();
        assert_eq!(
            refused.to_string(),
            "no node fits: 2 lack memory, 1 is cordoned"
        );
        assert_eq!(
            refused.lines().collect::<Vec<_>>(),
            [
                "node-02: cordoned",
                "node-03: memory 64 GiB free of 65928 MiB asked",
                "node-07: memory 64 GiB free of 65928 MiB asked",
            ]
        );
        assert_eq!(
            format!("{refused:#}"),
            "no node fits: 2 lack memory, 1 is cordoned\n  node-02: cordoned\n  \
             node-03: memory 64 GiB free of 65928 MiB asked (64 GiB guest + 392 MiB overhead; \
             64 GiB capacity, 0 MiB claimed, 0 MiB foreign)\n  \
             node-07: memory 64 GiB free of 65928 MiB asked (64 GiB guest + 392 MiB overhead; \
             64 GiB capacity, 0 MiB claimed, 0 MiB foreign)"
        );
    }

    #[test]
    fn an_empty_fabric_says_so() {
        let none = place(&Fleet::default(), &request(1, 64), &Policy::default()).unwrap_err();
        assert_eq!(none.to_string(), "the fabric has no nodes");
    }

    #[test]
    fn programs_read_the_same() {
        let refused = refused();
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(serde_json::from_str::<Rejections>(&text).unwrap(), refused);
        assert!(
            text.contains(r#""counts":{"cordoned":1,"memory":2}"#),
            "{text}"
        );
        assert!(
            text.contains(r#"{"reason":"memory","asked":65928,"guest":65536,"#),
            "{text}"
        );
    }
}
