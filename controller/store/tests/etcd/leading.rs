//! Who leads, and who is told.

use std::time::Duration;

use etcd_client::GetOptions;
use kapok_store::{Error, Etcd, EtcdOptions, Leader, Store, conformance::bounded};

use super::{append, bare, open, place};

/// Longer than any case waits: whoever comes next must not have waited for it.
fn with_long_lease() -> EtcdOptions {
    EtcdOptions {
        lease_ttl: Duration::from_mins(5),
        ..place()
    }
}

async fn leads(store: &Etcd, candidate: &str) {
    let mut leaders = store.leaders();
    let seen =
        leaders.wait_for(|leader| leader.as_ref().is_some_and(|it| it.candidate == candidate));
    bounded(seen).await.unwrap();
}

/// One candidate leads, another waits, and followers see who it is; a leadership that is dropped is
/// taken over at once, not when its lease runs out.
#[tokio::test]
async fn a_leadership_that_is_dropped_passes_on_at_once() {
    let options = with_long_lease();
    let (a, b, follower) = (
        open(&options).await,
        open(&options).await,
        open(&options).await,
    );
    assert_eq!(follower.leader().await.unwrap(), None);
    let first = a.campaign("a https://[::1]:7700").await.unwrap();
    leads(&follower, "a https://[::1]:7700").await;
    let leader = Leader {
        candidate: "a https://[::1]:7700".to_owned(),
        epoch: first.token.epoch,
    };
    assert_eq!(follower.leader().await.unwrap(), Some(leader));

    let waiting = tokio::spawn(async move {
        let second = b.campaign("b").await.unwrap();
        (b, second)
    });
    // Many times what the other would need to take over.
    append(&a, &first.token, &["x"; 100]).await;
    assert!(!waiting.is_finished(), "the first one lives");
    drop(first);
    let (b, second) = bounded(waiting).await.unwrap();
    leads(&follower, "b").await;
    append(&b, &second.token, &["y"]).await;
    assert!(!*second.lost.borrow());
    // So is one whose process ends in order.
    bounded(b.close()).await;
    assert!(*second.lost.borrow());
    bounded(a.campaign("a")).await.unwrap();
}

/// A lease that is gone, for whatever reason, is no leadership lost: there is a new one, and who waits
/// goes on waiting. Only who was superseded is told so.
#[tokio::test]
async fn a_lease_that_is_gone_is_taken_anew() {
    let options = with_long_lease();
    let store = open(&options).await;
    let mut leadership = store.campaign("a").await.unwrap();
    let mut etcd = bare(&options).await;
    let key = format!("{}leader", options.prefix);
    let pair = etcd.get(key.as_str(), None).await.unwrap().kvs()[0].clone();
    etcd.lease_client().revoke(pair.lease()).await.unwrap();
    let anew = async {
        loop {
            let got = etcd.get(key.as_str(), None).await.unwrap();
            if let Some(again) = got.kvs().first() {
                return again.clone();
            }
        }
    };
    let again = bounded(anew).await;
    assert_eq!(again.value(), pair.value());
    assert_ne!(again.lease(), pair.lease());
    append(&store, &leadership.token, &["x"]).await;
    assert!(!*leadership.lost.borrow());

    // So it is when the key alone goes; and when both do because another was quicker, that is told.
    etcd.delete(key.as_str(), None).await.unwrap();
    bounded(async { while etcd.get(key.as_str(), None).await.unwrap().kvs().is_empty() {} }).await;
    assert!(!*leadership.lost.borrow());
    let epoch = leadership.token.epoch.get() + 1;
    let another = etcd_client::Txn::new().and_then([
        etcd_client::TxnOp::delete(key.as_str(), None),
        etcd_client::TxnOp::put(
            format!("{}epoch", options.prefix),
            epoch.to_be_bytes(),
            None,
        ),
    ]);
    etcd.txn(another).await.unwrap();
    assert!(
        *bounded(leadership.lost.wait_for(|lost| *lost))
            .await
            .unwrap()
    );
}

/// A lease lasts as long as its leadership: it is renewed well before it ends.
#[tokio::test]
async fn a_lease_is_renewed() {
    let options = EtcdOptions {
        lease_ttl: Duration::from_secs(10),
        ..place()
    };
    let store = open(&options).await;
    let leadership = store.campaign("a").await.unwrap();
    let mut etcd = bare(&options).await;
    let key = format!("{}leader", options.prefix);
    let lease = etcd.get(key, None).await.unwrap().kvs()[0].lease();
    let renewed = async {
        let mut least = i64::MAX;
        loop {
            let left = etcd
                .lease_client()
                .time_to_live(lease, None)
                .await
                .unwrap()
                .ttl();
            if left > least {
                return least;
            }
            least = left;
        }
    };
    assert!(bounded(renewed).await > 3);
    assert!(!*leadership.lost.borrow());
}

/// What a newer version made, and what is damaged, is refused and left as it is.
#[tokio::test]
async fn what_is_not_understood_is_left_alone() {
    let options = place();
    let store = open(&options).await;
    let token = store.campaign("a").await.unwrap().token;
    append(&store, &token, &["x", "y"]).await;
    bounded(store.close()).await;
    let mut etcd = bare(&options).await;
    let under = |name: &str| format!("{}{name}", options.prefix);
    let all = || GetOptions::new().with_prefix();
    let content = |got: etcd_client::GetResponse| -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = got.kvs().iter();
        pairs
            .map(|pair| (pair.key().to_vec(), pair.value().to_vec()))
            .collect()
    };

    let format = etcd.get(under("format"), None).await.unwrap();
    let format = format.kvs()[0].value().to_vec();
    etcd.put(under("format"), 99_u64.to_be_bytes(), None)
        .await
        .unwrap();
    let before = content(etcd.get(under(""), Some(all())).await.unwrap());
    let refused = Etcd::open(options.clone()).await.unwrap_err();
    assert!(
        matches!(refused, Error::Newer { found: 99, .. }),
        "{refused:?}"
    );
    assert_eq!(
        content(etcd.get(under(""), Some(all())).await.unwrap()),
        before
    );

    etcd.put(under("format"), format, None).await.unwrap();
    let head = etcd.get(under("head"), None).await.unwrap().kvs()[0]
        .value()
        .to_vec();
    let mut other = head.clone();
    other[20] ^= 1;
    for damaged in [Some(other), Some(head[1..].to_vec()), None] {
        match damaged {
            Some(value) => drop(etcd.put(under("head"), value, None).await.unwrap()),
            None => drop(etcd.delete(under("head"), None).await.unwrap()),
        }
        let refused = Etcd::open(options.clone()).await.unwrap_err();
        assert!(matches!(refused, Error::Corrupt { .. }), "{refused:?}");
    }
    etcd.put(under("head"), head, None).await.unwrap();
    open(&options).await;
}
