//! What the guest's own agent, or the network, tells about a guest.
//!
//! A guest may answer anything: answers are bounded, read as JSON, and never trusted. Only the
//! commands below are ever sent.

use std::{ffi::c_int, net::IpAddr, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use virt::sys;

use super::Domain;
use crate::{
    error::{Error, Kind},
    ffi::{self, Array, c_string, check},
};

/// Longest wait for one answer, in seconds.
const MAX_TIMEOUT_S: u64 = 60;
/// Most bytes of one answer.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Most network cards, and most addresses of a card, that are reported.
const MAX_ENTRIES: usize = 64;

/// The guest's operating system, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestOs {
    /// Short name, for example `debian`.
    pub id: Option<String>,
    /// Name and version for people.
    pub pretty_name: Option<String>,
    /// Version number.
    pub version_id: Option<String>,
    /// The running kernel.
    pub kernel_release: Option<String>,
}

/// A network card with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInterface {
    /// The guest's (or, for leases, the host's) name for it.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// Whose word is taken for a guest's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource {
    /// The leases of libvirt's own DHCP server.
    Lease,
    /// The host's ARP table.
    Arp,
}

impl Domain {
    /// Whether the guest's agent answers within `timeout` (rounded up to 1 to 60 whole seconds).
    ///
    /// # Errors
    ///
    /// [`Kind::AgentUnresponsive`] if it doesn't, [`Kind::InvalidState`] if the guest is off.
    pub fn guest_ping(&self, timeout: Duration) -> Result<(), Error> {
        self.ask("guest-ping", timeout).map(drop)
    }

    /// The guest's host name.
    ///
    /// # Errors
    ///
    /// As [`Domain::guest_ping`].
    pub fn guest_host_name(&self, timeout: Duration) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "host-name")]
            name: String,
        }
        self.ask_for::<Answer>("guest-get-host-name", timeout)
            .map(|answer| answer.name)
    }

    /// The guest's operating system.
    ///
    /// # Errors
    ///
    /// As [`Domain::guest_ping`].
    pub fn guest_os(&self, timeout: Duration) -> Result<GuestOs, Error> {
        self.ask_for("guest-get-osinfo", timeout)
    }

    /// The guest's network cards and addresses, in its own words.
    ///
    /// # Errors
    ///
    /// As [`Domain::guest_ping`].
    pub fn guest_interfaces(&self, timeout: Duration) -> Result<Vec<GuestInterface>, Error> {
        let raw: Vec<RawInterface> = self.ask_for("guest-network-get-interfaces", timeout)?;
        Ok(raw
            .into_iter()
            .take(MAX_ENTRIES)
            .map(GuestInterface::from)
            .collect())
    }

    /// The guest's addresses as the host sees them; doesn't need an agent.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidState`] if the guest is off.
    pub fn addresses(&self, source: AddressSource) -> Result<Vec<GuestInterface>, Error> {
        let source = match source {
            AddressSource::Lease => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            AddressSource::Arp => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
        };
        let mut list = std::ptr::null_mut();
        // SAFETY: valid pointers; libvirt allocates the list.
        let count =
            unsafe { sys::virDomainInterfaceAddresses(self.raw(), &raw mut list, source, 0) };
        let count = check("virDomainInterfaceAddresses", count)?;
        // SAFETY: `count` pointers in an array that is ours.
        let interfaces = unsafe { Array::adopt(list, count) };
        let mut found = Vec::new();
        for &interface in interfaces.iter() {
            // SAFETY: each pointer is null or a whole interface that is ours until it is freed.
            if let Some(raw) = unsafe { interface.as_ref() } {
                // SAFETY: libvirt filled the struct and everything in it.
                found.push(unsafe { read_interface(raw) });
                // SAFETY: ours to free, once; nothing of it is kept.
                unsafe { sys::virDomainInterfaceFree(interface) };
            }
        }
        found.truncate(MAX_ENTRIES);
        Ok(found)
    }

    fn ask_for<T: DeserializeOwned>(
        &self,
        command: &'static str,
        timeout: Duration,
    ) -> Result<T, Error> {
        let answer = self.ask(command, timeout)?;
        read_answer(&answer).map_err(|reason| Error::new(Kind::Other, command, reason))
    }

    /// Sends one of the agent's commands that take no arguments.
    fn ask(&self, command: &'static str, timeout: Duration) -> Result<String, Error> {
        const CALL: &str = "virDomainQemuAgentCommand";
        let request = serde_json::json!({ "execute": command }).to_string();
        let request = c_string(CALL, &request)?;
        let seconds = timeout
            .as_millis()
            .div_ceil(1000)
            .clamp(1, u128::from(MAX_TIMEOUT_S));
        let seconds = c_int::try_from(seconds).unwrap_or(1);
        // SAFETY: valid pointers; the string is ours to free.
        unsafe {
            ffi::take_text(
                CALL,
                sys::virDomainQemuAgentCommand(self.raw(), request.as_ptr(), seconds, 0),
            )
        }
    }
}

