//! What every driver must do, as suites that run against any of them.
//!
//! A suite takes a driver and asserts; it panics at the first promise that is broken. It leaves
//! nothing behind when it passes. The hypervisor under the driver must be Kapok's alone.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these suites are tests, run from more than one test binary"
)]

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use kapok_types::{
    Bytes, Digest, Epoch, Generation, IncarnationId, InstanceId, Intent, MemoryMib, NodeId, Vcpus,
    equipment::CellShare,
    instance::{Arch, Counters, DiskFormat, Power, RootDisk, RunPolicy, Spec},
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Driver, Error, Hint, Off, Record, Run, Seen};

mod resize;

pub use resize::resize;

/// What a suite needs to know of the driver under test.
pub struct Subject {
    /// The driver.
    pub driver: Driver,
    /// The node whose domains are ours.
    pub node: NodeId,
    /// An image that can be stored.
    pub image: TestImage,
    /// Whether guests really run, so that they can be asked to shut down and their agent answers.
    pub guests_run: bool,
    /// How long anything may take.
    pub bound: Duration,
}

/// An image in a file.
pub struct TestImage {
    /// The file.
    pub file: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its layout.
    pub format: DiskFormat,
    /// Its length in bytes.
    pub bytes: u64,
    /// A size for root disks over it, in bytes.
    pub root_bytes: u64,
}

impl Subject {
    /// A record for a domain of this node. `n` tells incarnations apart.
    pub async fn record(&self, n: u128) -> Record {
        let facts = self.driver.compute.facts().await.unwrap();
        Record {
            version: Record::VERSION,
            intent: Intent {
                incarnation: IncarnationId(Uuid::from_u128(0xC0_0000 + n)),
                instance: InstanceId(Uuid::from_u128(0xD0_0000 + n)),
                node: self.node,
                name: format!("contract-{n}").parse().unwrap(),
                spec: Spec {
                    arch: facts.arch,
                    vcpus: Vcpus(1),
                    memory: MemoryMib(128),
                    root: self.root(),
                    run_policy: RunPolicy::RestartOnCrash,
                    needs: kapok_types::Needs::default(),
                },
                power: Power::Running,
                counters: Counters {
                    starts: 1,
                    ..Counters::default()
                },
                generation: Generation(1),
                epoch: Epoch(1),
                operation: None,
                assignment: kapok_types::Assignment::default(),
            },
            done: Counters::default(),
            started_boot: None,
            ended_by_guest: None,
            starting: false,
            moved: None,
            machine: facts.machine,
            virt_type: facts.virt_type,
        }
    }

    fn root(&self) -> RootDisk {
        RootDisk {
            image: self.image.digest,
            image_format: self.image.format,
            image_bytes: Bytes(self.image.bytes),
            size: Bytes(self.image.root_bytes),
        }
    }

    async fn seen(&self, incarnation: IncarnationId) -> Option<Seen> {
        self.driver.compute.observe(incarnation).await.unwrap()
    }

