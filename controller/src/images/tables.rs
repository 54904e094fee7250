//! The two top tables of a qcow2 blob, checked while they stream by.
//!
//! Every entry must point at a whole cluster inside the blob (FAULTS 11: truncated, corrupt
//! refcounts). Nothing is kept but the entry that two pieces share. Second-level tables and
//! refcount blocks aren't read: a base is opened read-only, where a wrong one costs its own guest
//! a read error and nobody else anything.

use kapok_types::Violation;

use super::qcow2::{Header, Table, bad};

/// Offsets in L1 and refcount tables, and the flag that an L1 entry may carry.
///
/// Source: QEMU, docs/interop/qcow2.txt, "L1 table entry", "Refcount table entry".
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const L1_COPIED: u64 = 1 << 63;
const REFCOUNT_OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// Watches a blob's pieces in order.
#[derive(Debug)]
pub(super) struct Walk {
    cluster_bytes: u64,
    size: u64,
    l1: Cursor,
    refcounts: Cursor,
}

/// How far one table was read.
#[derive(Debug)]
struct Cursor {
    table: Table,
    /// Bytes of an entry whose rest comes with the next piece.
    partial: [u8; 8],
    filled: usize,
    /// Entries read so far.
    entries: u64,
}

impl Walk {
    pub(super) fn new(header: &Header, size: u64) -> Self {
        let cursor = |table| Cursor {
            table,
            partial: [0; 8],
            filled: 0,
            entries: 0,
        };
        Self {
            cluster_bytes: header.cluster_bytes,
            size,
            l1: cursor(header.l1),
            refcounts: cursor(header.refcounts),
        }
    }

    /// Takes the bytes from `offset` on. Pieces must come without gaps.
    pub(super) fn feed(&mut self, offset: u64, piece: &[u8]) -> Result<(), Violation> {
        let Self {
            cluster_bytes,
            size,
            l1,
            refcounts,
        } = self;
        let inside = |at: u64| {
            at.is_multiple_of(*cluster_bytes)
                && at
                    .checked_add(*cluster_bytes)
                    .is_some_and(|end| end <= *size)
        };
        l1.feed(offset, piece, |index, entry| {
            let sound = entry & !(L1_OFFSET | L1_COPIED) == 0 && inside(entry & L1_OFFSET);
            sound
                .then_some(())
                .ok_or_else(|| broken("L1 table", index, entry, *size))
        })?;
        refcounts.feed(offset, piece, |index, entry| {
            // The first cluster holds the header, so somebody must count it.
            let sound = entry & !REFCOUNT_OFFSET == 0 && inside(entry) && (index, entry) != (0, 0);
            sound
                .then_some(())
                .ok_or_else(|| broken("refcount table", index, entry, *size))
        })
    }
}

impl Cursor {
    /// Gives each complete entry of the table that lies in the piece to `check`.
    fn feed(
        &mut self,
        offset: u64,
        piece: &[u8],
        check: impl Fn(u64, u64) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let index = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
        let from = index(self.table.offset).min(piece.len());
        let to = index(self.table.end()).min(piece.len());
        for byte in piece.get(from..to).unwrap_or_default() {
            if let Some(slot) = self.partial.get_mut(self.filled) {
                *slot = *byte;
            }
            self.filled += 1;
            if self.filled == self.partial.len() {
                check(self.entries, u64::from_be_bytes(self.partial))?;
                self.filled = 0;
                self.entries += 1;
            }
        }
        Ok(())
    }
}

fn broken(table: &str, index: u64, entry: u64, size: u64) -> Violation {
    bad(format!(
        "is damaged or cut short: entry {index} of its {table} is {entry:#018x}, which is no \
         whole cluster inside its {size} bytes"
    ))
}