/// Reads the agent's `{"return": …}`.
fn read_answer<T: DeserializeOwned>(answer: &str) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Envelope<T> {
        #[serde(rename = "return")]
        answer: T,
    }
    if answer.len() > MAX_ANSWER_BYTES {
        return Err(format!("the guest's answer has {} bytes", answer.len()));
    }
    serde_json::from_str::<Envelope<T>>(answer)
        .map(|envelope| envelope.answer)
        .map_err(|error| format!("the guest's answer can't be read: {error}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInterface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawAddress {
    ip_address: String,
    prefix: u32,
}

impl From<RawInterface> for GuestInterface {
    fn from(raw: RawInterface) -> Self {
        let addresses = raw.ip_addresses.into_iter().take(MAX_ENTRIES);
        Self {
            name: raw.name,
            mac: raw.hardware_address,
            addresses: addresses
                .filter_map(|raw| Some((raw.ip_address.parse().ok()?, raw.prefix)))
                .collect(),
        }
    }
}

/// # Safety
///
/// `raw` must be an interface as libvirt filled it.
unsafe fn read_interface(raw: &sys::virDomainInterface) -> GuestInterface {
    let count = if raw.addrs.is_null() {
        0
    } else {
        usize::try_from(raw.naddrs).unwrap_or(0)
    };
    let addresses: &[sys::virDomainIPAddress] = if count == 0 {
        &[]
    } else {
        // SAFETY: libvirt says that so many are there.
        unsafe { std::slice::from_raw_parts(raw.addrs, count) }
    };
    let read = |address: &sys::virDomainIPAddress| {
        // SAFETY: null or a string of libvirt's.
        let text = unsafe { ffi::text(address.addr) }?;
        Some((text.parse().ok()?, address.prefix))
    };
    GuestInterface {
        // SAFETY: null or a string of libvirt's.
        name: unsafe { ffi::text(raw.name) }.unwrap_or_default(),
        // SAFETY: null or a string of libvirt's.
        mac: unsafe { ffi::text(raw.hwaddr) },
        addresses: addresses
            .iter()
            .take(MAX_ENTRIES)
            .filter_map(read)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_garbage_is_not() {
        let answer = "{\"return\":[{\"name\":\"eth0\",\"hardware-address\":\"52:54:00:00:00:01\",\
            \"ip-addresses\":[{\"ip-address\":\"10.0.0.5\",\"ip-address-type\":\"ipv4\",\"prefix\":24},\
            {\"ip-address\":\"nonsense\",\"prefix\":1}]},{\"name\":\"lo\"}]}";
        let raw: Vec<RawInterface> = read_answer(answer).unwrap();
        let interfaces: Vec<_> = raw.into_iter().map(GuestInterface::from).collect();
        assert_eq!(interfaces[0].addresses, [("10.0.0.5".parse().unwrap(), 24)]);
        assert!(interfaces[1].addresses.is_empty());
        for garbage in ["", "{}", "{\"return\":7}", "[", "\0"] {
            assert!(read_answer::<GuestOs>(garbage).is_err(), "{garbage}");
        }
        let large = format!("{{\"return\":\"{}\"}}", "x".repeat(MAX_ANSWER_BYTES));
        assert!(read_answer::<String>(&large).is_err());
    }
}
