//! Quotas and reservations: how much a tenant may have, and how much is kept for it.
//!
//! Everything here is numbers by dimension. Whose they are and what counts is
//! [`usage`](super::usage)'s; what follows from a full quota is `decide`'s.

use kapok_types::{Bytes, MemoryMib, Name, instance::Spec};
use serde::{Deserialize, Serialize};

/// Highest limit and highest reservation: what a signed number holds, so that a negative number
/// that somebody's program passes for an unsigned one is refused (FAULTS 28).
pub const MAX_AMOUNT: u64 = i64::MAX.unsigned_abs();

/// What a quota speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Virtual CPUs.
    Vcpus,
    /// Guest memory in MiB. QEMU's own beside it is the fabric's to bear.
    MemoryMib,
    /// Instances.
    Instances,
    /// Volumes; an instance's root disk is one.
    Volumes,
    /// Their size in bytes.
    VolumeBytes,
    /// Network addresses; each instance has one network card, and so one address.
    Addresses,
    /// GPUs: devices whose class is `gpu` or begins with `gpu-`.
    Gpus,
}

/// An amount in each dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// Virtual CPUs.
    pub vcpus: u64,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// Instances.
    pub instances: u64,
    /// Volumes.
    pub volumes: u64,
    /// Their size in bytes.
    pub volume_bytes: u64,
    /// Network addresses.
    #[serde(skip_serializing_if = "is_nothing")]
    pub addresses: u64,
    /// GPUs.
    #[serde(skip_serializing_if = "is_nothing")]
    pub gpus: u64,
}

/// How much a tenant may have, with all below it. No limit in a dimension means as much as those
/// above it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Guest memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u64>,
    /// Volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<u64>,
    /// Their size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_bytes: Option<u64>,
    /// Network addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<u64>,
    /// GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u64>,
}

/// A dimension in which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Which.
    pub dimension: Dimension,
    /// What counts already: used, or reserved for somebody below.
    pub held: u64,
    /// How much more there was to be.
    pub asked: u64,
    /// How much there may be.
    pub limit: u64,
}

/// What a change adds to what counts against one tenant's quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rise {
    /// Whose quota.
    pub tenant: Name,
    /// What counts before.
    pub held: Amounts,
    /// What is added; nothing in dimensions where a reservation has it already.
    pub more: Amounts,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Vcpus,
        Self::MemoryMib,
        Self::Instances,
        Self::Volumes,
        Self::VolumeBytes,
        Self::Addresses,
        Self::Gpus,
    ];

    /// A stable word for it, which says its unit: `memory_mib`. The API's field has the same.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vcpus => "vcpus",
            Self::MemoryMib => "memory_mib",
            Self::Instances => "instances",
            Self::Volumes => "volumes",
            Self::VolumeBytes => "volume_bytes",
            Self::Addresses => "addresses",
            Self::Gpus => "gpus",
        }
    }

    /// As people say it: "memory".
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Vcpus => "vCPUs",
            Self::MemoryMib => "memory",
            Self::Instances => "instances",
            Self::Volumes => "volumes",
            Self::VolumeBytes => "volume size",
            Self::Addresses => "addresses",
            Self::Gpus => "GPUs",
        }
    }

    /// An amount as people read it, with its unit where it has one.
    pub fn amount(self, amount: u64) -> String {
        match self {
            Self::Vcpus | Self::Instances | Self::Volumes | Self::Addresses | Self::Gpus => {
                amount.to_string()
            }
            Self::MemoryMib => MemoryMib(amount).to_string(),
            Self::VolumeBytes => Bytes(amount).to_string(),
        }
    }
}

impl Amounts {
    /// Nothing.
    pub const ZERO: Self = Self {
        vcpus: 0,
        memory_mib: 0,
        instances: 0,
        volumes: 0,
        volume_bytes: 0,
        addresses: 0,
        gpus: 0,
    };

    /// What an instance counts for, from its creation until it is no more, running or not.
    pub fn of_instance(spec: &Spec) -> Self {
        Self {
            vcpus: spec.vcpus.get().into(),
            memory_mib: spec.memory.get(),
            instances: 1,
            volumes: 1,
            volume_bytes: spec.root.size.get(),
            addresses: 1,
            gpus: spec.needs.gpus().into(),
        }
    }

    /// The amount that a function says for each dimension.
    pub fn each(mut amount: impl FnMut(Dimension) -> u64) -> Self {
        Self {
            vcpus: amount(Dimension::Vcpus),
            memory_mib: amount(Dimension::MemoryMib),
            instances: amount(Dimension::Instances),
            volumes: amount(Dimension::Volumes),
            volume_bytes: amount(Dimension::VolumeBytes),
            addresses: amount(Dimension::Addresses),
            gpus: amount(Dimension::Gpus),
        }
    }

