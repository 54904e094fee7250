//! A node's PCI devices as libvirt reports them.

use kapok_types::equipment::PciAddress;
use serde::Deserialize;

use super::Error;

/// A PCI device of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDeviceView {
    /// Where it is.
    pub address: PciAddress,
    /// The vendor's number: 0x10de.
    pub vendor: u16,
    /// The vendor's number for the product.
    pub product: u16,
    /// The group of devices that the host's IOMMU keeps apart from others; without one no guest can
    /// have the device.
    pub iommu_group: Option<u32>,
    /// The NUMA cell that it is near to.
    pub cell: Option<u16>,
}

impl PciDeviceView {
    /// Reads libvirt's document; none for a device that isn't a PCI device.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let raw: RawDevice = super::read(text)?;
        let mut pci = raw.capability.into_iter().filter(|it| it.kind == "pci");
        Ok(pci.next().and_then(RawCapability::view))
    }
}

#[derive(Deserialize)]
struct RawDevice {
    #[serde(default)]
    capability: Vec<RawCapability>,
}

#[derive(Deserialize)]
struct RawCapability {
    #[serde(rename = "@type")]
    kind: String,
    domain: Option<u16>,
    bus: Option<u8>,
    slot: Option<u8>,
    function: Option<u8>,
    vendor: Option<RawId>,
    product: Option<RawId>,
    #[serde(rename = "iommuGroup")]
    iommu_group: Option<RawGroup>,
    numa: Option<RawNuma>,
}

#[derive(Deserialize)]
struct RawId {
    #[serde(rename = "@id")]
    id: String,
}

#[derive(Deserialize)]
struct RawGroup {
    #[serde(rename = "@number")]
    number: u32,
}

#[derive(Deserialize)]
struct RawNuma {
    #[serde(rename = "@node")]
    node: i32,
}

impl RawId {
    fn number(&self) -> Option<u16> {
        u16::from_str_radix(self.id.strip_prefix("0x")?, 16).ok()
    }
}

impl RawCapability {
    fn view(self) -> Option<PciDeviceView> {
        Some(PciDeviceView {
            address: PciAddress {
                domain: self.domain?,
                bus: self.bus?,
                slot: self.slot?,
                function: self.function?,
            },
            vendor: self.vendor?.number()?,
            product: self.product?.number()?,
            iommu_group: self.iommu_group.map(|group| group.number),
            // -1 where the firmware doesn't say.
            cell: self.numa.and_then(|numa| u16::try_from(numa.node).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shaped as `virsh nodedev-dumpxml` prints a GPU with virtual functions.
    #[test]
    fn a_gpu_tells_where_it_is() {
        let text = "<device><name>pci_0000_65_00_1</name><path>/sys/devices/pci0000:64</path>\
            <parent>pci_0000_64_00_0</parent><driver><name>nvidia</name></driver>\
            <capability type='pci'><class>0x030200</class><domain>0</domain><bus>101</bus>\
            <slot>0</slot><function>1</function>\
            <product id='0x20b0'>GA100 [A100 SXM4 40GB]</product>\
            <vendor id='0x10de'>NVIDIA Corporation</vendor>\
            <capability type='virt_functions' maxCount='16'/>\
            <iommuGroup number='71'><address domain='0x0000' bus='0x65' slot='0x00' function='0x1'/>\
            </iommuGroup><numa node='1'/><pci-express><link validity='cap' port='0'/>\
            </pci-express></capability></device>";
        let device = PciDeviceView::parse(text).unwrap().unwrap();
        assert_eq!(device.address.to_string(), "0000:65:00.1");
        assert_eq!((device.vendor, device.product), (0x10de, 0x20b0));
        assert_eq!((device.iommu_group, device.cell), (Some(71), Some(1)));
    }

    #[test]
    fn others_are_no_pci_devices() {
        let text = "<device><name>computer</name><capability type='system'><hardware/>\
            </capability></device>";
        assert_eq!(PciDeviceView::parse(text), Ok(None));
        let plain = "<device><name>pci_0000_00_01_0</name><capability type='pci'>\
            <domain>0</domain><bus>0</bus><slot>1</slot><function>0</function>\
            <product id='0x1045'/><vendor id='0x1af4'/><numa node='-1'/></capability></device>";
        let device = PciDeviceView::parse(plain).unwrap().unwrap();
        assert_eq!((device.iommu_group, device.cell), (None, None));
    }
}
