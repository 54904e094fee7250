//! Refusals as the log keeps them.

use kapok_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fabric::Actor;

/// Refusals alike: who, from where, what, why, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Who was refused: "anonymous" without a certificate, "others" for those who were too many to
    /// be told apart.
    pub by: Actor,
    /// Where from: an address, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// What they wanted to do.
    pub action: String,
    /// With what: "instance/web", or "instance" if it was several; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// Why not, a stable code.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}
