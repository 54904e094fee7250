//! The audit over gRPC: what is on record, in both directions, exported, and verified.

use kapok_proto::fabric::v1::{
    AuditEntry, CordonNodeRequest, ExportAuditRequest, ListAuditRequest, ListAuditResponse,
    RawEntry, UncordonNodeRequest, VerifyAuditRequest,
};
use kapok_store::{Entry, lines, verify};
use kapok_types::{Seq, Timestamp};

use super::*;
use crate::{audit::Refusal, fabric::Actor};

async fn list(who: &Clients, request: ListAuditRequest) -> Result<ListAuditResponse, Status> {
    let listed = soon(who.audit().list_audit(request)).await?;
    Ok(listed.into_inner())
}

/// All pages, each of this size.
async fn all(who: &Clients, mut request: ListAuditRequest, page_size: u32) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    request.page_size = page_size;
    loop {
        let page = list(who, request.clone()).await.unwrap();
        assert!(page.entries.len() <= usize::try_from(page_size).unwrap());
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            return entries;
        }
        request.page_token = page.next_page_token;
    }
}

fn refusal(by: &str, object: &str, count: u64) -> Refusal {
    Refusal {
        by: Actor(by.into()),
        from: "203.0.113.9".into(),
        action: "instance.get".into(),
        object: object.into(),
        reason: "FORBIDDEN".into(),
        count,
        first: Timestamp(1000),
        last: Timestamp(2000),
    }
}

/// A lab with an auditor, a cordon and its end, and an entry of three refusals in between.
async fn lab() -> (Lab, Clients) {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let auditor = lab.user("user/zhou", &["auditor"]).await;
    let cordon = CordonNodeRequest {
        node: "node-1".into(),
        reason: "a fan is loud".into(),
        request_id: "r-1".into(),
    };
    lab.nodes().cordon_node(cordon).await.unwrap();
    let refusals = vec![
        refusal("user/eve", "instance/web", 3),
        refusal("user/mallory", "instance", 1_000_000),
        refusal("others", "others", 7),
    ];
    lab.own(Command::RecordRefusals { refusals }).await;
    let uncordon = UncordonNodeRequest {
        node: "node-1".into(),
        ..UncordonNodeRequest::default()
    };
    lab.nodes().uncordon_node(uncordon).await.unwrap();
    (lab, auditor)
}

#[tokio::test]
async fn every_change_and_every_refusal_is_on_record() {
    let (_lab, auditor) = lab().await;
    let rows = all(&auditor, ListAuditRequest::default(), 1000).await;
    let [.., cordon, eve, mallory, others, uncordon] = &rows[..] else {
        panic!("{rows:#?}")
    };
    assert_eq!(cordon.actor, "user/li-wei");
    assert!(cordon.kinds.contains(&"node.cordoned".to_owned()));
    assert_eq!(cordon.objects, ["node/node-1"]);
    assert_eq!(
        (cordon.outcome.as_str(), cordon.request_id.as_str()),
        ("done", "r-1")
    );
    assert_eq!(cordon.refused_count, 0);
    for (row, actor, object, count) in [
        (eve, "user/eve", "instance/web", 3),
        (mallory, "user/mallory", "instance", 1_000_000),
        (others, "others", "others", 7),
    ] {
        assert_eq!((row.actor.as_str(), row.refused_count), (actor, count));
        assert_eq!(
            (row.outcome.as_str(), row.source.as_str()),
            ("refused", "203.0.113.9")
        );
        assert_eq!(
            (&row.kinds[..], &row.objects[..]),
            (&["refused".to_owned()][..], &[object.to_owned()][..])
        );
        assert_eq!((row.sequence, &row.hash), (eve.sequence, &eve.hash));
    }
    assert_eq!(uncordon.sequence, cordon.sequence + 2);
    // Every entry of the log has a row, the fabric's own book-keeping too.
    let mut sequences: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
    sequences.dedup();
    assert_eq!(sequences, (1..=uncordon.sequence).collect::<Vec<_>>());
}

#[tokio::test]
async fn pages_of_any_size_and_direction_hold_the_same() {
    let (_lab, auditor) = lab().await;
    let forward = all(&auditor, ListAuditRequest::default(), 1000).await;
    let newest_first = ListAuditRequest {
        newest_first: true,
        ..ListAuditRequest::default()
    };
    let mut backward = all(&auditor, newest_first.clone(), 1000).await;
    backward.reverse();
    assert_eq!(backward, forward);
    for size in [1, 2, 3] {
        assert_eq!(
            all(&auditor, ListAuditRequest::default(), size).await,
            forward
        );
        let mut backward = all(&auditor, newest_first.clone(), size).await;
        backward.reverse();
        assert_eq!(backward, forward);
    }
    let after = ListAuditRequest {
        after_sequence: 3,
        ..ListAuditRequest::default()
    };
    let rest: Vec<_> = forward
        .iter()
        .filter(|row| row.sequence > 3)
        .cloned()
        .collect();
    assert_eq!(all(&auditor, after.clone(), 2).await, rest);
    let after = ListAuditRequest {
        newest_first: true,
        ..after
    };
    assert_eq!(all(&auditor, after, 2).await.len(), rest.len());
}

