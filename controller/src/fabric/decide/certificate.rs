//! Certificates and the authorities that sign them.
//!
//! A certificate is made outside, with the authority's key; it may be given out once its record
//! is durable. What was never recorded was never given out.

use kapok_trust::{Serial, Subject, TokenId};
use kapok_types::Violation;

use super::{Context, Decision, printable, user};
use crate::fabric::{
    Actor, AuthorityRecord, AuthorityState, CertificateRecord, Denied, Event, Outcome,
    TokenSubject,
    command::{Grounds, NewAuthority},
};

/// Longest text of an authority's certificates together, in bytes.
const MAX_PEM_BYTES: usize = 64 * 1024;
/// Authorities that are trusted at a time. A chain holds the leaf and one cross certificate for
/// each but one of them, which stays below what anybody takes.
pub(super) const MAX_AUTHORITIES: usize = 8;
/// Certificates of one person or program that live at a time: as many are revoked at once.
pub(super) const MAX_CERTIFICATES: usize = 32;

pub(super) fn record(
    context: Context<'_>,
    certificate: &CertificateRecord,
    grounds: &Grounds,
) -> Result<Decision, Denied> {
    let Context { fabric, now, .. } = context;
    let subject = &certificate.subject;
    let mut events = Vec::new();
    let token = match grounds {
        Grounds::Token(shown) => {
            let token = fabric.token(shown, now)?;
            if token.subject.named().as_ref() != Some(subject) {
                return Err(Denied::TokenRefused);
            }
            if subject.is_controller() {
                // Whoever held the controller's key before holds nothing any more.
                events = revoked(context, subject, "the controller joined anew");
            }
            events.push(Event::TokenUsed {
                token: token.id,
                at: now,
            });
            Some(token.id)
        }
        Grounds::External(external) => {
            let known = fabric.user_by_external(external);
            if known.is_none_or(|known| known.subject != *subject) {
                return Err(Denied::Absent {
                    kind: "user",
                    which: subject.to_string(),
                });
            }
            None
        }
        Grounds::Renewal(serial) => {
            let present = fabric
                .certificates
                .get(serial)
                .filter(|present| present.subject == *subject && now < present.not_after)
                .ok_or_else(|| Denied::Absent {
                    kind: "live certificate",
                    which: serial.to_string(),
                })?;
            if present.revoked.is_some() {
                return Err(Denied::Revoked {
                    what: format!("certificate {serial}"),
                });
            }
            present.token
        }
        Grounds::Own if *context.by() == Actor::controller() => None,
        Grounds::Own => {
            return Err(Denied::Forbidden {
                reason: "only the controller's own word needs no grounds",
            });
        }
    };
    welcome(context, subject)?;
    events.push(issued(context, certificate, token)?);
    Ok(Decision::done(events))
}

/// The fact that a certificate was issued, if it may be.
pub(super) fn issued(
    context: Context<'_>,
    certificate: &CertificateRecord,
    token: Option<TokenId>,
) -> Result<Event, Denied> {
    let Context { fabric, now, .. } = context;
    let invalid = |reason: &str| Err(Denied::Invalid(vec![Violation::new("not_after", reason)]));
    let trusted = fabric
        .authorities
        .get(&certificate.authority)
        .is_some_and(|authority| authority.state != AuthorityState::Retired);
    if !trusted {
        return Err(Denied::NoAuthority {
            authority: certificate.authority.to_string(),
        });
    }
    if fabric.certificates.contains_key(&certificate.serial) {
        return Err(Denied::Exists {
            kind: "certificate",
            name: certificate.serial.to_string(),
            but: "; make it with another serial number",
        });
    }
    if certificate.not_after <= now {
        return invalid("has passed");
    }
    let subject = &certificate.subject;
    if matches!(subject, Subject::User(_) | Subject::Machine(_)) {
        let live = fabric.certificates_of(subject);
        if live.filter(|one| one.is_live(now)).count() >= MAX_CERTIFICATES {
            return Err(Denied::TooMany {
                what: format!("live certificates of {subject}"),
                most: MAX_CERTIFICATES,
                instead: "revoke those that nobody uses, or wait until they end",
            });
        }
    }
    // A program's certificates end with the token that they go back to.
    if matches!(certificate.subject, Subject::Machine(_))
        && let Some(token) = token
    {
        let end = fabric.tokens.get(&token).map(|token| token.expires_at);
        if end.is_none_or(|end| end < certificate.not_after) {
            return invalid("is after the end of its token");
        }
    }
    Ok(Event::CertificateIssued {
        certificate: CertificateRecord {
            issued_at: now,
            token,
            revoked: None,
            ..certificate.clone()
        },
    })
}

