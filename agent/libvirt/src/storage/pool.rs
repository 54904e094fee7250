//! Pools.

use std::{ffi::c_int, fmt, sync::Arc};

use virt::sys;

use super::Volume;
use crate::{
    connection::Connection,
    error::Error,
    ffi::{self, Handle, c_string, check},
    xml::storage::{PoolView, VolumeConfig, dir_pool, volume_name},
};

/// A storage pool. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    connection: Connection,
    handle: Arc<Handle<sys::virStoragePool>>,
    name: Arc<str>,
}

/// Whether a pool can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// It isn't started.
    Inactive,
    /// It is being made.
    Building,
    /// It can be used.
    Running,
    /// It can be used, but has lost redundancy.
    Degraded,
    /// It is started but can't be reached.
    Inaccessible,
    /// Something that this crate doesn't know.
    Unknown,
}

/// A pool's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolInfo {
    /// Whether it can be used.
    pub state: PoolState,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Used, in bytes.
    pub allocation_bytes: u64,
    /// Free, in bytes. As of the last refresh for some kinds of pools.
    pub available_bytes: u64,
}

impl Connection {
    /// The pool with this name.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if there is none.
    pub fn pool(&self, name: &str) -> Result<Pool, Error> {
        const CALL: &str = "virStoragePoolLookupByName";
        let text = c_string(CALL, name)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virStoragePoolLookupByName(self.raw(), text.as_ptr()),
            )
        }?;
        Pool::new(self.clone(), handle)
    }

    /// All pools, active or not.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn pools(&self) -> Result<Vec<Pool>, Error> {
        let mut list = std::ptr::null_mut();
        // SAFETY: valid pointers; libvirt allocates the list.
        let count = unsafe { sys::virConnectListAllStoragePools(self.raw(), &raw mut list, 0) };
        let count = check("virConnectListAllStoragePools", count)?;
        // SAFETY: `count` references and the array are ours.
        let handles = unsafe { ffi::take_objects(list, count) };
        handles
            .into_iter()
            .map(|handle| Pool::new(self.clone(), handle))
            .collect()
    }

    /// Defines a pool that is a directory of the node; [`Pool::build`] makes the directory. Both
    /// arguments are the operator's configuration.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Invalid`] for a name or path that can't be one.
    pub fn define_dir_pool(&self, name: &str, path: &str) -> Result<Pool, Error> {
        const CALL: &str = "virStoragePoolDefineXML";
        let xml = c_string(CALL, &dir_pool(name, path)?)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virStoragePoolDefineXML(self.raw(), xml.as_ptr(), 0),
            )
        }?;
        Pool::new(self.clone(), handle)
    }

    /// The volume with this path, in whichever active pool.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if no active pool has it.
    pub fn volume_by_path(&self, path: &str) -> Result<Volume, Error> {
        const CALL: &str = "virStorageVolLookupByPath";
        let text = c_string(CALL, path)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virStorageVolLookupByPath(self.raw(), text.as_ptr()),
            )
        }?;
        Volume::new(self.clone(), handle)
    }
}

impl Pool {
    fn new(connection: Connection, handle: Handle<sys::virStoragePool>) -> Result<Self, Error> {
        // SAFETY: the reference is valid; the string lives as long and is copied.
        let name = unsafe { ffi::text(sys::virStoragePoolGetName(handle.raw())) }
            .ok_or_else(|| Error::last("virStoragePoolGetName"))?;
        Ok(Self {
            connection,
            handle: Arc::new(handle),
            name: name.into(),
        })
    }