#[tokio::test]
async fn filters_find_what_is_asked_for() {
    let (_lab, auditor) = lab().await;
    let forward = all(&auditor, ListAuditRequest::default(), 1000).await;
    let find = |request: ListAuditRequest| all(&auditor, request, 2);
    let refused = find(ListAuditRequest {
        refused_only: true,
        ..ListAuditRequest::default()
    });
    assert_eq!(refused.await.len(), 3);
    let eves = find(ListAuditRequest {
        actor: "user/eve".into(),
        ..ListAuditRequest::default()
    });
    assert_eq!(eves.await.len(), 1);
    let instances = find(ListAuditRequest {
        object: "instance".into(),
        newest_first: true,
        ..ListAuditRequest::default()
    });
    assert_eq!(instances.await.len(), 2);
    let later = find(ListAuditRequest {
        start_time: Some(prost_types::Timestamp {
            seconds: 100_000_000_000,
            nanos: 0,
        }),
        ..ListAuditRequest::default()
    });
    assert_eq!(later.await, []);
    let earlier = find(ListAuditRequest {
        end_time: Some(prost_types::Timestamp {
            seconds: 100_000_000_000,
            nanos: 0,
        }),
        ..ListAuditRequest::default()
    });
    assert_eq!(earlier.await, forward);
    // A token is good for its own question only.
    let first = ListAuditRequest {
        page_size: 1,
        ..ListAuditRequest::default()
    };
    let page = list(&auditor, first.clone()).await.unwrap();
    for (token, newest_first) in [(page.next_page_token, true), ("00".into(), false)] {
        let wrong = ListAuditRequest {
            page_token: token,
            newest_first,
            ..first.clone()
        };
        assert_eq!(field(list(&auditor, wrong).await), "page_token");
    }
}

/// What is exported verifies on its own, and a changed byte of it does not.
#[tokio::test]
async fn an_export_verifies_without_the_controller() {
    let (lab, auditor) = lab().await;
    let export = |after_sequence, until_sequence| {
        let mut client = auditor.audit();
        async move {
            let request = ExportAuditRequest {
                after_sequence,
                until_sequence,
            };
            let mut stream = client.export_audit(request).await.unwrap().into_inner();
            let mut file = String::new();
            while let Some(answer) = soon(stream.message()).await.unwrap() {
                for raw in answer.entries {
                    file += &lines::write(&entry(raw)).unwrap();
                }
            }
            file
        }
    };
    let file = export(0, 0).await;
    let report = verify::lines(file.as_bytes(), []).unwrap();
    let head = lab.api.ledger.snapshot().head;
    assert_eq!((report.faults, report.last), (vec![], head));
    assert_eq!(report.entries, head.seq.get());
    let part = export(2, 4).await;
    let report = verify::lines(part.as_bytes(), []).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.first, report.last.seq), (Seq(3), Seq(4)));
    let forged = file.replace("a fan is loud", "a fan is fine");
    assert_ne!(forged, file);
    assert!(!verify::lines(forged.as_bytes(), []).unwrap().is_sound());
}

fn entry(raw: RawEntry) -> Entry {
    Entry {
        seq: Seq(raw.sequence),
        prev: raw.previous_hash.parse().unwrap(),
        hash: raw.hash.parse().unwrap(),
        payload: raw.payload,
    }
}

#[tokio::test]
async fn a_whole_log_is_sound_and_says_whom_it_could_not_ask() {
    let (lab, auditor) = lab().await;
    let verified = soon(auditor.audit().verify_audit(VerifyAuditRequest {})).await;
    let verified = verified.unwrap().into_inner();
    assert_eq!(verified.faults, []);
    assert!(verified.sound);
    let head = lab.api.ledger.snapshot().head.seq.get();
    assert_eq!((verified.entries, verified.first_sequence), (head, 1));
    assert_eq!((verified.last_sequence, verified.heads), (head, 1));
    assert_eq!(verified.unasked_nodes, ["node-1"]);
}

/// The three administrators are separate: a system administrator neither reads nor verifies it.
#[tokio::test]
async fn the_audit_is_the_auditors() {
    let (lab, _) = lab().await;
    let before = lab.api.audit.refusals.total();
    let listed = list(&lab, ListAuditRequest::default()).await;
    assert_eq!(
        refused(listed),
        (Code::PermissionDenied, "FORBIDDEN".into())
    );
    let verified = lab.audit().verify_audit(VerifyAuditRequest {}).await;
    assert_eq!(
        refused(verified),
        (Code::PermissionDenied, "FORBIDDEN".into())
    );
    let exported = lab
        .audit()
        .export_audit(ExportAuditRequest::default())
        .await;
    let exported = exported.map(drop);
    assert_eq!(
        refused(exported),
        (Code::PermissionDenied, "FORBIDDEN".into())
    );
    assert_eq!(lab.api.audit.refusals.total() - before, 3);
}
