//! The cache against a fake pool and fake sources, and against a real `PeerService`.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use kapok_types::{IncarnationId, env::Seeded};

use super::*;
use crate::{
    driver::{self, FoundDisk, FoundImage},
    local::Memory,
};

#[path = "../../tests/common/fabric.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod fabric;
mod peer;
mod pool;
mod sources;

/// A pool in memory. An image's bytes are what is stored, so it can be damaged.
#[derive(Default)]
struct Pool {
    images: Mutex<BTreeMap<(Digest, &'static str), Vec<u8>>>,
    overlays: Mutex<Vec<FoundDisk>>,
    /// Damages the file before it is stored, as somebody with access to it could.
    swaps: AtomicBool,
    stores: AtomicUsize,
    hashes: AtomicUsize,
    shared: AtomicBool,
    /// What another node of a shared pool stores just before this one.
    rival: Mutex<Option<Vec<u8>>>,
    stamps: Mutex<BTreeMap<Digest, u64>>,
    clock: AtomicU64,
}

impl Pool {
    /// Writes an image's bytes, as any node or person could.
    fn put(&self, digest: Digest, bytes: Vec<u8>) {
        let stamp = self.clock.fetch_add(1, Ordering::SeqCst);
        lock(&self.stamps).insert(digest, stamp);
        lock(&self.images).insert((digest, "qcow2"), bytes);
    }
}

#[async_trait]
impl Storage for Pool {
    fn shared(&self) -> bool {
        self.shared.load(Ordering::SeqCst)
    }

    async fn disks(&self) -> Result<Vec<FoundDisk>, driver::Error> {
        Ok(lock(&self.overlays).clone())
    }

    async fn create_root(&self, _: IncarnationId, _: &RootDisk) -> Result<(), driver::Error> {
        Ok(())
    }

    async fn remove_root(&self, _: IncarnationId) -> Result<(), driver::Error> {
        Ok(())
    }

    async fn images(&self) -> Result<Vec<FoundImage>, driver::Error> {
        let images = lock(&self.images);
        Ok(images
            .iter()
            .map(|((digest, format), bytes)| FoundImage {
                digest: *digest,
                format: format_of(format),
                bytes: u64::try_from(bytes.len()).unwrap(),
                modified_ns: lock(&self.stamps).get(digest).copied(),
            })
            .collect())
    }

    async fn store_image(
        &self,
        digest: Digest,
        format: DiskFormat,
        file: &Path,
    ) -> Result<Digest, driver::Error> {
        self.stores.fetch_add(1, Ordering::SeqCst);
        if let Some(bytes) = lock(&self.rival).take() {
            self.put(digest, bytes);
        }
        if self.shared()
            && let Some(present) = lock(&self.images).get(&(digest, format.as_str()))
        {
            return Ok(Digest::of(present));
        }
        let mut bytes = fs::read(file).unwrap();
        if self.swaps.load(Ordering::SeqCst) {
            bytes[0] ^= 1;
        }
        let stored = Digest::of(&bytes);
        let stamp = self.clock.fetch_add(1, Ordering::SeqCst);
        lock(&self.stamps).insert(digest, stamp);
        lock(&self.images).insert((digest, format.as_str()), bytes);
        Ok(stored)
    }

    async fn hash_image(
        &self,
        digest: Digest,
        format: DiskFormat,
    ) -> Result<Digest, driver::Error> {
        self.hashes.fetch_add(1, Ordering::SeqCst);
        let images = lock(&self.images);
        let bytes =
            images
                .get(&(digest, format.as_str()))
                .ok_or_else(|| driver::Error::Absent {
                    what: "image".into(),
                })?;
        Ok(Digest::of(bytes))
    }

