//! The ledger on real redb, with a disk that fails on demand.

use std::{sync::Arc, time::Duration};

use kapok_store::{
    Redb,
    redb::{Fault, MemoryDisk},
};
use kapok_types::{
    Bytes, Digest, Epoch, MemoryMib, Vcpus,
    env::Seeded,
    instance::{Arch, DiskFormat, Power, RunPolicy},
};

use super::*;
use crate::fabric::{Capacity, HostFingerprint, command::CreateInstance, fixture};

struct Running {
    handle: Handle,
    task: tokio::task::JoinHandle<Result<(), Fatal>>,
}

impl Running {
    async fn on(disk: &MemoryDisk) -> Self {
        Self::over(Arc::new(Redb::on_disk(disk).unwrap()), Seeded::new(7)).await
    }

    async fn over(store: Arc<Redb>, env: Arc<Seeded>) -> Self {
        let (handle, ledger) = Ledger::start(store, env, "test", Epoch(0), Rules::default())
            .await
            .unwrap();
        Self {
            handle,
            task: tokio::spawn(ledger.run()),
        }
    }

    async fn submit(&self, request_id: Option<&str>, command: Command) -> Result<Done, Error> {
        let origin = Origin {
            by: Actor::user("li"),
            from: "127.0.0.1".into(),
            ..Origin::controller()
        };
        self.handle
            .submit(origin, request_id.map(Into::into), command)
            .await
    }

    /// A node that takes seven instances, and an image.
    async fn prepare(&self) {
        self.submit(None, fixture::authority(1)).await.unwrap();
        for command in fixture::new_node(1, "node-1", "127.0.0.1:1") {
            self.submit(None, command).await.unwrap();
        }
        let report = Command::ReportNode {
            node: "node-1".parse().unwrap(),
            id: fixture::node_id(1),
            capacity: Capacity {
                arch: Arch::X86_64,
                cpus: 64,
                memory: MemoryMib(7 * 650),
                foreign_vcpus: Vcpus(0),
                foreign_memory: MemoryMib(0),
            },
            equipment: Arc::default(),
            host: HostFingerprint::default(),
            resyncing: false,
        };
        self.submit(None, report).await.unwrap();
        let image = Command::RegisterImage {
            tenant: None,
            name: "debian".parse().unwrap(),
            digest: Digest::of(b"debian"),
            format: DiskFormat::Qcow2,
            size: Bytes(1 << 20),
            virtual_size: Bytes(1 << 30),
            arch: Arch::X86_64,
        };
        self.submit(None, image).await.unwrap();
    }

    async fn stop(self) {
        drop(self.handle);
        self.task.await.unwrap().unwrap();
    }
}

fn create(n: usize) -> Command {
    Command::CreateInstance(CreateInstance {
        tenant: None,
        name: format!("web-{n}").parse().unwrap(),
        image: "debian".into(),
        system: None,
        flavor: None,
        groups: BTreeSet::new(),
        vcpus: Vcpus(1),
        memory: MemoryMib(512),
        root_disk: None,
        run_policy: RunPolicy::default(),
        power: Power::Running,
        needs: kapok_types::Needs::default(),
    })
}

/// FAULTS 27: a hundred concurrent creates for seven places: seven win, nothing leaks.
#[tokio::test]
async fn concurrent_creates_never_exceed_capacity() {
    let running = Running::on(&MemoryDisk::new()).await;
    running.prepare().await;
    let creates = (0..100).map(|n| running.submit(None, create(n)));
    let answers = futures::future::join_all(creates).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(
            matches!(refused, Error::Denied(Denied::NoCapacity(_))),
            "{refused}"
        );
    }
    assert_eq!(running.handle.snapshot().fabric.instances.len(), 7);
    running.stop().await;
}

/// FAULTS 27's like for tokens: a hundred servers show one token at once; one is the node.
#[tokio::test]
async fn a_token_that_works_once_has_one_winner() {
    let running = Running::on(&MemoryDisk::new()).await;
    running.submit(None, fixture::authority(1)).await.unwrap();
    running
        .submit(None, fixture::token(1, "node/node-1"))
        .await
        .unwrap();
    let joins = (0..100_u8).map(|n| {
        let Command::JoinNode(mut join) = fixture::join(1, fixture::node_id(n), "h:1", &[]) else {
            panic!("a join")
        };
        join.certificate.serial = fixture::serial(n.into());
        running.submit(None, Command::JoinNode(join))
    });
    let answers = futures::future::join_all(joins).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(
            matches!(refused, Error::Denied(Denied::TokenRefused)),
            "{refused}"
        );
    }
    let fabric = &running.handle.snapshot().fabric;
    assert_eq!((fabric.nodes.len(), fabric.certificates.len()), (1, 1));
    running.stop().await;
}

