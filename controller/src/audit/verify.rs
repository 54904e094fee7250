//! The check of the whole log: its chain, what it says of its segments, and the heads that agents
//! keep.
//!
//! Agents are asked at the same time, each within a deadline; who doesn't answer is named. A head
//! counts only with a controller's seal that held at its time, also one of an authority that is
//! retired by now; most agents keep the same heads, so each seal is opened once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use kapok_proto::agent::v1::ListHeadsRequest;
use kapok_store::{
    Hash, Head, Segment,
    verify::{Expected, Fault, FaultKind, MAX_FAULTS, Report},
};
use kapok_trust::{Bundle, LogHead, Root, Sealed};
use kapok_types::{Name, NodeId, Seq};
use tokio::time::timeout;

use super::{History, MIN_RETENTION};
use crate::{
    fabric::Fabric,
    ledger::Snapshot,
    link::{Client, Links},
};

/// How long one agent may take to list its heads.
const DEADLINE: Duration = Duration::from_secs(10);
/// Agents that are asked at a time.
const AT_ONCE: usize = 32;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What was found.
    pub report: Report,
    /// Nodes that could not be asked, by name.
    pub unasked: Vec<Name>,
}

/// A head as an agent keeps it.
struct Kept {
    sealed: Bytes,
    by: Name,
}

pub(super) async fn verify(
    history: &dyn History,
    snapshot: &Snapshot,
    links: &Links,
) -> Result<Verified, kapok_store::Error> {
    let Snapshot { fabric, head, .. } = snapshot;
    let (kept, unasked) = ask(fabric, links).await;
    let keys = fabric.clone();
    // Opening seals is work, and there may be a day's of them.
    let opening = tokio::task::spawn_blocking(move || open(&keys, kept));
    let (mut expected, bad_seals) = opening.await.unwrap_or_default();
    expected.push(Expected {
        head: *head,
        by: "this controller's memory".to_owned(),
    });
    let (recorded, begins, mut faults) = segments(fabric);
    let mut report = history.check(&recorded, expected).await?;
    let held = |fault: &Fault| (begins..report.first).contains(&fault.seq);
    if report.first > begins && !report.faults.iter().chain(&faults).any(held) {
        let message = format!(
            "nothing holds it, nor what follows up to entry {}",
            report.first
        );
        faults.push(cut(begins, message));
    }
    report.faults.extend(faults);
    report.faults.extend(bad_seals);
    report.faults.sort_by_key(|fault| (fault.seq, fault.kind));
    report.faults.truncate(MAX_FAULTS);
    Ok(Verified { report, unasked })
}

/// The heads that agents keep, and the nodes that could not be asked. A revoked node is not asked:
/// nothing is believed that it says.
async fn ask(fabric: &Fabric, links: &Links) -> (Vec<Kept>, Vec<Name>) {
    let mut clients: BTreeMap<NodeId, Client> = links.clients().into_iter().collect();
    let nodes = fabric.nodes.values().filter(|node| node.revoked.is_none());
    let asked: Vec<(Name, Option<Client>)> = nodes
        .map(|node| (node.name.clone(), clients.remove(&node.id)))
        .collect();
    let asking = asked.into_iter().map(|(name, client)| async move {
        let Some(mut client) = client else {
            return (name, None);
        };
        let listed = timeout(DEADLINE, client.list_heads(ListHeadsRequest {})).await;
        let heads = listed.ok().and_then(Result::ok);
        (name, heads.map(|heads| heads.into_inner().sealed_heads))
    });
    let mut answers = stream::iter(asking).buffer_unordered(AT_ONCE);
    let (mut kept, mut unasked) = (Vec::new(), Vec::new());
    // One copy of each: most nodes keep the same.
    let mut seen = BTreeSet::new();
    while let Some((by, heads)) = answers.next().await {
        let Some(heads) = heads else {
            unasked.push(by);
            continue;
        };
        for sealed in heads {
            if seen.insert(sealed.clone()) {
                let by = by.clone();
                kept.push(Kept { sealed, by });
            }
        }
    }
    unasked.sort();
    (kept, unasked)
}

/// What sealed heads say, and the nodes that keep one that no controller sealed: one fault each.
fn open(fabric: &Fabric, kept: Vec<Kept>) -> (Vec<Expected>, Vec<Fault>) {
    let roots = fabric.authorities.values();
    let roots = roots.filter_map(|authority| Root::parse_pem(&authority.certificate_pem).ok());
    let Ok(bundle) = Bundle::new(roots) else {
        return Default::default();
    };
    let (mut expected, mut bad) = (Vec::new(), BTreeMap::new());
    for Kept { sealed, by } in kept {
        match opened(fabric, &bundle, &sealed) {
            Ok(head) => expected.push(Expected {
                head,
                by: by.to_string(),
            }),
            Err(reason) => {
                let seq = Sealed::from_bytes(&sealed)
                    .and_then(|sealed| LogHead::read(&sealed.payload))
                    .map_or(Seq::ZERO, |head| head.sequence);
                let message = format!("{by} keeps a head that counts for nothing: {reason}");
                bad.entry(by).or_insert(Fault {
                    seq,
                    kind: FaultKind::BadSeal,
                    message,
                });
            }
        }
    }
    (expected, bad.into_values().collect())
}

fn opened(fabric: &Fabric, bundle: &Bundle, sealed: &[u8]) -> Result<Head, String> {
    let sealed = Sealed::from_bytes(sealed).map_err(|error| error.to_string())?;
    let (head, by) = LogHead::open_kept(&sealed, bundle).map_err(|error| error.to_string())?;
    let record = fabric.certificates.get(&by.serial);
    let revoked = record.and_then(|record| record.revoked.as_ref());
    if revoked.is_some_and(|revoked| revoked.at <= head.at) {
        return Err("its signer's certificate was revoked by then".to_owned());
    }
    Ok(Head {
        seq: head.sequence,
        hash: Hash(head.hash.0),
    })
}

/// What the log says of its segments: those that are kept, where the log begins with them, and
/// what is wrong with the records themselves.
fn segments(fabric: &Fabric) -> (Vec<Segment>, Seq, Vec<Fault>) {
    let (mut kept, mut begins, mut faults): (Vec<Segment>, _, _) = (Vec::new(), Seq(1), Vec::new());
    let mut next = Seq(1);
    for record in fabric.segments.values() {
        let segment = &record.segment;
        if segment.first != next {
            let message = format!(
                "no record says which segment holds it; the next begins at {}",
                segment.first
            );
            faults.push(cut(next, message));
        }
        next = segment.last.next();
        match record.deleted {
            None => kept.push(segment.clone()),
            Some(at) => {
                let age = u128::from(at.get().saturating_sub(record.newest.get()));
                if age < MIN_RETENTION.as_millis() || !kept.is_empty() {
                    let message = format!("segment {} was deleted before its time", segment.span());
                    faults.push(cut(segment.first, message));
                }
                if kept.is_empty() {
                    begins = next;
                }
            }
        }
    }
    (kept, begins, faults)
}

fn cut(seq: Seq, message: String) -> Fault {
    Fault {
        seq,
        kind: FaultKind::Cut,
        message,
    }
}

#[cfg(test)]
mod tests;
