//! Many domains' numbers in one call.
//!
//! The answer is a list of named, typed values for each domain; [`DomainStats`] is folded from
//! it by a pure function, so names that this crate doesn't know are skipped, and a value of an
//! unexpected type is too. The list is freed whatever happens.

use std::{
    collections::BTreeMap,
    ffi::{c_int, c_uint},
};

use uuid::Uuid;
use virt::sys;

use crate::{
    connection::Connection,
    domain::{Domain, State, flag, uuid_of},
    error::Error,
    ffi::{check, text},
};

/// Which groups of numbers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Groups {
    /// State and reason. Costs nothing.
    pub state: bool,
    /// Processor time. Asks each QEMU since libvirt 9.0, which adds what KVM polled (*measured*).
    pub cpu: bool,
    /// Memory, from the guest's balloon. Asks each QEMU.
    pub balloon: bool,
    /// Each virtual processor. Asks each QEMU.
    pub vcpu: bool,
    /// Network cards, from the host's taps.
    pub interface: bool,
    /// Disks. Asks each QEMU.
    pub block: bool,
}

impl Groups {
    /// Only the state: the cheapest.
    pub const STATE: Self = Self {
        state: true,
        cpu: false,
        balloon: false,
        vcpu: false,
        interface: false,
        block: false,
    };
    /// What is known without asking a QEMU: one that hangs holds no other up.
    pub const OUTSIDE: Self = Self {
        state: true,
        cpu: false,
        balloon: false,
        vcpu: false,
        interface: true,
        block: false,
    };
    /// What only the QEMU knows.
    pub const INSIDE: Self = Self {
        state: true,
        cpu: true,
        balloon: true,
        vcpu: true,
        interface: false,
        block: true,
    };
    /// All of them.
    pub const ALL: Self = Self {
        state: true,
        cpu: true,
        balloon: true,
        vcpu: true,
        interface: true,
        block: true,
    };

    fn bits(self) -> u32 {
        flag(self.state, sys::VIR_DOMAIN_STATS_STATE)
            | flag(self.cpu, sys::VIR_DOMAIN_STATS_CPU_TOTAL)
            | flag(self.balloon, sys::VIR_DOMAIN_STATS_BALLOON)
            | flag(self.vcpu, sys::VIR_DOMAIN_STATS_VCPU)
            | flag(self.interface, sys::VIR_DOMAIN_STATS_INTERFACE)
            | flag(self.block, sys::VIR_DOMAIN_STATS_BLOCK)
    }
}

/// One domain's numbers. What wasn't asked for, or isn't known, is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainStats {
    /// Which domain.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: Option<State>,
    /// libvirt's number of its present QEMU: another one after each start. None if it is off.
    pub id: Option<u32>,
    /// Processor time used, in ns.
    pub cpu_time_ns: Option<u64>,
    /// Its memory.
    pub balloon: BalloonStats,
    /// Virtual processors that are on.
    pub vcpus: Option<u32>,
    /// Virtual processors at most.
    pub max_vcpus: Option<u32>,
    /// Its disks.
    pub block: Vec<BlockStats>,
    /// Its network cards.
    pub net: Vec<NetStats>,
}

/// A domain's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonStats {
    /// What the guest may use now, in KiB.
    pub current_kib: Option<u64>,
    /// What it may use at most, in KiB.
    pub maximum_kib: Option<u64>,
    /// What its QEMU holds of the host's memory, in KiB.
    pub rss_kib: Option<u64>,
    /// What the guest says that it could hand out without swapping, in KiB.
    pub usable_kib: Option<u64>,
    /// What the guest says that it has, in KiB.
    pub available_kib: Option<u64>,
    /// What the guest says that is unused, in KiB.
    pub unused_kib: Option<u64>,
    /// When the guest last said so, in seconds since the Unix epoch.
    pub last_update_s: Option<u64>,
}

