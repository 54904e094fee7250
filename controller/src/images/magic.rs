//! Formats that a blob must not be in when it is declared raw (FAULTS 8, 9).
//!
//! A raw blob is taken as it is, so this protects people from mistakes, and the fabric from a
//! program that would probe what it should be told.

/// What the beginning of a blob looks like, if it isn't a disk's bytes. Looks at the first
/// [`HEAD_BYTES`](super::qcow2::HEAD_BYTES) at most.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    // Offset, bytes, name. Sources: the formats' own specifications.
    const MAGICS: [(usize, &[u8], &str); 14] = [
        (0, b"QFI\xfb", "a qcow2 image"),
        (0, b"QED\0", "a QED image"),
        (0, b"KDMV", "a VMDK image"),
        (0, b"COWD", "a VMDK image"),
        (0, b"vhdxfile", "a VHDX image"),
        (0, b"conectix", "a VHD image"),
        (64, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image"),
        (0, b"WithoutFreeSpace", "a Parallels image"),
        (0, b"WithouFreSpacExt", "a Parallels image"),
        (0, b"Bochs Virtual HD Image", "a Bochs image"),
        (
            0,
            &[0x1f, 0x8b, 0x08],
            "compressed by gzip; unpack it first",
        ),
        (
            0,
            &[0xfd, b'7', b'z', b'X', b'Z', 0],
            "compressed by xz; unpack it first",
        ),
        (
            0,
            &[0x28, 0xb5, 0x2f, 0xfd],
            "compressed by zstd; unpack it first",
        ),
        (0, b"BZh91AY&SY", "compressed by bzip2; unpack it first"),
    ];
    let magic = MAGICS
        .iter()
        .find(|(at, bytes, _)| head.get(*at..*at + bytes.len()) == Some(bytes));
    magic
        .map(|(_, _, name)| *name)
        .or_else(|| is_vmdk_text(head).then_some("a VMDK descriptor"))
}

/// Whether it is a VMDK descriptor: comments and empty lines, then `version=…`.
fn is_vmdk_text(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    let descriptor = head.trim_ascii_start().to_ascii_lowercase();
    descriptor.starts_with(b"# disk descriptorfile")
        || first.is_some_and(|line| {
            let key = line.split(|byte| *byte == b'=').next().unwrap_or_default();
            line.contains(&b'=') && key.trim_ascii().eq_ignore_ascii_case(b"version")
        })
}
