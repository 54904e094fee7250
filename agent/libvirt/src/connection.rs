//! A connection to one libvirtd, and what the node behind it is.
//!
//! A connection is cheap to clone; the last clone closes it. Closing sends a message and waits
//! for its answer, so the last clone is dropped on a thread that may block. One libvirtd serves
//! at most five requests of one connection at a time (its default), so lanes that must not block
//! each other hold connections of their own.

use std::{
    collections::BTreeSet,
    ffi::{c_int, c_ulong},
    fmt,
    sync::Arc,
    time::Duration,
};

use virt::sys;

use crate::{
    error::{Error, Kind},
    ffi::{self, Handle, c_string, check},
    xml::{
        self,
        capabilities::{Capabilities, DomainCapabilities},
        cpu_model::CpuModel,
        domain::VirtType,
    },
};

/// A connection to one libvirtd.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle<sys::virConnect>,
    uri: String,
}

/// A version in libvirt's scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u64,
    /// Second number.
    pub minor: u64,
    /// Third number.
    pub release: u64,
}

impl Version {
    /// From `major * 1_000_000 + minor * 1_000 + release`.
    fn decode(number: c_ulong) -> Self {
        let number: u64 = number;
        Self {
            major: number / 1_000_000,
            minor: number / 1_000 % 1_000,
            release: number % 1_000,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// What runs on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// libvirtd's version.
    pub libvirt: Version,
    /// The hypervisor's (QEMU's) version.
    pub hypervisor: Version,
}

/// The node's processors and memory as libvirt counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Processor architecture by the kernel's name, for example `x86_64`.
    pub model: String,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Active logical processors.
    pub cpus: u32,
    /// Clock in MHz; 0 if unknown.
    pub mhz: u32,
    /// NUMA cells.
    pub numa_cells: u32,
    /// Sockets a cell.
    pub sockets: u32,
    /// Cores a socket.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

impl Connection {
    /// Opens a connection, for example to `qemu:///system` or `test:///path/node.xml`.
    ///
    /// The first call of a process also starts the event loop's thread.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] without permission, [`Kind::Invalid`] for a NUL byte in the URI,
    /// [`Kind::Unsupported`] for an unknown scheme, else [`Kind::Disconnected`].
    pub fn open(uri: &str) -> Result<Self, Error> {
        const CALL: &str = "virConnectOpen";
        ffi::init()?;
        let name = c_string(CALL, uri)?;
        // SAFETY: a valid C string; libvirt copies what it keeps. The new reference is ours.
        let handle = unsafe { Handle::adopt(CALL, sys::virConnectOpen(name.as_ptr())) }.map_err(
            |mut error| {
                if error.kind == Kind::Other {
                    error.kind = Kind::Disconnected;
                }
                error
            },
        )?;
        Ok(Self {
            inner: Arc::new(Inner {
                handle,
                uri: uri.to_owned(),
            }),
        })
    }

    /// Asks libvirtd for a sign of life every `interval`, and closes the connection (waking every
    /// call that waits on it) after `count` of them went unanswered. Returns false where keepalive
    /// makes no sense, as for the test driver.
    ///
    /// # Errors
    ///
    /// If the other side can't do it or the connection is gone.
    pub fn set_keepalive(&self, interval: Duration, count: u32) -> Result<bool, Error> {
        if self.is_test() {
            return Ok(false);
        }
        let seconds = c_int::try_from(interval.as_secs().max(1)).unwrap_or(c_int::MAX);
        // SAFETY: the connection is valid.
        let outcome = unsafe { sys::virConnectSetKeepAlive(self.raw(), seconds, count) };
        Ok(check("virConnectSetKeepAlive", outcome)? == 0)
    }

    /// Whether the connection is still usable. Never asks libvirtd: it tells what keepalive and
    /// the socket have shown so far.
    ///
    /// # Errors
    ///
    /// If even that can't be told.
    pub fn is_alive(&self) -> Result<bool, Error> {
        // SAFETY: the connection is valid.
        Ok(check("virConnectIsAlive", unsafe {
            sys::virConnectIsAlive(self.raw())
        })? == 1)
    }

    /// The URI that it was opened with.
    pub fn uri(&self) -> &str {
        &self.inner.uri
    }

    /// Whether this is libvirt's own test driver, which lacks some calls and flags.
    pub fn is_test(&self) -> bool {
        self.inner.uri.starts_with("test:")
    }

    /// Processors and memory of the node.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn node_info(&self) -> Result<NodeInfo, Error> {
        let mut info = sys::virNodeInfo {
            model: [0; 32],
            memory: 0,
            cpus: 0,
            mhz: 0,
            nodes: 0,
            sockets: 0,
            cores: 0,
            threads: 0,
        };
        // SAFETY: both pointers are valid; libvirt fills the struct.
        check("virNodeGetInfo", unsafe {
            sys::virNodeGetInfo(self.raw(), &raw mut info)
        })?;
        let model = info.model.iter().map_while(|&byte| {
            let byte = u8::from_ne_bytes(byte.to_ne_bytes());
            (byte != 0).then(|| char::from(byte))
        });
        Ok(NodeInfo {
            model: model.collect(),
            memory_kib: info.memory,
            cpus: info.cpus,
            mhz: info.mhz,
            numa_cells: info.nodes,
            sockets: info.sockets,
            cores: info.cores,
            threads: info.threads,
        })
    }

    /// The node's host name, as libvirtd sees it. For people; never an identity.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn host_name(&self) -> Result<String, Error> {
        const CALL: &str = "virConnectGetHostname";
        // SAFETY: the connection is valid; the returned string is ours to free.
        unsafe { ffi::take_text(CALL, sys::virConnectGetHostname(self.raw())) }
    }

