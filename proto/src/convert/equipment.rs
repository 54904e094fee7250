//! Equipment, needs and assignments, from and to the wire.

use std::collections::BTreeMap;

use kapok_types::{
    MemoryMib, Name, Vcpus, Violation,
    equipment::{Assignment, Cell, CellShare, Device, Equipment, MAX_CELLS, MAX_DEVICES, Needs},
};

use super::id;
use crate::common::v1 as common;

/// Bounds on what a node says of itself (FAULTS 18): what is above is a violation.
const MAX_NODE_CELLS: usize = 64;
const MAX_NODE_FEATURES: usize = 1024;
const MAX_NODE_DEVICES: usize = 256;
const MAX_NODE_NAMES: usize = 64;
const MAX_CELL_THREADS: usize = 1024;
/// 8 PiB of the smallest pages.
const MAX_CELL_PAGES: u64 = 1 << 32;

fn bounded<T>(field: &str, items: &[T], most: usize) -> Result<(), Violation> {
    if items.len() <= most {
        return Ok(());
    }
    let reason = format!("has {} items; at most {most} are allowed", items.len());
    Err(Violation::new(field, reason))
}

fn small(field: &str, number: u32) -> Result<u16, Violation> {
    u16::try_from(number)
        .map_err(|_| Violation::new(field, format!("is {number}; must be below 65536")))
}

fn count(pages: &common::CellPages) -> Result<u64, Violation> {
    let (count, field) = (pages.count, "cells.pages.count");
    let reason = || format!("is {count}; at most {MAX_CELL_PAGES} are allowed");
    (count <= MAX_CELL_PAGES)
        .then_some(count)
        .ok_or_else(|| Violation::new(field, reason()))
}

fn all<I: IntoIterator, T, C: FromIterator<T>>(
    items: I,
    read: impl Fn(I::Item) -> Result<T, Violation>,
) -> Result<C, Violation> {
    items.into_iter().map(read).collect()
}

fn text<T: std::fmt::Display>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn optional<T: std::str::FromStr<Err = Violation>>(
    text: &str,
    field: &str,
) -> Result<Option<T>, Violation> {
    (!text.is_empty()).then(|| id(text, field)).transpose()
}

