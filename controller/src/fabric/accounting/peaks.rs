//! The most that was held at one moment, month by month: by vCPUs and by memory.

use imbl::OrdMap;
use kapok_types::{
    MemoryMib, Timestamp, Vcpus,
    instance::{MemoryClaim, Spec},
};
use serde::{Deserialize, Serialize};

use super::month::Month;

/// What one instance takes of a node: its vCPUs, and its memory with QEMU's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// The guest's memory, QEMU's own beside it not counted.
    pub memory: MemoryMib,
}

/// All that was held at one moment. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// vCPUs.
    pub vcpus: u64,
    /// Memory with QEMU's own, in MiB.
    pub memory_mib: u64,
    /// How many instances of which shape.
    #[serde(with = "list")]
    pub shapes: OrdMap<Shape, u32>,
}

/// The peaks of one month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// The moment with the most vCPUs.
    pub vcpus: Moment,
    /// The moment with the most memory; none if it is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Moment>,
}

/// The peaks of one bureau, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peaks {
    /// What is held now: counted anew from the instances when a checkpoint is loaded.
    #[serde(skip)]
    pub now: Moment,
    /// By month.
    pub months: OrdMap<Month, Peak>,
}

impl Shape {
    pub(super) const fn of(spec: &Spec) -> Self {
        Self {
            vcpus: spec.vcpus,
            memory: spec.memory,
        }
    }

    /// What it takes of a node's memory.
    pub fn claim(self) -> MemoryClaim {
        MemoryClaim::of(self.memory, self.vcpus)
    }
}

impl Moment {
    /// Some instances came.
    pub(super) fn add(&mut self, shape: Shape) {
        self.vcpus += u64::from(shape.vcpus.get());
        self.memory_mib += shape.claim().total().get();
        *self.shapes.entry(shape).or_insert(0) += 1;
    }

    /// Some instances went.
    pub(super) fn take(&mut self, shape: Shape) {
        self.vcpus = self.vcpus.saturating_sub(shape.vcpus.get().into());
        self.memory_mib = (self.memory_mib).saturating_sub(shape.claim().total().get());
        match self.shapes.get_mut(&shape) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.shapes.remove(&shape)),
        }
    }
}

impl Peak {
    const fn of(moment: Moment) -> Self {
        Self {
            vcpus: moment,
            memory: None,
        }
    }

    /// The moment with the most memory.
    pub fn by_memory(&self) -> &Moment {
        self.memory.as_ref().unwrap_or(&self.vcpus)
    }

    fn take(&mut self, now: &Moment, at: Timestamp) {
        let most_memory = self.by_memory().memory_mib.max(now.memory_mib);
        let moment = || Moment { at, ..now.clone() };
        if now.vcpus > self.vcpus.vcpus {
            let before = std::mem::replace(&mut self.vcpus, moment());
            self.memory.get_or_insert(before);
        }
        if now.memory_mib > self.by_memory().memory_mib {
            self.memory = Some(moment());
        }
        if self.vcpus.memory_mib >= most_memory {
            self.memory = None;
        }
    }
}

impl Peaks {
    /// Something came or went; what was held before lasted until `at`, from `since` on.
    pub(super) fn change(
        &mut self,
        since: Timestamp,
        at: Timestamp,
        change: impl FnOnce(&mut Moment),
    ) {
        self.carry(since, at);
        change(&mut self.now);
        if let Some(peak) = self.months.get_mut(&Month::of(at)) {
            peak.take(&self.now, at);
        }
    }

    /// Months that began since the last change began with what is held.
    fn carry(&mut self, since: Timestamp, at: Timestamp) {
        let last = self.months.get_max().map(|(month, _)| *month);
        let mut month = last.map_or_else(|| Month::of(since), Month::next);
        let end = Month::of(at);
        while month <= end {
            let began = Moment {
                at: month.begins().max(since),
                ..self.now.clone()
            };
            self.months.insert(month, Peak::of(began));
            month = month.next();
        }
    }

    /// The peaks of some months, the last of which may still go on.
    pub fn within(
        &self,
        since: Timestamp,
        now: Timestamp,
        months: std::ops::RangeInclusive<Month>,
    ) -> Vec<Peak> {
        let mut peaks = self.clone();
        peaks.carry(since, now);
        peaks
            .months
            .range(months)
            .map(|(_, peak)| peak.clone())
            .collect()
    }

    pub(super) fn forget_before(&mut self, first: Month) -> bool {
        while let Some((month, _)) = self.months.get_min()
            && *month < first
        {
            let month = *month;
            self.months.remove(&month);
        }
        !self.now.shapes.is_empty()
            || (self.months.values()).any(|peak| !peak.vcpus.shapes.is_empty())
    }
}

/// Shapes as a list: a key of JSON is a text.
mod list {
    use super::{OrdMap, Shape};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        shapes: &OrdMap<Shape, u32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(shapes.iter())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(
        deserializer: D,
    ) -> Result<OrdMap<Shape, u32>, D::Error> {
        let shapes: Vec<(Shape, u32)> = Vec::deserialize(deserializer)?;
        Ok(shapes.into_iter().collect())
    }
}
