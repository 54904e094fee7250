//! What subscribers hear of the server: only what changes what they do.

use std::collections::BTreeMap;

use kapok_health::{Assessment, Code, Component, Condition, Verdict, inventory::PartChange};
use kapok_types::Timestamp;

/// How the server does. Equal to another one if condition and verdicts are the same, whatever the
/// numbers in them: those change with every reading.
#[derive(Debug, Clone)]
pub struct HealthNews {
    /// The node's condition.
    pub condition: Condition,
    /// What is wrong, worst first.
    pub verdicts: Vec<Verdict>,
    /// When it was judged.
    pub at: Timestamp,
}

/// What the server is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartNews {
    /// Part to what it is.
    pub parts: BTreeMap<String, String>,
    /// What differs from what was accepted.
    pub changes: Vec<PartChange>,
}

impl HealthNews {
    /// Of an assessment.
    pub fn of(assessment: &Assessment) -> Self {
        Self {
            condition: assessment.condition,
            verdicts: assessment.verdicts.clone(),
            at: assessment.at,
        }
    }

    fn essence(&self) -> impl Iterator<Item = (&Code, Condition, &Component)> {
        let verdicts = self.verdicts.iter();
        verdicts.map(|it| (&it.code, it.condition, &it.component))
    }
}

impl PartialEq for HealthNews {
    fn eq(&self, other: &Self) -> bool {
        self.condition == other.condition && self.essence().eq(other.essence())
    }
}

impl Eq for HealthNews {}
