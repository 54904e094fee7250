use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt as _, stream};
use kapok_proto::{
    agent::v1::ReadBlobRequest,
    common::v1 as common,
    fabric::v1::{
        DeleteImageRequest, GetImageRequest, Image, ImportImageHeader, ImportImageRequest,
        ListImagesRequest, import_image_request::Part,
    },
};
use kapok_store::redb::{Fault, MemoryDisk};
use kapok_types::{Bytes, Digest, quantity::MIB};
use tokio::sync::Notify;

use super::*;
use crate::images::blob::{self, BlobWriter, Reader};

pub(super) fn header(name: &str, format: common::DiskFormat, bytes: &[u8]) -> ImportImageHeader {
    ImportImageHeader {
        name: name.into(),
        format: format.into(),
        size_bytes: u64::try_from(bytes.len()).unwrap(),
        ..ImportImageHeader::default()
    }
}

pub(super) async fn import(
    lab: &Clients,
    header: ImportImageHeader,
    bytes: &[u8],
) -> Result<Image, Status> {
    let part = |part| ImportImageRequest { part: Some(part) };
    let pieces: Vec<_> = bytes
        .chunks(100_000)
        .map(|piece| part(Part::Data(piece.to_vec().into())))
        .collect();
    let parts = stream::iter([part(Part::Header(header))]).chain(stream::iter(pieces));
    Ok(lab.images().import_image(parts).await?.into_inner())
}

fn qcow2() -> Vec<u8> {
    let mut image = vec![0; 4 * 65536];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16_u32.to_be_bytes());
    put(24, &(10 * MIB).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(3 * 65536_u64).to_be_bytes());
    put(48, &65536_u64.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    put(65536, &(2 * 65536_u64).to_be_bytes());
    image
}

