use kapok_types::quantity::{GIB, MIB};
use proptest::prelude::*;

use super::*;

const CLUSTER: usize = 64 * 1024;

/// A sound version 3 image of 10 MiB that holds nothing: header, refcount table, refcount block,
/// L1 table, one cluster each.
fn sound() -> Vec<u8> {
    let mut image = vec![0; 4 * CLUSTER];
    put(&mut image, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut image, 20, &16_u32.to_be_bytes());
    put(&mut image, 24, &(10 * MIB).to_be_bytes());
    put(&mut image, 36, &1_u32.to_be_bytes());
    put(&mut image, 40, &(3 * 65536_u64).to_be_bytes());
    put(&mut image, 48, &65536_u64.to_be_bytes());
    put(&mut image, 56, &1_u32.to_be_bytes());
    put(&mut image, 96, &4_u32.to_be_bytes());
    put(&mut image, 100, &104_u32.to_be_bytes());
    put(&mut image, CLUSTER, &(2 * 65536_u64).to_be_bytes());
    image
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn inspect(declared: DiskFormat, image: &[u8], piece: usize) -> Result<Bytes, Violation> {
    let size = Bytes(u64::try_from(image.len()).unwrap());
    let mut inspector = Inspector::new(declared, size, Bytes(GIB))?;
    for piece in image.chunks(piece) {
        inspector.feed(piece)?;
        if let State::Head(head) = &inspector.state {
            assert!(head.len() <= HEAD_BYTES, "memory is bounded");
        }
    }
    inspector.finish()
}

/// What a changed image is refused for: "field: reason".
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<u8>), expected: &str) {
    let mut image = sound();
    change(&mut image);
    let refused = inspect(DiskFormat::Qcow2, &image, MIB.try_into().unwrap());
    let text = refused.expect_err(expected).to_string();
    assert!(text.contains(expected), "{text:?} lacks {expected:?}");
}

#[track_caller]
fn refused_with(at: usize, bytes: &[u8], expected: &str) {
    refused(|image| put(image, at, bytes), expected);
}

#[test]
fn a_sound_image_is_taken_however_it_is_cut() {
    for piece in [1, 7, 4096, 65535, 65536, 65537, 1 << 20] {
        assert_eq!(
            inspect(DiskFormat::Qcow2, &sound(), piece),
            Ok(Bytes(10 * MIB))
        );
    }
    let mut old = sound();
    put(&mut old, 4, &2_u32.to_be_bytes());
    put(&mut old, 72, &[0; 40]);
    assert_eq!(inspect(DiskFormat::Qcow2, &old, 999), Ok(Bytes(10 * MIB)));
    assert_eq!(inspect(DiskFormat::Raw, &[7; 1000], 999), Ok(Bytes(1024)));
}

/// FAULTS 5 and 7: whatever the backing file is called.
#[test]
fn an_image_with_a_backing_file_is_refused() {
    for name in [
        "/etc/shadow",
        "json:{\"driver\":\"nbd\"}",
        "nbd://10.0.0.1/x",
        "../x.qcow2",
        "",
    ] {
        refused(
            |image| {
                put(image, 1024, name.as_bytes());
                put(image, 8, &1024_u64.to_be_bytes());
                put(image, 16, &u32::try_from(name.len()).unwrap().to_be_bytes());
            },
            "data: names a backing file",
        );
    }
}

/// FAULTS 6: by the incompatible bit, by the bit that clears itself, by the name alone.
#[test]
fn an_image_with_a_data_file_is_refused() {
    refused_with(79, &[4], "data: keeps its data in another file");
    refused_with(95, &[2], "data: keeps its data in another file");
    refused_with(
        104,
        b"DATA\0\0\0\x0b/etc/shadow",
        "data: names an external data file",
    );
}