    fn raw(&self) -> sys::virStoragePoolPtr {
        self.handle.raw()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is started.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if it is gone.
    pub fn is_active(&self) -> Result<bool, Error> {
        // SAFETY: the pool is valid.
        let outcome = unsafe { sys::virStoragePoolIsActive(self.raw()) };
        Ok(check("virStoragePoolIsActive", outcome)? == 1)
    }

    /// Makes what it stands on, for example the directory.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if it is started.
    pub fn build(&self) -> Result<(), Error> {
        // SAFETY: the pool is valid.
        check("virStoragePoolBuild", unsafe {
            sys::virStoragePoolBuild(self.raw(), 0)
        })
        .map(drop)
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if it is started.
    pub fn start(&self) -> Result<(), Error> {
        // SAFETY: the pool is valid.
        check("virStoragePoolCreate", unsafe {
            sys::virStoragePoolCreate(self.raw(), 0)
        })
        .map(drop)
    }

    /// Stops it; its volumes stay.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Busy`] while a volume is being made.
    pub fn stop(&self) -> Result<(), Error> {
        // SAFETY: the pool is valid.
        check("virStoragePoolDestroy", unsafe {
            sys::virStoragePoolDestroy(self.raw())
        })
        .map(drop)
    }

    /// Forgets its definition; its volumes stay.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if it is started.
    pub fn undefine(&self) -> Result<(), Error> {
        // SAFETY: the pool is valid.
        check("virStoragePoolUndefine", unsafe {
            sys::virStoragePoolUndefine(self.raw())
        })
        .map(drop)
    }

    /// Sets whether libvirtd starts it by itself.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if it is transient.
    pub fn set_autostart(&self, on: bool) -> Result<(), Error> {
        // SAFETY: the pool is valid.
        let outcome = unsafe { sys::virStoragePoolSetAutostart(self.raw(), c_int::from(on)) };
        check("virStoragePoolSetAutostart", outcome).map(drop)
    }

    /// Looks at its volumes anew. Reads the header of each, so it may take long and may hang.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Busy`] while a volume is being made or filled.
    pub fn refresh(&self) -> Result<(), Error> {
        // SAFETY: the pool is valid.
        check("virStoragePoolRefresh", unsafe {
            sys::virStoragePoolRefresh(self.raw(), 0)
        })
        .map(drop)
    }

    /// Its room.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if it is gone.
    pub fn info(&self) -> Result<PoolInfo, Error> {
        let mut raw = sys::virStoragePoolInfo {
            state: 0,
            capacity: 0,
            allocation: 0,
            available: 0,
        };
        // SAFETY: valid pointers; libvirt fills the struct.
        let outcome = unsafe { sys::virStoragePoolGetInfo(self.raw(), &raw mut raw) };
        check("virStoragePoolGetInfo", outcome)?;
        Ok(PoolInfo {
            state: match u32::try_from(raw.state).unwrap_or(u32::MAX) {
                sys::VIR_STORAGE_POOL_INACTIVE => PoolState::Inactive,
                sys::VIR_STORAGE_POOL_BUILDING => PoolState::Building,
                sys::VIR_STORAGE_POOL_RUNNING => PoolState::Running,
                sys::VIR_STORAGE_POOL_DEGRADED => PoolState::Degraded,
                sys::VIR_STORAGE_POOL_INACCESSIBLE => PoolState::Inaccessible,
                _ => PoolState::Unknown,
            },
            capacity_bytes: raw.capacity,
            allocation_bytes: raw.allocation,
            available_bytes: raw.available,
        })
    }

    /// Its description, read.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if it is gone.
    pub fn view(&self) -> Result<PoolView, Error> {
        const CALL: &str = "virStoragePoolGetXMLDesc";
        // SAFETY: the pool is valid; the string is ours to free.
        let text = unsafe { ffi::take_text(CALL, sys::virStoragePoolGetXMLDesc(self.raw(), 0)) }?;
        Ok(PoolView::parse(&text)?)
    }

    /// All its volumes, ours or not, as of the last refresh.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if it isn't started.
    pub fn volumes(&self) -> Result<Vec<Volume>, Error> {
        let mut list = std::ptr::null_mut();
        // SAFETY: valid pointers; libvirt allocates the list.
        let count = unsafe { sys::virStoragePoolListAllVolumes(self.raw(), &raw mut list, 0) };
        let count = check("virStoragePoolListAllVolumes", count)?;
        // SAFETY: `count` references and the array are ours.
        let handles = unsafe { ffi::take_objects(list, count) };
        handles
            .into_iter()
            .map(|handle| Volume::new(self.connection.clone(), handle))
            .collect()
    }

    /// The volume with this name.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] if there is none, [`crate::Kind::Invalid`] for a name that can't be one.
    pub fn volume(&self, name: &str) -> Result<Volume, Error> {
        const CALL: &str = "virStorageVolLookupByName";
        volume_name(name)?;
        let text = c_string(CALL, name)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virStorageVolLookupByName(self.raw(), text.as_ptr()),
            )
        }?;
        Volume::new(self.connection.clone(), handle)
    }

    /// Makes a volume, empty or standing on a base. Blocks until it is there.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::AlreadyExists`], [`crate::Kind::NoSpace`], and [`crate::Kind::Invalid`] for
    /// what can't be written.
    pub fn create_volume(&self, config: &VolumeConfig) -> Result<Volume, Error> {
        const CALL: &str = "virStorageVolCreateXML";
        let xml = c_string(CALL, &config.to_xml()?)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virStorageVolCreateXML(self.raw(), xml.as_ptr(), 0),
            )
        }?;
        Volume::new(self.connection.clone(), handle)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.name).finish()
    }
}
