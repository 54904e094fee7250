//! Volumes.

use std::{fmt, sync::Arc};

use kapok_types::{Bytes, instance::DiskFormat};
use virt::sys;

use crate::{
    connection::Connection,
    error::{Error, Kind},
    ffi::{self, Handle, check},
    xml::{domain::DiskSource, storage::VolumeView},
};

/// A volume of a pool. Cheap to clone.
#[derive(Clone)]
pub struct Volume {
    pub(super) connection: Connection,
    handle: Arc<Handle<sys::virStorageVol>>,
    name: Arc<str>,
}

/// A volume's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Whether it is a block device.
    pub is_block: bool,
    /// The size that a guest sees. For a qcow2 file that was filled from outside: as of the
    /// pool's last refresh.
    pub capacity: Bytes,
    /// What it takes up.
    pub allocation: Bytes,
}

impl Volume {
    pub(super) fn new(
        connection: Connection,
        handle: Handle<sys::virStorageVol>,
    ) -> Result<Self, Error> {
        // SAFETY: the reference is valid; the string lives as long and is copied.
        let name = unsafe { ffi::text(sys::virStorageVolGetName(handle.raw())) }
            .ok_or_else(|| Error::last("virStorageVolGetName"))?;
        Ok(Self {
            connection,
            handle: Arc::new(handle),
            name: name.into(),
        })
    }

    pub(super) fn raw(&self) -> sys::virStorageVolPtr {
        self.handle.raw()
    }

    /// Its name in the pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path on the node.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn path(&self) -> Result<String, Error> {
        const CALL: &str = "virStorageVolGetPath";
        // SAFETY: the volume is valid; the string is ours to free.
        unsafe { ffi::take_text(CALL, sys::virStorageVolGetPath(self.raw())) }
    }

    /// Its size.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn info(&self) -> Result<VolumeInfo, Error> {
        let mut raw = sys::virStorageVolInfo {
            type_: 0,
            capacity: 0,
            allocation: 0,
        };
        // SAFETY: valid pointers; libvirt fills the struct.
        let outcome = unsafe { sys::virStorageVolGetInfo(self.raw(), &raw mut raw) };
        check("virStorageVolGetInfo", outcome)?;
        Ok(VolumeInfo {
            is_block: u32::try_from(raw.type_) == Ok(sys::VIR_STORAGE_VOL_BLOCK),
            capacity: Bytes(raw.capacity),
            allocation: Bytes(raw.allocation),
        })
    }

    /// Its description, read.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn view(&self) -> Result<VolumeView, Error> {
        const CALL: &str = "virStorageVolGetXMLDesc";
        // SAFETY: the volume is valid; the string is ours to free.
        let text = unsafe { ffi::take_text(CALL, sys::virStorageVolGetXMLDesc(self.raw(), 0)) }?;
        Ok(VolumeView::parse(&text)?)
    }

    /// What a domain's disk is given to use it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn disk_source(&self) -> Result<DiskSource, Error> {
        let path = self.path()?;
        Ok(if self.info()?.is_block {
            DiskSource::Block(path)
        } else {
            DiskSource::File(path)
        })
    }

    /// Removes it. Another's overlay on it isn't noticed here.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone, [`Kind::Busy`] while it is being made or filled.
    pub fn delete(&self) -> Result<(), Error> {
        // SAFETY: the volume is valid.
        check("virStorageVolDelete", unsafe {
            sys::virStorageVolDelete(self.raw(), 0)
        })
        .map(drop)
    }

    /// Grows it to `capacity`. No domain may use it meanwhile.
    ///
    /// libvirt resizes by what the bytes looked like when it last looked. If that isn't
    /// `record`, a guest may have disguised its disk, and the call is refused (FAULTS 10).
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] for another layout than recorded, [`Kind::Invalid`] for less than now.
    pub fn grow(&self, record: DiskFormat, capacity: Bytes) -> Result<(), Error> {
        const CALL: &str = "virStorageVolResize";
        let view = self.view()?;
        if view.probed_format.as_deref() != Some(record.as_str()) {
            let looks = view.probed_format.unwrap_or_else(|| "nothing known".into());
            let message = format!(
                "volume {} is recorded as {} but looks like {looks}",
                self.name,
                record.as_str()
            );
            return Err(Error::new(Kind::Refused, CALL, message));
        }
        if capacity < view.capacity {
            let message = format!(
                "volume {} has {}; it can't shrink",
                self.name, view.capacity
            );
            return Err(Error::new(Kind::Invalid, CALL, message));
        }
        // SAFETY: the volume is valid.
        check(CALL, unsafe {
            sys::virStorageVolResize(self.raw(), capacity.get(), 0)
        })
        .map(drop)
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Volume").field(&self.name).finish()
    }
}
