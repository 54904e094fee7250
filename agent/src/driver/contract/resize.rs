//! Guests that become larger while they run, and what waits for their next start.

use kapok_types::{MemoryMib, Vcpus, phase::Size};

use super::Subject;
use crate::driver::{Record, Run, Seen};

/// What [`Compute`](crate::driver::Compute) does with a record that asks for another size.
pub async fn resize(subject: &Subject) {
    let compute = &subject.driver.compute;
    let record = subject.record(7).await;
    let id = record.intent.incarnation;
    let look = || async { subject.seen(id).await.unwrap() };
    let shows = |seen: &Seen, size| {
        assert_eq!(seen.size, size, "{seen:?}");
        assert!(seen.most_vcpus >= seen.size.vcpus, "{seen:?}");
        assert_eq!(seen.drift, Vec::<String>::new());
    };
    let size = |vcpus, memory| Size {
        vcpus: Vcpus(vcpus),
        memory: MemoryMib(memory),
    };
    let sized = |size: Size| {
        let mut record = record.clone();
        (record.intent.spec.vcpus, record.intent.spec.memory) = (size.vcpus, size.memory);
        record.intent.generation.0 += 1;
        record
    };

    // Off, the definition says it.
    compute.define(&record).await.unwrap();
    shows(&look().await, size(1, 128));
    let early = compute.set_vcpus(id, Vcpus(2)).await;
    assert!(early.is_err(), "vCPUs for a guest that is off");

    // On, another definition changes nothing of what runs.
    subject.with_disk(&record).await;
    compute.start(id).await.unwrap();
    let larger: Record = sized(size(2, 160));
    compute.define(&larger).await.unwrap();
    let seen = look().await;
    shows(&seen, size(1, 128));
    assert_eq!((seen.run, &seen.record), (Run::On, &larger));

    // vCPUs come while it runs, where its definition left room for them; and no more than that.
    if seen.most_vcpus >= Vcpus(2) {
        compute.set_vcpus(id, Vcpus(2)).await.unwrap();
        let grown = look().await;
        shows(&grown, size(2, 128));
        let beyond = compute
            .set_vcpus(id, Vcpus(grown.most_vcpus.get() + 1))
            .await;
        assert!(beyond.is_err(), "more vCPUs than there is room for");
        let after = look().await;
        shows(&after, size(2, 128));
        assert_eq!(after.run, Run::On);
    }
    // A smaller one waits, whatever was given since.
    compute.define(&sized(size(1, 144))).await.unwrap();
    let seen = look().await;
    assert_eq!((seen.size.memory, seen.drift), (MemoryMib(128), Vec::new()));

    // The next start brings the rest.
    compute.destroy(id).await.unwrap();
    shows(&look().await, size(1, 144));
    compute.start(id).await.unwrap();
    shows(&look().await, size(1, 144));
    subject.clean(id).await;
}