impl From<&Equipment> for common::Equipment {
    fn from(equipment: &Equipment) -> Self {
        let cells = equipment.cells.iter().map(|cell| common::Cell {
            id: cell.id.into(),
            dedicated: cell
                .dedicated
                .iter()
                .map(|thread| u32::from(*thread))
                .collect(),
            pages: (cell.pages.iter())
                .map(|(size, count)| common::CellPages {
                    size: size.as_str().into(),
                    count: *count,
                })
                .collect(),
        });
        let devices = equipment.devices.iter().map(|device| common::Device {
            address: device.address.to_string(),
            class: device.class.to_string(),
            cell: device.cell.map(u32::from),
        });
        Self {
            cells: cells.collect(),
            cpu_features: equipment
                .cpu_features
                .iter()
                .map(ToString::to_string)
                .collect(),
            devices: devices.collect(),
            pools: equipment.pools.iter().map(ToString::to_string).collect(),
            networks: equipment.networks.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<&common::Equipment> for Equipment {
    type Error = Violation;

    fn try_from(wire: &common::Equipment) -> Result<Self, Violation> {
        bounded("cells", &wire.cells, MAX_NODE_CELLS)?;
        bounded("cpu_features", &wire.cpu_features, MAX_NODE_FEATURES)?;
        bounded("devices", &wire.devices, MAX_NODE_DEVICES)?;
        bounded("pools", &wire.pools, MAX_NODE_NAMES)?;
        bounded("networks", &wire.networks, MAX_NODE_NAMES)?;
        let cell = |wire: &common::Cell| {
            bounded("cells.dedicated", &wire.dedicated, MAX_CELL_THREADS)?;
            Ok(Cell {
                id: small("cells.id", wire.id)?,
                dedicated: all(&wire.dedicated, |thread| small("cells.dedicated", *thread))?,
                pages: all(&wire.pages, |pages| {
                    Ok((id(&pages.size, "cells.pages.size")?, count(pages)?))
                })?,
            })
        };
        let device = |wire: &common::Device| {
            Ok(Device {
                address: id(&wire.address, "devices.address")?,
                class: id(&wire.class, "devices.class")?,
                cell: wire
                    .cell
                    .map(|cell| small("devices.cell", cell))
                    .transpose()?,
            })
        };
        let mut equipment = Self {
            cells: all(&wire.cells, cell)?,
            cpu_features: all(&wire.cpu_features, |one| id(one, "cpu_features"))?,
            devices: all(&wire.devices, device)?,
            pools: all(&wire.pools, |one| id(one, "pools"))?,
            networks: all(&wire.networks, |one| id(one, "networks"))?,
        };
        // Each once, in order: whatever counts on that can.
        equipment.cells.sort();
        equipment.cells.dedup_by_key(|cell| cell.id);
        equipment.devices.sort();
        equipment.devices.dedup_by_key(|device| device.address);
        Ok(equipment)
    }
}

impl From<&Needs> for common::Needs {
    fn from(needs: &Needs) -> Self {
        let devices = needs.devices.iter();
        let labels = needs.labels.iter();
        Self {
            dedicated_cpus: needs.dedicated_cpus,
            huge_pages: (needs.huge_pages).map_or_else(String::new, |size| size.as_str().into()),
            cells: needs.cells.into(),
            cpu_features: needs.cpu_features.iter().map(ToString::to_string).collect(),
            devices: devices
                .map(|(class, count)| (class.to_string(), *count))
                .collect(),
            pool: text(needs.pool.as_ref()),
            network: text(needs.network.as_ref()),
            labels: labels
                .map(|(label, value)| (label.to_string(), value.clone()))
                .collect(),
        }
    }
}

impl TryFrom<&common::Needs> for Needs {
    type Error = Violation;

    /// The limits that depend on the instance's size are [`Needs::check`]'s.
    fn try_from(wire: &common::Needs) -> Result<Self, Violation> {
        let most = u32::from(MAX_CELLS);
        let cells = u8::try_from(wire.cells)
            .ok()
            .filter(|cells| *cells <= MAX_CELLS);
        Ok(Self {
            dedicated_cpus: wire.dedicated_cpus,
            huge_pages: optional(&wire.huge_pages, "huge_pages")?,
            cells: cells.ok_or_else(|| {
                Violation::new(
                    "cells",
                    format!("is {}; must be at most {most}", wire.cells),
                )
            })?,
            cpu_features: all(&wire.cpu_features, |one| id(one, "cpu_features"))?,
            devices: all(&wire.devices, |(class, count)| {
                Ok::<(Name, u32), _>((id(class, "devices")?, *count))
            })?,
            pool: optional(&wire.pool, "pool")?,
            network: optional(&wire.network, "network")?,
            labels: labels(&wire.labels, "labels")?,
        })
    }
}

/// Labels from the wire.
///
/// # Errors
///
/// One that isn't an identifier. Values are checked where labels are.
pub fn labels(
    wire: &BTreeMap<String, String>,
    field: &str,
) -> Result<BTreeMap<Name, String>, Violation> {
    all(wire, |(label, value)| {
        Ok((id(label, field)?, value.clone()))
    })
}

impl From<&Assignment> for common::Assignment {
    fn from(assignment: &Assignment) -> Self {
        let cells = assignment.cells.iter().map(|share| common::CellShare {
            cell: share.cell.into(),
            vcpus: share.vcpus.get(),
            threads: share
                .threads
                .iter()
                .map(|thread| u32::from(*thread))
                .collect(),
            memory_mib: share.memory.get(),
        });
        Self {
            cells: cells.collect(),
            devices: assignment.devices.iter().map(ToString::to_string).collect(),
            huge_pages: (assignment.huge_pages)
                .map_or_else(String::new, |size| size.as_str().into()),
        }
    }
}

impl TryFrom<&common::Assignment> for Assignment {
    type Error = Violation;

    fn try_from(wire: &common::Assignment) -> Result<Self, Violation> {
        bounded("cells", &wire.cells, MAX_CELLS.into())?;
        bounded(
            "devices",
            &wire.devices,
            usize::try_from(MAX_DEVICES).unwrap_or(usize::MAX),
        )?;
        let share = |wire: &common::CellShare| {
            bounded("cells.threads", &wire.threads, MAX_CELL_THREADS)?;
            Ok(CellShare {
                cell: small("cells.cell", wire.cell)?,
                vcpus: Vcpus(wire.vcpus),
                threads: all(&wire.threads, |thread| small("cells.threads", *thread))?,
                memory: MemoryMib(wire.memory_mib),
            })
        };
        Ok(Self {
            cells: all(&wire.cells, share)?,
            huge_pages: optional(&wire.huge_pages, "huge_pages")?,
            devices: all(&wire.devices, |one| id(one, "devices"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_out_comes_back() {
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let equipment = Equipment {
            cells: vec![Cell {
                id: 1,
                dedicated: vec![4, 20, 5, 21],
                pages: [("2MiB".parse().unwrap(), 512)].into(),
            }],
            cpu_features: ["avx2".parse().unwrap()].into(),
            devices: vec![Device {
                address: "0000:65:00.1".parse().unwrap(),
                class: name("gpu-a100"),
                cell: Some(1),
            }],
            pools: [name("kapok")].into(),
            networks: [name("default")].into(),
        };
        assert_eq!(
            Equipment::try_from(&common::Equipment::from(&equipment)),
            Ok(equipment)
        );
        let needs = Needs {
            dedicated_cpus: true,
            huge_pages: Some("1GiB".parse().unwrap()),
            cells: 2,
            cpu_features: ["avx2".parse().unwrap()].into(),
            devices: [(name("gpu-a100"), 1)].into(),
            pool: Some(name("fast")),
            network: None,
            labels: [(name("room"), "東".to_owned())].into(),
        };
        assert_eq!(Needs::try_from(&common::Needs::from(&needs)), Ok(needs));
        let assignment = Assignment {
            cells: vec![CellShare {
                cell: 1,
                vcpus: Vcpus(2),
                threads: vec![4, 20],
                memory: MemoryMib(1024),
            }],
            huge_pages: Some("2MiB".parse().unwrap()),
            devices: vec!["0000:65:00.1".parse().unwrap()],
        };
        assert_eq!(
            Assignment::try_from(&common::Assignment::from(&assignment)),
            Ok(assignment)
        );
    }

    /// FAULTS 18: what an agent says is bounded.
    #[test]
    fn too_much_is_refused_with_its_field() {
        let much = common::Equipment {
            devices: vec![common::Device::default(); MAX_NODE_DEVICES + 1],
            ..common::Equipment::default()
        };
        assert_eq!(Equipment::try_from(&much).unwrap_err().field, "devices");
        let pages = common::CellPages {
            size: "2MiB".into(),
            count: MAX_CELL_PAGES + 1,
        };
        let cell = common::Cell {
            pages: vec![pages],
            ..common::Cell::default()
        };
        let endless = common::Equipment {
            cells: vec![cell],
            ..common::Equipment::default()
        };
        assert_eq!(
            Equipment::try_from(&endless).unwrap_err().field,
            "cells.pages.count"
        );
        let far = common::Needs {
            cells: 300,
            ..common::Needs::default()
        };
        assert_eq!(Needs::try_from(&far).unwrap_err().field, "cells");
    }
}