/// One disk's counters since its QEMU started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockStats {
    /// The guest's name for it.
    pub name: String,
    /// Its file or device.
    pub path: Option<String>,
    /// Reads.
    pub read_requests: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Time spent reading, in ns.
    pub read_time_ns: u64,
    /// Writes.
    pub write_requests: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Time spent writing, in ns.
    pub write_time_ns: u64,
    /// Flushes.
    pub flush_requests: u64,
    /// Size that the guest sees, in bytes.
    pub capacity_bytes: Option<u64>,
    /// Highest offset written, in bytes.
    pub allocation_bytes: Option<u64>,
    /// Size on the host, in bytes.
    pub physical_bytes: Option<u64>,
}

/// One network card's counters, as the guest sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetStats {
    /// The host's tap.
    pub name: String,
    /// Bytes received.
    pub receive_bytes: u64,
    /// Packets received.
    pub receive_packets: u64,
    /// Errors on receipt.
    pub receive_errors: u64,
    /// Packets dropped on receipt.
    pub receive_drops: u64,
    /// Bytes sent.
    pub transmit_bytes: u64,
    /// Packets sent.
    pub transmit_packets: u64,
    /// Errors on sending.
    pub transmit_errors: u64,
    /// Packets dropped on sending.
    pub transmit_drops: u64,
}

/// A value of libvirt's list.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Text(String),
    /// Negative, fractional, or of a kind that nothing here uses.
    Unused,
}

/// Most disks or network cards of one domain.
const MAX_DEVICES: usize = 1024;

impl Connection {
    /// Numbers of all domains. With `nowait`, domains with a job going on give less instead of
    /// being waited for; a QEMU that hangs outside a job still holds the call up.
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn all_stats(&self, groups: Groups, nowait: bool) -> Result<Vec<DomainStats>, Error> {
        let flags = flag(nowait && !self.is_test(), NOWAIT);
        let mut list = std::ptr::null_mut();
        // SAFETY: valid pointers; libvirt allocates the list.
        let count = unsafe {
            sys::virConnectGetAllDomainStats(self.raw(), groups.bits(), &raw mut list, flags)
        };
        let count = check("virConnectGetAllDomainStats", count)?;
        // SAFETY: the list is what the call just gave away.
        Ok(unsafe { Records::adopt(list, count) }.read())
    }

    /// Numbers of some domains, all found through this connection. As [`Connection::all_stats`].
    ///
    /// # Errors
    ///
    /// Any of a libvirt call.
    pub fn stats_of(
        &self,
        domains: &[Domain],
        groups: Groups,
        nowait: bool,
    ) -> Result<Vec<DomainStats>, Error> {
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        let flags = flag(nowait && !self.is_test(), NOWAIT);
        let mut pointers: Vec<_> = domains.iter().map(Domain::raw).collect();
        pointers.push(std::ptr::null_mut());
        let mut list = std::ptr::null_mut();
        // SAFETY: a null-terminated array of valid references; libvirt allocates the list.
        let count = unsafe {
            sys::virDomainListGetStats(pointers.as_mut_ptr(), groups.bits(), &raw mut list, flags)
        };
        let count = check("virDomainListGetStats", count)?;
        // SAFETY: the list is what the call just gave away.
        Ok(unsafe { Records::adopt(list, count) }.read())
    }
}

const NOWAIT: u32 = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;

/// libvirt's list of records, freed at the end.
struct Records {
    list: *mut sys::virDomainStatsRecordPtr,
    len: usize,
}

impl Records {
    /// # Safety
    ///
    /// `list` is null or `count` records as a statistics call gave them away.
    unsafe fn adopt(list: *mut sys::virDomainStatsRecordPtr, count: c_int) -> Self {
        let len = if list.is_null() {
            0
        } else {
            usize::try_from(count).unwrap_or(0)
        };
        Self { list, len }
    }

    fn read(&self) -> Vec<DomainStats> {
        if self.len == 0 {
            return Vec::new();
        }
        // SAFETY: `adopt`'s caller promised so many pointers.
        let list = unsafe { std::slice::from_raw_parts(self.list, self.len) };
        // SAFETY: each is null or a record that lives as long as the list.
        list.iter()
            .filter_map(|&record| unsafe { record.as_ref() })
            .filter_map(read)
            .collect()
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: ours to free, once; the call takes null.
        unsafe { sys::virDomainStatsRecordListFree(self.list) };
    }
}

