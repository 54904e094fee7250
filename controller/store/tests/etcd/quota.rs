//! A database that has reached its quota.

use std::error::Error as _;

use bytes::Bytes;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use kapok_store::{
    AppendError, Error, EtcdOptions, Head, Part, Store, WriteError,
    conformance::bounded,
    health::Alarm,
    testing::{ClusterOptions, EtcdCluster},
};

use super::{bare, batch, checkpoint, open, whole};

/// A write over the quota says what to do and has not landed; reads work; once there is room and the
/// alarm is disarmed, writes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reached_quota_is_said_and_got_over() {
    let mut cluster = EtcdCluster::start_with(
        1,
        &ClusterOptions {
            quota_bytes: Some(4 * 1024 * 1024),
            ..ClusterOptions::default()
        },
    );
    let options = EtcdOptions::new(cluster.endpoints(), "/kapok/quota/");
    let store = open(&options).await;
    let token = store.campaign("a").await.unwrap().token;
    let part = |value: &'static str| Part {
        index: 0,
        puts: vec![("k".to_owned(), Bytes::from(value))],
        deletes: vec![],
    };
    store.stage(&token, part("1")).await.unwrap();
    let mut head = Head::default();
    let refused = loop {
        let batch = batch(head, vec![7; 500_000]);
        match store.append(&token, head.seq, &batch).await {
            Ok(()) => head = batch.head(),
            Err(error) => break error,
        }
        // etcd measures its database when it writes it out, now and then.
        assert!(head.seq.get() < 200, "the quota is never reached");
    };
    let AppendError::Store(error @ Error::Quota { .. }) = refused else {
        panic!("{refused:?}");
    };
    let says = error.to_string();
    for word in ["quota", "compact", "defragment", "etcdctl alarm disarm"] {
        assert!(says.contains(word), "{says}");
    }
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("database space exceeded")
    );
    assert_eq!(store.head().await.unwrap(), head, "nothing of it landed");
    assert_eq!(whole(&store).await.last().unwrap().head(), head);
    // One was staged before, so that there is a part tells nothing of this one.
    let refused = store.stage(&token, part("2")).await.unwrap_err();
    assert!(
        matches!(refused, WriteError::Store(Error::Quota { .. })),
        "{refused:?}"
    );
    let refused = store.checkpoint(&token, checkpoint(head, vec![])).await;
    assert!(refused.unwrap_err().to_string().contains("alarm disarm"));
    let refused = store.campaign("b").await.unwrap_err();
    assert!(matches!(refused, Error::Quota { .. }), "{refused:?}");
    let health = store.health().await.unwrap();
    assert_eq!(health.members[0].alarms, [Alarm::NoSpace]);

    cluster.set_quota(1024 * 1024 * 1024);
    cluster.stop_member(0);
    cluster.start_member(0);
    // It serves before it is healthy, which it isn't with an alarm.
    let mut etcd = bare(&options).await;
    let disarming = async {
        loop {
            let raised = etcd.alarm(AlarmAction::Get, AlarmType::None, None).await;
            if let Some(alarm) = raised
                .ok()
                .and_then(|raised| raised.alarms().first().cloned())
            {
                let mut whose = AlarmOptions::new();
                whose.with_member(alarm.member_id());
                let disarm = etcd.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(whose));
                disarm.await.unwrap();
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    bounded(disarming).await;
    cluster.wait();
    let next = batch(head, "goes on");
    store.append(&token, head.seq, &next).await.unwrap();
    assert_eq!(store.health().await.unwrap().members[0].alarms, []);
}
