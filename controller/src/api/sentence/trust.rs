//! Facts about people, what proves them, and the record itself.

use kapok_trust::{Serial, TokenId};

use super::{Sentence, because};
use crate::fabric::{Event, Fabric, User};

/// The sentence for such a fact; none for others.
pub(super) fn of(event: &Event, fabric: &Fabric) -> Option<Sentence> {
    let plain = |id: String, name: String, text: String| Sentence {
        subject_id: id,
        subject_name: name,
        text,
        ..Sentence::default()
    };
    let token = |id: &TokenId, what: &str| {
        let known = fabric.tokens.get(id);
        let whose = known
            .map(|token| format!(" for {}", token.subject))
            .unwrap_or_default();
        plain(
            id.to_string(),
            String::new(),
            format!("token {id}{whose} {what}"),
        )
    };
    let certificate = |serial: &Serial, what: String| {
        let known = fabric.certificates.get(serial);
        let whose = known
            .map(|certificate| format!(" of {}", certificate.subject))
            .unwrap_or_default();
        plain(
            serial.to_string(),
            String::new(),
            format!("certificate {serial}{whose} {what}"),
        )
    };
    let about_user = |user: &User, what: String| {
        let subject = user.subject.to_string();
        plain(String::new(), subject.clone(), format!("{subject} {what}"))
    };
    Some(match event {
        Event::UserCreated { user } => about_user(user, format!("was made; {}", roles(user))),
        Event::UserChanged { user } if user.disabled => {
            about_user(user, format!("is disabled; {}", roles(user)))
        }
        Event::UserChanged { user } => about_user(user, format!("was changed; {}", roles(user))),
        Event::UserDeleted { user } => {
            let subject = user.to_string();
            plain(
                String::new(),
                subject.clone(),
                format!("{subject} was removed"),
            )
        }
        Event::TokenCreated { token } => plain(
            token.id.to_string(),
            String::new(),
            format!(
                "{} made token {} for {}",
                token.created_by, token.id, token.subject
            ),
        ),
        Event::TokenUsed { token: id, .. } => token(id, "was used"),
        Event::TokenDeleted { token: id } => token(id, "was taken back"),
        Event::CertificateIssued { certificate } => plain(
            certificate.serial.to_string(),
            String::new(),
            format!(
                "certificate {} was issued to {}",
                certificate.serial, certificate.subject
            ),
        ),
        Event::CertificateRevoked { serial, revocation } => certificate(
            serial,
            format!(
                "was revoked by {}{}",
                revocation.by,
                because(&revocation.reason)
            ),
        ),
        Event::AuthorityAdded { authority } => plain(
            authority.fingerprint.to_string(),
            String::new(),
            format!("authority {} is trusted", authority.fingerprint),
        ),
        Event::AuthorityActivated { authority, .. } => plain(
            authority.to_string(),
            String::new(),
            format!("authority {authority} signs from now on"),
        ),
        Event::AuthorityRetired { authority, .. } => plain(
            authority.to_string(),
            String::new(),
            format!("authority {authority} is trusted no longer"),
        ),
        Event::Refused { refusal } => {
            let times = match refusal.count {
                1 => String::new(),
                count => format!(" {count} times"),
            };
            let on = match refusal.object.as_str() {
                "" => String::new(),
                object => format!(" on {object}"),
            };
            let text = format!(
                "{} was refused {}{on}{times}: {}",
                refusal.by, refusal.action, refusal.reason
            );
            plain(String::new(), refusal.object.clone(), text)
        }
        Event::SegmentSealed { segment, .. } => plain(
            String::new(),
            String::new(),
            format!(
                "entries {} to {} of the log were sealed and moved out",
                segment.first, segment.last
            ),
        ),
        Event::SegmentDeleted { first, .. } => plain(
            String::new(),
            String::new(),
            format!("the sealed entries from {first} on are past their retention and gone"),
        ),
        _ => return None,
    })
}

fn roles(user: &User) -> String {
    if user.grants.is_empty() {
        return "no roles".to_owned();
    }
    let grants: Vec<_> = user.grants.iter().map(ToString::to_string).collect();
    grants.join(", ")
}
