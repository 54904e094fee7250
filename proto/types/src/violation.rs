//! Refusals of input: which field, why, and the limit it broke.

use std::fmt;

/// One field that was refused, with the reason and the limit in words a person can act on.
///
/// Becomes a `google.rpc.BadRequest.FieldViolation` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// Path of the field as the API spells it, for example `spec.memory_mib`.
    pub field: String,
    /// What is wrong and what the limit is, lower-case, without the field's name.
    pub reason: String,
}

impl Violation {
    /// A refusal of `field` for `reason`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same refusal seen from one level further out: `memory_mib` under `spec` becomes
    /// `spec.memory_mib`.
    pub fn under(mut self, prefix: &str) -> Self {
        self.field = format!("{prefix}.{}", self.field);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}
