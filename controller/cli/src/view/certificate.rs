//! Certificates, and the authorities that sign them.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, age, left, some, time, when, word};
use crate::{
    human::{dash, or_dash, plain},
    output::pairs,
};

/// A certificate that the fabric has issued.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Certificate {
    pub(crate) serial: String,
    pub(crate) subject: String,
    authority: String,
    issue_time: Option<Time>,
    expire_time: Option<Time>,
    revoke_time: Option<Time>,
    revoke_reason: Option<String>,
}

impl From<wire::Certificate> for Certificate {
    fn from(certificate: wire::Certificate) -> Self {
        Self {
            serial: certificate.serial,
            subject: certificate.subject,
            authority: certificate.authority,
            issue_time: time(certificate.issue_time),
            expire_time: time(certificate.expire_time),
            revoke_time: time(certificate.revoke_time),
            revoke_reason: some(certificate.revoke_reason),
        }
    }
}

/// Twelve hex digits tell authorities apart; programs read all.
fn short(fingerprint: &str, wide: bool) -> String {
    if wide {
        plain(fingerprint)
    } else {
        plain(&fingerprint.chars().take(12).collect::<String>())
    }
}

impl View for Certificate {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec![
            "SERIAL",
            "SUBJECT",
            "AGE",
            "ENDS IN",
            "REVOKED",
            "AUTHORITY",
        ];
        if wide {
            columns.push("REASON");
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.serial),
            plain(&self.subject),
            age(self.issue_time, now),
            left(self.expire_time, now),
            self.revoke_time
                .map_or_else(dash, |_| age(self.revoke_time, now) + " ago"),
            short(&self.authority, wide),
        ];
        if wide {
            row.push(or_dash(self.revoke_reason.as_deref().unwrap_or_default()));
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&[
            ("Serial", plain(&self.serial)),
            ("Subject", plain(&self.subject)),
            ("Authority", plain(&self.authority)),
            ("Issued", when(self.issue_time, now)),
            ("Ends in", left(self.expire_time, now)),
            ("Revoked", when(self.revoke_time, now)),
            (
                "Reason",
                or_dash(self.revoke_reason.as_deref().unwrap_or_default()),
            ),
        ])
    }
}

/// An authority of the fabric.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Authority {
    pub(crate) fingerprint: String,
    state: String,
    state_time: Option<Time>,
    certificates: u32,
    certificate_pem: String,
}

impl From<wire::Authority> for Authority {
    fn from(authority: wire::Authority) -> Self {
        Self {
            fingerprint: authority.fingerprint,
            state: word!(wire::AuthorityState, "AUTHORITY_STATE_", authority.state),
            state_time: time(authority.state_time),
            certificates: authority.certificates,
            certificate_pem: authority.certificate_pem,
        }
    }
}

impl View for Authority {
    fn columns(_: bool) -> Vec<&'static str> {
        vec!["FINGERPRINT", "STATE", "SINCE", "CERTIFICATES"]
    }

    fn row(&self, now: Timestamp, _: bool) -> Vec<String> {
        vec![
            // People compare it, so it is always whole.
            plain(&self.fingerprint),
            self.state.clone(),
            age(self.state_time, now),
            self.certificates.to_string(),
        ]
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&[
            ("Fingerprint", plain(&self.fingerprint)),
            ("State", self.state.clone()),
            ("Since", when(self.state_time, now)),
            ("Certificates", self.certificates.to_string()),
        ])
    }
}
