//! Users and what they may do.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, age, some, time, when, word, yes_no};
use crate::{
    human::{dash, or_dash, plain},
    output::pairs,
};

/// Somebody who uses the fabric.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct User {
    subject: String,
    display_name: String,
    grants: Vec<Grant>,
    external: Option<External>,
    disabled: bool,
    create_time: Option<Time>,
    created_by: String,
}

/// A role, and where it holds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Grant {
    role: String,
    /// Null for the fabric's roles.
    tenant: Option<String>,
}

/// Who somebody is to the identity provider.
#[derive(Debug, Clone, Serialize)]
struct External {
    issuer: String,
    subject: String,
}

impl From<wire::Grant> for Grant {
    fn from(grant: wire::Grant) -> Self {
        Self {
            role: word!(wire::Role, "ROLE_", grant.role),
            tenant: some(grant.tenant),
        }
    }
}

/// Grants as people type them.
pub(super) fn grants(grants: &[Grant]) -> String {
    let one = |grant: &Grant| match &grant.tenant {
        Some(tenant) => format!("{}:{}", grant.role, plain(tenant)),
        None => grant.role.clone(),
    };
    or_dash(&grants.iter().map(one).collect::<Vec<_>>().join(", "))
}

impl From<wire::User> for User {
    fn from(user: wire::User) -> Self {
        Self {
            subject: user.subject,
            display_name: user.display_name,
            grants: user.grants.into_iter().map(Grant::from).collect(),
            external: user.external.map(|external| External {
                issuer: external.issuer,
                subject: external.subject,
            }),
            disabled: user.disabled,
            create_time: time(user.create_time),
            created_by: user.created_by,
        }
    }
}

impl User {
    /// What they may do, in words.
    pub(crate) fn rights(&self) -> String {
        grants(&self.grants)
    }

    fn external(&self) -> String {
        self.external.as_ref().map_or_else(dash, |external| {
            format!(
                "{} at {}",
                plain(&external.subject),
                plain(&external.issuer)
            )
        })
    }
}

impl View for User {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["SUBJECT", "NAME", "ROLES", "DISABLED", "AGE"];
        if wide {
            columns.extend(["EXTERNAL", "BY"]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.subject),
            or_dash(&self.display_name),
            self.rights(),
            yes_no(self.disabled),
            age(self.create_time, now),
        ];
        if wide {
            row.extend([self.external(), or_dash(&self.created_by)]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&[
            ("Subject", plain(&self.subject)),
            ("Name", or_dash(&self.display_name)),
            ("Roles", self.rights()),
            ("Disabled", yes_no(self.disabled)),
            ("External", self.external()),
            ("Made", when(self.create_time, now)),
            ("By", or_dash(&self.created_by)),
        ])
    }
}