    async fn remove_image(&self, digest: Digest) -> Result<(), driver::Error> {
        let overlays = lock(&self.overlays)
            .iter()
            .filter(|disk| disk.image == Some(digest))
            .count();
        if overlays > 0 {
            return Err(driver::Error::InUse { overlays });
        }
        lock(&self.images).retain(|(found, _), _| *found != digest);
        Ok(())
    }
}

fn format_of(word: &str) -> DiskFormat {
    match word {
        "raw" => DiskFormat::Raw,
        _ => DiskFormat::Qcow2,
    }
}

/// What one source does when asked.
#[derive(Clone)]
enum Act {
    /// Gives the blob from the offset on, in pieces of so many bytes, and ends after so many.
    Give { piece: usize, most: usize },
    /// Says no.
    Refuse(FetchError),
    /// Never answers.
    Hang,
    /// Gives other bytes, of any length.
    Lie(Vec<u8>),
    /// Gives the blob from the offset on, so many bytes each second.
    Trickle(usize),
}

struct Sources {
    blob: Vec<u8>,
    acts: BTreeMap<String, Act>,
    asked: Mutex<Vec<(String, u64)>>,
}

#[async_trait]
impl Fetch for Sources {
    async fn read(&self, source: &Source, _: Digest, offset: u64) -> Result<Pieces, FetchError> {
        lock(&self.asked).push((source.address.clone(), offset));
        match self.acts.get(&source.address).cloned() {
            None => Err(FetchError::Absent),
            Some(Act::Refuse(error)) => Err(error),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Lie(bytes)) => {
                let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or(&[]);
                let given: Vec<_> = rest
                    .chunks(10_000)
                    .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                    .collect();
                Ok(Box::pin(stream::iter(given)))
            }
            Some(Act::Trickle(piece)) => {
                let rest = self.blob[usize::try_from(offset).unwrap()..].to_vec();
                let given = stream::unfold(rest, move |mut rest| async move {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    let more = rest.split_off(piece.min(rest.len()));
                    (!rest.is_empty()).then(|| (Ok(Bytes::from(rest)), more))
                });
                Ok(Box::pin(given))
            }
            Some(Act::Give { piece, most }) => {
                let from = usize::try_from(offset).unwrap();
                let Some(rest) = self.blob.get(from..) else {
                    return Err(FetchError::OutOfRange);
                };
                let given: Vec<_> = rest[..rest.len().min(most)]
                    .chunks(piece)
                    .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                    .collect();
                Ok(Box::pin(stream::iter(given)))
            }
        }
    }
}

struct Bench {
    cache: Arc<ImageCache>,
    pool: Arc<Pool>,
    sources: Arc<Sources>,
    local: Local,
    folder: tempfile::TempDir,
    image: Image,
}

/// A controller of this name.
fn source(name: &str) -> Source {
    Source {
        address: name.into(),
        node: None,
        ticket: Bytes::new(),
    }
}

/// Trust of a node that dials nobody.
fn trust(local: &Local) -> Trust {
    Trust::vouched("kapok".parse().unwrap(), local.node_id(), Seeded::new(1))
}

const ALL: usize = usize::MAX;

fn blob() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn bench(acts: &[(&str, Act)]) -> Bench {
    bench_of(blob(), acts)
}

fn bench_of(sent: Vec<u8>, acts: &[(&str, Act)]) -> Bench {
    bench_with(sent, acts, Arc::new(|_: &Path| Ok(u64::MAX)))
}

fn bench_with(sent: Vec<u8>, acts: &[(&str, Act)], free: Free) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let local = Local::in_memory(&Memory::new(env.node_id()), env.clone());
    let pool = Arc::new(Pool::default());
    let sources = Arc::new(Sources {
        blob: sent,
        acts: acts
            .iter()
            .map(|(name, act)| ((*name).into(), act.clone()))
            .collect(),
        asked: Mutex::default(),
    });
    let options = Options {
        storage: pool.clone(),
        local: local.clone(),
        trust: trust(&local),
        spool: folder.path().join("spool"),
        boot: Uuid::from_u128(1),
        env,
    };
    let cache = ImageCache::assemble(options, sources.clone(), free);
    Bench {
        cache: Arc::new(cache),
        pool,
        sources,
        local,
        folder,
        image: Image {
            digest: Digest::of(&blob()),
            format: DiskFormat::Qcow2,
            bytes: u64::try_from(blob().len()).unwrap(),
        },
    }
}

impl Bench {
    /// The cache of an agent that runs after another boot of the host.
    fn reboot(&mut self, boot: u128) {
        let options = Options {
            storage: self.pool.clone(),
            local: self.local.clone(),
            trust: trust(&self.local),
            spool: self.folder.path().join("spool"),
            boot: Uuid::from_u128(boot),
            env: Seeded::new(1),
        };
        let fetch = self.sources.clone();
        self.cache = Arc::new(ImageCache::with_fetch(options, fetch));
    }

