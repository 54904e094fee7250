//! Bounds on what an agent says, so that none can fill the controller's memory or make a list too
//! large to be sent (FAULTS 18). Words are cut, surplus is left out.

use std::collections::BTreeMap;

use kapok_proto::{
    agent::v1::{ForeignDomain, HeartbeatResponse, NodeFacts},
    convert::clipped,
};

/// Longest word: a name, a version, a reason.
const WORD_BYTES: usize = 256;
/// Most versions, lacking capabilities and lanes.
const FEW: usize = 32;
/// Most foreign domains and quarantined domains that are kept of one node.
const MANY: usize = 2000;

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

#[cfg(test)]
mod tests {
    use super::*;

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
