//! A policy, as people read it.

use std::fmt;

/// A policy that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its id: a built-in's own, `FILE:ID` or `FILE#N` for a site's.
    pub id: String,
    /// Where it comes from.
    pub source: Source,
    /// Its text, as it was written.
    pub text: String,
    /// Whether it forbids; it permits otherwise.
    pub forbids: bool,
}

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Kapok's own.
    BuiltIn,
    /// A file of the site's.
    Site(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::Site(file) => f.write_str(file),
        }
    }
}
