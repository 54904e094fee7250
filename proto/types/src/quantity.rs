//! Quantities with their units. Arithmetic that could overflow is checked.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// None of it.
            pub const ZERO: Self = Self(0);

            /// The raw number, in the type's unit.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The sum, or nothing if it doesn't fit.
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// The difference, or nothing if `other` is larger.
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }

            /// The difference, or zero if `other` is larger.
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The sum, or the largest number if it doesn't fit.
            pub fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
    )*};
}

quantities! {
    /// Virtual CPUs.
    Vcpus(u32);
    /// Memory in MiB.
    MemoryMib(u64);
    /// Bytes.
    Bytes(u64);
    /// Counts changes of one instance's intent; starts at 1.
    Generation(u64);
    /// Counts controller leaderships; a fencing token. Starts at 1; 0 means none seen yet.
    Epoch(u64);
    /// A position in the log: the first entry has 1, 0 stands before it.
    Seq(u64);
    /// Wall-clock time in milliseconds since the Unix epoch. For people and records only; leases
    /// and deadlines run on monotonic time.
    Timestamp(u64);
}

/// One MiB in bytes.
pub const MIB: u64 = 1024 * 1024;
/// One GiB in bytes.
pub const GIB: u64 = 1024 * MIB;

macro_rules! plain_display {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

plain_display!(Vcpus Generation Epoch Seq);

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1024 && self.0.is_multiple_of(1024) {
            write!(f, "{} GiB", self.0 / 1024)
        } else {
            write!(f, "{} MiB", self.0)
        }
    }
}

impl MemoryMib {
    /// The same amount in bytes, or nothing if it doesn't fit.
    pub fn to_bytes(self) -> Option<Bytes> {
        self.0.checked_mul(MIB).map(Bytes)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (GIB * 1024, "TiB"),
            (GIB, "GiB"),
            (MIB, "MiB"),
            (1024, "KiB"),
        ];
        for (size, unit) in units {
            if self.0 >= size {
                let (whole, tenth) = (self.0 / size, self.0 % size * 10 / size);
                return if tenth == 0 {
                    write!(f, "{whole} {unit}")
                } else {
                    write!(f, "{whole}.{tenth} {unit}")
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "@{}ms", self.0),
        }
    }
}

impl Seq {
    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Timestamp {
    /// Milliseconds from `earlier` to here; zero if the clock went backwards.
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_round_units() {
        assert_eq!(MemoryMib(4096).to_string(), "4 GiB");
        assert_eq!(MemoryMib(1100).to_string(), "1100 MiB");
        assert_eq!(Bytes(13 * MIB + MIB / 2).to_string(), "13.5 MiB");
        assert_eq!(
            Timestamp(1_700_000_000_123).to_string(),
            "2023-11-14T22:13:20.123Z"
        );
    }

    /// FAULTS 28: sums that overflow are noticed, never wrapped.
    #[test]
    fn arithmetic_is_checked() {
        assert_eq!(MemoryMib(u64::MAX).checked_add(MemoryMib(1)), None);
        assert_eq!(MemoryMib(u64::MAX).to_bytes(), None);
        assert_eq!(Vcpus(1).checked_sub(Vcpus(2)), None);
    }
}