    /// Versions of libvirtd and of the hypervisor.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn versions(&self) -> Result<Versions, Error> {
        let (mut libvirt, mut hypervisor): (c_ulong, c_ulong) = (0, 0);
        // SAFETY: both pointers are valid.
        let outcome = unsafe { sys::virConnectGetLibVersion(self.raw(), &raw mut libvirt) };
        check("virConnectGetLibVersion", outcome)?;
        // SAFETY: both pointers are valid.
        let outcome = unsafe { sys::virConnectGetVersion(self.raw(), &raw mut hypervisor) };
        check("virConnectGetVersion", outcome)?;
        Ok(Versions {
            libvirt: Version::decode(libvirt),
            hypervisor: Version::decode(hypervisor),
        })
    }

    /// What the node and its hypervisors offer. Costs libvirtd much on its first call.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call; [`Kind::Invalid`] if the answer can't be read.
    pub fn capabilities(&self) -> Result<Capabilities, Error> {
        const CALL: &str = "virConnectGetCapabilities";
        // SAFETY: the connection is valid; the returned string is ours to free.
        let text = unsafe { ffi::take_text(CALL, sys::virConnectGetCapabilities(self.raw())) }?;
        Ok(Capabilities::parse(&text)?)
    }

    /// What one machine type of one hypervisor offers; the emulator is libvirt's own choice.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] or [`Kind::Invalid`] if the combination doesn't exist here, for
    /// example [`VirtType::Kvm`] without `/dev/kvm`.
    pub fn domain_capabilities(
        &self,
        virt_type: VirtType,
        arch: &str,
        machine: Option<&str>,
    ) -> Result<DomainCapabilities, Error> {
        const CALL: &str = "virConnectGetDomainCapabilities";
        let arch = c_string(CALL, arch)?;
        let machine = machine.map(|machine| c_string(CALL, machine)).transpose()?;
        let virt_type = c_string(CALL, virt_type.as_str())?;
        // SAFETY: valid pointers; null where libvirt takes null as "your choice"; the returned
        // string is ours to free.
        let text = unsafe {
            ffi::take_text(
                CALL,
                sys::virConnectGetDomainCapabilities(
                    self.raw(),
                    std::ptr::null(),
                    arch.as_ptr(),
                    machine
                        .as_ref()
                        .map_or(std::ptr::null(), |machine| machine.as_ptr()),
                    virt_type.as_ptr(),
                    0,
                ),
            )
        }?;
        Ok(DomainCapabilities::parse(&text)?)
    }

    /// Processor features that guests of this kind can have here, by libvirt's names: those of the
    /// host's nearest model, spelled out. Where libvirt can't spell a model out, those that it names
    /// beside the model.
    ///
    /// # Errors
    ///
    /// As [`Connection::domain_capabilities`].
    pub fn cpu_features(
        &self,
        virt_type: VirtType,
        arch: &str,
        machine: &str,
    ) -> Result<BTreeSet<String>, Error> {
        const CALL: &str = "virConnectBaselineHypervisorCPU";
        let capabilities = self.domain_capabilities(virt_type, arch, Some(machine))?;
        let Some(model) = capabilities.host_model else {
            return Ok(BTreeSet::new());
        };
        let document = c_string(CALL, &model.to_xml()?)?;
        let arch = c_string(CALL, arch)?;
        let machine = c_string(CALL, machine)?;
        let virt_type = c_string(CALL, virt_type.as_str())?;
        let mut documents = [document.as_ptr()];
        // SAFETY: valid pointers, null for the emulator as "your choice", and an array of one; the
        // returned string is ours to free.
        let text = unsafe {
            ffi::take_text(
                CALL,
                sys::virConnectBaselineHypervisorCPU(
                    self.raw(),
                    std::ptr::null(),
                    arch.as_ptr(),
                    machine.as_ptr(),
                    virt_type.as_ptr(),
                    documents.as_mut_ptr(),
                    1,
                    sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES,
                ),
            )
        };
        match text {
            Ok(text) => Ok(CpuModel::parse(&text)?.features()),
            Err(failure) if failure.is(Kind::Unsupported) => Ok(model.features()),
            Err(failure) => Err(failure),
        }
    }

    pub(crate) fn raw(&self) -> sys::virConnectPtr {
        self.inner.handle.raw()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.inner.uri).finish()
    }
}

impl From<xml::Error> for Error {
    fn from(error: xml::Error) -> Self {
        Self::new(Kind::Invalid, "xml", error.to_string())
    }
}
