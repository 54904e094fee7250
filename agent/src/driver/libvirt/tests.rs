//! The driver from inside, on libvirt's `test:///default`, whose state the process shares: each
//! test has incarnations and images of its own.

use std::sync::{
    Condvar,
    atomic::{AtomicUsize, Ordering},
};

use kapok_libvirt::{
    domain::Copy,
    xml::storage::{BackingConfig, VolumeConfig},
};
use kapok_types::{
    Bytes, Digest,
    env::System,
    instance::{DiskFormat, RootDisk},
};

use super::{
    lanes::{Call, LaneName},
    *,
};
use crate::{
    config::{Offering, VirtChoice},
    driver::{Compute as _, Record, Run, Storage as _},
    local::{Local, Memory},
    probe,
};

const BOUND: Duration = Duration::from_secs(20);

async fn driver() -> Arc<Libvirt> {
    let env: Arc<dyn Env> = System::new();
    let node = record::tests::record().intent.node;
    let local = Local::in_memory(&Memory::new(node), Arc::clone(&env));
    let libvirt = assemble(Options {
        uri: "test:///default".into(),
        pool: "default-pool".into(),
        pool_shared: false,
        network: "default".into(),
        offering: Offering::default(),
        fabric: "kapok".parse().unwrap(),
        node,
        call_deadline: Duration::from_mins(1),
        probe: Probe::new(probe::Options {
            choice: VirtChoice::Auto,
            guest: None,
            boot: Uuid::nil(),
            kernel: "test".into(),
            local,
        }),
        env,
    })
    .unwrap();
    until("the driver connects", || libvirt.health().up).await;
    libvirt
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect(what);
}

fn record(number: u128) -> Record {
    let mut record = record::tests::record();
    record.intent.incarnation = IncarnationId(Uuid::from_u128(number));
    record.virt_type = "test".into();
    record
}

/// FAULTS 43: with every worker of the pool stuck, domains are still listed, defined and started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_pool_holds_up_no_domain() {
    let driver = driver().await;
    let record = record(0x51);
    let id = record.intent.incarnation;
    driver.define(&record).await.unwrap();

    let gate = Arc::new((Mutex::new(false), Condvar::new(), AtomicUsize::new(0)));
    let mut hung = Vec::new();
    for _ in 0..2 {
        let (driver, gate) = (Arc::clone(&driver), Arc::clone(&gate));
        hung.push(tokio::spawn(async move {
            let job = move |_: &Connection| {
                gate.2.fetch_add(1, Ordering::SeqCst);
                let mut open = lock(&gate.0);
                while !*open {
                    open = gate.1.wait(open).unwrap();
                }
                Ok(())
            };
            driver.lanes.run(Call::on(LaneName::Storage), job).await
        }));
    }
    until("the pool hangs", || gate.2.load(Ordering::SeqCst) == 2).await;
    let work = async {
        driver.define(&record).await.unwrap();
        driver.list().await.unwrap();
        driver.start(id).await.unwrap();
        driver.destroy(id).await.unwrap();
        driver.undefine(id).await.unwrap();
    };
    let worked = tokio::time::timeout(BOUND, work).await;
    *lock(&gate.0) = true;
    gate.1.notify_all();
    worked.expect("domains don't wait for the pool");
    for call in hung {
        call.await.unwrap().unwrap();
    }
}

/// A domain whose record somebody replaced is neither absent nor ours, and its disk stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_that_became_foreign_keeps_its_disk() {
    let driver = driver().await;
    let outside = Connection::open("test:///default").unwrap();
    let record = record(0x52);
    let id = record.intent.incarnation;
    driver.define(&record).await.unwrap();
    driver.start(id).await.unwrap();
    let domain = outside.domain(id.0).unwrap();
    let theirs = record::write(&"other".parse().unwrap(), &record, None).unwrap();
    domain.set_metadata(&theirs).unwrap();
    for refused in [
        driver.observe(id).await.map(drop),
        driver.destroy(id).await,
        driver.remove_root(id).await,
        driver.undefine(id).await,
    ] {
        assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
    }
    assert!(domain.is_active().unwrap());
    let ours = record::write(&"kapok".parse().unwrap(), &record, None).unwrap();
    domain.set_metadata(&ours).unwrap();
    driver.destroy(id).await.unwrap();
    driver.undefine(id).await.unwrap();
    assert_eq!(driver.observe(id).await.unwrap(), None);
}

