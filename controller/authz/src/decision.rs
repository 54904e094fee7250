//! What was decided, and by what.

use std::sync::Arc;

use crate::{Action, Object, Policy, Principal};

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The policies that decided, by id: those that permit it, or those that forbid it. None when
    /// it is denied because nothing permits it.
    pub policies: Vec<Arc<Policy>>,
    /// Why it could not be decided, which denies it.
    pub failure: Option<String>,
}

impl Decision {
    pub(crate) fn failed(failure: impl Into<String>) -> Self {
        Self {
            allowed: false,
            policies: Vec::new(),
            failure: Some(failure.into()),
        }
    }

    /// The answer in one sentence.
    pub fn summary(&self, principal: &Principal, action: Action, object: &Object) -> String {
        let ids: Vec<&str> = self
            .policies
            .iter()
            .map(|policy| policy.id.as_str())
            .collect();
        let ids = ids.join(", ");
        if self.allowed {
            return format!("{principal} may {action} on {object}: permitted by {ids}");
        }
        let why = match &self.failure {
            Some(failure) => failure.clone(),
            None if ids.is_empty() => "nothing permits it".to_owned(),
            None => format!("forbidden by {ids}"),
        };
        format!("{principal} may not {action} on {object}: {why}")
    }
}
