//! Tokens: made, taken back. They are used where something is fetched with them.

use kapok_trust::TokenId;
use kapok_types::{Timestamp, Violation};

use super::{Context, Decision, certificate, user};
use crate::fabric::{Denied, EnrollToken, Event, Outcome, TokenSubject, TokenUse};

const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 3600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Shortest life of a token.
const MIN_LIFE_MS: u64 = 60 * SECOND_MS;
/// Life of a token of a node, a controller or a person, unless told otherwise, and at most.
const ONCE_LIFE_MS: u64 = HOUR_MS;
const MAX_ONCE_LIFE_MS: u64 = DAY_MS;
/// The same of a program's.
const MACHINE_LIFE_MS: u64 = 30 * DAY_MS;
const MAX_MACHINE_LIFE_MS: u64 = 365 * DAY_MS;

pub(super) fn create(
    context: Context<'_>,
    subject: &TokenSubject,
    life_ms: u64,
    new: &TokenUse,
) -> Result<Decision, Denied> {
    let Context { fabric, now, .. } = context;
    match subject.person() {
        // Whoever speaks for somebody has all that they have.
        Some(person) => {
            user::enabled(fabric, user::governed(context, &person)?)?;
        }
        None => context.whole_fabric()?,
    }
    let one_use = !matches!(subject, TokenSubject::Machine(_));
    let (usual, most) = if one_use {
        (ONCE_LIFE_MS, MAX_ONCE_LIFE_MS)
    } else {
        (MACHINE_LIFE_MS, MAX_MACHINE_LIFE_MS)
    };
    let life_ms = if life_ms == 0 { usual } else { life_ms };
    if !(MIN_LIFE_MS..=most).contains(&life_ms) {
        return Err(Denied::Invalid(vec![Violation::new(
            "life_seconds",
            format!(
                "is {}; must be {} to {} for {subject}",
                life_ms / SECOND_MS,
                MIN_LIFE_MS / SECOND_MS,
                most / SECOND_MS
            ),
        )]));
    }
    if fabric.tokens.contains_key(&new.id) {
        return Err(Denied::Exists {
            kind: "token",
            name: new.id.to_string(),
            but: "; make it with another id",
        });
    }
    let token = EnrollToken {
        id: new.id,
        subject: subject.clone(),
        hash: new.hash,
        one_use,
        used_at: None,
        expires_at: Timestamp(now.get().saturating_add(life_ms)),
        created_at: now,
        created_by: context.by().clone(),
    };
    Ok(Decision {
        events: vec![Event::TokenCreated { token }],
        outcome: Outcome::Token(new.id),
    })
}

pub(super) fn delete(context: Context<'_>, id: TokenId) -> Result<Decision, Denied> {
    let token = context
        .fabric
        .tokens
        .get(&id)
        .filter(|token| match token.subject.person() {
            Some(person) => user::is_governed(context, &person),
            None => context.whole_fabric().is_ok(),
        })
        .ok_or_else(|| Denied::Absent {
            kind: "token",
            which: id.to_string(),
        })?;
    let mut events = certificate::revoked_by_token(context, &token.subject, id);
    events.push(Event::TokenDeleted { token: id });
    Ok(Decision::done(events))
}

/// The facts that all tokens end that somebody could show now.
pub(super) fn taken_back(context: Context<'_>, subject: &TokenSubject) -> Vec<Event> {
    let tokens = context.fabric.tokens.values();
    tokens
        .filter(|token| token.subject == *subject)
        .map(|token| Event::TokenDeleted { token: token.id })
        .collect()
}
