//! Retention: what the fabric forgets, and when.
//!
//! | kind | kept |
//! | --- | --- |
//! | answered request | 24 hours |
//! | ended operation | 7 days, at most 50,000 of them |
//! | token | 1 day after its end, used up or not |
//! | certificate, revoked or not | 1 day after its end |
//! | authority | trusted while a certificate of it, or a token from its time, lives; its record for ever |
//! | hash of a part of the log | for ever |
//!
//! Everything else is there until somebody removes it.

use kapok_trust::{Fingerprint, TokenId};
use kapok_types::{OperationId, Timestamp};

use super::{Context, Decision};
use crate::fabric::{AuthorityState, Event, Fabric};

/// How long an answered request is remembered: 24 hours.
pub const REQUEST_RETENTION_MS: u64 = 24 * 3600 * 1000;
/// How long an ended operation is remembered, if there are not too many: 7 days.
pub const OPERATION_RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long tokens and certificates are remembered after their end: a day.
pub const CREDENTIAL_RETENTION_MS: u64 = 24 * 3600 * 1000;
/// Operations that are remembered at most, so that memory stays flat at any rate. Those that run
/// are never forgotten.
pub const MAX_OPERATIONS: usize = 50_000;
/// Operations and tokens that one decision forgets at most.
const AT_ONCE: usize = 1000;

/// Whether anything is past its retention.
pub fn is_due(fabric: &Fabric, now: Timestamp) -> bool {
    requests_before(fabric, now).is_some()
        || !operations(fabric, now).is_empty()
        || certificates_before(fabric, now).is_some()
        || tokens(fabric, now).next().is_some()
        || authorities(fabric, now).next().is_some()
}

pub(super) fn expire(context: Context<'_>) -> Decision {
    let Context { fabric, now, .. } = context;
    let mut events = Vec::new();
    events.extend(requests_before(fabric, now).map(|before| Event::RequestsExpired { before }));
    let operations = operations(fabric, now);
    if !operations.is_empty() {
        events.push(Event::OperationsExpired { operations });
    }
    let tokens: Vec<_> = tokens(fabric, now).take(AT_ONCE).collect();
    if !tokens.is_empty() {
        events.push(Event::TokensExpired { tokens });
    }
    let before = certificates_before(fabric, now);
    events.extend(before.map(|before| Event::CertificatesExpired { before }));
    events.extend(
        authorities(fabric, now).map(|authority| Event::AuthorityRetired { authority, at: now }),
    );
    Decision::done(events)
}

fn requests_before(fabric: &Fabric, now: Timestamp) -> Option<Timestamp> {
    let before = Timestamp(now.get().saturating_sub(REQUEST_RETENTION_MS));
    let (oldest, ..) = fabric.requests_by_age.get_min()?;
    (*oldest < before).then_some(before)
}

/// Ids are time-ordered: the oldest come first, and a bounded number goes at a time.
fn operations(fabric: &Fabric, now: Timestamp) -> Vec<OperationId> {
    let surplus = fabric.operations.len().saturating_sub(MAX_OPERATIONS);
    let oldest = fabric.operations.values().take(AT_ONCE).enumerate();
    oldest
        .filter(|(rank, operation)| {
            operation.ended.as_ref().is_some_and(|end| {
                *rank < surplus || now.millis_since(end.at) > OPERATION_RETENTION_MS
            })
        })
        .map(|(_, operation)| operation.id)
        .collect()
}

fn tokens(fabric: &Fabric, now: Timestamp) -> impl Iterator<Item = TokenId> {
    let before = Timestamp(now.get().saturating_sub(CREDENTIAL_RETENTION_MS));
    let ended = fabric.tokens.values();
    ended
        .filter(move |token| token.expires_at < before)
        .map(|token| token.id)
}

fn certificates_before(fabric: &Fabric, now: Timestamp) -> Option<Timestamp> {
    let before = Timestamp(now.get().saturating_sub(CREDENTIAL_RETENTION_MS));
    let (oldest, _) = fabric.certificates_by_end.get_min()?;
    (*oldest < before).then_some(before)
}

/// Authorities that sign nothing new and of which nothing lives: nobody needs them to be believed.
/// A token pins the authority of its time, and so keeps it: its holder could not come in without.
fn authorities(fabric: &Fabric, now: Timestamp) -> impl Iterator<Item = Fingerprint> {
    let retiring = fabric
        .authorities
        .values()
        .filter(|authority| authority.state == AuthorityState::Retiring)
        .filter(move |authority| !could_come_in(fabric, authority.since, now))
        .map(|authority| authority.fingerprint);
    retiring.filter(move |one| fabric.live_certificates(*one, now).next().is_none())
}

/// Whether a token from a time, or from before, is still good.
fn could_come_in(fabric: &Fabric, since: Timestamp, now: Timestamp) -> bool {
    fabric.tokens.values().any(|token| {
        let used_up = token.one_use && token.used_at.is_some();
        token.created_at <= since && now < token.expires_at && !used_up
    })
}