pub(super) fn revoke(
    context: Context<'_>,
    serial: Serial,
    reason: &str,
) -> Result<Decision, Denied> {
    printable("reason", reason)?;
    let certificate = context
        .fabric
        .certificates
        .get(&serial)
        .filter(|certificate| user::is_governed(context, &certificate.subject))
        .ok_or_else(|| Denied::Absent {
            kind: "certificate",
            which: serial.to_string(),
        })?;
    if certificate.revoked.is_some() {
        return Ok(Decision::done(Vec::new()));
    }
    Ok(Decision::done(vec![Event::CertificateRevoked {
        serial,
        revocation: context.revocation(reason),
    }]))
}

/// The facts that everything ends that proves somebody now.
pub(super) fn revoked(context: Context<'_>, subject: &Subject, reason: &str) -> Vec<Event> {
    let certificates = context.fabric.certificates_of(subject);
    certificates
        .filter(|certificate| certificate.is_live(context.now))
        .map(|certificate| Event::CertificateRevoked {
            serial: certificate.serial,
            revocation: context.revocation(reason),
        })
        .collect()
}

/// The same for those alone that go back to a token.
pub(super) fn revoked_by_token(
    context: Context<'_>,
    subject: &TokenSubject,
    token: TokenId,
) -> Vec<Event> {
    let subject = match subject {
        TokenSubject::Node(name) => {
            let node = context.fabric.nodes.get(name);
            node.map(|node| Subject::Node(node.id))
        }
        other => other.named(),
    };
    let mut events = subject
        .map(|subject| revoked(context, &subject, "its token was taken back"))
        .unwrap_or_default();
    events.retain(|event| match event {
        Event::CertificateRevoked { serial, .. } => {
            context.fabric.certificates[serial].token == Some(token)
        }
        _ => false,
    });
    events
}

/// A new authority is trusted and signs. How the first one comes to be, too.
pub(super) fn rotate(context: Context<'_>, new: &NewAuthority) -> Result<Decision, Denied> {
    context.whole_fabric()?;
    let Context { fabric, now, .. } = context;
    let size = new.cross_pem.iter().map(String::len).sum::<usize>() + new.certificate_pem.len();
    if size > MAX_PEM_BYTES {
        return Err(Denied::Invalid(vec![Violation::new(
            "certificate_pem",
            format!(
                "has {size} bytes with its cross certificates; at most {MAX_PEM_BYTES} are allowed"
            ),
        )]));
    }
    if fabric.authorities.contains_key(&new.fingerprint) {
        return Err(Denied::Exists {
            kind: "authority",
            name: new.fingerprint.to_string(),
            but: "; make a new key",
        });
    }
    if fabric.trusted_authorities().count() >= MAX_AUTHORITIES {
        return Err(Denied::TooMany {
            what: "trusted authorities".into(),
            most: MAX_AUTHORITIES,
            instead: "an old one is retired once no certificate of it and no token from its time \
                      lives: wait, or revoke them",
        });
    }
    let authority = AuthorityRecord {
        fingerprint: new.fingerprint,
        certificate_pem: new.certificate_pem.clone(),
        cross_pem: new.cross_pem.clone(),
        state: AuthorityState::Retiring,
        since: now,
    };
    Ok(Decision {
        events: vec![
            Event::AuthorityAdded { authority },
            Event::AuthorityActivated {
                authority: new.fingerprint,
                at: now,
            },
        ],
        outcome: Outcome::Authority(new.fingerprint),
    })
}

/// Refuses whoever may not have a certificate at present.
fn welcome(context: Context<'_>, subject: &Subject) -> Result<(), Denied> {
    match subject {
        Subject::Controller(_) => Ok(()),
        Subject::Node(id) => match context.fabric.node_by_id(*id) {
            Some(node) if node.revoked.is_some() => Err(Denied::Revoked {
                what: format!("node {}", node.name),
            }),
            Some(_) => Ok(()),
            None => Err(Denied::Absent {
                kind: "node",
                which: id.to_string(),
            }),
        },
        Subject::User(_) | Subject::Machine(_) => {
            user::enabled(context.fabric, subject).map(|_| ())
        }
    }
}
