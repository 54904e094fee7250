//! Tenants.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{View, some};
use crate::{
    human::{or_dash, plain},
    output::pairs,
};

/// A bureau, or a part of one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    display_name: String,
    /// Null for the root.
    parent: Option<String>,
}

impl From<wire::Tenant> for Tenant {
    fn from(tenant: wire::Tenant) -> Self {
        Self {
            name: tenant.name,
            display_name: tenant.display_name,
            parent: some(tenant.parent),
        }
    }
}

impl Tenant {
    fn parent(&self) -> String {
        or_dash(self.parent.as_deref().unwrap_or_default())
    }
}

impl View for Tenant {
    fn columns(_: bool) -> Vec<&'static str> {
        vec!["NAME", "DISPLAY NAME", "PARENT"]
    }

    fn row(&self, _: Timestamp, _: bool) -> Vec<String> {
        vec![
            plain(&self.name),
            or_dash(&self.display_name),
            self.parent(),
        ]
    }

    fn details(&self, _: Timestamp) -> String {
        pairs(&[
            ("Name", plain(&self.name)),
            ("Display name", or_dash(&self.display_name)),
            ("Parent", self.parent()),
        ])
    }
}