    async fn ensure(&self) -> Result<(), Error> {
        let sources: Vec<_> = self.sources.acts.keys().map(|name| source(name)).collect();
        self.cache.ensure_image(self.image, &sources).await
    }

    fn spooled(&self) -> u64 {
        fs::read_dir(self.folder.path().join("spool")).map_or(0, |entries| {
            entries
                .map(|entry| entry.unwrap().metadata().unwrap().len())
                .sum()
        })
    }

    fn asked(&self) -> Vec<(String, u64)> {
        lock(&self.sources.asked).clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_whole_checked_noted_and_done_once() {
    let give = Act::Give {
        piece: 1000,
        most: ALL,
    };
    let bench = bench(&[("a", give)]);
    let progress = bench.cache.progress(bench.image.digest);
    let (first, second) = tokio::join!(bench.ensure(), bench.ensure());
    assert_eq!((first, second), (Ok(()), Ok(())));
    assert_eq!(bench.asked().len(), 1, "the second joined");
    bench.ensure().await.unwrap();
    assert_eq!(bench.pool.stores.load(Ordering::SeqCst), 1);
    assert_eq!(bench.asked().len(), 1);
    assert_eq!(bench.spooled(), 0);
    let whole = Progress {
        done: bench.image.bytes,
        total: bench.image.bytes,
    };
    assert_eq!(*progress.borrow(), whole);
    let cached = bench.cache.list().await.unwrap();
    assert_eq!((cached[0].image, cached[0].overlays), (bench.image, 0));
}

/// A pull goes on where it broke off, with the next source, and in the next run of the agent.
#[tokio::test(start_paused = true)]
async fn a_broken_pull_resumes() {
    let some = Act::Give {
        piece: 1000,
        most: 150_000,
    };
    let mut bench = bench(&[("a", some), ("b", Act::Refuse(FetchError::Absent))]);
    bench.ensure().await.unwrap();
    let offsets: Vec<u64> = bench
        .asked()
        .into_iter()
        .filter(|(source, _)| source == "a")
        .map(|(_, offset)| offset)
        .collect();
    assert_eq!(offsets, [0, 150_000, 300_000]);

    // The next run finds what the last one left.
    let half = usize::try_from(bench.image.bytes / 2).unwrap();
    let spool = bench.folder.path().join("spool");
    fs::create_dir_all(&spool).unwrap();
    let file = spool.join(format!("{}.part", bench.image.digest.hex()));
    fs::write(&file, &blob()[..half]).unwrap();
    lock(&bench.pool.images).clear();
    bench.local.drop_image(bench.image.digest).await.unwrap();
    lock(&bench.sources.asked).clear();
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked()[0].1, bench.image.bytes / 2);

    // A spool file that is longer than announced can't be a beginning.
    fs::write(&file, vec![7; blob().len() + 1]).unwrap();
    lock(&bench.pool.images).clear();
    bench.ensure().await.unwrap();
    bench.image.format = DiskFormat::Raw;
    bench.ensure().await.unwrap();
}

/// FAULTS 16: bytes that aren't the digest's are thrown away, whoever sent them.
#[tokio::test(start_paused = true)]
async fn other_bytes_are_never_stored() {
    let mut wrong = blob();
    wrong[5] ^= 1;
    let give = Act::Give {
        piece: 1000,
        most: ALL,
    };
    let bench = bench_of(wrong, &[("a", give)]);
    assert!(matches!(
        bench.ensure().await,
        Err(Error::Mismatch {
            place: "what the sources sent",
            ..
        })
    ));
    assert_eq!(bench.pool.stores.load(Ordering::SeqCst), 0);
    assert_eq!(bench.spooled(), 0);
    assert!(bench.cache.list().await.unwrap().is_empty());
}

/// FAULTS 16: a file that changes between its check and its storing isn't registered.
#[tokio::test(start_paused = true)]
async fn what_is_stored_is_what_was_hashed() {
    let give = Act::Give {
        piece: 1000,
        most: ALL,
    };
    let bench = bench(&[("a", give)]);
    bench.pool.swaps.store(true, Ordering::SeqCst);
    assert!(matches!(
        bench.ensure().await,
        Err(Error::Mismatch {
            place: "what was stored",
            ..
        })
    ));
    assert!(lock(&bench.pool.images).is_empty());
    assert_eq!(bench.local.image(bench.image.digest), None);
    bench.pool.swaps.store(false, Ordering::SeqCst);
    bench.ensure().await.unwrap();
}

/// What lies on the pool without a note is hashed before use; a damaged one is replaced.
#[tokio::test(start_paused = true)]
async fn unknown_images_are_hashed_first() {
    let give = Act::Give {
        piece: 1000,
        most: ALL,
    };
    let bench = bench(&[("a", give)]);
    let key = (bench.image.digest, "qcow2");
    lock(&bench.pool.images).insert(key, blob());
    assert!(
        bench.cache.list().await.unwrap().is_empty(),
        "not known whole"
    );
    bench.ensure().await.unwrap();
    assert!(bench.asked().is_empty(), "nothing was pulled");

    bench.local.drop_image(bench.image.digest).await.unwrap();
    lock(&bench.pool.images).insert(key, blob()[1..].to_vec());
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked().len(), 1);
    assert_eq!(lock(&bench.pool.images)[&key], blob());
}

