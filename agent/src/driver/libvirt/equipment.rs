//! What the node has beyond amounts: libvirt's word for what is there, the configuration's for what
//! of it single instances can have.

use std::collections::{BTreeMap, BTreeSet};

use kapok_libvirt::{
    Connection,
    xml::{node_device::PciDeviceView, topology::HostCell},
};
use kapok_types::{
    Equipment, Name, ThreadSet,
    equipment::{Cell, Device, Feature, PageSize},
};

use super::{Options, error};
use crate::{config::Offering, driver::Error};

/// What libvirt tells, asked anew now and then: pages are set aside, and networks started, while
/// it runs.
pub(super) struct Told {
    pub(super) cells: Vec<HostCell>,
    pub(super) devices: Vec<PciDeviceView>,
    pub(super) networks: BTreeSet<Name>,
}

/// Asks for it.
pub(super) fn ask(connection: &Connection, offering: &Offering) -> Result<Told, Error> {
    let ask = || -> Result<Told, kapok_libvirt::Error> {
        let mut networks = BTreeSet::new();
        if !offering.networks.is_empty() {
            for network in connection.networks()? {
                let named = network.name().parse().ok();
                if let Some(name) = named.filter(|name| offering.networks.contains(name))
                    && network.is_active()?
                {
                    networks.insert(name);
                }
            }
        }
        Ok(Told {
            cells: connection.capabilities()?.cells,
            devices: if offering.devices.is_empty() {
                Vec::new()
            } else {
                connection.pci_devices()?
            },
            networks,
        })
    };
    ask().map_err(error::from)
}

/// All threads of a node.
pub(super) fn threads(cells: &[HostCell]) -> ThreadSet {
    cells
        .iter()
        .flat_map(|cell| &cell.threads)
        .copied()
        .collect()
}

/// What the node offers.
///
/// # Errors
///
/// What the configuration sets aside isn't there, or is everything.
pub(super) fn of(
    options: &Options,
    told: &Told,
    cpu_features: &BTreeSet<Feature>,
) -> Result<Equipment, String> {
    let dedicated = &options.offering.dedicated;
    let all = threads(&told.cells);
    let unknown = dedicated.without(&all);
    if !unknown.is_empty() {
        return Err(format!(
            "dedicated_cpus in agent.toml names the threads {unknown}; those online here are {all}"
        ));
    }
    if !all.is_empty() && all.without(dedicated).is_empty() {
        return Err(
            "dedicated_cpus in agent.toml names all threads; leave some to the host".into(),
        );
    }
    let own = |name: &String| name.parse::<Name>().ok();
    let mut networks = told.networks.clone();
    networks.extend(own(&options.network));
    Ok(Equipment {
        cells: told
            .cells
            .iter()
            .filter_map(|cell| set_aside(cell, dedicated))
            .collect(),
        cpu_features: cpu_features.clone(),
        devices: devices(&options.offering, &told.devices),
        pools: own(&options.pool).into_iter().collect(),
        networks,
    })
}

/// What is set aside in a cell, if anything is.
fn set_aside(cell: &HostCell, dedicated: &ThreadSet) -> Option<Cell> {
    let threads = cell.threads.iter().copied();
    let threads: Vec<_> = threads
        .filter(|thread| dedicated.contains(*thread))
        .collect();
    let mut pages = BTreeMap::new();
    for size in PageSize::ALL {
        let count = cell.pages.get(&(size.mib() << 20)).copied();
        if let Some(count) = count.filter(|count| *count > 0) {
            pages.insert(size, count);
        }
    }
    (!threads.is_empty() || !pages.is_empty()).then_some(Cell {
        id: cell.id,
        dedicated: threads,
        pages,
    })
}

/// The devices that rules name. Of an IOMMU group only one can be given away: no two guests can
/// have a part of it.
fn devices(offering: &Offering, present: &[PciDeviceView]) -> Vec<Device> {
    let mut present: Vec<_> = present.iter().collect();
    present.sort_by_key(|device| device.address);
    let mut groups = BTreeSet::new();
    let mut offered = Vec::new();
    for device in present {
        let numbers = (device.vendor, device.product);
        let mut rules = offering.devices.iter();
        let Some(rule) = rules.find(|rule| (rule.vendor, rule.product) == numbers) else {
            continue;
        };
        match device.iommu_group {
            Some(group) if groups.insert(group) => offered.push(Device {
                address: device.address,
                class: rule.class.clone(),
                cell: device.cell,
            }),
            Some(_) => {}
            None => tracing::debug!(
                address = %device.address,
                class = %rule.class,
                "no IOMMU keeps it apart, so no guest can have it"
            ),
        }
    }
    offered
}
