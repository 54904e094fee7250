//! Domains: finding, defining, turning on and off, and what is kept with them.
//!
//! Every method is one blocking libvirt call unless it says otherwise. Which of them is legal
//! when is the caller's state machine's business; libvirt's answer to an illegal one is
//! [`Kind::InvalidState`].

use std::{ffi::c_int, fmt, sync::Arc, time::Duration};

use uuid::Uuid;
use virt::sys;

use crate::{
    connection::Connection,
    error::{Error, Kind},
    ffi::{self, Handle, c_string, check},
    xml::domain::DomainDoc,
};

pub mod guest;
pub mod job;
mod record;
pub mod state;
mod vcpus;

pub use record::Copy;
pub use state::{PausedReason, ShutoffReason, State};

/// A domain: its UUID and name, and a reference to libvirt's object. Cheap to clone.
///
/// The reference stays valid when the domain is undefined; calls then answer
/// [`Kind::NotFound`].
#[derive(Clone)]
pub struct Domain {
    pub(crate) connection: Connection,
    handle: Arc<Handle<sys::virDomain>>,
    uuid: Uuid,
    name: Arc<str>,
}

/// How a domain is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// Stop before the first instruction.
    pub paused: bool,
    /// Destroy it when this connection ends.
    pub autodestroy: bool,
}

impl Start {
    fn flags(self) -> u32 {
        flag(self.paused, sys::VIR_DOMAIN_START_PAUSED)
            | flag(self.autodestroy, sys::VIR_DOMAIN_START_AUTODESTROY)
    }
}

/// How a guest is asked to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// The power button; the guest may ignore it.
    Acpi,
    /// The guest's agent.
    Agent,
    /// What the driver likes best; all that the test driver knows.
    Default,
}

/// What a domain holds of its node at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// How long libvirt waits for a guest's agent in calls that use it by themselves.
const AGENT_TIMEOUT_S: c_int = 10;

pub(crate) fn flag(on: bool, bit: u32) -> u32 {
    if on { bit } else { 0 }
}

impl Connection {
    /// The domain with this UUID.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is none.
    pub fn domain(&self, uuid: Uuid) -> Result<Domain, Error> {
        const CALL: &str = "virDomainLookupByUUID";
        // SAFETY: the connection is valid and the UUID has 16 bytes; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virDomainLookupByUUID(self.raw(), uuid.as_bytes().as_ptr()),
            )
        }?;
        Domain::new(self.clone(), handle)
    }

    /// All domains, running or not, ours or not.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn domains(&self) -> Result<Vec<Domain>, Error> {
        const CALL: &str = "virConnectListAllDomains";
        let mut list = std::ptr::null_mut();
        // SAFETY: valid pointers; libvirt allocates the list.
        let count = unsafe { sys::virConnectListAllDomains(self.raw(), &raw mut list, 0) };
        let count = check(CALL, count)?;
        // SAFETY: `count` references and the array are ours.
        let handles = unsafe { ffi::take_objects(list, count) };
        handles
            .into_iter()
            .map(|handle| Domain::new(self.clone(), handle))
            .collect()
    }

    /// Makes a domain persistent, or replaces the description of the one with the same UUID.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`] if another domain has the name.
    pub fn define(&self, doc: &DomainDoc) -> Result<Domain, Error> {
        self.define_with(doc, 0)
    }

    /// As [`Connection::define`], but libvirt checks the document against its schema first. That
    /// costs some milliseconds and can only find this crate's mistakes: for tests.
    ///
    /// # Errors
    ///
    /// Also [`Kind::Invalid`] if the schema has no such document.
    pub fn define_validated(&self, doc: &DomainDoc) -> Result<Domain, Error> {
        self.define_with(doc, sys::VIR_DOMAIN_DEFINE_VALIDATE)
    }

    fn define_with(&self, doc: &DomainDoc, flags: u32) -> Result<Domain, Error> {
        const CALL: &str = "virDomainDefineXMLFlags";
        let xml = c_string(CALL, doc.as_str())?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virDomainDefineXMLFlags(self.raw(), xml.as_ptr(), flags),
            )
        }?;
        Domain::new(self.clone(), handle)
    }

    /// Starts a domain that is gone once it stops. For this crate's probe only.
    pub(crate) fn create_transient(&self, xml: &str, start: Start) -> Result<Domain, Error> {
        const CALL: &str = "virDomainCreateXML";
        let xml = c_string(CALL, xml)?;
        // SAFETY: valid pointers; the reference is ours.
        let handle = unsafe {
            Handle::adopt(
                CALL,
                sys::virDomainCreateXML(self.raw(), xml.as_ptr(), start.flags()),
            )
        }?;
        Domain::new(self.clone(), handle)
    }
}

