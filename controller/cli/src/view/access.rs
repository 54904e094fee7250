//! Who somebody is to the fabric, and whether they may do something.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{
    Time, View, left, time,
    user::{Grant, grants},
    yes_no,
};
use crate::{
    human::{or_dash, plain, plain_lines},
    output::{columns, pairs},
};

/// Who the caller is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WhoAmI {
    fabric: String,
    subject: String,
    serial: String,
    expire_time: Option<Time>,
    grants: Vec<Grant>,
    home_tenant: String,
    renewal_due: bool,
    /// The credential's file.
    credential: String,
}

impl WhoAmI {
    /// What the fabric says of whoever uses this credential.
    pub(crate) fn new(answer: wire::WhoAmIResponse, credential: &std::path::Path) -> Self {
        Self {
            fabric: answer.fabric,
            subject: answer.subject,
            serial: answer.serial,
            expire_time: time(answer.expire_time),
            grants: answer.grants.into_iter().map(Grant::from).collect(),
            home_tenant: answer.home_tenant,
            renewal_due: answer.renewal_due,
            credential: credential.display().to_string(),
        }
    }

    /// Whether a new certificate should be fetched.
    pub(crate) fn renewal_due(&self) -> bool {
        self.renewal_due
    }

    fn pairs(&self, now: Timestamp) -> Vec<(&'static str, String)> {
        vec![
            ("Subject", plain(&self.subject)),
            ("Fabric", plain(&self.fabric)),
            ("Roles", grants(&self.grants)),
            ("Home tenant", or_dash(&self.home_tenant)),
            ("Certificate", plain(&self.serial)),
            ("Ends in", left(self.expire_time, now)),
            ("Renewal due", yes_no(self.renewal_due)),
            ("Credential", plain(&self.credential)),
        ]
    }
}

impl View for WhoAmI {
    fn columns(_: bool) -> Vec<&'static str> {
        vec![
            "SUBJECT",
            "FABRIC",
            "ROLES",
            "HOME TENANT",
            "CERTIFICATE",
            "ENDS IN",
            "RENEWAL DUE",
            "CREDENTIAL",
        ]
    }

    fn row(&self, now: Timestamp, _: bool) -> Vec<String> {
        self.pairs(now)
            .into_iter()
            .map(|(_, value)| value)
            .collect()
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&self.pairs(now))
    }
}

/// Whether somebody may do something, and why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Access {
    allowed: bool,
    summary: String,
    policies: Vec<Policy>,
}

/// A policy that decided.
#[derive(Debug, Clone, Serialize)]
struct Policy {
    id: String,
    forbids: bool,
    source: String,
    text: String,
}

impl From<wire::ExplainAccessResponse> for Access {
    fn from(answer: wire::ExplainAccessResponse) -> Self {
        let policy = |policy: wire::DecidingPolicy| Policy {
            id: policy.id,
            forbids: policy.forbids,
            source: policy.source,
            text: policy.text,
        };
        Self {
            allowed: answer.allowed,
            summary: answer.summary,
            policies: answer.policies.into_iter().map(policy).collect(),
        }
    }
}

impl Access {
    /// The answer for people; with the policies' texts if they want all.
    pub(crate) fn text(&self, wide: bool) -> String {
        let head = pairs(&[
            ("Allowed", yes_no(self.allowed)),
            ("Answer", plain(&self.summary)),
        ]);
        if self.policies.is_empty() {
            return head;
        }
        let rows = self.policies.iter().map(|policy| {
            let effect = if policy.forbids { "forbids" } else { "permits" };
            vec![plain(&policy.id), effect.to_owned(), plain(&policy.source)]
        });
        let mut text = head + "\n" + &columns(&["POLICY", "EFFECT", "SOURCE"], rows);
        if wide {
            for policy in &self.policies {
                text = text + "\n" + &plain_lines(policy.text.trim()) + "\n";
            }
        }
        text
    }
}
