//! A qcow2 header, read by rules of our own and nothing else.
//!
//! Pure and bounded: it looks at the first bytes of a blob, and its work doesn't grow with any
//! number that stands in them. What is accepted is what a root disk's base needs: no other file
//! is named (backing file, data file), nothing is encrypted, every table lies inside the blob.
//! Everything else is refused with the reason before any program that follows such names could
//! see the blob (FAULTS 5, 6, 7, 11).
//!
//! Source: QEMU, docs/interop/qcow2.txt (format version 2 and 3).

use kapok_types::{Violation, instance::MAX_DISK_BYTES};

use super::bytes::Reader;

/// The first four bytes of every qcow and qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// How much of a blob's beginning holds its header and all header extensions, in bytes.
///
/// The format allows a whole cluster (up to 2 MiB); QEMU's own headers need about 600 bytes.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Largest L1 table and largest refcount table, in bytes: QEMU's own limits.
const MAX_L1_BYTES: u64 = 32 * 1024 * 1024;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 * 1024 * 1024;

const V2_HEADER_BYTES: u64 = 72;
const V3_HEADER_BYTES: u64 = 104;
/// Longest header that is believed: today's has 112 bytes.
const MAX_HEADER_BYTES: u64 = 1024;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
/// Among the bits that clear themselves.
const RAW_DATA_FILE: u64 = 1 << 1;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// What the rest of a blob is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Format version: 2 or 3.
    pub version: u32,
    /// Size of a cluster in bytes, 512 to 2 MiB.
    pub cluster_bytes: u64,
    /// Size of the disk that it holds, in bytes.
    pub virtual_bytes: u64,
    /// Where the first-level table lies.
    pub l1: Table,
    /// Where the refcount table lies.
    pub refcounts: Table,
}

/// A table of 8-byte entries inside the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Where it begins, in bytes from the blob's beginning.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
}

impl Table {
    /// The byte behind it. Checked at parsing not to overflow.
    pub const fn end(self) -> u64 {
        self.offset + self.bytes
    }
}

/// Reads the header of a blob of `size` bytes from its first bytes: at least [`HEAD_BYTES`], or
/// all of them if there are fewer.
///
/// # Errors
///
/// A violation of `data` or `size_bytes` that says what is wrong, what the limit is and, where
/// people can do something about it, what.
pub fn parse(head: &[u8], size: u64) -> Result<Header, Violation> {
    let raw = Raw::read(head).ok_or_else(|| bad("ends inside its qcow2 header"))?;
    raw.check(head, size)
}

/// The header's fields as they stand in it.
struct Raw {
    version: u32,
    backing_offset: u64,
    cluster_bits: u32,
    virtual_bytes: u64,
    crypt: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_bytes: u64,
    compression: u8,
}

impl Raw {
    /// None when the bytes end too early. Reads nothing that depends on a value.
    fn read(head: &[u8]) -> Option<Self> {
        let at = Reader(head);
        let version = at.u32(4)?;
        let newer = version >= 3;
        let header_bytes = if newer {
            u64::from(at.u32(100)?)
        } else {
            V2_HEADER_BYTES
        };
        Some(Self {
            version,
            backing_offset: at.u64(8)?,
            cluster_bits: at.u32(20)?,
            virtual_bytes: at.u64(24)?,
            crypt: at.u32(32)?,
            l1_entries: at.u32(36)?,
            l1_offset: at.u64(40)?,
            refcount_offset: at.u64(48)?,
            refcount_clusters: at.u32(56)?,
            snapshots: at.u32(60)?,
            incompatible: if newer { at.u64(72)? } else { 0 },
            autoclear: if newer { at.u64(88)? } else { 0 },
            refcount_order: if newer { at.u32(96)? } else { 4 },
            header_bytes,
            compression: if header_bytes > V3_HEADER_BYTES {
                at.u8(104)?
            } else {
                0
            },
        })
    }