async fn blob(lab: &Lab, digest: &str, offset: u64) -> Result<Vec<u8>, Status> {
    let known = digest.parse().unwrap_or(Digest::of(b""));
    let epoch = lab.api.ledger.snapshot().epoch;
    let ticket = lab.api.trust.ticket(fixture::node_id(1), known, epoch);
    let request = ReadBlobRequest {
        digest: digest.into(),
        offset,
        ticket: ticket.unwrap().bytes.into(),
    };
    let mut pieces = lab.peer(1).read_blob(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        assert!(piece.data.len() <= kapok_proto::BLOB_PIECE_BYTES);
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_image_comes_in_is_read_by_agents_and_goes() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let (content, raw) = (qcow2(), vec![7; 1_000_000]);
    let expected_digest = Digest::of(&content).to_string();
    let mut wish = header("debian", common::DiskFormat::Qcow2, &content);
    wish.expected_digest.clone_from(&expected_digest);
    let image = import(&lab, wish.clone(), &content).await.unwrap();
    assert_eq!(
        (&image.digest, image.virtual_size_bytes),
        (&expected_digest, 10 * MIB)
    );
    assert_eq!((image.created_by.as_str(), image.arch), ("user/li-wei", 1));
    // The same again is the same image.
    assert_eq!(import(&lab, wish, &content).await.unwrap(), image);
    let plain = import(&lab, header("plain", common::DiskFormat::Raw, &raw), &raw)
        .await
        .unwrap();
    assert_eq!(plain.virtual_size_bytes, 1_000_448);

    assert_eq!(blob(&lab, &plain.digest, 0).await.unwrap(), raw);
    assert_eq!(
        blob(&lab, &plain.digest, 999_990).await.unwrap(),
        raw[999_990..]
    );
    let behind = refused(blob(&lab, &plain.digest, 1_000_001).await);
    assert_eq!(behind, (Code::OutOfRange, "BEHIND_THE_END".into()));
    assert_eq!(field(blob(&lab, "../../etc/shadow", 0).await), "digest");

    let request = |image: &str| GetImageRequest {
        image: image.into(),
    };
    for which in [&image.id, &image.name, &image.digest] {
        assert_eq!(
            lab.images()
                .get_image(request(which))
                .await
                .unwrap()
                .into_inner(),
            image
        );
    }
    let delete = DeleteImageRequest {
        image: "debian".into(),
        request_id: "gone".into(),
    };
    lab.images().delete_image(delete.clone()).await.unwrap();
    lab.images()
        .delete_image(delete)
        .await
        .expect("the same request again has the same answer");
    assert_eq!(
        refused(lab.images().get_image(request("debian")).await).0,
        Code::NotFound
    );
    assert_eq!(
        refused(blob(&lab, &image.digest, 0).await).0,
        Code::NotFound
    );
    assert_eq!(lab.blobs.list().await.unwrap().len(), 1);
}

/// FAULTS 5–9, 11, 12, 16 through the whole way in: each is refused with the field, and nothing
/// of it stays.
#[tokio::test]
async fn hostile_images_leave_nothing() {
    let lab = Lab::new().await;
    let sound = qcow2();
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = qcow2();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let (raw, qcow2) = (common::DiskFormat::Raw, common::DiskFormat::Qcow2);
    let vmdk = b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/shadow\" 0\n".to_vec();
    let cases: [(&str, common::DiskFormat, Vec<u8>, &str); 12] = [
        ("backing", qcow2, changed(14, &[4]), "data"),
        ("data-file", qcow2, changed(79, &[4]), "data"),
        ("vmdk", raw, vmdk, "format"),
        ("as-raw", raw, sound.clone(), "format"),
        ("as-qcow2", qcow2, vec![0; 4096], "format"),
        (
            "unstated",
            common::DiskFormat::Unspecified,
            vec![0; 4096],
            "format",
        ),
        (
            "huge",
            qcow2,
            changed(24, &(1_u64 << 60).to_be_bytes()),
            "data",
        ),
        ("cut", qcow2, sound[..150_000].to_vec(), "data"),
        ("../../etc/x", raw, vec![0; 512], "name"),
        ("/etc/x", raw, vec![0; 512], "name"),
        ("a\0b", raw, vec![0; 512], "name"),
        ("empty", raw, Vec::new(), "size_bytes"),
    ];
    for (name, format, bytes, expected) in cases {
        let answer = import(&lab, header(name, format, &bytes), &bytes).await;
        assert_eq!(field(answer), expected, "{name}");
    }
    let announced = |size_bytes| ImportImageHeader {
        size_bytes,
        ..header("size", raw, &[])
    };
    assert_eq!(
        field(import(&lab, announced(9 * MIB), &[0; 9]).await),
        "size_bytes"
    );
    assert_eq!(
        field(import(&lab, announced(u64::MAX), &[0; 9]).await),
        "size_bytes"
    );
    assert_eq!(field(import(&lab, announced(8), &[0; 9]).await), "data");
    assert_eq!(field(import(&lab, announced(10), &[0; 9]).await), "data");
    let mut other = header("other", raw, b"changed");
    other.expected_digest = Digest::of(b"checked").to_string();
    let mismatch = refused(import(&lab, other.clone(), b"changed").await);
    assert_eq!(mismatch, (Code::DataLoss, "DIGEST_MISMATCH".into()));
    other.expected_digest = "sha256:x".into();
    assert_eq!(
        field(import(&lab, other, b"changed").await),
        "expected_digest"
    );

    let listed = lab
        .images()
        .list_images(ListImagesRequest::default())
        .await
        .unwrap();
    assert!(listed.into_inner().images.is_empty());
    assert!(lab.blobs.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_taken_name_keeps_its_content() {
    let lab = Lab::new().await;
    let raw = common::DiskFormat::Raw;
    import(&lab, header("base", raw, b"first"), b"first")
        .await
        .unwrap();
    // Same size: known only after all bytes came. The loser's blob is garbage.
    let taken = refused(import(&lab, header("base", raw, b"other"), b"other").await);
    assert_eq!(taken, (Code::AlreadyExists, "ALREADY_EXISTS".into()));
    assert_eq!(lab.blobs.list().await.unwrap(), [Digest::of(b"first")]);
    let taken = refused(import(&lab, header("base", raw, b"longer"), b"longer").await);
    assert_eq!(taken.0, Code::AlreadyExists);
    // The same content under two names is one blob, and goes with the second name.
    import(&lab, header("twin", raw, b"first"), b"first")
        .await
        .unwrap();
    for (name, left) in [("base", 1), ("twin", 0)] {
        let request = DeleteImageRequest {
            image: name.into(),
            request_id: String::new(),
        };
        lab.images().delete_image(request).await.unwrap();
        assert_eq!(lab.blobs.list().await.unwrap().len(), left);
    }
}

#[tokio::test]
async fn a_stream_out_of_order_is_refused() {
    let lab = Lab::new().await;
    let part = |part| ImportImageRequest { part: Some(part) };
    let first = header("x", common::DiskFormat::Raw, &[0; 4]);
    let send = |parts: Vec<ImportImageRequest>| async {
        let mut images = lab.images();
        field(images.import_image(stream::iter(parts)).await)
    };
    assert_eq!(send(vec![]).await, "header");
    assert_eq!(send(vec![part(Part::Data("x".into()))]).await, "header");
    assert_eq!(
        send(vec![part(Part::Header(first.clone())); 2]).await,
        "header"
    );
    assert_eq!(send(vec![ImportImageRequest { part: None }]).await, "part");
    let large = part(Part::Data(vec![0; 2 << 20].into()));
    assert_eq!(
        send(vec![part(Part::Header(first.clone())), large]).await,
        "data"
    );
    let data = |bytes: &[u8]| part(Part::Data(bytes.to_vec().into()));
    let empty = vec![part(Part::Header(first)), data(&[]), data(&[0; 4])];
    assert_eq!(send(empty).await, "data");
}

/// FAULTS 37: an image that has lost its blob gets it back from the same import, also from a
/// repeated one.
#[tokio::test]
async fn the_same_import_restores_a_lost_blob() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let digest = Digest::of(b"first");
    for request_id in ["", "mine", "mine"] {
        let wish = ImportImageHeader {
            request_id: request_id.into(),
            ..header("base", common::DiskFormat::Raw, b"first")
        };
        let image = import(&lab, wish, b"first").await.unwrap();
        assert_eq!(blob(&lab, &image.digest, 0).await.unwrap(), b"first");
        lab.blobs.remove(digest).await.unwrap();
    }
}

#[tokio::test]
async fn a_repeated_import_of_a_removed_image_leaves_nothing() {
    let lab = Lab::new().await;
    let wish = ImportImageHeader {
        request_id: "mine".into(),
        ..header("base", common::DiskFormat::Raw, b"first")
    };
    import(&lab, wish.clone(), b"first").await.unwrap();
    let delete = DeleteImageRequest {
        image: "base".into(),
        request_id: String::new(),
    };
    lab.images().delete_image(delete).await.unwrap();
    let absent = refused(import(&lab, wish, b"first").await);
    assert_eq!(absent, (Code::NotFound, "NOT_FOUND".into()));
    assert!(lab.blobs.list().await.unwrap().is_empty());
}

/// FAULTS 37: wherever the log fails during a registration, a blob that an image may name stays.
#[tokio::test]
async fn an_unknown_registration_keeps_its_blob() {
    let (mut unknown, digest) = (0, Digest::of(b"first"));
    for calls in 0..6 {
        let disk = MemoryDisk::new();
        let (store, blobs) = (Redb::on_disk(&disk).unwrap(), Memory::default());
        let way = Arc::new(blobs.clone());
        let lab = Lab::over(Arc::new(Nobody), "", store, way, blobs).await;
        disk.fail(calls, Fault::SyncUnheard);
        let wish = header("base", common::DiskFormat::Raw, b"first");
        match import(&lab, wish, b"first").await {
            Ok(_) => {}
            refusal => {
                assert_eq!(refused(refusal).1, "LOG_UNAVAILABLE");
                unknown += 1;
            }
        }
        disk.heal();
        // The same registration is asked for until it is known, and then its blob is there.
        let mut changes = lab.api.ledger.changes();
        soon(changes.wait_for(|now| now.fabric.image_names.len() == 1))
            .await
            .unwrap();
        // Who comes next is no garbage collector of it.
        let collected = lab
            .api
            .library
            .collect(|| digests(&lab.api.ledger.snapshot().fabric));
        assert_eq!(soon(collected).await.unwrap(), []);
        assert_eq!(lab.blobs.list().await.unwrap(), [digest]);
    }
    assert!(unknown > 0, "no fault ever hit");
}

/// Blobs whose commit waits until it is let go.
#[derive(Debug, Default, Clone)]
struct Held {
    blobs: Memory,
    reached: Arc<Notify>,
    go: Arc<Notify>,
    dropped: Arc<AtomicBool>,
}

#[derive(Debug)]
struct HeldWriter {
    writer: Box<dyn BlobWriter>,
    held: Held,
}

#[tonic::async_trait]
impl BlobStore for Held {
    async fn begin(&self, size: Bytes) -> Result<Box<dyn BlobWriter>, blob::Error> {
        Ok(Box::new(HeldWriter {
            writer: self.blobs.begin(size).await?,
            held: self.clone(),
        }))
    }

    async fn open(&self, digest: Digest, offset: u64) -> Result<Reader, blob::Error> {
        self.blobs.open(digest, offset).await
    }

    async fn remove(&self, digest: Digest) -> Result<bool, blob::Error> {
        self.blobs.remove(digest).await
    }

    async fn list(&self) -> Result<Vec<Digest>, blob::Error> {
        self.blobs.list().await
    }
}

#[tonic::async_trait]
impl BlobWriter for HeldWriter {
    async fn write(&mut self, piece: bytes::Bytes) -> Result<(), blob::Error> {
        self.writer.write(piece).await
    }

    async fn commit(self: Box<Self>, expected: Option<Digest>) -> Result<Digest, blob::Error> {
        let Self { writer, held } = *self;
        let dropped = scopeguard(&held.dropped);
        held.reached.notify_one();
        held.go.notified().await;
        std::mem::forget(dropped);
        writer.commit(expected).await
    }
}

/// Says so when a commit is dropped under way.
fn scopeguard(dropped: &Arc<AtomicBool>) -> impl Drop + use<> {
    struct Tell(Arc<AtomicBool>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    Tell(Arc::clone(dropped))
}

/// A caller that leaves between storing and registering splits nothing: the image is there.
#[tokio::test]
async fn a_caller_that_leaves_does_not_split_an_import() {
    let held = Held::default();
    let (store, blobs) = (Redb::in_memory().unwrap(), held.blobs.clone());
    let lab = Lab::over(
        Arc::new(Nobody),
        "",
        store,
        Arc::new(held.clone()),
        blobs.clone(),
    )
    .await;
    let part = |part| ImportImageRequest { part: Some(part) };
    let parts = [
        part(Part::Header(header(
            "base",
            common::DiskFormat::Raw,
            b"first",
        ))),
        part(Part::Data("first".into())),
    ];
    let mut images = lab.images();
    let call =
        tokio::spawn(async move { images.import_image(stream::iter(parts)).await.map(drop) });
    soon(held.reached.notified()).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // On the same connection, so that the server has heard of the end before it answers.
    for _ in 0..8 {
        let list = ListImagesRequest::default();
        lab.images().list_images(list).await.unwrap();
    }
    held.go.notify_one();
    let mut changes = lab.api.ledger.changes();
    let registered = changes.wait_for(|now| now.fabric.image_names.len() == 1);
    soon(registered).await.unwrap();
    assert!(!held.dropped.load(Ordering::SeqCst));
    assert_eq!(blobs.list().await.unwrap(), [Digest::of(b"first")]);
}
