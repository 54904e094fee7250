//! Sources that lie or trickle, and the room that they may take.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn give() -> Act {
    Act::Give {
        piece: 10_000,
        most: ALL,
    }
}

/// A source whose bytes are wrong costs one attempt, wherever it stands and however much it gives.
#[tokio::test(start_paused = true)]
async fn a_liar_does_not_keep_an_image_from_coming() {
    let wrong = vec![7; blob().len()];
    let lies = [
        wrong.clone(),
        wrong[..1000].to_vec(),
        vec![7; blob().len() + 1],
    ];
    for lie in lies {
        let bench = bench(&[("a", Act::Lie(lie)), ("b", give())]);
        bench.ensure().await.unwrap();
        assert_eq!(lock(&bench.pool.images).len(), 1);
        assert_eq!(bench.asked().last(), Some(&("b".into(), 0)));
    }

    // So does a spool file that was altered between two runs.
    let bench = bench(&[("a", give())]);
    let spool = bench.folder.path().join("spool");
    fs::create_dir_all(&spool).unwrap();
    let file = spool.join(format!("{}.part", bench.image.digest.hex()));
    fs::write(&file, &wrong[..5000]).unwrap();
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked(), [("a".into(), 5000), ("a".into(), 0)]);
}

/// A source that trickles doesn't hold its place until it has given everything.
#[tokio::test(start_paused = true)]
async fn a_slow_source_gives_way() {
    let bench = bench(&[("a", Act::Trickle(100)), ("b", give())]);
    let began = Instant::now();
    bench.ensure().await.unwrap();
    assert!(began.elapsed() < Duration::from_mins(1));
    let asked = bench.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].1 > 1000, "what it gave was kept: {asked:?}");
}

fn room(free: &Arc<AtomicU64>) -> Free {
    let free = Arc::clone(free);
    Arc::new(move |_: &Path| Ok(free.load(Ordering::SeqCst)))
}

/// FAULTS 53's ground: the local store is on the same disk, and must find room there.
#[tokio::test(start_paused = true)]
async fn a_pull_leaves_room() {
    let free = Arc::new(AtomicU64::new(spool::FLOOR_BYTES + 1000));
    let bench = bench_with(blob(), &[("a", give())], room(&free));
    let refused = bench.ensure().await;
    assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");
    assert!(bench.asked().is_empty(), "nothing was asked for");
    free.store(spool::FLOOR_BYTES + bench.image.bytes, Ordering::SeqCst);
    bench.ensure().await.unwrap();

    // Somebody else takes it meanwhile.
    let calls = AtomicU64::new(0);
    let gone: Free = Arc::new(move |_: &Path| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(u64::MAX),
        _ => Ok(spool::FLOOR_BYTES - 1),
    });
    let bench = bench_with(blob(), &[("a", give())], gone);
    let refused = bench.ensure().await;
    assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");
    assert_eq!(bench.spooled(), 0);
}

/// What broken-off pulls left goes at the agent's start, and when its room is needed.
#[tokio::test]
async fn old_files_are_tidied() {
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let mut bench = bench_with(blob(), &[("a", give())], room(&free));
    let folder = bench.folder.path().join("spool");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..7 {
        fs::write(folder.join(format!("{number}.part")), [0; 10]).unwrap();
    }
    fs::write(folder.join("other"), [0; 10]).unwrap();
    let files = || fs::read_dir(&folder).unwrap().count();
    bench.reboot(2);
    let end = Instant::now() + Duration::from_secs(20);
    while files() > spool::KEPT.files + 1 {
        assert!(Instant::now() < end, "{} files stay", files());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(files(), spool::KEPT.files + 1);

    let kept = spool::Kept {
        bytes: 25,
        ..spool::KEPT
    };
    spool::tidy(&folder, &[], kept).unwrap();
    assert_eq!(files(), 2 + 1, "those that are too many bytes went");
    free.store(1000, Ordering::SeqCst);
    let bench = bench_with(blob(), &[("a", give())], room(&free));
    let mine = bench.folder.path().join("spool");
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("1.part"), [0; 10]).unwrap();
    bench.ensure().await.unwrap_err();
    assert!(!mine.join("1.part").exists());
}
