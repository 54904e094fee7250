//! What of the node single instances can have: threads, devices, networks.

use std::collections::BTreeSet;

use kapok_types::{Name, ThreadSet};
use serde::{Deserialize, Deserializer};

/// What of the node single instances can have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offering {
    /// Host threads that are set aside for dedicated vCPUs.
    pub dedicated: ThreadSet,
    /// Which PCI devices guests can be given.
    pub devices: Vec<DeviceRule>,
    /// Networks besides the node's own.
    pub networks: BTreeSet<Name>,
}

/// `[[devices]]`: PCI devices of one kind, under the word that instances ask for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRule {
    /// What instances ask for: "gpu-a100".
    pub class: Name,
    /// The vendor's number, four hex digits as `lspci -n` prints them: "10de".
    #[serde(deserialize_with = "number")]
    pub vendor: u16,
    /// The vendor's number for the product: "20b0".
    #[serde(deserialize_with = "number")]
    pub product: u16,
}

/// A list of threads.
pub(super) fn threads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ThreadSet, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} isn't a list of threads; write for example \"4-15,20\""
        ))
    })
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.len() == 4 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = digits.then(|| u16::from_str_radix(&text, 16).ok());
    number.flatten().ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} isn't four hex digits; `lspci -n` prints them"
        ))
    })
}