fn read(record: &sys::virDomainStatsRecord) -> Option<DomainStats> {
    // SAFETY: a record's domain is a valid reference while the list lives.
    let uuid = unsafe { uuid_of(record.dom) }.ok()?;
    let count = usize::try_from(record.nparams).unwrap_or(0);
    let params: &[sys::virTypedParameter] = if record.params.is_null() || count == 0 {
        &[]
    } else {
        // SAFETY: libvirt says that so many are there, and they live as long as the list.
        unsafe { std::slice::from_raw_parts(record.params, count) }
    };
    let mut fold = Fold::default();
    for param in params {
        let name: String = param
            .field
            .iter()
            .map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()))
            .take_while(|&byte| byte != 0)
            .map(char::from)
            .collect();
        fold.take(&name, value_of(param));
    }
    // SAFETY: as above; the name lives as long as the reference.
    let name = unsafe { text(sys::virDomainGetName(record.dom)) }.unwrap_or_default();
    // SAFETY: as above; the number is the reference's own and needs no call. What is off has -1.
    let id = unsafe { sys::virDomainGetID(record.dom) };
    let stats = fold.finish(uuid, name);
    Some(DomainStats {
        id: (id != c_uint::MAX).then_some(id),
        ..stats
    })
}

fn value_of(param: &sys::virTypedParameter) -> Value {
    let number = |number: i64| u64::try_from(number).map_or(Value::Unused, Value::Number);
    // SAFETY (all below): libvirt set the union's member that the type names, and a string is
    // null or NUL-terminated and lives as long as the list.
    match u32::try_from(param.type_).unwrap_or(0) {
        // SAFETY: see above.
        sys::VIR_TYPED_PARAM_INT => number(i64::from(unsafe { param.value.i })),
        // SAFETY: see above.
        sys::VIR_TYPED_PARAM_UINT => Value::Number(u64::from(unsafe { param.value.ui })),
        // SAFETY: see above.
        sys::VIR_TYPED_PARAM_LLONG => number(unsafe { param.value.l }),
        // SAFETY: see above.
        sys::VIR_TYPED_PARAM_ULLONG => Value::Number(unsafe { param.value.ul }),
        sys::VIR_TYPED_PARAM_STRING => {
            // SAFETY: see above.
            unsafe { text(param.value.s) }.map_or(Value::Unused, Value::Text)
        }
        _ => Value::Unused,
    }
}

/// What was seen of one domain so far.
#[derive(Debug, Default)]
struct Fold {
    state: Option<u64>,
    reason: Option<u64>,
    cpu_time_ns: Option<u64>,
    balloon: BalloonStats,
    vcpus: Option<u64>,
    max_vcpus: Option<u64>,
    block: BTreeMap<usize, BlockStats>,
    net: BTreeMap<usize, NetStats>,
}

impl Fold {
    fn take(&mut self, name: &str, value: Value) {
        if let Some((index, field)) = device(name, "block.") {
            take_block(self.block.entry(index).or_default(), field, value);
        } else if let Some((index, field)) = device(name, "net.") {
            take_net(self.net.entry(index).or_default(), field, value);
        } else if let Value::Number(number) = value {
            let slot = match name {
                "state.state" => &mut self.state,
                "state.reason" => &mut self.reason,
                "cpu.time" => &mut self.cpu_time_ns,
                "balloon.current" => &mut self.balloon.current_kib,
                "balloon.maximum" => &mut self.balloon.maximum_kib,
                "balloon.rss" => &mut self.balloon.rss_kib,
                "balloon.usable" => &mut self.balloon.usable_kib,
                "balloon.available" => &mut self.balloon.available_kib,
                "balloon.unused" => &mut self.balloon.unused_kib,
                "balloon.last-update" => &mut self.balloon.last_update_s,
                "vcpu.current" => &mut self.vcpus,
                "vcpu.maximum" => &mut self.max_vcpus,
                _ => return,
            };
            *slot = Some(number);
        }
    }

