//! Bounds on what an agent says, so that none can fill the controller's memory or make a list too
//! large to be sent (FAULTS 18). Words are cut, surplus is left out.

use std::collections::BTreeMap;

use kapok_proto::{
    agent::v1::{ForeignDomain, HeartbeatResponse, NodeFacts, PartList},
    common::v1::{Condition, NodeHealth, PartChange, Reading, Verdict, reading::Read},
    convert::clipped,
};

use crate::fabric::health::counts;

/// Longest word: a name, a version, a reason.
const WORD_BYTES: usize = 256;
/// Most versions, lacking capabilities and lanes.
const FEW: usize = 32;
/// Most foreign domains and quarantined domains that are kept of one node.
const MANY: usize = 2000;
/// Most verdicts of one node, and most readings that all of them show together.
const VERDICTS: usize = 256;
const EVIDENCE: usize = 512;
/// Most readings that one verdict shows.
const EVIDENCE_OF_ONE: usize = 16;
/// Most parts of one node: with lines of [`WORD_BYTES`] its record stays well below a message.
const PARTS: usize = 256;
/// Longest code of a verdict.
const CODE_BYTES: usize = 64;

/// A node's facts within their bounds.
pub(super) fn facts(mut facts: NodeFacts) -> NodeFacts {
    for word in [
        &mut facts.host_name,
        &mut facts.virt_type,
        &mut facts.virt_reason,
        &mut facts.boot_id,
        &mut facts.kernel,
        &mut facts.driver,
        &mut facts.trust_digest,
    ] {
        *word = clipped(word, WORD_BYTES);
    }
    facts.versions = facts
        .versions
        .iter()
        .take(FEW)
        .map(|(of, version)| (clipped(of, WORD_BYTES), clipped(version, WORD_BYTES)))
        .collect();
    facts.fingerprint = facts
        .fingerprint
        .iter()
        .take(FEW)
        .map(|(part, value)| (clipped(part, WORD_BYTES), clipped(value, WORD_BYTES)))
        .collect();
    facts.lacks = facts
        .lacks
        .iter()
        .take(FEW)
        .map(|one| clipped(one, WORD_BYTES))
        .collect();
    facts
}

/// A foreign domain within its bounds.
pub(super) fn foreign(mut domain: ForeignDomain) -> ForeignDomain {
    domain.uuid = clipped(&domain.uuid, 36);
    domain.name = clipped(&domain.name, WORD_BYTES);
    domain
}

/// Keeps a foreign domain, unless there are too many already.
pub(super) fn insert(all: &mut BTreeMap<String, ForeignDomain>, domain: ForeignDomain) {
    if all.len() < MANY || all.contains_key(&domain.uuid) {
        all.insert(domain.uuid.clone(), domain);
    }
}

/// A life sign within its bounds.
pub(super) fn sign(mut sign: HeartbeatResponse) -> HeartbeatResponse {
    sign.run_id = clipped(&sign.run_id, WORD_BYTES);
    sign.lanes.truncate(FEW);
    for lane in &mut sign.lanes {
        lane.name = clipped(&lane.name, WORD_BYTES);
    }
    sign.quarantined.truncate(MANY);
    for one in &mut sign.quarantined {
        *one = clipped(one, 36);
    }
    sign
}

/// How a node's server does, within its bounds: condition and verdicts, nothing else. A condition of
/// a later version is *unknown*; a verdict without a code says nothing that can be acted on.
pub(super) fn health(mut health: NodeHealth) -> NodeHealth {
    health.condition = condition(health.condition);
    health.verdicts.retain(|verdict| is_code(&verdict.code));
    // Many guests that hang push nothing out that is about the server.
    health
        .verdicts
        .sort_by_key(|one| !counts(&one.code, &one.component));
    health.verdicts.truncate(VERDICTS);
    let mut left = EVIDENCE;
    for verdict in &mut health.verdicts {
        bound_verdict(verdict, &mut left);
    }
    NodeHealth {
        condition: health.condition,
        verdicts: health.verdicts,
        judge_time: health.judge_time,
        ..NodeHealth::default()
    }
}

fn bound_verdict(verdict: &mut Verdict, left: &mut usize) {
    verdict.condition = condition(verdict.condition);
    for words in [
        &mut verdict.component,
        &mut verdict.summary,
        &mut verdict.remedy,
    ] {
        *words = printable(words);
    }
    verdict.evidence.truncate(EVIDENCE_OF_ONE.min(*left));
    *left -= verdict.evidence.len();
    for reading in &mut verdict.evidence {
        bound_reading(reading);
    }
}

fn bound_reading(reading: &mut Reading) {
    for word in [
        &mut reading.component,
        &mut reading.quantity,
        &mut reading.unit,
        &mut reading.source,
    ] {
        *word = printable(word);
    }
    if let Some(Read::Unreadable(reason)) = &mut reading.read {
        *reason = printable(reason);
    }
}

