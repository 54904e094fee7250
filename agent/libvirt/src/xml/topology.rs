//! A node's NUMA cells: which threads are in them, and how many huge pages.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Amount;

/// A NUMA cell of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCell {
    /// The kernel's number.
    pub id: u16,
    /// Its online threads, those of one core beside each other.
    pub threads: Vec<u16>,
    /// Pages in it by their size in bytes, used or not.
    pub pages: BTreeMap<u64, u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RawTopology {
    cells: RawCells,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCells {
    cell: Vec<RawCell>,
}

#[derive(Deserialize)]
struct RawCell {
    #[serde(rename = "@id")]
    id: u16,
    #[serde(default)]
    pages: Vec<RawPages>,
    #[serde(default)]
    cpus: RawCpus,
}

#[derive(Deserialize)]
struct RawPages {
    #[serde(rename = "@unit")]
    unit: String,
    #[serde(rename = "@size")]
    size: u64,
    #[serde(rename = "$text")]
    count: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCpus {
    cpu: Vec<RawThread>,
}

#[derive(Deserialize)]
struct RawThread {
    #[serde(rename = "@id")]
    id: u16,
    #[serde(rename = "@socket_id")]
    socket: Option<u32>,
    #[serde(rename = "@die_id")]
    die: Option<u32>,
    /// Unknown of one that is offline.
    #[serde(rename = "@core_id")]
    core: Option<u32>,
}

impl RawTopology {
    pub(super) fn cells(self) -> Vec<HostCell> {
        let mut cells: Vec<_> = self.cells.cell.into_iter().map(HostCell::from).collect();
        cells.sort_by_key(|cell| cell.id);
        cells
    }
}

impl From<RawCell> for HostCell {
    fn from(raw: RawCell) -> Self {
        let mut threads: Vec<_> = (raw.cpus.cpu.into_iter())
            .filter(|thread| thread.core.is_some())
            .collect();
        threads.sort_by_key(|thread| (thread.socket, thread.die, thread.core, thread.id));
        let mut pages = BTreeMap::new();
        for of_a_size in raw.pages {
            // A unit that this crate doesn't know is no size that anybody asks for.
            if let Ok(bytes) = Amount::of(of_a_size.size, &of_a_size.unit).to_bytes("KiB") {
                pages.insert(bytes, of_a_size.count);
            }
        }
        Self {
            id: raw.id,
            threads: threads.into_iter().map(|thread| thread.id).collect(),
            pages,
        }
    }
}
