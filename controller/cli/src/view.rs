//! What programs and people see of each resource: our own words, stable across wire changes.
//!
//! One file a resource. Keys are `snake_case` and carry units, values of enums are lower-case
//! words joined by hyphens, times are RFC 3339, what isn't known is null; every key is always
//! there. A wire enum's value that this version doesn't know is shown as `unrecognized-N`.

pub(crate) mod access;
pub(crate) mod adoption;
pub(crate) mod audit;
pub(crate) mod capacity;
pub(crate) mod certificate;
pub(crate) mod context;
pub(crate) mod controller;
mod equipment;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod flavor;
pub(crate) mod group;
pub(crate) mod health;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod inventory;
pub(crate) mod node;
pub(crate) mod operation;
pub(crate) mod plan;
pub(crate) mod quota;
pub(crate) mod system;
pub(crate) mod tenant;
pub(crate) mod token;
pub(crate) mod usage;
pub(crate) mod user;

#[cfg(test)]
mod tests;

use kapok_types::Timestamp;
use serde::Serialize;

/// A resource that can be listed and shown.
pub(crate) trait View: Serialize {
    /// Headers of its table.
    fn columns(wide: bool) -> Vec<&'static str>;

    /// Its line in the table, one cell a header.
    fn row(&self, now: Timestamp, wide: bool) -> Vec<String>;

    /// Everything about it, for people.
    fn details(&self, now: Timestamp) -> String;
}

/// How much of something there is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Usage {
    /// What may be claimed.
    pub(crate) capacity: u64,
    /// What is claimed.
    pub(crate) claimed: u64,
    /// What is left.
    pub(crate) free: u64,
}

/// A point in time; written as RFC 3339.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

macro_rules! word {
    ($wire:ty, $prefix:literal, $value:expr) => {
        match <$wire>::try_from($value) {
            Ok(known) => $crate::view::hyphened(known.as_str_name(), $prefix),
            Err(_) => format!("unrecognized-{}", $value),
        }
    };
}
pub(crate) use word;

/// A wire enum's value as a word: `PHASE_RUNNING` under `PHASE_` is `running`.
fn hyphened(name: &str, prefix: &str) -> String {
    let value = name.strip_prefix(prefix).unwrap_or(name);
    // The architecture's own name has an underscore.
    if value == "X86_64" {
        "x86_64".to_owned()
    } else {
        value.to_lowercase().replace('_', "-")
    }
}

/// Text, or nothing when it is empty.
fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A time from the wire.
fn time(wire: Option<prost_types::Timestamp>) -> Option<Time> {
    wire.as_ref()
        .map(kapok_proto::convert::timestamp_from)
        .map(Time)
}

/// A time with its age, for people.
fn when(time: Option<Time>, now: Timestamp) -> String {
    time.map_or_else(crate::human::dash, |Time(time)| {
        format!(
            "{time} ({} ago)",
            crate::human::span(now.millis_since(time))
        )
    })
}

/// A time's age, for people.
fn age(time: Option<Time>, now: Timestamp) -> String {
    crate::human::age(time.map(|Time(time)| time), now)
}

/// How long it is until a point in time, for people.
fn left(time: Option<Time>, now: Timestamp) -> String {
    match time {
        None => crate::human::dash(),
        Some(Time(time)) if time <= now => "ended".to_owned(),
        Some(Time(time)) => crate::human::span(time.millis_since(now)),
    }
}

/// `yes` or `no`.
fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
