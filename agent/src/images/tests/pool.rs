//! When what lies on the pool is believed.

use std::time::Duration;

use super::*;

fn give() -> Act {
    Act::Give {
        piece: 10_000,
        most: ALL,
    }
}

/// libvirt doesn't write an image through to the disk: after a power loss it may be damaged though
/// it was checked. So it is read back once, after the first boot since.
#[tokio::test(start_paused = true)]
async fn after_a_boot_an_image_is_read_back_once() {
    let mut bench = bench(&[("a", give())]);
    bench.ensure().await.unwrap();
    let hashes = |bench: &Bench| bench.pool.hashes.load(Ordering::SeqCst);
    bench.ensure().await.unwrap();
    assert_eq!(hashes(&bench), 0, "believed in the same boot");
    for boot in [2, 2, 3] {
        bench.reboot(boot);
        bench.ensure().await.unwrap();
        assert_eq!(hashes(&bench), 1, "read back once");
    }
    assert_eq!(bench.asked().len(), 1);

    let bench = &mut self::bench(&[("a", give())]);
    bench.ensure().await.unwrap();
    let mut lost = blob();
    lost[100_000..].fill(0);
    bench.pool.put(bench.image.digest, lost);
    bench.reboot(2);
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked().len(), 2, "it was pulled again");
    let key = (bench.image.digest, "qcow2");
    assert_eq!(lock(&bench.pool.images)[&key], blob());
}

/// Another node of a shared pool removed the image and is storing it again: what was known of it
/// doesn't count, and what is being written isn't taken away.
#[tokio::test(start_paused = true)]
async fn what_another_node_is_storing_is_waited_for() {
    let bench = bench(&[("a", give())]);
    bench.pool.shared.store(true, Ordering::SeqCst);
    bench.ensure().await.unwrap();
    let digest = bench.image.digest;
    bench.pool.put(digest, blob()[..10].to_vec());
    let pool = Arc::clone(&bench.pool);
    let other = tokio::spawn(async move {
        for part in 2..=10 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let half_stored = blob()[..blob().len() * part / 10].to_vec();
            assert!(
                lock(&pool.images).contains_key(&(digest, "qcow2")),
                "it was taken away"
            );
            pool.put(digest, half_stored);
        }
    });
    bench.ensure().await.unwrap();
    assert_eq!(lock(&bench.pool.images)[&(digest, "qcow2")], blob());
    other.await.unwrap();
    assert_eq!(bench.asked().len(), 1, "nothing was pulled again");
    let hashes = bench.pool.hashes.load(Ordering::SeqCst);
    bench.ensure().await.unwrap();
    assert_eq!(bench.pool.hashes.load(Ordering::SeqCst), hashes);

    // Nobody writes any more: it is damaged, and replaced.
    bench.pool.put(digest, blob()[..10].to_vec());
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked().len(), 2);
    assert_eq!(lock(&bench.pool.images)[&(digest, "qcow2")], blob());
}

/// Two nodes of a shared pool store the same image at once: both end with it.
#[tokio::test(start_paused = true)]
async fn a_faster_node_is_no_failure() {
    let bench = bench(&[("a", give())]);
    bench.pool.shared.store(true, Ordering::SeqCst);
    *lock(&bench.pool.rival) = Some(blob());
    bench.ensure().await.unwrap();
    assert!(bench.local.image(bench.image.digest).is_some());
    assert_eq!(bench.spooled(), 0);

    // What the other one left is damaged: not noted, and the next attempt replaces it.
    let bench = self::bench(&[("a", give())]);
    bench.pool.shared.store(true, Ordering::SeqCst);
    *lock(&bench.pool.rival) = Some(blob()[1..].to_vec());
    let refused = bench.ensure().await;
    assert!(
        matches!(refused, Err(Error::Mismatch { .. })),
        "{refused:?}"
    );
    assert_eq!(bench.local.image(bench.image.digest), None);
    bench.ensure().await.unwrap();
    assert_eq!(bench.asked().len(), 1, "the checked file was kept");
}
