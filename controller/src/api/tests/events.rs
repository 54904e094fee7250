use kapok_proto::fabric::v1::{CordonNodeRequest, Event, UncordonNodeRequest, WatchEventsRequest};

use super::*;
use crate::{
    fabric,
    log::{self, Record},
};

pub(super) async fn events(who: &Clients, after: Option<u64>) -> Result<Vec<Event>, Status> {
    let request = WatchEventsRequest {
        after_sequence: after,
        until_now: true,
    };
    let mut stream = who.events().watch_events(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(answer) = soon(stream.message()).await? {
        events.extend(answer.events);
    }
    Ok(events)
}

async fn cordon(lab: &Lab, reason: &str) {
    let request = CordonNodeRequest {
        node: "node-1".into(),
        reason: reason.into(),
        request_id: String::new(),
    };
    lab.nodes().cordon_node(request).await.unwrap();
}

/// A request as the server hands it to a handler.
fn by_li_wei<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(vouched("user/li-wei"));
    request
}

#[tokio::test]
async fn events_are_told_and_resumed() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    cordon(&lab, "a fan is loud").await;
    let all = events(&lab, Some(0)).await.unwrap();
    // Neither users nor credentials: those aren't a system administrator's to see.
    let kinds: Vec<_> = all.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "controller.elected",
            "controller.elected",
            "token.created",
            "node.joined",
            "token.used",
            "node.changed",
            "node.reached",
            "node.cordoned"
        ]
    );
    let last = all.last().unwrap();
    assert_eq!(last.actor, "user/li-wei");
    assert_eq!(
        last.message,
        "user/li-wei cordoned node node-1: a fan is loud"
    );
    assert_eq!(last.subject_name, "node-1");
    assert!(last.hash.len() == 64 && last.time.is_some());
    // Two facts of one entry share its place; from there on is what comes after.
    let [.., changed, reached, cordoned] = &all[..] else {
        panic!("{kinds:?}");
    };
    assert_eq!(changed.sequence, reached.sequence);
    let rest = events(&lab, Some(changed.sequence)).await.unwrap();
    assert_eq!(rest, std::slice::from_ref(cordoned));
    assert!(events(&lab, None).await.unwrap().is_empty());
    assert!(events(&lab, Some(last.sequence)).await.unwrap().is_empty());
    let ahead = refused(events(&lab, Some(last.sequence + 1)).await);
    assert_eq!(ahead, (Code::OutOfRange, "AHEAD_OF_LOG".into()));
}

#[tokio::test]
async fn new_events_come_as_they_happen_until_the_controller_stops() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let request = WatchEventsRequest::default();
    let mut stream = lab
        .events()
        .watch_events(request)
        .await
        .unwrap()
        .into_inner();
    let begin = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(begin.sequence, lab.api.ledger.snapshot().head.seq.get());
    assert!(begin.events.is_empty());
    cordon(&lab, "").await;
    let answer = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(answer.events[0].message, "user/li-wei cordoned node node-1");
    let request = UncordonNodeRequest {
        node: "node-1".into(),
        request_id: String::new(),
    };
    lab.nodes().uncordon_node(request).await.unwrap();
    assert_eq!(
        soon(stream.message()).await.unwrap().unwrap().events[0].kind,
        "node.uncordoned"
    );
    lab.stop.cancel();
    let end = soon(stream.message()).await.unwrap_err();
    assert_eq!(
        refused::<()>(Err(end)),
        (Code::Unavailable, "STOPPING".into())
    );
}

/// A log that was cut: from 0 is from the first kept, from within the cut is refused.
#[tokio::test]
async fn a_cut_log_says_where_it_begins() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let whole = lab.api.follow.clone();
    // Two entries before the last.
    let first = Seq(lab.api.ledger.snapshot().head.seq.get() - 2);
    let follow: Follower = Arc::new(move |from| {
        if from < first {
            return Box::pin(futures::stream::iter([Ok(Follow::Trimmed { first })]));
        }
        whole(from)
    });
    let api = Api {
        follow,
        ..lab.api.clone()
    };
    let watch = |after| {
        let api = api.clone();
        async move {
            use futures::TryStreamExt as _;
            use kapok_proto::fabric::v1::event_service_server::EventService as _;
            let request = WatchEventsRequest {
                after_sequence: Some(after),
                until_now: true,
            };
            let stream = api.watch_events(by_li_wei(request)).await?.into_inner();
            let answers = stream.try_collect::<Vec<_>>().await?;
            Ok::<_, Status>(
                answers
                    .into_iter()
                    .flat_map(|answer| answer.events)
                    .collect::<Vec<_>>(),
            )
        }
    };
    let kept = watch(0).await.unwrap();
    assert_eq!(
        (kept[0].sequence, kept[0].kind.as_str()),
        (first.get(), "token.created")
    );
    assert_eq!(
        refused(watch(first.get() - 2).await),
        (Code::OutOfRange, "TRIMMED".into())
    );
    assert_eq!(watch(first.get() - 1).await.unwrap(), kept);
}

/// The store tells followers of a batch before the ledger publishes it: names come all the same.
#[tokio::test]
async fn an_event_waits_for_what_it_names() {
    use futures::{FutureExt as _, StreamExt as _};
    use kapok_proto::fabric::v1::event_service_server::EventService as _;

    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let head = lab.api.ledger.snapshot().head;
    let record = Record {
        version: log::VERSION,
        at: kapok_types::Timestamp(1),
        by: fabric::Actor::user("li"),
        from: String::new(),
        request_id: None,
        content: kapok_types::Digest::of(b""),
        events: vec![fabric::Event::LeaderElected {
            epoch: kapok_types::Epoch(9),
        }],
    };
    let chain = kapok_store::Chain {
        head_seq: head.seq,
        head_hash: head.hash,
    };
    let batch = chain.seal(vec![record.encode().unwrap()]);
    let api = Api {
        follow: Arc::new(move |_| {
            let early = futures::stream::iter([Ok(Follow::Batch(batch.clone()))]);
            Box::pin(early.chain(futures::stream::pending()))
        }),
        ..lab.api.clone()
    };
    let request = by_li_wei(WatchEventsRequest::default());
    let mut stream = api.watch_events(request).await.unwrap().into_inner();
    soon(stream.next()).await.unwrap().unwrap();
    assert!(stream.next().now_or_never().is_none(), "not published yet");
    cordon(&lab, "").await;
    let answer = soon(stream.next()).await.unwrap().unwrap();
    assert_eq!(answer.events[0].kind, "controller.elected");
    // One open stream is counted until whoever reads it leaves.
    assert_eq!(lab.api.event_streams.count(), 1);
    drop(stream);
    assert_eq!(lab.api.event_streams.count(), 0);
}