/// A root disk that a killed libvirtd left half-made stands on nothing: it is made anew. One that
/// stands on another image is somebody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_root_disk_is_made_anew() {
    let driver = driver().await;
    let outside = Connection::open("test:///default").unwrap();
    let pool = outside.pool("default-pool").unwrap();
    let root = RootDisk {
        image: Digest::of(b"an image of this test"),
        image_format: DiskFormat::Qcow2,
        image_bytes: Bytes(1 << 20),
        size: Bytes(1 << 30),
    };
    let volume = |name: String, backing: Option<&str>| VolumeConfig {
        name,
        format: DiskFormat::Qcow2,
        capacity: Bytes(1 << 20),
        backing: backing.map(|path| BackingConfig {
            path: path.into(),
            format: DiskFormat::Qcow2,
        }),
    };
    let base = names::base_volume(root.image, root.image_format);
    let base = pool.create_volume(&volume(base, None)).unwrap();
    let id = IncarnationId(Uuid::from_u128(0x53));
    let name = names::root_volume(id);
    pool.create_volume(&volume(name.clone(), None)).unwrap();
    driver.create_root(id, &root).await.unwrap();
    let made = pool.volume(&name).unwrap();
    let backing = made.view().unwrap().backing.map(|backing| backing.path);
    assert_eq!(backing, Some(base.path().unwrap()));
    driver.remove_root(id).await.unwrap();

    pool.create_volume(&volume(name.clone(), Some("/another")))
        .unwrap();
    let refused = driver.create_root(id, &root).await;
    assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
    driver.remove_root(id).await.unwrap();
    driver.remove_image(root.image).await.unwrap();
}

/// An agent that ended between writing a running domain's two records: the next look mends it.
/// And hardware that waits for the next start is no drift.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_live_record_is_renewed() {
    let driver = driver().await;
    let outside = Connection::open("test:///default").unwrap();
    let mut record = record(0x54);
    let id = record.intent.incarnation;
    driver.define(&record).await.unwrap();
    driver.start(id).await.unwrap();
    record.intent.spec.vcpus = kapok_types::Vcpus(1);
    driver.define(&record).await.unwrap();
    let seen = driver.observe(id).await.unwrap().unwrap();
    assert_eq!((seen.run, seen.drift), (Run::On, Vec::new()));

    // As `define` leaves it when it gets no further than the definition.
    record.intent.generation.0 += 1;
    let fabric = "kapok".parse().unwrap();
    let metadata = record::write(&fabric, &record, None).unwrap();
    let options = &driver.inner.options;
    let path = driver.pool_path().await.unwrap();
    let document = document::of(options, &record, &path, &[], metadata.clone()).unwrap();
    outside.define(&document).unwrap();
    let live = || {
        outside
            .domain(id.0)
            .unwrap()
            .view(Copy::Live)
            .unwrap()
            .metadata
    };
    assert_ne!(
        live().as_ref(),
        Some(&metadata),
        "the live record follows by itself"
    );
    let seen = driver.observe(id).await.unwrap().unwrap();
    assert!(
        seen.drift.iter().any(|drift| drift.contains("record")),
        "{seen:?}"
    );
    until("the live record follows", || {
        live().as_ref() == Some(&metadata)
    })
    .await;
    driver.destroy(id).await.unwrap();
    driver.undefine(id).await.unwrap();
}

/// A foreign domain whose document can't be read still holds what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_domain_counts() {
    let outside = Connection::open("test:///default").unwrap();
    let domains = outside.domains().unwrap();
    let test = domains
        .iter()
        .find(|domain| domain.name() == "test")
        .unwrap();
    let foreign = observe::unread(test, test.state().unwrap()).unwrap();
    assert!(
        foreign.vcpus.get() > 0 && foreign.memory.get() > 0,
        "{foreign:?}"
    );
}