impl Domain {
    fn new(connection: Connection, handle: Handle<sys::virDomain>) -> Result<Self, Error> {
        // SAFETY: the reference is valid; both answers are kept in it, nobody is asked.
        let uuid = unsafe { uuid_of(handle.raw()) }?;
        // SAFETY: as above; the string lives as long as the reference and is copied.
        let name = unsafe { ffi::text(sys::virDomainGetName(handle.raw())) }
            .ok_or_else(|| Error::last("virDomainGetName"))?;
        Ok(Self {
            connection,
            handle: Arc::new(handle),
            uuid,
            name: name.into(),
        })
    }

    /// Its UUID: the incarnation's, if it is ours.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its name when this handle was made.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn raw(&self) -> sys::virDomainPtr {
        self.handle.raw()
    }

    /// Its state. Never touches the guest's monitor.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn state(&self) -> Result<State, Error> {
        let (mut state, mut reason): (c_int, c_int) = (0, 0);
        // SAFETY: valid pointers.
        let outcome =
            unsafe { sys::virDomainGetState(self.raw(), &raw mut state, &raw mut reason, 0) };
        check("virDomainGetState", outcome)?;
        Ok(State::from_raw(state, reason))
    }

    /// What it holds at most, by libvirt's own numbers: no document is read. Never touches the
    /// guest's monitor.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn size(&self) -> Result<Size, Error> {
        let mut raw = sys::virDomainInfo {
            state: 0,
            maxMem: 0,
            memory: 0,
            nrVirtCpu: 0,
            cpuTime: 0,
        };
        // SAFETY: valid pointers; libvirt fills the struct.
        let outcome = unsafe { sys::virDomainGetInfo(self.raw(), &raw mut raw) };
        check("virDomainGetInfo", outcome)?;
        Ok(Size {
            memory_bytes: raw.maxMem.saturating_mul(1024),
            vcpus: u32::from(raw.nrVirtCpu),
        })
    }

    /// Whether it has a QEMU. Never touches the guest's monitor.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn is_active(&self) -> Result<bool, Error> {
        // SAFETY: the domain is valid.
        Ok(check("virDomainIsActive", unsafe {
            sys::virDomainIsActive(self.raw())
        })? == 1)
    }

    /// Whether it outlives its QEMU.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn is_persistent(&self) -> Result<bool, Error> {
        // SAFETY: the domain is valid.
        let outcome = unsafe { sys::virDomainIsPersistent(self.raw()) };
        Ok(check("virDomainIsPersistent", outcome)? == 1)
    }

    /// Turns it on.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is on, [`Kind::Locked`] if another QEMU holds its disk.
    pub fn start(&self, start: Start) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        let outcome = unsafe { sys::virDomainCreateWithFlags(self.raw(), start.flags()) };
        check("virDomainCreateWithFlags", outcome).map(drop)
    }

    /// Lets a paused guest run on.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is off.
    pub fn resume(&self) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        check("virDomainResume", unsafe {
            sys::virDomainResume(self.raw())
        })
        .map(drop)
    }

    /// Asks the guest to shut down and doesn't wait for it. Through the agent it may take up to
    /// ten seconds.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is off, [`Kind::AgentUnresponsive`] without an agent.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), Error> {
        let flags = match how {
            Shutdown::Acpi => sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
            Shutdown::Agent => {
                self.bound_agent()?;
                sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT
            }
            Shutdown::Default => sys::VIR_DOMAIN_SHUTDOWN_DEFAULT,
        };
        // SAFETY: the domain is valid.
        let outcome = unsafe { sys::virDomainShutdownFlags(self.raw(), flags) };
        check("virDomainShutdownFlags", outcome).map(drop)
    }

    /// libvirt's own use of the agent waits for ever unless told otherwise.
    fn bound_agent(&self) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        let outcome =
            unsafe { sys::virDomainAgentSetResponseTimeout(self.raw(), AGENT_TIMEOUT_S, 0) };
        check("virDomainAgentSetResponseTimeout", outcome).map(drop)
    }

    /// Ends its QEMU. With `graceful` QEMU is given its time to flush, and the call fails with
    /// [`Kind::Busy`] rather than kill it; without, it is killed after about ten seconds.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is off.
    pub fn destroy(&self, graceful: bool) -> Result<(), Error> {
        let flags = flag(graceful, sys::VIR_DOMAIN_DESTROY_GRACEFUL);
        // SAFETY: the domain is valid.
        check("virDomainDestroyFlags", unsafe {
            sys::virDomainDestroyFlags(self.raw(), flags)
        })
        .map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is off; the test driver can't.
    pub fn reset(&self) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        check("virDomainReset", unsafe {
            sys::virDomainReset(self.raw(), 0)
        })
        .map(drop)
    }

    /// Asks the guest to reboot, through ACPI.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is off.
    pub fn reboot(&self) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        check("virDomainReboot", unsafe {
            sys::virDomainReboot(self.raw(), 0)
        })
        .map(drop)
    }

    /// Forgets its persistent description with all that libvirt keeps beside it: saved state,
    /// snapshots' and checkpoints' records, firmware variables. Disks stay. A running guest runs
    /// on as a transient domain.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone, [`Kind::InvalidState`] if it is transient.
    pub fn undefine(&self) -> Result<(), Error> {
        let everywhere =
            sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
        let qemu = sys::VIR_DOMAIN_UNDEFINE_NVRAM | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
        let flags = everywhere | flag(!self.connection.is_test(), qemu);
        // SAFETY: the domain is valid.
        let outcome = unsafe { sys::virDomainUndefineFlags(self.raw(), flags) };
        check("virDomainUndefineFlags", outcome).map(drop)
    }

    /// Whether libvirtd starts it by itself. Kapok's are never started so.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn autostart(&self) -> Result<bool, Error> {
        let mut on: c_int = 0;
        // SAFETY: valid pointers.
        let outcome = unsafe { sys::virDomainGetAutostart(self.raw(), &raw mut on) };
        check("virDomainGetAutostart", outcome)?;
        Ok(on != 0)
    }

    /// Sets whether libvirtd starts it by itself.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if it is transient.
    pub fn set_autostart(&self, on: bool) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        let outcome = unsafe { sys::virDomainSetAutostart(self.raw(), c_int::from(on)) };
        check("virDomainSetAutostart", outcome).map(drop)
    }

    /// Waits until its state satisfies `wanted`, looking again after each `interval`, at most
    /// until `timeout`. A convenience for tools and tests; the agent follows events instead.
    ///
    /// # Errors
    ///
    /// [`Kind::Timeout`] with the last state seen.
    pub fn wait_for(
        &self,
        wanted: impl Fn(State) -> bool,
        interval: Duration,
        timeout: Duration,
    ) -> Result<State, Error> {
        let end = std::time::Instant::now() + timeout;
        loop {
            let state = self.state()?;
            if wanted(state) {
                return Ok(state);
            }
            if std::time::Instant::now() >= end {
                let message = format!("domain {} is still {state:?}", self.uuid);
                return Err(Error::new(Kind::Timeout, "wait_for", message));
            }
            std::thread::park_timeout(interval);
        }
    }
}

/// The UUID that a reference carries; nobody is asked.
///
/// # Safety
///
/// `domain` must be a valid reference.
pub(crate) unsafe fn uuid_of(domain: sys::virDomainPtr) -> Result<Uuid, Error> {
    let mut bytes = [0_u8; 16];
    // SAFETY: the reference is valid, and the buffer has VIR_UUID_BUFLEN bytes.
    let outcome = unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) };
    check("virDomainGetUUID", outcome)?;
    Ok(Uuid::from_bytes(bytes))
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("uuid", &self.uuid)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