/// FAULTS 8 and 9.
#[test]
fn content_in_another_format_is_refused() {
    let mut vdi = vec![0; 512];
    put(&mut vdi, 0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    put(&mut vdi, 64, &0xbeda_107f_u32.to_le_bytes());
    let cases: [(&[u8], &str); 10] = [
        (&sound(), "a qcow2 image"),
        (b"QED\0", "a QED image"),
        (b"KDMV\x01\0\0\0", "a VMDK image"),
        (
            b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/shadow\" 0\n",
            "a VMDK descriptor",
        ),
        (
            b"\n# x\n  Version = 3\nRW 1 FLAT \"/etc/shadow\" 0\n",
            "a VMDK descriptor",
        ),
        (b"vhdxfile", "a VHDX image"),
        (b"conectix", "a VHD image"),
        (&vdi, "a VDI image"),
        (b"\x1f\x8b\x08\0", "compressed by gzip"),
        (b"\xfd7zXZ\0", "compressed by xz"),
    ];
    for (content, name) in cases {
        let violation = inspect(DiskFormat::Raw, content, 1).unwrap_err();
        assert_eq!(violation.field, "format");
        assert!(violation.reason.contains(name), "{violation} lacks {name}");
        if name != "a qcow2 image" {
            let violation = inspect(DiskFormat::Qcow2, content, 3).unwrap_err();
            assert_eq!(violation.field, "format", "{violation}");
        }
    }
    let violation = inspect(DiskFormat::Qcow2, &[0; 512], 512).unwrap_err();
    assert!(violation.reason.contains("no qcow2 image"), "{violation}");
}

/// FAULTS 11: impossible claims, each with its limit; nothing is allocated for any of them.
#[test]
fn impossible_claims_are_refused() {
    refused_with(
        24,
        &(1_u64 << 60).to_be_bytes(),
        "claims a disk of 1152921504606846976 bytes",
    );
    refused_with(24, &0_u64.to_be_bytes(), "claims a disk of 0 bytes");
    refused_with(
        24,
        &(MAX_DISK_BYTES + 512).to_be_bytes(),
        "from 512 to 70368744177664",
    );
    refused_with(
        24,
        &(1_u64 << 40).to_be_bytes(),
        "needs 2048, and at most 4194304",
    );
    refused_with(
        36,
        &u32::MAX.to_be_bytes(),
        "L1 table of 4294967295 entries",
    );
    refused_with(36, &0_u32.to_be_bytes(), "L1 table of 0 entries");
    refused_with(
        36,
        &(1_u32 << 20).to_be_bytes(),
        "its L1 table (8388608 bytes at 196608)",
    );
    refused_with(
        56,
        &u32::MAX.to_be_bytes(),
        "refcount table of 281474976645120 bytes",
    );
    refused_with(56, &0_u32.to_be_bytes(), "refcount table of 0 bytes");
    refused_with(
        56,
        &9_u32.to_be_bytes(),
        "its refcount table (589824 bytes at 65536)",
    );
    refused_with(20, &8_u32.to_be_bytes(), "cluster_bits 8");
    refused_with(20, &u32::MAX.to_be_bytes(), "cluster_bits 4294967295");
    refused_with(60, &u32::MAX.to_be_bytes(), "4294967295 internal snapshots");
    refused_with(96, &7_u32.to_be_bytes(), "refcount_order 7");
    refused_with(4, &1_u32.to_be_bytes(), "qcow version 1");
    refused_with(4, &4_u32.to_be_bytes(), "qcow version 4");
}

/// FAULTS 11: tables that lie nowhere, on the header, or on each other.
#[test]
fn misplaced_tables_are_refused() {
    for (at, table) in [(40, "L1 table"), (48, "refcount table")] {
        for offset in [0, 512, 65536 + 8, u64::MAX] {
            let expected = format!("has its {table} at {offset}");
            refused_with(at, &offset.to_be_bytes(), &expected);
        }
        for offset in [u64::MAX - 65535, 1 << 40] {
            let expected = format!("at {offset}) lies outside");
            refused_with(at, &offset.to_be_bytes(), &expected);
        }
    }
    refused_with(40, &65536_u64.to_be_bytes(), "overlap");
}

/// FAULTS 11: table entries that point nowhere.
#[test]
fn corrupt_tables_are_refused() {
    let (l1, refcounts) = (3 * CLUSTER, CLUSTER);
    for entry in [4 * 65536_u64, 4 * 65536 - 512, 1, 1 << 62, u64::MAX] {
        refused_with(l1, &entry.to_be_bytes(), "entry 0 of its L1 table");
        refused_with(
            refcounts,
            &entry.to_be_bytes(),
            "entry 0 of its refcount table",
        );
    }
    refused_with(refcounts, &[0; 8], "entry 0 of its refcount table");
    refused_with(
        refcounts + 8 * 8191,
        &[0xff; 8],
        "entry 8191 of its refcount table",
    );
    refused(
        |image| {
            put(image, l1, &((2 * 65536_u64) | (1 << 63)).to_be_bytes());
            image.truncate(l1 + 4);
        },
        "its L1 table (8 bytes at 196608) lies outside its 196612 bytes",
    );
}

#[test]
fn what_a_base_does_not_need_is_refused() {
    refused_with(79, &[1], "marked dirty");
    refused_with(79, &[2], "marked dirty");
    refused_with(79, &[0x20], "incompatible bits 0x20");
    refused_with(72, &[0x80], "incompatible bits 0x8000000000000000");
    refused_with(32, &[0, 0, 0, 2], "is encrypted");
    refused_with(104, &[0x05, 0x37, 0xbe, 0x77, 0, 0, 0, 16], "is encrypted");
    refused_with(104, &[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24], "dirty bitmaps");
    refused_with(79, &[8], "compression type 0");
    for bytes in [0, 72, 96, 105, 4096, u32::MAX] {
        refused_with(
            100,
            &bytes.to_be_bytes(),
            &format!("header of {bytes} bytes"),
        );
    }
    // Extensions that lead out of the first cluster, and a chain of them that never ends.
    refused_with(
        104,
        &[1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff],
        "header extensions",
    );
    refused_with(104, &[1, 1, 1, 1, 0, 1, 0, 0], "header extensions");
    refused(
        |image| {
            image[104..CLUSTER - 8]
                .chunks_exact_mut(8)
                .for_each(|one| one[0] = 1);
            put(image, CLUSTER - 8, b"DATA\0\0\0\0");
        },
        "names an external data file",
    );
}

/// FAULTS 16 and 17: neither more nor less than announced, and a size within the limit.
#[test]
fn the_announced_size_holds() {
    let check = |size: u64, limit: u64| Inspector::new(DiskFormat::Raw, Bytes(size), Bytes(limit));
    for (size, limit) in [(0, GIB), (GIB + 1, GIB), (u64::MAX, u64::MAX)] {
        let violation = check(size, limit).unwrap_err();
        assert_eq!(violation.field, "size_bytes");
        assert!(violation.reason.contains("must be 1 to"), "{violation}");
    }
    let mut inspector = check(10, GIB).unwrap();
    inspector.feed(&[0; 6]).unwrap();
    assert!(
        inspector
            .feed(&[0; 5])
            .unwrap_err()
            .reason
            .contains("longer than the 10 bytes")
    );
    let mut inspector = check(10, GIB).unwrap();
    inspector.feed(&[0; 6]).unwrap();
    assert!(
        inspector
            .finish()
            .unwrap_err()
            .reason
            .contains("after 6 of the 10 bytes")
    );
}

/// Images that QEMU's own tool makes: all kinds that stand alone are taken, and damage isn't.
#[test]
fn images_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, arguments: &[&str]| {
        let path = dir.path().join(name);
        let mut command = std::process::Command::new("qemu-img");
        command
            .args(["create", "-q", "-f", "qcow2"])
            .args(arguments)
            .arg(&path)
            .arg("32M");
        command
            .status()
            .ok()
            .filter(std::process::ExitStatus::success)
            .map(|_| std::fs::read(path).unwrap())
    };
    let Some(plain) = make("plain", &["-o", "preallocation=metadata"]) else {
        println!("SKIP images_of_qemu_img: qemu-img is not installed");
        return;
    };
    for options in [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "preallocation=metadata,cluster_size=4k",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "refcount_bits=64,preallocation=full",
    ] {
        let Some(image) = make("one", &["-o", options]) else {
            println!("SKIP {options}: this qemu-img doesn't make it");
            continue;
        };
        assert_eq!(
            inspect(DiskFormat::Qcow2, &image, 70_000),
            Ok(Bytes(32 * MIB)),
            "{options}"
        );
    }
    for arguments in [
        ["-u", "-F", "raw", "-b", "/etc/shadow"].as_slice(),
        &["-u", "-F", "raw", "-b", "json:{\"driver\":\"null-co\"}"],
        &["-u", "-F", "raw", "-b", "nbd://127.0.0.1/x"],
        &[
            "-o",
            &format!("data_file={}", dir.path().join("data").display()),
        ],
    ] {
        let image = make("bad", arguments).expect("qemu-img makes it");
        assert!(
            inspect(DiskFormat::Qcow2, &image, 70_000).is_err(),
            "{arguments:?}"
        );
    }
    // Preallocated metadata: tables at 64 KiB to 384 KiB, then the disk. Cut anywhere before
    // their end, it is refused.
    assert_eq!(
        inspect(DiskFormat::Qcow2, &plain, 4096),
        Ok(Bytes(32 * MIB))
    );
    for cut in (1..5 * CLUSTER).step_by(4093) {
        assert!(
            inspect(DiskFormat::Qcow2, &plain[..cut], 4096).is_err(),
            "cut at {cut}"
        );
    }
    // One flipped bit in the header or the tables: refused, or harmless; never a panic.
    for bit in 0..112 * 8 {
        let mut image = plain[..5 * CLUSTER].to_vec();
        image[bit / 8] ^= 1 << (bit % 8);
        if let Ok(size) = inspect(DiskFormat::Qcow2, &image, 65536) {
            assert!(
                size.get() <= MAX_DISK_BYTES && image[8..16] == [0; 8],
                "bit {bit}"
            );
        }
    }
}

proptest! {
    /// Arbitrary bytes behind a magic, or with a few fields of a sound image overwritten: never a
    /// panic, and the same answer however the stream is cut.
    #[test]
    fn hostile_bytes_are_only_refused(
        tail in prop::collection::vec(any::<u8>(), 0..300),
        changes in prop::collection::vec((0_usize..200, any::<u8>()), 0..6),
        piece in 1_usize..100_000,
    ) {
        for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
            let bytes = [&qcow2::MAGIC, tail.as_slice()].concat();
            prop_assert!(inspect(format, &bytes, piece).is_err());
            prop_assert_eq!(
                inspect(format, &tail, piece).is_ok(), inspect(format, &tail, 1 << 20).is_ok()
            );
        }
        let mut image = sound();
        for (at, byte) in &changes {
            image[*at] = *byte;
        }
        let answer = inspect(DiskFormat::Qcow2, &image, piece);
        prop_assert_eq!(&answer, &inspect(DiskFormat::Qcow2, &image, 1 << 20));
        if answer.is_ok() {
            prop_assert_eq!(&image[8..16], &[0; 8]);
        }
    }
}
