//! What instances need of their nodes, what nodes have, and what is whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kapok_proto::{common::v1 as common, fabric::v1 as wire};
use kapok_types::MemoryMib;
use serde::Serialize;

use super::some;

/// What an instance needs of its node besides amounts.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Needs {
    dedicated_cpus: bool,
    huge_pages: Option<String>,
    /// 0, as 1, is one cell.
    cells: u32,
    cpu_features: Vec<String>,
    devices: BTreeMap<String, u32>,
    /// Null, as the next one, where the node's own serves.
    pool: Option<String>,
    network: Option<String>,
    labels: BTreeMap<String, String>,
}

/// What an incarnation has for itself on its node.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Assignment {
    cells: Vec<CellShare>,
    huge_pages: Option<String>,
    devices: Vec<String>,
}

/// One of a guest's cells.
#[derive(Debug, Clone, Serialize)]
struct CellShare {
    cell: u32,
    vcpus: u32,
    threads: Vec<u32>,
    memory_mib: u64,
}

/// What a node has beyond amounts, and what of it is taken.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Equipment {
    cells: Vec<SetAside>,
    cpu_features: Vec<String>,
    devices: Vec<Device>,
    pools: Vec<String>,
    networks: Vec<String>,
}

/// What is set aside in one NUMA cell.
#[derive(Debug, Clone, Serialize)]
struct SetAside {
    cell: u32,
    dedicated_threads: Vec<u32>,
    threads_in_use: Vec<u32>,
    pages: Vec<Pages>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Serialize)]
struct Pages {
    size: String,
    count: u64,
    in_use: u64,
}

/// A device that can be given to a guest.
#[derive(Debug, Clone, Serialize)]
struct Device {
    address: String,
    class: String,
    cell: Option<u32>,
    in_use: bool,
}

impl From<Option<common::Needs>> for Needs {
    fn from(needs: Option<common::Needs>) -> Self {
        let needs = needs.unwrap_or_default();
        Self {
            dedicated_cpus: needs.dedicated_cpus,
            huge_pages: some(needs.huge_pages),
            cells: needs.cells,
            cpu_features: needs.cpu_features,
            devices: needs.devices,
            pool: some(needs.pool),
            network: some(needs.network),
            labels: needs.labels,
        }
    }
}

impl From<common::Assignment> for Assignment {
    fn from(own: common::Assignment) -> Self {
        let share = |share: common::CellShare| CellShare {
            cell: share.cell,
            vcpus: share.vcpus,
            threads: share.threads,
            memory_mib: share.memory_mib,
        };
        Self {
            cells: own.cells.into_iter().map(share).collect(),
            huge_pages: some(own.huge_pages),
            devices: own.devices,
        }
    }
}

impl Equipment {
    /// What a node says that it has, with what is taken of it.
    pub(super) fn of(has: common::Equipment, taken: wire::EquipmentUse) -> Self {
        let given: BTreeSet<String> = taken.devices.into_iter().collect();
        let mut by_cell: BTreeMap<u32, wire::CellUse> =
            (taken.cells.into_iter().map(|one| (one.cell, one))).collect();
        let cell = |cell: common::Cell| {
            let taken = by_cell.remove(&cell.id).unwrap_or_default();
            let used = |size: &str| {
                let mut all = taken.pages.iter();
                all.find(|pages| pages.size == size)
                    .map_or(0, |pages| pages.count)
            };
            let pages = cell.pages.into_iter().map(|pages| Pages {
                in_use: used(&pages.size),
                size: pages.size,
                count: pages.count,
            });
            SetAside {
                cell: cell.id,
                pages: pages.collect(),
                dedicated_threads: cell.dedicated,
                threads_in_use: taken.threads,
            }
        };
        let device = |device: common::Device| Device {
            in_use: given.contains(&device.address),
            address: device.address,
            class: device.class,
            cell: device.cell,
        };
        Self {
            cells: has.cells.into_iter().map(cell).collect(),
            cpu_features: has.cpu_features,
            devices: has.devices.into_iter().map(device).collect(),
            pools: has.pools,
            networks: has.networks,
        }
    }

    /// Lines for people.
    pub(super) fn lines(&self) -> [(&'static str, String); 6] {
        let threads = self.cells.iter().filter_map(|cell| {
            let all = &cell.dedicated_threads;
            (!all.is_empty()).then(|| {
                let (used, count) = (cell.threads_in_use.len(), all.len());
                let threads = ranges(all);
                format!(
                    "cell {}: {used} of {count} threads in use ({threads})",
                    cell.cell
                )
            })
        });
        let pages = self.cells.iter().flat_map(|cell| {
            let each = cell.pages.iter();
            each.map(|pages| {
                let Pages {
                    size,
                    count,
                    in_use,
                } = pages;
                format!("cell {}: {in_use} of {count} of {size} in use", cell.cell)
            })
        });
        let devices = self.devices.iter().map(|device| {
            let taken = if device.in_use { " (in use)" } else { "" };
            format!("{} {}{taken}", device.class, device.address)
        });
        [
            ("Dedicated CPUs", threads.collect::<Vec<_>>().join("; ")),
            ("Huge pages", pages.collect::<Vec<_>>().join("; ")),
            ("Devices", devices.collect::<Vec<_>>().join(", ")),
            ("Pools", self.pools.join(", ")),
            ("Networks", self.networks.join(", ")),
            ("CPU features", self.cpu_features.join(" ")),
        ]
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Vec::new();
        if self.dedicated_cpus {
            all.push("dedicated CPUs".to_owned());
        }
        all.extend((self.huge_pages.iter()).map(|size| format!("{size} pages")));
        if self.cells > 1 {
            all.push(format!("up to {} cells", self.cells));
        }
        all.extend(self.devices.iter().map(|(class, n)| format!("{class}={n}")));
        all.extend(self.pool.iter().map(|pool| format!("pool {pool}")));
        all.extend((self.network.iter()).map(|network| format!("network {network}")));
        all.extend(self.labels.iter().map(|(l, value)| format!("{l}={value}")));
        if !self.cpu_features.is_empty() {
            all.push(format!("CPU with {}", self.cpu_features.join(" ")));
        }
        f.write_str(&all.join(", "))
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = self.cells.iter().map(|share| {
            let CellShare {
                cell,
                vcpus,
                threads,
                memory_mib,
            } = share;
            let on = match ranges(threads) {
                none if none.is_empty() => String::new(),
                threads => format!(" on threads {threads}"),
            };
            let pages = (self.huge_pages.iter()).map(|size| format!(" in {size} pages"));
            let pages = pages.collect::<String>();
            let vcpus = (*vcpus > 0).then(|| format!("{vcpus} vCPUs{on}"));
            let memory = MemoryMib(*memory_mib);
            let memory = (*memory_mib > 0).then(|| format!("{memory}{pages}"));
            let both: Vec<_> = vcpus.into_iter().chain(memory).collect();
            format!("cell {cell}: {}", both.join(", "))
        });
        let all = cells.chain(self.devices.iter().map(|one| format!("device {one}")));
        f.write_str(&all.collect::<Vec<_>>().join("; "))
    }
}

/// Numbers with runs drawn together: "0-3,8".
fn ranges(numbers: &[u32]) -> String {
    let sorted: BTreeSet<u32> = numbers.iter().copied().collect();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in sorted {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_drawn_together() {
        for (numbers, text) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[20, 4, 5, 21, 6], "4-6,20-21"),
            (&[u32::MAX, 0], "0,4294967295"),
        ] {
            assert_eq!(ranges(numbers), text);
        }
    }
}
