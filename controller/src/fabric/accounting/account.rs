//! One system's account: what its instances held and used, month by month.

use imbl::{OrdMap, Vector};
use kapok_types::{InstanceId, Name, Timestamp, instance::Spec};
use serde::{Deserialize, Serialize};

use super::month::{Month, split};

/// Months that are kept, the present one included.
pub const KEPT_MONTHS: u32 = 36;
/// Unknown intervals that are kept of one system: the newest. Their sum is in its months.
pub const KEPT_UNKNOWN: usize = 256;

/// What instances hold at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// How many there are.
    pub instances: u64,
    /// Their vCPUs.
    pub vcpus: u64,
    /// Their guests' memory, in MiB.
    pub memory_mib: u64,
    /// Their disks, in bytes.
    pub disk_bytes: u64,
}

/// One month of a system. Products are exact: a unit for a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    /// Instances × milliseconds.
    pub instance_ms: u128,
    /// vCPUs × milliseconds.
    pub vcpu_ms: u128,
    /// MiB of guests' memory × milliseconds.
    pub memory_mib_ms: u128,
    /// Bytes of disks × milliseconds.
    pub disk_byte_ms: u128,
    /// Processor time that was used and measured, in milliseconds.
    pub used_ms: u128,
    /// Instances × milliseconds of which nobody knows how much they used.
    pub unknown_ms: u128,
    /// Instances × milliseconds that they were meant to run and ran.
    pub up_ms: u128,
    /// Instances × milliseconds that they were meant to run and didn't.
    pub down_ms: u128,
    /// Instances × milliseconds that they were meant to run and nobody could see.
    pub unseen_ms: u128,
}

/// An interval of which nobody knows how much processor time an instance used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// Which.
    pub instance: InstanceId,
    /// Its name.
    pub name: Name,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Why.
    pub reason: Reason,
}

/// Why it isn't known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was there before use was measured.
    BeforeMetering,
    /// Its QEMU ended after it was last read.
    Ended,
    /// Another QEMU ran it when it was read again.
    Restarted,
    /// The node had booted when it was read again.
    NodeBooted,
    /// The same QEMU's counter stood lower than before.
    CounterFell,
}

/// How an instance that is meant to run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Up,
    Down,
    Unseen,
}

/// A system's account. It outlives the system; its name is what it is kept under, so a system that
/// is made again under the same name goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// The tenants above its own, the nearest first, as they were when it was last written to.
    pub above: Vec<Name>,
    /// When the system was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Timestamp>,
    /// When it went live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_at: Option<Timestamp>,
    /// What its instances hold now: counted anew from them when a checkpoint is loaded.
    #[serde(skip)]
    pub held: Held,
    /// Up to when that is in the months.
    pub(super) counted_to: Timestamp,
    /// By month.
    pub months: OrdMap<Month, Sums>,
    /// The newest unknown intervals, by their end.
    #[serde(default, skip_serializing_if = "Vector::is_empty")]
    pub unknown: Vector<Unknown>,
    /// Older ones that are in the sums only.
    #[serde(default)]
    pub unknown_forgotten: u64,
}

impl Held {
    pub(super) fn of(spec: &Spec) -> Self {
        Self {
            instances: 1,
            vcpus: spec.vcpus.get().into(),
            memory_mib: spec.memory.get(),
            disk_bytes: spec.root.size.get(),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.instances = self.instances.saturating_add(other.instances);
        self.vcpus = self.vcpus.saturating_add(other.vcpus);
        self.memory_mib = self.memory_mib.saturating_add(other.memory_mib);
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
    }

    pub(super) fn take(&mut self, other: Self) {
        self.instances = self.instances.saturating_sub(other.instances);
        self.vcpus = self.vcpus.saturating_sub(other.vcpus);
        self.memory_mib = self.memory_mib.saturating_sub(other.memory_mib);
        self.disk_bytes = self.disk_bytes.saturating_sub(other.disk_bytes);
    }
}

impl Sums {
    fn hold(&mut self, held: Held, ms: u64) {
        let ms = u128::from(ms);
        self.instance_ms += u128::from(held.instances) * ms;
        self.vcpu_ms += u128::from(held.vcpus) * ms;
        self.memory_mib_ms += u128::from(held.memory_mib) * ms;
        self.disk_byte_ms =
            (self.disk_byte_ms).saturating_add(u128::from(held.disk_bytes).saturating_mul(ms));
    }

    fn stand(&mut self, standing: Standing, ms: u64) {
        let sum = match standing {
            Standing::Up => &mut self.up_ms,
            Standing::Down => &mut self.down_ms,
            Standing::Unseen => &mut self.unseen_ms,
        };
        *sum += u128::from(ms);
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.instance_ms += other.instance_ms;
        self.vcpu_ms += other.vcpu_ms;
        self.memory_mib_ms += other.memory_mib_ms;
        self.disk_byte_ms = self.disk_byte_ms.saturating_add(other.disk_byte_ms);
        self.used_ms += other.used_ms;
        self.unknown_ms += other.unknown_ms;
        self.up_ms += other.up_ms;
        self.down_ms += other.down_ms;
        self.unseen_ms += other.unseen_ms;
        self
    }
}

impl Account {
    /// What is held from when it was last counted on until `to` goes into the months. Nothing
    /// before `since` is known.
    pub(super) fn settle(&mut self, since: Timestamp, to: Timestamp) {
        let from = self.counted_to.max(since);
        if self.held != Held::default() {
            for (month, ms) in split(from, to) {
                self.months.entry(month).or_default().hold(self.held, ms);
            }
        }
        self.counted_to = from.max(to);
    }

    pub(super) fn stood(&mut self, standing: Option<Standing>, from: Timestamp, to: Timestamp) {
        if let Some(standing) = standing {
            for (month, ms) in split(from, to) {
                self.months.entry(month).or_default().stand(standing, ms);
            }
        }
    }

    /// Processor time that a reading shows counts in the month of that reading.
    pub(super) fn used(&mut self, ms: u64, at: Timestamp) {
        if ms > 0 {
            let month = self.months.entry(Month::of(at)).or_default();
            month.used_ms += u128::from(ms);
        }
    }

    /// An interval that isn't known. One that goes on where the instance's last one ended, for the
    /// same reason, is one with it.
    pub(super) fn unknown(&mut self, interval: Unknown) {
        for (month, ms) in split(interval.from, interval.to) {
            self.months.entry(month).or_default().unknown_ms += u128::from(ms);
        }
        if interval.from >= interval.to {
            return;
        }
        if let Some(last) = self.unknown.back_mut()
            && last.instance == interval.instance
            && last.to == interval.from
            && last.reason == interval.reason
        {
            last.to = interval.to;
            return;
        }
        self.unknown.push_back(interval);
        if self.unknown.len() > KEPT_UNKNOWN {
            self.unknown.pop_front();
            self.unknown_forgotten += 1;
        }
    }

    /// Whether it has months before one.
    pub(super) fn is_older_than(&self, first: Month) -> bool {
        let oldest = self.months.get_min();
        oldest.is_some_and(|(month, _)| *month < first)
    }

    /// Whether there is nothing to keep.
    pub(super) fn is_empty(&self) -> bool {
        self.held == Held::default() && self.months.is_empty()
    }

    /// Forgets the months before one.
    pub(super) fn forget_before(&mut self, first: Month) {
        while let Some((month, _)) = self.months.get_min()
            && *month < first
        {
            let month = *month;
            self.months.remove(&month);
        }
        self.unknown.retain(|one| Month::of(one.to) >= first);
    }
}
