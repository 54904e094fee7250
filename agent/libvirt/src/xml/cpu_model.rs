//! A processor model with what it is short of and has beyond: the host's nearest, as libvirt tells
//! it, and all features that it comes to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Error;

/// The host's nearest model, as domain capabilities tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuModel {
    model: Model,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vendor: Option<String>,
    #[serde(default)]
    feature: Vec<Feature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Model {
    #[serde(rename = "@fallback", default, skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
    #[serde(rename = "$text")]
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Feature {
    #[serde(rename = "@policy")]
    policy: String,
    #[serde(rename = "@name")]
    name: String,
}

impl CpuModel {
    pub(super) fn new(
        name: String,
        vendor: Option<String>,
        features: impl Iterator<Item = (String, String)>,
    ) -> Self {
        Self {
            model: Model {
                fallback: Some("forbid".into()),
                name,
            },
            vendor,
            feature: features
                .map(|(policy, name)| Feature { policy, name })
                .collect(),
        }
    }

    /// The document that libvirt takes for a model.
    pub(crate) fn to_xml(&self) -> Result<String, Error> {
        super::write("cpu", self)
    }

    /// Reads libvirt's document.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        super::read(text)
    }

    /// Features that it names as there; those of the model itself only where it was expanded.
    pub(crate) fn features(self) -> BTreeSet<String> {
        let there = self.feature.into_iter().filter(|it| it.policy == "require");
        there.map(|feature| feature.name).collect()
    }
}
