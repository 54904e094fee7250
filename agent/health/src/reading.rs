//! What a source said.

use std::{sync::Arc, time::Duration};

use kapok_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Component, Failure, Quantity};

/// Longest line of a note, in bytes.
const MAX_LINE_BYTES: usize = 255;

/// One quantity of one component, as a source gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Of what.
    pub component: Component,
    /// What.
    pub quantity: Quantity,
    /// The value, or why there is none.
    pub read: Read,
    /// What its giver says of it in words: what is wrong, and in a second line what to do. At most
    /// 511 bytes; see [`with_note`](Self::with_note).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A value, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    /// It was read. Never NaN or infinite.
    Value(f64),
    /// It is there and could not be read, for this reason. Never taken for *healthy*.
    Unreadable(String),
    /// The device doesn't have it.
    Absent,
}

/// What a source said in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The source's name.
    pub source: Arc<str>,
    /// When it had answered, or was given up.
    pub at: Timestamp,
    /// The same moment on the clock that never jumps: windows are measured by it.
    pub monotonic: Duration,
    /// What it said, or why it said nothing.
    pub outcome: Result<Vec<Reading>, Failure>,
}

impl Reading {
    /// A value. One that is no number is unreadable.
    pub fn new(component: &Component, quantity: Quantity, value: f64) -> Self {
        let read = if value.is_finite() {
            Read::Value(value)
        } else {
            Read::Unreadable(format!("{value} is no number"))
        };
        Self::of(component, quantity, read)
    }

    fn of(component: &Component, quantity: Quantity, read: Read) -> Self {
        Self {
            component: component.clone(),
            quantity,
            read,
            note: None,
        }
    }

    /// With these words on what is wrong and what to do, each made one line and cut;
    /// either may be empty.
    #[must_use]
    pub fn with_note(mut self, wrong: &str, remedy: &str) -> Self {
        let line = |text: &str| {
            let clean = |c: char| if c.is_control() { ' ' } else { c };
            let mut line: String = text.trim().chars().map(clean).collect();
            line.truncate(line.floor_char_boundary(MAX_LINE_BYTES));
            line
        };
        let note = format!("{}\n{}", line(wrong), line(remedy));
        self.note = Some(note).filter(|note| note != "\n");
        self
    }

    /// Whether something is so.
    pub fn flag(component: &Component, quantity: Quantity, so: bool) -> Self {
        Self::new(component, quantity, f64::from(u8::from(so)))
    }

    /// Something that the device doesn't have, or doesn't tell at the moment by design.
    pub fn absent(component: &Component, quantity: Quantity) -> Self {
        Self::of(component, quantity, Read::Absent)
    }

    /// Something that is there and could not be read.
    #[allow(clippy::needless_pass_by_value, reason = "made for it mostly")]
    pub fn unreadable(component: &Component, quantity: Quantity, reason: impl ToString) -> Self {
        Self::of(component, quantity, Read::Unreadable(reason.to_string()))
    }

    /// What was tried: none is left out. Once it was read, being left out means that it is unknown;
    /// what comes and goes by design is [tried or absent](Self::tried_or_absent).
    pub fn tried(
        component: &Component,
        quantity: Quantity,
        tried: Result<Option<f64>, impl ToString>,
    ) -> Option<Self> {
        match tried {
            Ok(Some(value)) => Some(Self::new(component, quantity, value)),
            Ok(None) => None,
            Err(reason) => Some(Self::unreadable(component, quantity, reason)),
        }
    }

    /// What was tried of something that comes and goes by design: none is absent.
    pub fn tried_or_absent(
        component: &Component,
        quantity: Quantity,
        tried: Result<Option<f64>, impl ToString>,
    ) -> Self {
        let absent = Self::absent(component, quantity.clone());
        Self::tried(component, quantity, tried).unwrap_or(absent)
    }

    /// Its value, if it was read.
    pub fn value(&self) -> Option<f64> {
        match self.read {
            Read::Value(value) => Some(value),
            Read::Unreadable(_) | Read::Absent => None,
        }
    }
}
