//! What proves who somebody is: tokens, certificates, and the authorities that sign them.
//!
//! **Absent on purpose:** secrets. Of a token its hash is kept, of keys nothing.

use std::{fmt, str::FromStr};

use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{Digest, Name, Timestamp, Violation};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use subtle::ConstantTimeEq as _;

use super::{Actor, Denied, Fabric};

/// The right to fetch a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollToken {
    /// Its identity.
    pub id: TokenId,
    /// Who it is for.
    pub subject: TokenSubject,
    /// SHA-256 of its secret.
    pub hash: Digest,
    /// Whether it works once.
    pub one_use: bool,
    /// When it was last used.
    pub used_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Actor,
}

/// Who a token is for: "node/NAME", "user/NAME", "machine/NAME", "controller/NAME".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenSubject {
    /// A server that is to be the node of this name.
    Node(Name),
    /// A person.
    User(Name),
    /// A program of people's.
    Machine(Name),
    /// A server that is to be the controller of this name.
    Controller(Name),
}

/// A token as it is shown, its secret hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenUse {
    /// Which.
    pub id: TokenId,
    /// SHA-256 of the secret that was shown.
    pub hash: Digest,
}

/// A certificate that the fabric has issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Its number.
    pub serial: Serial,
    /// Whom it names.
    pub subject: Subject,
    /// The authority that signed it.
    pub authority: Fingerprint,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// The token that it goes back to, also through renewals.
    pub token: Option<TokenId>,
    /// Whether it ended early.
    pub revoked: Option<Revocation>,
}

/// Somebody's word that something is believed no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: String,
    /// Who said so.
    pub by: Actor,
}

/// An authority's public part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// Its certificate.
    pub certificate_pem: String,
    /// The same, signed by authorities before it.
    pub cross_pem: Vec<String>,
    /// How it stands.
    pub state: AuthorityState,
    /// Since when.
    pub since: Timestamp,
}

/// How an authority stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// It signs. One does, once there is any.
    Active,
    /// It is trusted and signs nothing new.
    Retiring,
    /// It is trusted no longer; kept to verify old seals.
    Retired,
}

impl TokenSubject {
    /// The person or program that it is for.
    pub fn person(&self) -> Option<Subject> {
        self.named().filter(|subject| subject.person().is_some())
    }

    /// Whom a certificate names that is fetched with it; of a node only it itself knows.
    pub fn named(&self) -> Option<Subject> {
        match self {
            Self::Node(_) => None,
            Self::User(name) => Some(Subject::User(name.clone())),
            Self::Machine(name) => Some(Subject::Machine(name.clone())),
            Self::Controller(name) => Some(Subject::Controller(name.clone())),
        }
    }
}

impl fmt::Display for TokenSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::User(name) => write!(f, "user/{name}"),
            Self::Machine(name) => write!(f, "machine/{name}"),
            Self::Controller(name) => write!(f, "controller/{name}"),
        }
    }
}

impl fmt::Debug for TokenSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenSubject {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refused = |reason: String| Violation::new("subject", reason);
        let (kind, name) = text.split_once('/').ok_or_else(|| {
            refused("must be node/NAME, user/NAME, machine/NAME or controller/NAME".into())
        })?;
        let name = Name::from_str(name).map_err(|wrong| refused(wrong.reason))?;
        match kind {
            "node" => Ok(Self::Node(name)),
            "user" => Ok(Self::User(name)),
            "machine" => Ok(Self::Machine(name)),
            "controller" => Ok(Self::Controller(name)),
            _ => Err(refused(format!(
                "has the kind {kind:?}; there are node, user, machine and controller"
            ))),
        }
    }
}

impl Serialize for TokenSubject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenSubject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl EnrollToken {
    /// Whether it worked once and won't again.
    pub fn is_used_up(&self) -> bool {
        self.one_use && self.used_at.is_some()
    }
}

impl CertificateRecord {
    /// Whether it proves anything at a time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && now < self.not_after
    }
}

impl Fabric {
    /// The token that is shown, if it is good now. Which of the reasons against it holds isn't
    /// said.
    ///
    /// # Errors
    ///
    /// [`Denied::TokenRefused`]: unknown, another secret, used up, ended.
    pub fn token(&self, shown: &TokenUse, now: Timestamp) -> Result<&EnrollToken, Denied> {
        self.tokens
            .get(&shown.id)
            .filter(|token| bool::from(token.hash.0.ct_eq(&shown.hash.0)))
            .filter(|token| now < token.expires_at)
            .filter(|token| !token.is_used_up())
            .ok_or(Denied::TokenRefused)
    }

    /// A subject's certificates, ended and revoked ones too, by serial number.
    pub fn certificates_of(&self, subject: &Subject) -> impl Iterator<Item = &CertificateRecord> {
        let serials = self.certificates_by_subject.get(subject);
        serials
            .into_iter()
            .flatten()
            .filter_map(|serial| self.certificates.get(serial))
    }

    /// The authority that signs, once there is one.
    pub fn active_authority(&self) -> Option<&AuthorityRecord> {
        self.authorities
            .values()
            .find(|authority| authority.state == AuthorityState::Active)
    }

    /// The authorities whose certificates are believed, by fingerprint.
    pub fn trusted_authorities(&self) -> impl Iterator<Item = &AuthorityRecord> {
        self.authorities
            .values()
            .filter(|authority| authority.state != AuthorityState::Retired)
    }

    /// What an authority must call off: its revoked certificates that have not ended.
    pub fn revoked_by(
        &self,
        authority: Fingerprint,
        now: Timestamp,
    ) -> impl Iterator<Item = (&CertificateRecord, &Revocation)> {
        let revoked = self.revoked.iter().filter_map(|serial| {
            let record = self.certificates.get(serial)?;
            Some((record, record.revoked.as_ref()?))
        });
        revoked.filter(move |(record, _)| record.authority == authority && now < record.not_after)
    }

    /// Certificates of an authority that prove something now.
    pub fn live_certificates(
        &self,
        authority: Fingerprint,
        now: Timestamp,
    ) -> impl Iterator<Item = &CertificateRecord> {
        self.certificates
            .values()
            .filter(move |record| record.authority == authority && record.is_live(now))
    }
}