#[tokio::test(start_paused = true)]
async fn a_source_cannot_fill_the_disk() {
    let mut long = blob();
    long.extend(vec![0; 1_000_000]);
    let give = Act::Give {
        piece: 1000,
        most: ALL,
    };
    let mut bench = bench_of(long, &[("a", give)]);
    assert!(matches!(bench.ensure().await, Err(Error::TooLong { .. })));
    assert_eq!(bench.spooled(), 0);
    bench.image.bytes = u64::MAX;
    assert!(matches!(bench.ensure().await, Err(Error::TooLarge { .. })));
}

/// Without a source that has the rest, the pull ends in bounded time, and keeps what it has.
#[tokio::test(start_paused = true)]
async fn a_pull_gives_up_in_time() {
    let some = Act::Give {
        piece: 1000,
        most: 5000,
    };
    let broken = FetchError::Broken {
        reason: "it is down".into(),
    };
    let bench = bench(&[("a", Act::Refuse(broken))]);
    let Err(Error::NoSource {
        done_bytes, last, ..
    }) = bench.ensure().await
    else {
        panic!("no source has it");
    };
    assert_eq!((done_bytes, last.as_str()), (0, "a: it is down"));
    drop(some);
}

#[tokio::test(start_paused = true)]
async fn used_images_stay_and_pulls_are_not_disturbed() {
    let give = Act::Give {
        piece: 1000,
        most: ALL,
    };
    let bench = bench(&[("a", give)]);
    bench.ensure().await.unwrap();
    let digest = bench.image.digest;
    lock(&bench.pool.overlays).push(FoundDisk {
        incarnation: Seeded::new(3).incarnation_id(),
        image: Some(digest),
    });
    assert_eq!(bench.cache.list().await.unwrap()[0].overlays, 1);
    let refused = bench.cache.remove(digest).await;
    assert_eq!(refused, Err(Error::InUse { overlays: 1 }));
    assert_eq!(
        bench.cache.list().await.unwrap().len(),
        1,
        "still known whole"
    );
    lock(&bench.pool.overlays).clear();
    bench.cache.remove(digest).await.unwrap();
    bench.cache.remove(digest).await.unwrap();
    assert!(lock(&bench.pool.images).is_empty());

    // Under way: neither removed, nor pulled as something else; dropping the cache ends it.
    let hung = self::bench(&[("a", Act::Hang)]);
    let cache = Arc::clone(&hung.cache);
    let image = hung.image;
    let pull = tokio::spawn(async move { cache.ensure_image(image, &[source("a")]).await });
    while hung.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let refused = hung.cache.remove(image.digest).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    let other = Image {
        format: DiskFormat::Raw,
        ..image
    };
    let refused = hung.cache.ensure_image(other, &[]).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    hung.cache.stop.cancel();
    assert_eq!(pull.await.unwrap(), Err(Error::Interrupted));
}
