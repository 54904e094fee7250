use kapok_types::{MemoryMib, Vcpus};

use super::*;

fn foreign(n: u128, name: &str) -> (Key, Item) {
    let uuid = Uuid::from_u128(n);
    let domain = Foreign {
        uuid,
        name: name.into(),
        active: true,
        vcpus: Vcpus(1),
        memory: MemoryMib(1),
    };
    (Key::Foreign(uuid), Item::Foreign(domain))
}

fn names(changes: &[Change]) -> Vec<String> {
    let name = |(_, item): &Change| match item.as_deref() {
        Some(Item::Foreign(domain)) => domain.name.clone(),
        _ => "gone".into(),
    };
    changes.iter().map(name).collect()
}

#[tokio::test]
async fn a_subscriber_gets_a_snapshot_and_then_changes() {
    let hub = Arc::new(Hub::default());
    let put = |n, name| {
        let (key, item) = foreign(n, name);
        hub.put(key, item);
    };
    put(1, "a");
    let (snapshot, mut subscription) = hub.subscribe();
    assert_eq!(snapshot.len(), 1);
    put(1, "a");
    put(2, "b");
    assert_eq!(
        names(&subscription.next(10).await.unwrap()),
        ["b"],
        "no change is no news"
    );
    hub.remove(Key::Foreign(Uuid::from_u128(1)));
    assert_eq!(names(&subscription.next(10).await.unwrap()), ["gone"]);
}

#[tokio::test]
async fn a_slow_subscriber_gets_the_latest_of_each_and_costs_nothing() {
    let hub = Arc::new(Hub::default());
    let (_, mut slow) = hub.subscribe();
    for round in 0..1000 {
        for n in 1..=3 {
            let (key, item) = foreign(n, &format!("{n}-{round}"));
            hub.put(key, item);
        }
    }
    hub.remove(Key::Foreign(Uuid::from_u128(2)));
    assert_eq!(
        names(&slow.next(10).await.unwrap()),
        ["1-999", "3-999", "gone"]
    );
    assert_eq!(
        hub.lock().entries.len(),
        2,
        "what all have heard of is dropped"
    );
    assert_eq!(hub.lock().by_revision.len(), 2);
}

#[tokio::test]
async fn what_is_gone_is_kept_until_the_slowest_heard_of_it() {
    let hub = Arc::new(Hub::default());
    let (key, item) = foreign(1, "a");
    hub.put(key, item);
    let (_, slow) = hub.subscribe();
    let (_, mut quick) = hub.subscribe();
    hub.remove(key);
    assert_eq!(names(&quick.next(10).await.unwrap()), ["gone"]);
    assert_eq!(hub.lock().entries.len(), 1);
    assert!(hub.subscribe().0.is_empty(), "but no new snapshot shows it");
    drop(slow);
    assert!(hub.lock().entries.is_empty());
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_let_go_and_pins_nothing() {
    let hub = Arc::new(Hub::default());
    let (_, mut asleep) = hub.subscribe();
    for round in 0..=MAX_LAG {
        let (key, item) = foreign(u128::from(round), "a");
        hub.put(key, item);
        hub.remove(key);
    }
    let kept = u64::try_from(hub.lock().entries.len()).unwrap();
    assert!(kept <= MAX_LAG / 2 + 1, "{kept}");
    assert!(asleep.next(10).await.is_none(), "it must begin again");
    let (snapshot, _) = hub.subscribe();
    assert!(snapshot.is_empty());
}
