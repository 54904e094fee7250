//! The store under faults: FAULTS 31 (durable before it returns), 53 and 54.

use std::{
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
};

use kapok_types::{Generation, InstanceId, env::Seeded, instance::DiskFormat};
use redb::{Database, StorageBackend};
use uuid::Uuid;

use super::*;

fn tombstone(n: u128) -> Tombstone {
    Tombstone {
        incarnation: IncarnationId(Uuid::from_u128(n)),
        instance: InstanceId(Uuid::from_u128(n)),
        generation: Generation(1),
        epoch: Epoch(1),
    }
}

/// A disk that can be full, and that forgets at a power cut what was never synced.
#[derive(Debug, Clone, Default)]
struct Disk {
    now: Arc<Mutex<Vec<u8>>>,
    synced: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn power_cut(&self) -> Self {
        let bytes = self.synced.lock().unwrap().clone();
        Self {
            now: Arc::new(Mutex::new(bytes.clone())),
            synced: Arc::new(Mutex::new(bytes)),
            full: Arc::default(),
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn open(&self) -> Local {
        let env = Seeded::new(1);
        let disk = self.clone();
        let open = move || {
            let database = Database::builder()
                .set_check_integrity_on_open(true)
                .create_with_backend(disk.clone())?;
            Ok(database)
        };
        if self.now.lock().unwrap().is_empty() {
            file::initialize(&open().unwrap()).unwrap();
        }
        let (keep, state) = file::File::with("disk".into(), Box::new(open)).unwrap();
        Local::new(NodeId(Uuid::nil()), env, Arc::new(keep), state)
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.now.lock().unwrap().len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.now.lock().unwrap();
        let from = place(offset);
        let piece = bytes.get(from..from + out.len());
        out.copy_from_slice(piece.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.now.lock().unwrap().resize(place(len), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        *self.synced.lock().unwrap() = self.now.lock().unwrap().clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let from = place(offset);
        self.now.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// FAULTS 31: when a write returns, a power cut can't take it back.
#[tokio::test]
async fn what_returned_survives_a_power_cut() {
    let disk = Disk::default();
    let local = disk.open();
    assert!(local.needs_resync());
    local.raise_epoch(Epoch(7)).await.unwrap();
    let after = disk.power_cut();
    assert_eq!(after.open().epoch(), Epoch(7));
    local.bury(tombstone(1)).await.unwrap();
    local.set_resynced().await.unwrap();
    let after = disk.power_cut().open();
    assert_eq!(after.tombstones(), [tombstone(1)]);
    assert!(!after.needs_resync());
}

#[tokio::test]
async fn an_epoch_never_decreases() {
    let local = Disk::default().open();
    local.raise_epoch(Epoch(7)).await.unwrap();
    local.raise_epoch(Epoch(5)).await.unwrap();
    assert_eq!(local.epoch(), Epoch(7));
}

/// FAULTS 53: a full disk fails the write, changes nothing that was there, and passes.
#[tokio::test]
async fn a_full_disk_fails_writes_and_passes() {
    let disk = Disk::default();
    let local = disk.open();
    local.raise_epoch(Epoch(3)).await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    let failed = local.raise_epoch(Epoch(4)).await.unwrap_err();
    assert!(!failed.needs_a_person(), "{failed}");
    assert_eq!(local.epoch(), Epoch(3), "shown before it was durable");
    assert!(local.bury(tombstone(1)).await.is_err());
    disk.full.store(false, Ordering::SeqCst);
    local.bury(tombstone(2)).await.unwrap();
    assert_eq!(local.epoch(), Epoch(3));
    assert_eq!(disk.power_cut().open().tombstones(), local.tombstones());
}

#[tokio::test]
async fn a_directory_keeps_id_and_content() {
    let dir = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let local = Local::open(dir.path(), env.clone()).unwrap();
    let id = local.node_id();
    local.raise_epoch(Epoch(2)).await.unwrap();
    let known = KnownImage {
        format: DiskFormat::Raw,
        bytes: 9,
        written_in: Some(Uuid::from_u128(1)),
        modified_ns: None,
    };
    local.set_image(Digest([7; 32]), known).await.unwrap();
    local.set_probe("kvm".into()).await.unwrap();
    assert!(matches!(
        Local::open(dir.path(), env.clone()),
        Err(Error::InUse { .. })
    ));
    drop(local);
    let local = Local::open(dir.path(), env.clone()).unwrap();
    assert_eq!((local.node_id(), local.epoch()), (id, Epoch(2)));
    assert_eq!(local.image(Digest([7; 32])).unwrap().bytes, 9);
    assert_eq!(local.probe().as_deref(), Some("kvm"));
    drop(local);

    // Either keeper of the id may be lost; both lost is a new node.
    fs::remove_file(dir.path().join("node-id")).unwrap();
    assert_eq!(Local::open(dir.path(), env.clone()).unwrap().node_id(), id);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let local = Local::open(dir.path(), env.clone()).unwrap();
    assert_eq!(local.node_id(), id);
    assert!(local.needs_resync(), "a lost store must ask for the intent");
    drop(local);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    fs::remove_file(dir.path().join("node-id")).unwrap();
    assert_ne!(Local::open(dir.path(), env).unwrap().node_id(), id);
}

async fn filled(dir: &Path) -> Vec<u8> {
    let local = Local::open(dir, Seeded::new(1)).unwrap();
    local.raise_epoch(Epoch(5)).await.unwrap();
    local.bury(tombstone(1)).await.unwrap();
    local.set_resynced().await.unwrap();
    drop(local);
    fs::read(dir.join(FILE)).unwrap()
}

/// FAULTS 54: truncated anywhere, it is refused, or holds all that it held.
#[tokio::test]
async fn a_truncated_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let mut refused = 0;
    for cut in [0, 1, 100, 512, 4096, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(dir.path().join(FILE), &whole[..cut]).unwrap();
        match Local::open(dir.path(), Seeded::new(1)) {
            Ok(local) => {
                assert_eq!(local.epoch(), Epoch(5), "cut at {cut}");
                assert_eq!(local.tombstones(), [tombstone(1)], "cut at {cut}");
                assert!(!local.needs_resync());
            }
            Err(error) => {
                assert!(error.needs_a_person(), "cut at {cut}: {error:?}");
                assert!(error.to_string().contains("--reset-local-store"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 6, "{refused}");
}

/// FAULTS 54: one flipped bit is refused, or lies where nothing is.
#[tokio::test]
async fn a_flipped_bit_is_never_believed() {
    std::panic::set_hook(Box::new(|_| {}));
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let live = |byte: &usize| whole[*byte] != 0;
    let mut refused = 0;
    for byte in (0..whole.len()).filter(live).step_by(211) {
        let mut bytes = whole.clone();
        bytes[byte] ^= 0x10;
        fs::write(dir.path().join(FILE), &bytes).unwrap();
        match Local::open(dir.path(), Seeded::new(1)) {
            Ok(local) => {
                assert_eq!(local.epoch(), Epoch(5), "byte {byte}");
                assert_eq!(local.tombstones(), [tombstone(1)], "byte {byte}");
                assert!(!local.needs_resync(), "byte {byte}");
            }
            Err(error) => {
                assert!(error.needs_a_person(), "byte {byte}: {error:?}");
                refused += 1;
            }
        }
    }
    drop(std::panic::take_hook());
    assert!(refused > 0);
}

/// FAULTS 54: a newer form is refused with its number; a reset moves it aside.
#[tokio::test]
async fn a_newer_store_is_refused_and_a_reset_moves_it_aside() {
    let dir = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let id = Local::open(dir.path(), env.clone()).unwrap().node_id();
    let database = Database::open(dir.path().join(FILE)).unwrap();
    let writing = database.begin_write().unwrap();
    writing
        .open_table(redb::TableDefinition::<&str, &[u8]>::new("kapok"))
        .unwrap()
        .insert("version", b"2".as_slice())
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = Local::open(dir.path(), env.clone()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    let aside = Local::reset(dir.path(), env.as_ref()).unwrap();
    assert!(aside.exists());
    let local = Local::open(dir.path(), env).unwrap();
    assert!(local.needs_resync());
    assert_eq!(local.node_id(), id);
}

/// A disk that hangs in a write.
struct Hung(Mutex<std::sync::mpsc::Receiver<()>>);

impl Keep for Hung {
    fn save(&self, _: &[Change]) -> Result<Option<State>, Error> {
        // Its end is the test's.
        let _ = self.0.lock().unwrap().recv();
        Ok(None)
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// FAULTS 43, of the agent's own disk: whoever waits for a write may go, the hung write stays.
#[tokio::test]
async fn a_hung_write_shows_also_when_its_caller_went_away() {
    let (free, hung) = std::sync::mpsc::channel();
    let env = Seeded::new(1);
    let node = NodeId(Uuid::from_u128(1));
    let keep = Arc::new(Hung(Mutex::new(hung)));
    let local = Local::new(node, env.clone(), keep, State::default());
    let write = local.raise_epoch(Epoch(1));
    let waited = tokio::time::timeout(Duration::from_millis(50), write).await;
    assert!(waited.is_err(), "{waited:?}");
    env.advance(Duration::from_secs(30));
    let (depth, stuck) = local.load();
    assert_eq!(depth, 1);
    assert!(stuck >= Duration::from_secs(29), "{stuck:?}");
    free.send(()).unwrap();
    // The next write comes after the hung one.
    drop(free);
    local.raise_epoch(Epoch(2)).await.unwrap();
    assert_eq!(local.load(), (0, Duration::ZERO));
}