fn condition(said: i32) -> i32 {
    match Condition::try_from(said) {
        Ok(Condition::Unspecified) | Err(_) => Condition::Unknown.into(),
        Ok(known) => known.into(),
    }
}

/// Whether a text has the form of a code: `MEMORY_CE_STORM`.
fn is_code(text: &str) -> bool {
    (1..=CODE_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

/// What a server is made of, within its bounds.
pub(super) fn parts(parts: PartList) -> PartList {
    let named = parts.parts.iter().take(PARTS);
    let changes = parts.changes.into_iter().take(PARTS);
    PartList {
        parts: named
            .map(|(part, is)| (printable(part), printable(is)))
            .filter(|(part, _)| !part.is_empty())
            .collect(),
        changes: changes
            .map(|change| PartChange {
                part: printable(&change.part),
                before: printable(&change.before),
                after: printable(&change.after),
            })
            .collect(),
    }
}

/// A word that goes into the log and to people: cut, and without what steers a terminal.
fn printable(text: &str) -> String {
    clipped(text, WORD_BYTES)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAULTS 18: whatever an agent says of its server's health has bounds.
    #[test]
    fn a_hostile_judgement_is_bounded() {
        let long = "\u{1b}".repeat(1 << 16);
        let reading = Reading {
            component: long.clone(),
            source: long.clone(),
            read: Some(Read::Unreadable(long.clone())),
            ..Reading::default()
        };
        let verdict = |code: &str| Verdict {
            code: code.into(),
            condition: 77,
            component: long.clone(),
            summary: long.clone(),
            remedy: long.clone(),
            evidence: vec![reading.clone(); 100],
            ..Verdict::default()
        };
        let mut verdicts = vec![verdict(""), verdict("x y"), verdict(&"A".repeat(65))];
        verdicts.extend((0..300).map(|_| verdict("MEMORY_CE_STORM")));
        let bounded = health(NodeHealth {
            condition: 99,
            verdicts,
            readings: vec![reading.clone(); 1000],
            ..NodeHealth::default()
        });
        assert_eq!(bounded.condition(), Condition::Unknown);
        assert_eq!(bounded.verdicts.len(), VERDICTS);
        assert!(bounded.readings.is_empty());
        let shown: usize = bounded.verdicts.iter().map(|one| one.evidence.len()).sum();
        assert_eq!(shown, EVIDENCE);
        let first = &bounded.verdicts[0];
        assert_eq!(first.condition(), Condition::Unknown);
        assert_eq!(first.summary, " ".repeat(WORD_BYTES));
        assert_eq!(first.evidence.len(), EVIDENCE_OF_ONE);
        assert!(prost::Message::encoded_len(&bounded) < 1 << 20);

        let many = (0..5000).map(|n| (format!("pci/{n}"), long.clone()));
        let bounded = parts(PartList {
            parts: many.collect(),
            changes: vec![PartChange::default(); 5000],
        });
        assert_eq!((bounded.parts.len(), bounded.changes.len()), (PARTS, PARTS));
        let lines = bounded.parts.values();
        assert_eq!(lines.map(String::len).max(), Some(WORD_BYTES));
    }

    /// FAULTS 41's sibling: storage that hangs makes all guests hang, and is what must be known.
    #[test]
    fn guests_that_hang_push_out_no_verdict_on_the_server() {
        let verdict = |code: &str, component: String| Verdict {
            code: code.into(),
            component,
            ..Verdict::default()
        };
        let stuck = (0..VERDICTS).map(|n| verdict("INSTANCE_STUCK", format!("instance/{n}")));
        let last = [verdict("POOL_STUCK", "pool/kapok".into())];
        let bounded = health(NodeHealth {
            verdicts: stuck.chain(last).collect(),
            ..NodeHealth::default()
        });
        assert_eq!(bounded.verdicts.len(), VERDICTS);
        assert_eq!(bounded.verdicts[0].code, "POOL_STUCK");
    }

    #[test]
    fn an_agent_cannot_fill_the_controller() {
        let long = "x".repeat(1 << 20);
        let facts = facts(NodeFacts {
            host_name: long.clone(),
            versions: (0..1000).map(|n| (n.to_string(), long.clone())).collect(),
            lacks: vec![long.clone(); 1000],
            ..NodeFacts::default()
        });
        assert_eq!(facts.host_name.len(), WORD_BYTES);
        assert_eq!((facts.versions.len(), facts.lacks.len()), (FEW, FEW));
        let mut all = BTreeMap::new();
        for n in 0..MANY + 10 {
            let uuid = format!("{n:036}");
            insert(
                &mut all,
                foreign(ForeignDomain {
                    uuid,
                    name: long.clone(),
                    ..Default::default()
                }),
            );
        }
        assert_eq!(all.len(), MANY);
        let sign = sign(HeartbeatResponse {
            quarantined: vec![long; MANY + 10],
            ..HeartbeatResponse::default()
        });
        assert_eq!(
            (sign.quarantined.len(), sign.quarantined[0].len()),
            (MANY, 36)
        );
    }
}
