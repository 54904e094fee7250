//! One entry of the log: who asked, from where, and what came of it.
//!
//! The store chains and keeps the bytes; this module gives them their meaning.

use bytes::Bytes;
use kapok_types::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fabric::{Actor, Event};

/// The version of the form that this program writes and the highest that it reads.
pub const VERSION: u32 = 1;

/// One entry: the facts that one command led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The form's version.
    pub version: u32,
    /// When it was decided.
    pub at: Timestamp,
    /// Who asked.
    pub by: Actor,
    /// Where from: an address, or empty for the controller itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The request's id, if people asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Hash of what was asked.
    pub content: Digest,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// An entry that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer version wrote it.
    #[error("the entry has form {found}, this version reads up to {VERSION}")]
    Newer {
        /// The form's version.
        found: u32,
    },
    /// It isn't what this log holds, or holds an event that this version doesn't know.
    #[error("the entry can't be read")]
    Unreadable(#[source] serde_json::Error),
}

impl Record {
    /// The entry's bytes.
    ///
    /// # Errors
    ///
    /// Plain data can't fail to serialize; the error is passed on all the same.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// [`Error`]: nothing is guessed, the log isn't folded further.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let form: Form = serde_json::from_slice(bytes).map_err(Error::Unreadable)?;
        if form.version > VERSION {
            return Err(Error::Newer {
                found: form.version,
            });
        }
        serde_json::from_slice(bytes).map_err(Error::Unreadable)
    }
}