    /// Waits, within the bound, until the incarnation is seen as wanted.
    async fn until(
        &self,
        incarnation: IncarnationId,
        what: &str,
        wanted: impl Fn(Option<&Seen>) -> bool,
    ) {
        let end = Instant::now() + self.bound;
        loop {
            let seen = self.seen(incarnation).await;
            if wanted(seen.as_ref()) {
                return;
            }
            assert!(Instant::now() < end, "not {what} in time: {seen:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn with_disk(&self, record: &Record) {
        let storage = &self.driver.storage;
        let image = &self.image;
        match storage
            .store_image(image.digest, image.format, &image.file)
            .await
        {
            // Then the image is there already, without its bytes.
            Err(Error::Lacking { .. }) => {}
            stored => assert_eq!(stored.unwrap(), image.digest),
        }
        let incarnation = record.intent.incarnation;
        storage
            .create_root(incarnation, &self.root())
            .await
            .unwrap();
    }

    async fn clean(&self, incarnation: IncarnationId) {
        self.driver.compute.destroy(incarnation).await.unwrap();
        self.driver.storage.remove_root(incarnation).await.unwrap();
        self.driver.compute.undefine(incarnation).await.unwrap();
        assert_eq!(self.seen(incarnation).await, None);
        self.driver
            .storage
            .remove_image(self.image.digest)
            .await
            .unwrap();
    }
}

/// The suite of [`Compute`](super::Compute).
pub async fn compute(subject: &Subject) {
    let compute = &subject.driver.compute;
    let record = subject.record(1).await;
    let id = record.intent.incarnation;

    let facts = compute.facts().await.unwrap();
    assert!(matches!(facts.arch, Arch::X86_64 | Arch::Aarch64));
    assert!(facts.cpus > 0 && facts.memory > MemoryMib::ZERO && !facts.machine.is_empty());
    assert!(compute.health().up);

    // What isn't there is absent, and removing it is success.
    assert_eq!(subject.seen(id).await, None);
    compute.destroy(id).await.unwrap();
    compute.undefine(id).await.unwrap();
    assert!(matches!(compute.start(id).await, Err(Error::Absent { .. })));

    // A definition carries its record and is off.
    let mut hints = compute.hints();
    compute.define(&record).await.unwrap();
    let seen = subject.seen(id).await.unwrap();
    assert_eq!((&seen.record, seen.run), (&record, Run::Off));
    assert_eq!(seen.drift, Vec::<String>::new());
    assert!(
        compute
            .list()
            .await
            .unwrap()
            .ours
            .iter()
            .any(|seen| seen.record == record)
    );
    let hinted = async {
        while let Ok(hint) = hints.recv().await {
            if matches!(hint, Hint::Listing | Hint::Everything) || hint == Hint::Incarnation(id) {
                return;
            }
        }
        panic!("the hints ended");
    };
    timeout(subject.bound, hinted)
        .await
        .expect("a hint about the new domain");

    // Defining again replaces the record and nothing else.
    let again = Record {
        done: Counters {
            starts: 1,
            ..Counters::default()
        },
        started_boot: Some(Uuid::from_u128(7)),
        starting: true,
        ..record.clone()
    };
    compute.define(&again).await.unwrap();
    assert_eq!(subject.seen(id).await.unwrap().record, again);

    // On.
    subject.with_disk(&again).await;
    compute.start(id).await.unwrap();
    subject
        .until(id, "on", |seen| {
            seen.is_some_and(|seen| seen.run == Run::On)
        })
        .await;
    assert!(
        compute.start(id).await.is_err(),
        "a second start of a running domain"
    );
    assert!(
        compute.undefine(id).await.is_err(),
        "undefining a running domain"
    );
    assert_eq!(subject.seen(id).await.unwrap().run, Run::On);

    // A running domain's record follows.
    let later = Record {
        starting: false,
        ..again.clone()
    };
    compute.define(&later).await.unwrap();
    let seen = subject.seen(id).await.unwrap();
    assert_eq!((&seen.record, seen.run), (&later, Run::On));
    assert_eq!(seen.drift, Vec::<String>::new());

    match compute.reset(id).await {
        Err(Error::Lacking { .. }) => assert!(facts.lacks.contains(&"reset")),
        reset => reset.unwrap(),
    }
    assert_eq!(subject.seen(id).await.unwrap().run, Run::On);

    // Off hard, twice; the definition stays.
    compute.destroy(id).await.unwrap();
    compute.destroy(id).await.unwrap();
    let seen = subject.seen(id).await.unwrap();
    assert_eq!(
        (seen.run, seen.off, &seen.record),
        (Run::Off, Off::Destroyed, &later)
    );
    assert!(
        compute.reset(id).await.is_err(),
        "resetting a domain that is off"
    );
    assert!(
        compute.shutdown(id).await.is_err(),
        "asking a domain that is off"
    );

    if subject.guests_run {
        compute.start(id).await.unwrap();
        let end = Instant::now() + subject.bound;
        while !compute.guest_agent(id).await.unwrap_or(false) {
            assert!(Instant::now() < end, "the guest's agent doesn't answer");
            sleep(Duration::from_millis(50)).await;
        }
        compute.shutdown(id).await.unwrap();
        subject
            .until(id, "shut down", |seen| {
                seen.is_some_and(|seen| (seen.run, seen.off) == (Run::Off, Off::Shutdown))
            })
            .await;
    }
    subject.clean(id).await;
    let listing = compute.list().await.unwrap();
    assert!(
        listing
            .ours
            .iter()
            .all(|seen| seen.record.intent.incarnation != id)
    );
}

/// What the node has beyond amounts, and what of it a domain is given. Says nothing of a driver whose
/// node sets no thread aside.
pub async fn equipment(subject: &Subject) {
    let compute = &subject.driver.compute;
    let facts = compute.facts().await.unwrap();
    let offered = facts.equipment;
    let mut threads = BTreeSet::new();
    let all = offered.cells.iter().flat_map(|cell| &cell.dedicated);
    assert!(
        all.copied().all(|thread| threads.insert(thread)),
        "{offered:?}"
    );
    assert!(
        offered.cells.is_sorted_by(|a, b| a.id < b.id),
        "{offered:?}"
    );
    let free = offered.cells.iter().find(|cell| !cell.dedicated.is_empty());
    let Some(cell) = free else { return };

    let mut record = subject.record(7).await;
    let id = record.intent.incarnation;
    let intent = &mut record.intent;
    intent.spec.needs.dedicated_cpus = true;
    let share = CellShare {
        cell: cell.id,
        vcpus: intent.spec.vcpus,
        threads: cell.dedicated[..1].to_vec(),
        memory: intent.spec.memory,
    };
    intent.assignment.cells = vec![share];
    record.starting = true;
    compute.define(&record).await.unwrap();
    let seen = subject.seen(id).await.unwrap();
    assert_eq!((&seen.record, seen.drift), (&record, Vec::new()));
    subject.with_disk(&record).await;
    compute.start(id).await.unwrap();
    subject
        .until(id, "on", |seen| {
            seen.is_some_and(|seen| seen.run == Run::On)
        })
        .await;
    // What it is given is where it is, also while it runs.
    let seen = subject.seen(id).await.unwrap();
    assert_eq!(seen.drift, Vec::<String>::new());
    let runs = record.intent.assignment.clone();
    assert_eq!(seen.assignment.as_ref(), Some(&runs));

    // Another definition changes nothing of it before its next start.
    let mut next = record.clone();
    let (intent, threads_of) = (&mut next.intent, cell.dedicated.len().min(2));
    intent.generation.0 += 1;
    intent.spec.vcpus = Vcpus(u32::try_from(threads_of).unwrap());
    let share = &mut intent.assignment.cells[0];
    share.vcpus = intent.spec.vcpus;
    share.threads = cell.dedicated[cell.dedicated.len() - threads_of..].to_vec();
    share.memory = MemoryMib(96);
    intent.spec.memory = MemoryMib(96);
    next.starting = false;
    compute.define(&next).await.unwrap();
    let seen = subject.seen(id).await.unwrap();
    assert_eq!((&seen.record, seen.drift), (&next, Vec::new()));
    assert_eq!((seen.run, seen.assignment), (Run::On, Some(runs)));
    assert_eq!(seen.most_vcpus, seen.size.vcpus, "no room for others");
    compute.destroy(id).await.unwrap();
    let given = Some(next.intent.assignment.clone());
    assert_eq!(subject.seen(id).await.unwrap().assignment, given);
    compute.start(id).await.unwrap();
    subject
        .until(id, "on", |seen| {
            seen.is_some_and(|seen| seen.run == Run::On)
        })
        .await;
    let seen = subject.seen(id).await.unwrap();
    assert_eq!((seen.assignment, seen.drift), (given, Vec::new()));
    compute.destroy(id).await.unwrap();
    compute.define(&record).await.unwrap();

    // Nobody is started on a thread that isn't set aside, or with a device that isn't offered.
    let mut other = record.clone();
    let outside = (0..=u16::MAX).find(|thread| !threads.contains(thread));
    other.intent.assignment.cells[0].threads = outside.into_iter().collect();
    let refused = compute.define(&other).await;
    assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
    let mut other = record.clone();
    other.intent.assignment.devices = vec!["ffff:ff:1f.7".parse().unwrap()];
    let refused = compute.define(&other).await;
    assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
    assert_eq!(subject.seen(id).await.unwrap().record, record);
    // But whatever a record says, it can be written down and removed.
    other.starting = false;
    compute.define(&other).await.unwrap();
    subject.clean(id).await;
}

/// A domain that stops being Kapok's while it runs: its metadata is taken away, or is another
/// fabric's or a newer version's. `disown` does that, `give_back` undoes it.
pub async fn disowned(
    subject: &Subject,
    disown: impl Fn(IncarnationId),
    give_back: impl Fn(IncarnationId),
) {
    let compute = &subject.driver.compute;
    let record = subject.record(6).await;
    let id = record.intent.incarnation;
    compute.define(&record).await.unwrap();
    subject.with_disk(&record).await;
    compute.start(id).await.unwrap();

    disown(id);
    // Never "absent": its disk would be removed under it.
    let seen = compute.observe(id).await;
    assert!(matches!(seen, Err(Error::Failed { .. })), "{seen:?}");
    let listing = compute.list().await.unwrap();
    assert!(
        listing
            .foreign
            .iter()
            .any(|it| it.uuid == id.0 && it.active)
    );
    assert!(
        listing
            .ours
            .iter()
            .all(|seen| seen.record.intent.incarnation != id)
    );
    for refused in [
        compute.define(&record).await,
        compute.start(id).await,
        compute.shutdown(id).await,
        compute.reset(id).await,
        compute.destroy(id).await,
        compute.undefine(id).await,
    ] {
        assert!(refused.is_err(), "a change of what isn't Kapok's");
    }

    give_back(id);
    let seen = subject.seen(id).await.unwrap();
    assert_eq!((seen.record, seen.run), (record, Run::On));
    subject.clean(id).await;
}

/// The suite of [`Storage`](super::Storage).
pub async fn storage(subject: &Subject) {
    let storage = &subject.driver.storage;
    let image = &subject.image;
    let id = IncarnationId(Uuid::from_u128(0xC0_0002));
    let root = subject.root();

    // What isn't there is absent, and removing it is success.
    storage.remove_root(id).await.unwrap();
    storage.remove_image(image.digest).await.unwrap();
    assert!(
        storage
            .images()
            .await
            .unwrap()
            .iter()
            .all(|found| found.digest != image.digest)
    );
    let hashed = storage.hash_image(image.digest, image.format).await;
    assert!(matches!(hashed, Err(Error::Absent { .. })), "{hashed:?}");
    let early = storage.create_root(id, &root).await;
    assert!(matches!(early, Err(Error::Absent { .. })), "{early:?}");
    assert!(
        storage
            .disks()
            .await
            .unwrap()
            .iter()
            .all(|disk| disk.incarnation != id)
    );

    // What is stored is what was given.
    let stored = storage
        .store_image(image.digest, image.format, &image.file)
        .await;
    assert_eq!(stored.unwrap(), image.digest);
    let hashed = storage.hash_image(image.digest, image.format).await;
    assert_eq!(hashed.unwrap(), image.digest);
    let found = storage.images().await.unwrap();
    assert!(
        found
            .iter()
            .any(|it| it.digest == image.digest && it.format == image.format),
        "{found:?}"
    );

    // A root disk names its image; making it twice is success.
    storage.create_root(id, &root).await.unwrap();
    storage.create_root(id, &root).await.unwrap();
    let disks = storage.disks().await.unwrap();
    let mine: Vec<_> = disks.iter().filter(|disk| disk.incarnation == id).collect();
    assert_eq!(mine.len(), 1);
    assert_eq!(mine[0].image, Some(image.digest));

    // An image under an overlay stays.
    let used = storage.remove_image(image.digest).await;
    assert_eq!(used, Err(Error::InUse { overlays: 1 }));
    storage.remove_root(id).await.unwrap();
    storage.remove_root(id).await.unwrap();
    storage.remove_image(image.digest).await.unwrap();
    assert!(
        storage
            .images()
            .await
            .unwrap()
            .iter()
            .all(|found| found.digest != image.digest)
    );
    assert!(
        storage
            .disks()
            .await
            .unwrap()
            .iter()
            .all(|disk| disk.incarnation != id)
    );
}

/// The suite of [`Console`](super::Console). The guest must echo or print something when a line
/// is typed.
pub async fn console(subject: &Subject) {
    let (compute, console) = (&subject.driver.compute, &subject.driver.console);
    let record = subject.record(3).await;
    let id = record.intent.incarnation;
    let absent = console.open(id, false).await;
    assert!(matches!(absent, Err(Error::Absent { .. })), "{absent:?}");
    compute.define(&record).await.unwrap();
    assert!(
        console.open(id, false).await.is_err(),
        "the console of a domain that is off"
    );
    subject.with_disk(&record).await;
    compute.start(id).await.unwrap();

    let mut first = console.open(id, false).await.unwrap();
    if subject.guests_run {
        let said = async {
            loop {
                first.input.send("\r\n".into()).await.unwrap();
                let piece = timeout(Duration::from_secs(1), first.output.recv()).await;
                if let Ok(piece) = piece {
                    return piece.expect("the console closed");
                }
            }
        };
        let piece = timeout(subject.bound, said)
            .await
            .expect("the guest says something");
        assert!(!piece.data.is_empty());
    }
    assert!(
        console.open(id, false).await.is_err(),
        "a second console without force"
    );
    let second = console.open(id, true).await.unwrap();
    let closed = async { while first.output.recv().await.is_some() {} };
    timeout(subject.bound, closed)
        .await
        .expect("force closes the first");

    // Closing it frees it.
    drop(second);
    let end = Instant::now() + subject.bound;
    let mut third = loop {
        match console.open(id, false).await {
            Ok(open) => break open,
            Err(error) => assert!(Instant::now() < end, "still taken: {error}"),
        }
        sleep(Duration::from_millis(20)).await;
    };
    // Its end is the domain's.
    compute.destroy(id).await.unwrap();
    let closed = async { while third.output.recv().await.is_some() {} };
    timeout(subject.bound, closed)
        .await
        .expect("the console ends with the domain");
    drop(third);
    subject.clean(id).await;
}