/// FAULTS 37: what was acknowledged is there after a restart, at a higher epoch.
#[tokio::test]
async fn a_restart_keeps_what_was_acknowledged() {
    let disk = MemoryDisk::new();
    let running = Running::on(&disk).await;
    running.prepare().await;
    running.submit(Some("r1"), create(1)).await.unwrap();
    let before = running.handle.snapshot();
    running.task.abort();
    let _ = running.task.await;
    drop(running.handle);

    let again = Running::on(&disk).await;
    let after = again.handle.snapshot();
    assert!(after.epoch > before.epoch);
    assert_eq!(after.fabric.instances, before.fabric.instances);
    assert_eq!(after.fabric.requests, before.fabric.requests);
    // The same request again has no second effect.
    again.submit(Some("r1"), create(1)).await.unwrap();
    assert_eq!(again.handle.snapshot().fabric.instances.len(), 1);
}

/// FAULTS 37, 53: at whatever disk call the write fails, nobody is told a thing that isn't so,
/// and the same request afterwards has exactly one effect.
#[tokio::test(start_paused = true)]
async fn an_append_that_fails_anywhere_has_one_effect_or_none() {
    let mut failed = 0;
    for calls in 0..40 {
        for fault in [Fault::Full, Fault::Unwritable, Fault::SyncUnheard] {
            let disk = MemoryDisk::new();
            let running = Running::on(&disk).await;
            running.prepare().await;
            disk.fail(calls, fault);
            let first = running.submit(Some("r1"), create(1)).await;
            disk.heal();
            match first {
                Ok(done) => assert!(done.snapshot.fabric.instances.len() == 1),
                Err(Error::Unavailable { .. }) => failed += 1,
                Err(other) => panic!("after {calls} calls: {other}"),
            }
            let bound = Duration::from_mins(1);
            let again = tokio::time::timeout(bound, async {
                loop {
                    match running.submit(Some("r1"), create(1)).await {
                        Err(Error::Unavailable { .. }) => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        other => break other,
                    }
                }
            });
            let done = again.await.unwrap().unwrap();
            assert_eq!(done.snapshot.fabric.instances.len(), 1);
            let view_claims: usize = done
                .snapshot
                .fabric
                .fleet
                .nodes()
                .map(|view| view.claims().len())
                .sum();
            assert_eq!(view_claims, 1, "nothing leaked");
            let used = done.snapshot.fabric.usage.of(&crate::fabric::city()).used;
            assert_eq!(used.instances, 1, "nothing leaked");
            running.stop().await;
        }
    }
    assert!(failed > 0, "no fault ever hit");
}

/// FAULTS 32: an older leader's write is fenced and its ledger ends.
#[tokio::test]
async fn an_older_leader_is_fenced() {
    let store = Arc::new(Redb::in_memory().unwrap());
    let old = Running::over(store.clone(), Seeded::new(1)).await;
    let new = Running::over(store, Seeded::new(2)).await;
    let refused = old.submit(None, fixture::authority(1)).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    let ended = old.task.await.unwrap();
    assert!(
        matches!(ended, Err(Fatal::Fenced { .. } | Fatal::Lost)),
        "{ended:?}"
    );
    new.prepare().await;
    new.stop().await;
}

/// The same commands with the same seed give the same log, byte for byte.
#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_log() {
    let mut heads = Vec::new();
    for _ in 0..2 {
        let running = Running::over(Arc::new(Redb::in_memory().unwrap()), Seeded::new(42)).await;
        running.prepare().await;
        for n in 0..20 {
            let _ = running.submit(Some(&format!("r{n}")), create(n)).await;
        }
        heads.push(running.handle.snapshot().head);
        running.stop().await;
    }
    assert_eq!(heads[0], heads[1]);
    assert!(heads[0].seq > Seq(8));
}