    fn check(&self, head: &[u8], size: u64) -> Result<Header, Violation> {
        if !head.starts_with(&MAGIC) {
            return Err(Violation::new(
                "format",
                "is qcow2, but the data has no qcow2 header",
            ));
        }
        if !matches!(self.version, 2 | 3) {
            return Err(bad(format!(
                "has qcow version {}; 2 and 3 are accepted",
                self.version
            )));
        }
        self.names_no_other_file()?;
        self.has_no_extras()?;
        if !(9..=21).contains(&self.cluster_bits) {
            return Err(bad(format!(
                "has cluster_bits {}; 9 to 21 are accepted",
                self.cluster_bits
            )));
        }
        let cluster_bytes = 1_u64 << self.cluster_bits;
        if self.virtual_bytes == 0
            || self.virtual_bytes > MAX_DISK_BYTES
            || !self.virtual_bytes.is_multiple_of(512)
        {
            return Err(bad(format!(
                "claims a disk of {} bytes; a multiple of 512 from 512 to {MAX_DISK_BYTES} is accepted",
                self.virtual_bytes
            )));
        }
        self.header_is_sane(cluster_bytes)?;
        self.extensions(head, cluster_bytes)?;
        let l1 = self.l1(cluster_bytes, size)?;
        let refcounts = self.refcounts(cluster_bytes, size)?;
        if l1.offset < refcounts.end() && refcounts.offset < l1.end() {
            return Err(bad("has an L1 table and a refcount table that overlap"));
        }
        let (version, virtual_bytes) = (self.version, self.virtual_bytes);
        Ok(Header {
            version,
            cluster_bytes,
            virtual_bytes,
            l1,
            refcounts,
        })
    }

    /// FAULTS 5, 6, 7: whatever the name would be, it isn't looked at.
    fn names_no_other_file(&self) -> Result<(), Violation> {
        if self.backing_offset != 0 {
            return Err(bad(
                "names a backing file; only images that stand alone are accepted: flatten it with \
                 `qemu-img convert -O qcow2`",
            ));
        }
        if self.incompatible & DATA_FILE != 0 || self.autoclear & RAW_DATA_FILE != 0 {
            return Err(bad(
                "keeps its data in another file; only images that stand alone are accepted: \
                 convert it with `qemu-img convert -O qcow2`",
            ));
        }
        Ok(())
    }

    fn has_no_extras(&self) -> Result<(), Violation> {
        if self.incompatible & !KNOWN != 0 {
            return Err(bad(format!(
                "needs features that this version doesn't know (incompatible bits {:#x})",
                self.incompatible & !KNOWN
            )));
        }
        if self.incompatible & (DIRTY | CORRUPT) != 0 {
            return Err(bad(
                "is marked dirty or corrupt; repair it with `qemu-img check -r all`, then convert it",
            ));
        }
        if self.crypt != 0 {
            return Err(bad(
                "is encrypted; only images without encryption are accepted",
            ));
        }
        if self.snapshots != 0 {
            return Err(bad(format!(
                "holds {} internal snapshots; 0 are accepted: convert it with \
                 `qemu-img convert -O qcow2`",
                self.snapshots
            )));
        }
        let typed = self.incompatible & COMPRESSION_TYPE != 0;
        if self.compression > 1 || typed != (self.compression != 0) {
            return Err(bad(format!(
                "has compression type {}; 0 (deflate) and 1 (zstd) are accepted",
                self.compression
            )));
        }
        if self.incompatible & EXTENDED_L2 != 0 && self.cluster_bits < 14 {
            return Err(bad("has subclusters in clusters under 16 KiB"));
        }
        if self.refcount_order > 6 {
            return Err(bad(format!(
                "has refcount_order {}; at most 6 is accepted",
                self.refcount_order
            )));
        }
        Ok(())
    }

    fn header_is_sane(&self, cluster_bytes: u64) -> Result<(), Violation> {
        let least = if self.version == 2 {
            V2_HEADER_BYTES
        } else {
            V3_HEADER_BYTES
        };
        let most = MAX_HEADER_BYTES.min(cluster_bytes);
        if !(least..=most).contains(&self.header_bytes) || !self.header_bytes.is_multiple_of(8) {
            return Err(bad(format!(
                "has a header of {} bytes; a multiple of 8 from {least} to {most} is accepted",
                self.header_bytes
            )));
        }
        Ok(())
    }

