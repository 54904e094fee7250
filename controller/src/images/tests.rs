//! One contract for every store of blobs, and the library on top of it.

use kapok_types::quantity::MIB;
use tokio::io::AsyncReadExt as _;

use super::*;

async fn stores() -> (tempfile::TempDir, Vec<Arc<dyn BlobStore>>) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::open(dir.path().join("blobs")).await.unwrap();
    (dir, vec![Arc::new(files), Arc::new(Memory::default())])
}

async fn write(store: &dyn BlobStore, pieces: &[&'static str]) -> Box<dyn BlobWriter> {
    let size = pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let mut writer = store
        .begin(Bytes(u64::try_from(size).unwrap()))
        .await
        .unwrap();
    for piece in pieces {
        writer
            .write(Piece::from_static(piece.as_bytes()))
            .await
            .unwrap();
    }
    writer
}

async fn read(store: &dyn BlobStore, digest: Digest, offset: u64) -> Result<String, blob::Error> {
    let mut text = String::new();
    store
        .open(digest, offset)
        .await?
        .read_to_string(&mut text)
        .await
        .unwrap();
    Ok(text)
}

#[tokio::test]
async fn what_is_committed_can_be_read_from_any_place() {
    let (_dir, stores) = stores().await;
    for store in stores {
        let digest = Digest::of(b"kapok seeds");
        assert!(matches!(
            read(&*store, digest, 0).await,
            Err(blob::Error::Absent { .. })
        ));
        let writer = write(&*store, &["kapok", " ", "seeds"]).await;
        assert!(
            store.list().await.unwrap().is_empty(),
            "nothing shows before the commit"
        );
        assert_eq!(writer.commit(Some(digest)).await.unwrap(), digest);
        // The same content again is the same blob.
        assert_eq!(
            write(&*store, &["kapok seeds"])
                .await
                .commit(None)
                .await
                .unwrap(),
            digest
        );
        assert_eq!(store.list().await.unwrap(), [digest]);
        assert_eq!(read(&*store, digest, 0).await.unwrap(), "kapok seeds");
        assert_eq!(read(&*store, digest, 6).await.unwrap(), "seeds");
        assert_eq!(read(&*store, digest, 11).await.unwrap(), "");
        let behind = read(&*store, digest, 12).await.unwrap_err();
        assert!(
            matches!(
                behind,
                blob::Error::Behind {
                    offset: 12,
                    size: 11
                }
            ),
            "{behind}"
        );
        let mut reader = store.open(digest, 0).await.unwrap();
        assert!(store.remove(digest).await.unwrap());
        assert!(!store.remove(digest).await.unwrap());
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "kapok seeds", "whoever reads it reads on");
    }
}

/// FAULTS 16: content that isn't the expected one, or isn't all of it, is never visible.
#[tokio::test]
async fn what_is_not_as_announced_is_not_kept() {
    let (_dir, stores) = stores().await;
    for store in stores {
        let wrong = write(&*store, &["changed"])
            .await
            .commit(Some(Digest::of(b"checked")))
            .await;
        assert!(
            matches!(wrong, Err(blob::Error::Mismatch { .. })),
            "{wrong:?}"
        );
        let mut writer = store.begin(Bytes(3)).await.unwrap();
        writer.write("ab".into()).await.unwrap();
        let short = writer.commit(None).await;
        assert!(
            matches!(
                short,
                Err(blob::Error::Size {
                    announced: 3,
                    found: 2
                })
            ),
            "{short:?}"
        );
        let mut writer = store.begin(Bytes(3)).await.unwrap();
        let long = writer.write("abcd".into()).await;
        assert!(
            matches!(
                long,
                Err(blob::Error::Size {
                    announced: 3,
                    found: 4
                })
            ),
            "{long:?}"
        );
        drop(writer);
        assert!(store.list().await.unwrap().is_empty());
    }
}

async fn import(library: &Library, content: &'static str) -> Stored {
    let size = Bytes(u64::try_from(content.len()).unwrap());
    let mut incoming = library.import(DiskFormat::Raw, size).await.unwrap();
    incoming.feed(content.into()).await.unwrap();
    incoming.finish(None).await.unwrap()
}

#[tokio::test]
async fn garbage_goes_and_what_waits_to_be_registered_stays() {
    let library = Arc::new(Library::new(Arc::new(Memory::default()), Bytes(MIB)));
    let (named, garbage) = (
        import(&library, "named").await.digest,
        import(&library, "garbage").await.digest,
    );
    let waiting = import(&library, "waiting").await;
    let collecting = tokio::spawn({
        let library = Arc::clone(&library);
        // Named only once the collector asks: the registration came first.
        async move {
            library
                .collect(|| [named, Digest::of(b"waiting")].into())
                .await
        }
    });
    tokio::task::yield_now().await;
    assert_eq!(
        library.blobs().list().await.unwrap().len(),
        3,
        "the collector waits"
    );
    drop(waiting);
    assert_eq!(collecting.await.unwrap().unwrap(), [garbage]);
    assert_eq!(library.blobs().list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn imports_at_a_time_are_bounded() {
    let library = Library::new(Arc::new(Memory::default()), Bytes(MIB));
    let mut held = Vec::new();
    for _ in 0..IMPORTS {
        held.push(library.import(DiskFormat::Raw, Bytes(1)).await.unwrap());
    }
    assert!(matches!(
        library.import(DiskFormat::Raw, Bytes(1)).await,
        Err(Error::Busy)
    ));
    held.pop();
    library.import(DiskFormat::Raw, Bytes(1)).await.unwrap();
    let refused = library
        .import(DiskFormat::Raw, Bytes(MIB + 1))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().starts_with("size_bytes: is 1048577"),
        "{refused}"
    );
}
