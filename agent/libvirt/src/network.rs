//! The node's networks that guests can be plugged into. Kapok doesn't make them here.

use std::fmt;

use virt::sys;

use crate::{
    connection::Connection,
    error::Error,
    ffi::{self, Handle, c_string, check},
    xml::network::NetworkView,
};

/// A network of the node.
pub struct Network {
    handle: Handle<sys::virNetwork>,
    name: String,
}

impl Connection {
    /// The network with this name.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if there is none.
    pub fn network(&self, name: &str) -> Result<Network, Error> {
        const CALL: &str = "virNetworkLookupByName";
        let text = c_string(CALL, name)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle =
            unsafe { Handle::adopt(CALL, sys::virNetworkLookupByName(self.raw(), text.as_ptr())) }?;
        Network::new(handle)
    }

    /// All networks, active or not.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        let mut list = std::ptr::null_mut();
        // SAFETY: valid pointers; libvirt allocates the list.
        let count = unsafe { sys::virConnectListAllNetworks(self.raw(), &raw mut list, 0) };
        let count = check("virConnectListAllNetworks", count)?;
        // SAFETY: `count` references and the array are ours.
        unsafe { ffi::take_objects(list, count) }
            .into_iter()
            .map(Network::new)
            .collect()
    }
}

impl Network {
    fn new(handle: Handle<sys::virNetwork>) -> Result<Self, Error> {
        // SAFETY: the reference is valid; the string lives as long and is copied.
        let name = unsafe { ffi::text(sys::virNetworkGetName(handle.raw())) }
            .ok_or_else(|| Error::last("virNetworkGetName"))?;
        Ok(Self { handle, name })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether guests can be plugged into it now.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if it is gone.
    pub fn is_active(&self) -> Result<bool, Error> {
        // SAFETY: the network is valid.
        let outcome = unsafe { sys::virNetworkIsActive(self.handle.raw()) };
        Ok(check("virNetworkIsActive", outcome)? == 1)
    }

    /// Brings it up.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if it is up.
    pub fn start(&self) -> Result<(), Error> {
        // SAFETY: the network is valid.
        check("virNetworkCreate", unsafe {
            sys::virNetworkCreate(self.handle.raw())
        })
        .map(drop)
    }

    /// Its description, read.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if it is gone.
    pub fn view(&self) -> Result<NetworkView, Error> {
        const CALL: &str = "virNetworkGetXMLDesc";
        // SAFETY: the network is valid; the string is ours to free.
        let text =
            unsafe { ffi::take_text(CALL, sys::virNetworkGetXMLDesc(self.handle.raw(), 0)) }?;
        Ok(NetworkView::parse(&text)?)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Network").field(&self.name).finish()
    }
}
