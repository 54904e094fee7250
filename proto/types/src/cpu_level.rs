//! The x86-64 levels that compilers and distributions build for, as the processor features that they
//! stand for.
//!
//! Shorthand for people, and nothing else: what an instance needs is always its list of features.
//! Source: the x86-64 psABI, "Micro-Architecture Levels"; names are those of libvirt's CPU map.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{Violation, equipment::Feature};

/// What each level adds to the one before. `osxsave` is left out: it says that the guest's own system
/// has turned `xsave` on.
const ADDED: [(CpuLevel, &[&str]); 3] = [
    (
        CpuLevel::V2,
        &[
            "cx16", "lahf_lm", "pni", "popcnt", "sse4.1", "sse4.2", "ssse3",
        ],
    ),
    (
        CpuLevel::V3,
        &[
            "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave",
        ],
    ),
    (
        CpuLevel::V4,
        &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"],
    ),
];

/// A level above the baseline, which every x86-64 processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// x86-64-v2.
    V2,
    /// x86-64-v3.
    V3,
    /// x86-64-v4.
    V4,
}

impl CpuLevel {
    /// All levels, ascending.
    pub const ALL: [Self; 3] = [Self::V2, Self::V3, Self::V4];

    /// "x86-64-v2".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }

    /// Its features, with those of the levels below it.
    pub fn features(self) -> BTreeSet<Feature> {
        let up_to = ADDED.iter().filter(|(level, _)| *level <= self);
        let names = up_to.flat_map(|(_, added)| *added);
        names.filter_map(|name| name.parse().ok()).collect()
    }
}

impl FromStr for CpuLevel {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let known = Self::ALL.into_iter().find(|level| level.as_str() == text);
        known.ok_or_else(|| {
            let reason = format!("is {text:?}; must be x86-64-v2, x86-64-v3 or x86-64-v4");
            Violation::new("cpu_level", reason)
        })
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_holds_the_one_below_and_every_name_is_one() {
        let counts = CpuLevel::ALL.map(|level| level.features().len());
        assert_eq!(counts, [7, 16, 21]);
        let [v2, v3, v4] = CpuLevel::ALL.map(CpuLevel::features);
        assert!(v2.is_subset(&v3) && v3.is_subset(&v4));
        assert!(v3.contains(&"avx2".parse().unwrap()));
        for level in CpuLevel::ALL {
            assert_eq!(level.as_str().parse(), Ok(level));
        }
        let wrong = "x86-64-v1".parse::<CpuLevel>().unwrap_err();
        assert_eq!(wrong.field, "cpu_level");
    }
}