    /// The amount in one dimension.
    pub const fn get(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Vcpus => self.vcpus,
            Dimension::MemoryMib => self.memory_mib,
            Dimension::Instances => self.instances,
            Dimension::Volumes => self.volumes,
            Dimension::VolumeBytes => self.volume_bytes,
            Dimension::Addresses => self.addresses,
            Dimension::Gpus => self.gpus,
        }
    }

    /// The sum, in each dimension the largest number if it doesn't fit.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self::each(|one| self.get(one).saturating_add(other.get(one)))
    }

    /// The difference, in each dimension zero where `other` is larger.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self::each(|one| self.get(one).saturating_sub(other.get(one)))
    }

    /// The larger amount in each dimension.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        Self::each(|one| self.get(one).max(other.get(one)))
    }

    /// Whether it is nothing in every dimension.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl Quota {
    /// The limit in one dimension, if there is one.
    pub const fn get(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::Vcpus => self.vcpus,
            Dimension::MemoryMib => self.memory_mib,
            Dimension::Instances => self.instances,
            Dimension::Volumes => self.volumes,
            Dimension::VolumeBytes => self.volume_bytes,
            Dimension::Addresses => self.addresses,
            Dimension::Gpus => self.gpus,
        }
    }

    /// The limit that a function says for each dimension.
    pub fn each(mut limit: impl FnMut(Dimension) -> Option<u64>) -> Self {
        Self {
            vcpus: limit(Dimension::Vcpus),
            memory_mib: limit(Dimension::MemoryMib),
            instances: limit(Dimension::Instances),
            volumes: limit(Dimension::Volumes),
            volume_bytes: limit(Dimension::VolumeBytes),
            addresses: limit(Dimension::Addresses),
            gpus: limit(Dimension::Gpus),
        }
    }

    /// Whether there is no limit at all.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Where a rise doesn't fit. What rises nowhere fits, also where more is held than may be.
    /// A sum that no number holds fits nowhere (FAULTS 28).
    pub fn short(&self, rise: &Rise) -> Vec<Short> {
        let short = |dimension: Dimension| {
            let (held, asked) = (rise.held.get(dimension), rise.more.get(dimension));
            let limit = self.get(dimension).unwrap_or(u64::MAX);
            let fits = asked == 0 || held.checked_add(asked).is_some_and(|sum| sum <= limit);
            (!fits).then_some(Short {
                dimension,
                held,
                asked,
                limit,
            })
        };
        Dimension::ALL.into_iter().filter_map(short).collect()
    }

    /// By how much what is held goes beyond it, in each dimension where it does.
    pub fn overcommitted(&self, held: Amounts) -> Vec<(Dimension, u64)> {
        let beyond = |dimension: Dimension| {
            let beyond = held.get(dimension).checked_sub(self.get(dimension)?)?;
            (beyond > 0).then_some((dimension, beyond))
        };
        Dimension::ALL.into_iter().filter_map(beyond).collect()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands it over like that"
)]
fn is_nothing(amount: &u64) -> bool {
    *amount == 0
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [held, asked, limit] =
            [self.held, self.asked, self.limit].map(|amount| self.dimension.amount(amount));
        let noun = self.dimension.noun();
        write!(
            f,
            "{noun}: {held} of {limit} used or reserved, {asked} more asked"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rise(held: u64, more: u64) -> Rise {
        Rise {
            tenant: "water".parse().unwrap(),
            held: Amounts::each(|_| held),
            more: Amounts::each(|_| more),
        }
    }

    #[test]
    fn a_limit_is_reached_and_not_passed() {
        let quota = Quota {
            vcpus: Some(4),
            ..Quota::default()
        };
        assert_eq!(quota.short(&rise(3, 1)), []);
        let [short] = quota.short(&rise(3, 2))[..] else {
            panic!("vCPUs alone have a limit")
        };
        assert_eq!(
            short.to_string(),
            "vCPUs: 3 of 4 used or reserved, 2 more asked"
        );
        // What is over already stays over, and nothing more is taken.
        assert_eq!(quota.short(&rise(9, 0)), []);
        assert_eq!(
            quota.overcommitted(Amounts::each(|_| 9)),
            [(Dimension::Vcpus, 5)]
        );
    }

    /// FAULTS 28: a sum that no number holds fits nowhere, and wraps nowhere.
    #[test]
    fn a_sum_that_overflows_does_not_fit() {
        let short = Quota::default().short(&rise(u64::MAX, 1));
        assert_eq!(short.len(), Dimension::ALL.len());
        let most = Amounts::each(|_| u64::MAX);
        assert_eq!(most.plus(Amounts::each(|_| 1)), most);
        assert_eq!(Amounts::ZERO.minus(most), Amounts::ZERO);
    }

    /// A record from before there were addresses and GPUs says as much as ever, in the same bytes.
    #[test]
    fn what_was_written_before_reads_the_same() {
        let old = r#"{"vcpus":4,"memory_mib":8,"instances":1,"volumes":1,"volume_bytes":9}"#;
        let amounts: Amounts = serde_json::from_str(old).unwrap();
        assert_eq!((amounts.addresses, amounts.gpus), (0, 0));
        assert_eq!(serde_json::to_string(&amounts).unwrap(), old);
        let quota: Quota = serde_json::from_str(r#"{"vcpus":4}"#).unwrap();
        assert_eq!((quota.addresses, quota.gpus), (None, None));
    }

    /// The API's fields, the log's and the words are the same.
    #[test]
    fn words_are_the_fields() {
        let amounts = serde_json::to_value(Amounts::each(|_| 1)).unwrap();
        for dimension in Dimension::ALL {
            assert!(amounts.get(dimension.as_str()).is_some(), "{dimension:?}");
            assert_eq!(serde_json::to_value(dimension).unwrap(), dimension.as_str());
        }
    }
}
