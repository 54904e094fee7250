//! A certificate between the signature and the hand of whom it names.

use std::time::Duration;

use kapok_proto::{convert::timestamp, fabric::v1 as wire};
use kapok_trust::{Authority, Certificate, Csr, Identity, Serial, Subject};
use kapok_types::{Env, Name, Timestamp};

use super::{Error, bridges, bundle};
use crate::{fabric::CertificateRecord, ledger};

/// A signed certificate that nobody has yet. It comes out against a snapshot of the log that
/// holds it, and in no other way.
#[derive(Debug)]
pub struct Issued {
    record: CertificateRecord,
    fabric: Name,
    leaf_pem: String,
}

/// A certificate with all that goes with it, as it is given out.
#[derive(Debug, Clone)]
pub struct Given {
    /// The certificate, then those that lead to older authorities.
    pub chain_pem: String,
    /// The authorities to trust.
    pub bundle_pem: String,
    /// What they have revoked.
    pub crl_pem: String,
    /// Its number.
    pub serial: Serial,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whom it names.
    pub subject: Subject,
    /// In which fabric.
    pub fabric: Name,
}

impl Issued {
    /// Signs a certificate for the key of a request.
    ///
    /// # Errors
    ///
    /// The authority has ended, or signs for another fabric.
    pub(super) fn sign(
        authority: &Authority,
        csr: &Csr,
        subject: Subject,
        life: Duration,
        env: &dyn Env,
    ) -> Result<Self, Error> {
        let now = env.now();
        let identity = Identity::new(authority.fabric().clone(), subject);
        let leaf_pem = authority.issue(csr, &identity, Serial::new(env), life, now)?;
        let Certificate {
            identity,
            serial,
            authority,
            not_after,
            ..
        } = Certificate::parse_pem(&leaf_pem)?;
        Ok(Self {
            record: CertificateRecord {
                serial,
                subject: identity.subject,
                authority,
                issued_at: now,
                not_after,
                token: None,
                revoked: None,
            },
            fabric: identity.fabric,
            leaf_pem,
        })
    }

    /// What is to be recorded.
    pub fn record(&self) -> &CertificateRecord {
        &self.record
    }

    /// Gives the certificate out, with the revocations that are known.
    ///
    /// # Errors
    ///
    /// [`Error::NotRecorded`]: the snapshot doesn't hold it.
    pub fn release(self, recorded: &ledger::Snapshot, crl_pem: &str) -> Result<Given, Error> {
        let Self {
            record,
            fabric,
            leaf_pem,
        } = self;
        let known = recorded.fabric.certificates.get(&record.serial);
        if known.is_none_or(|known| known.subject != record.subject) {
            return Err(Error::NotRecorded {
                serial: record.serial,
            });
        }
        let signer = recorded.fabric.authorities.get(&record.authority);
        Ok(Given {
            chain_pem: leaf_pem + &signer.map(bridges).unwrap_or_default(),
            bundle_pem: bundle(&recorded.fabric)?.to_pem(),
            crl_pem: crl_pem.to_owned(),
            serial: record.serial,
            not_after: record.not_after,
            subject: record.subject,
            fabric,
        })
    }
}

impl From<Given> for wire::Credential {
    fn from(given: Given) -> Self {
        Self {
            chain_pem: given.chain_pem,
            bundle_pem: given.bundle_pem,
            crl_pem: given.crl_pem,
            expire_time: Some(timestamp(given.not_after)),
            subject: given.subject.to_string(),
            fabric: given.fabric.to_string(),
        }
    }
}