    fn finish(self, uuid: Uuid, name: String) -> DomainStats {
        let small = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
        let raw = |number: u64| c_int::try_from(number).unwrap_or(c_int::MAX);
        DomainStats {
            uuid,
            name,
            state: self
                .state
                .map(|state| State::from_raw(raw(state), raw(self.reason.unwrap_or(0)))),
            id: None,
            cpu_time_ns: self.cpu_time_ns,
            balloon: self.balloon,
            vcpus: small(self.vcpus),
            max_vcpus: small(self.max_vcpus),
            block: self.block.into_values().collect(),
            net: self.net.into_values().collect(),
        }
    }
}

/// Splits `block.3.rd.bytes` into 3 and `rd.bytes`.
fn device<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (index, field) = name.strip_prefix(prefix)?.split_once('.')?;
    index
        .parse()
        .ok()
        .filter(|&index| index < MAX_DEVICES)
        .map(|index| (index, field))
}

fn take_block(stats: &mut BlockStats, field: &str, value: Value) {
    match (field, value) {
        ("name", Value::Text(text)) => stats.name = text,
        ("path", Value::Text(text)) => stats.path = Some(text),
        ("rd.reqs", Value::Number(number)) => stats.read_requests = number,
        ("rd.bytes", Value::Number(number)) => stats.read_bytes = number,
        ("rd.times", Value::Number(number)) => stats.read_time_ns = number,
        ("wr.reqs", Value::Number(number)) => stats.write_requests = number,
        ("wr.bytes", Value::Number(number)) => stats.write_bytes = number,
        ("wr.times", Value::Number(number)) => stats.write_time_ns = number,
        ("fl.reqs", Value::Number(number)) => stats.flush_requests = number,
        ("capacity", Value::Number(number)) => stats.capacity_bytes = Some(number),
        ("allocation", Value::Number(number)) => stats.allocation_bytes = Some(number),
        ("physical", Value::Number(number)) => stats.physical_bytes = Some(number),
        _ => {}
    }
}

fn take_net(stats: &mut NetStats, field: &str, value: Value) {
    match (field, value) {
        ("name", Value::Text(text)) => stats.name = text,
        ("rx.bytes", Value::Number(number)) => stats.receive_bytes = number,
        ("rx.pkts", Value::Number(number)) => stats.receive_packets = number,
        ("rx.errs", Value::Number(number)) => stats.receive_errors = number,
        ("rx.drop", Value::Number(number)) => stats.receive_drops = number,
        ("tx.bytes", Value::Number(number)) => stats.transmit_bytes = number,
        ("tx.pkts", Value::Number(number)) => stats.transmit_packets = number,
        ("tx.errs", Value::Number(number)) => stats.transmit_errors = number,
        ("tx.drop", Value::Number(number)) => stats.transmit_drops = number,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_fields_and_the_rest_is_skipped() {
        let mut fold = Fold::default();
        for (name, value) in [
            ("state.state", Value::Number(1)),
            ("state.reason", Value::Number(1)),
            ("cpu.time", Value::Number(7)),
            ("balloon.current", Value::Text("odd".into())),
            ("balloon.rss", Value::Number(9)),
            ("block.count", Value::Number(2)),
            ("block.1.name", Value::Text("vdb".into())),
            ("block.0.name", Value::Text("vda".into())),
            ("block.0.rd.bytes", Value::Number(512)),
            ("block.99999999.rd.bytes", Value::Number(1)),
            ("net.0.name", Value::Text("vnet0".into())),
            ("net.0.tx.drop", Value::Number(3)),
            ("vcpu.0.state", Value::Number(1)),
            ("vcpu.current", Value::Number(2)),
            ("brand.new", Value::Unused),
        ] {
            fold.take(name, value);
        }
        let stats = fold.finish(Uuid::nil(), "x".into());
        assert_eq!(stats.state, Some(State::Running));
        assert_eq!(
            stats.balloon,
            BalloonStats {
                rss_kib: Some(9),
                ..BalloonStats::default()
            }
        );
        assert_eq!(stats.block.len(), 2);
        assert_eq!(
            (stats.block[0].name.as_str(), stats.block[0].read_bytes),
            ("vda", 512)
        );
        assert_eq!(
            (stats.net[0].name.as_str(), stats.net[0].transmit_drops),
            ("vnet0", 3)
        );
        assert_eq!(stats.vcpus, Some(2));
    }
}
