//! The node's own PCI devices. Kapok only looks at them: libvirt takes one from the host's driver
//! when a guest starts, and gives it back when that ends.

use virt::sys;

use crate::{
    connection::Connection,
    error::{Error, Kind},
    ffi::{self, Handle, check},
    xml::node_device::PciDeviceView,
};

impl Connection {
    /// The node's PCI devices. One that goes away meanwhile is left out.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call; [`Kind::Invalid`] if an answer can't be read.
    pub fn pci_devices(&self) -> Result<Vec<PciDeviceView>, Error> {
        const CALL: &str = "virNodeDeviceGetXMLDesc";
        let mut list = std::ptr::null_mut();
        let only_pci = sys::VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV;
        // SAFETY: valid pointers; libvirt allocates the list.
        let count =
            unsafe { sys::virConnectListAllNodeDevices(self.raw(), &raw mut list, only_pci) };
        let count = check("virConnectListAllNodeDevices", count)?;
        // SAFETY: `count` references and the array are ours.
        let devices = unsafe { ffi::take_objects(list, count) };
        let mut found = Vec::new();
        for device in devices {
            let device: Handle<sys::virNodeDevice> = device;
            // SAFETY: the device is valid; the string is ours to free.
            let text =
                unsafe { ffi::take_text(CALL, sys::virNodeDeviceGetXMLDesc(device.raw(), 0)) };
            match text {
                Ok(text) => found.extend(PciDeviceView::parse(&text)?),
                Err(failure) if failure.is(Kind::NotFound) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }
}