    /// Walks the header extensions, which must end inside the first cluster.
    fn extensions(&self, head: &[u8], cluster_bytes: u64) -> Result<(), Violation> {
        let end = usize::try_from(cluster_bytes).map_or(head.len(), |end| end.min(head.len()));
        let at = Reader(head.get(..end).unwrap_or(head));
        let cut = || bad("has header extensions that don't end inside its first cluster");
        let mut next = usize::try_from(self.header_bytes).map_err(|_| cut())?;
        // Each round moves at least 8 bytes on.
        loop {
            // A header that fills the cluster up to here needs no end mark.
            if next == end {
                return Ok(());
            }
            let kind = at.u32(next).ok_or_else(cut)?;
            if kind == EXTENSION_END {
                return Ok(());
            }
            let length = at.u32(next + 4).ok_or_else(cut)?;
            match kind {
                EXTENSION_DATA_FILE => return Err(bad("names an external data file")),
                EXTENSION_ENCRYPTION => return Err(bad("is encrypted")),
                EXTENSION_BITMAPS => {
                    return Err(bad(
                        "holds dirty bitmaps; convert it with `qemu-img convert -O qcow2`",
                    ));
                }
                _ => {}
            }
            let padded = usize::try_from(length)
                .ok()
                .and_then(|n| n.checked_next_multiple_of(8));
            next = padded
                .and_then(|padded| (next + 8).checked_add(padded))
                .filter(|next| *next <= end)
                .ok_or_else(cut)?;
        }
    }

    fn l1(&self, cluster_bytes: u64, size: u64) -> Result<Table, Violation> {
        let entry_bytes = if self.incompatible & EXTENDED_L2 == 0 {
            8
        } else {
            16
        };
        // At most 2^21 × 2^18: fits.
        let per_entry = cluster_bytes * (cluster_bytes / entry_bytes);
        let needed = self.virtual_bytes.div_ceil(per_entry);
        let entries = u64::from(self.l1_entries);
        if entries < needed || entries * 8 > MAX_L1_BYTES {
            return Err(bad(format!(
                "has an L1 table of {entries} entries; its disk of {} bytes needs {needed}, and at \
                 most {} are accepted",
                self.virtual_bytes,
                MAX_L1_BYTES / 8
            )));
        }
        place("L1 table", self.l1_offset, entries * 8, cluster_bytes, size)
    }

    fn refcounts(&self, cluster_bytes: u64, size: u64) -> Result<Table, Violation> {
        let bytes = u64::from(self.refcount_clusters) * cluster_bytes;
        if bytes == 0 || bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(bad(format!(
                "has a refcount table of {bytes} bytes; {cluster_bytes} to \
                 {MAX_REFCOUNT_TABLE_BYTES} are accepted"
            )));
        }
        place(
            "refcount table",
            self.refcount_offset,
            bytes,
            cluster_bytes,
            size,
        )
    }
}

/// A table at a place that is behind the header, aligned, and inside the blob.
fn place(
    what: &str,
    offset: u64,
    bytes: u64,
    cluster_bytes: u64,
    size: u64,
) -> Result<Table, Violation> {
    if offset < cluster_bytes || !offset.is_multiple_of(cluster_bytes) {
        return Err(bad(format!(
            "has its {what} at {offset}; a multiple of {cluster_bytes} behind the header is needed"
        )));
    }
    if offset.checked_add(bytes).is_none_or(|end| end > size) {
        return Err(bad(format!(
            "is damaged or cut short: its {what} ({bytes} bytes at {offset}) lies outside its \
             {size} bytes"
        )));
    }
    Ok(Table { offset, bytes })
}

pub(super) fn bad(reason: impl Into<String>) -> Violation {
    Violation::new("data", reason)
}
