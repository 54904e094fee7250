//! Names with their help, and the writing of series under them.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
};

/// What kind of metric a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows; the page's name ends in `_total`.
    Counter,
    /// A constant 1 whose labels say something; the page's name ends in `_info`.
    Info,
    /// How many were how large.
    Histogram,
}

/// A metric: its name without the kind's suffix, its help, its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Without `_total` and `_info`; units are base units and spelled out.
    pub name: &'static str,
    /// What it says, in one sentence without a full stop.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
}

impl Name {
    /// One that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, Kind::Gauge)
    }

    /// One that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, Kind::Counter)
    }

    /// One whose labels say something.
    pub const fn info(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, Kind::Info)
    }

    /// One that counts how many were how large.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, Kind::Histogram)
    }

    const fn new(name: &'static str, help: &'static str, kind: Kind) -> Self {
        Self { name, help, kind }
    }

    /// The names that queries use for it.
    pub fn exported(&self) -> Vec<String> {
        let suffixes: &[&str] = match self.kind {
            Kind::Gauge => &[""],
            Kind::Counter => &["_total"],
            Kind::Info => &["_info"],
            Kind::Histogram => &["_bucket", "_sum", "_count"],
        };
        let name = |suffix| format!("{}{suffix}", self.name);
        suffixes.iter().map(name).collect()
    }
}

/// Labels of a series.
pub trait Labels: EncodeLabelSet {}

impl<L: EncodeLabelSet> Labels for L {}

/// A number, whole or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole one.
    Whole(u64),
    /// Any.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(u64::try_from(value).unwrap_or(u64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<std::time::Duration> for Value {
    /// In seconds.
    fn from(value: std::time::Duration) -> Self {
        Self::Real(value.as_secs_f64())
    }
}

/// Writes a page's families, each once.
#[derive(Debug)]
pub struct Writer<'a>(DescriptorEncoder<'a>);

impl<'a> Writer<'a> {
    /// Onto the page that this encoder writes.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Writes one family, all of whose series `write` gives.
    ///
    /// # Errors
    ///
    /// What `write` or the encoder said.
    pub fn family(
        &mut self,
        name: &Name,
        write: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let kind = match name.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
            Kind::Info => MetricType::Info,
            Kind::Histogram => MetricType::Histogram,
        };
        let family = self.0.encode_descriptor(name.name, name.help, None, kind)?;
        write(&mut Series {
            family,
            kind: name.kind,
        })
    }

    /// Writes a family of one series without labels.
    ///
    /// # Errors
    ///
    /// What the encoder said.
    pub fn single(&mut self, name: &Name, value: impl Into<Value>) -> fmt::Result {
        self.family(name, |series| series.bare(value))
    }
}

/// Writes the series of one family.
#[derive(Debug)]
pub struct Series<'a> {
    family: MetricEncoder<'a>,
    kind: Kind,
}

impl Series<'_> {
    /// A series with these labels. For [`Kind::Info`] the value is 1, whatever is given.
    ///
    /// # Errors
    ///
    /// What the encoder said.
    pub fn put(&mut self, labels: &impl Labels, value: impl Into<Value>) -> fmt::Result {
        match self.kind {
            Kind::Info => self.family.encode_info(labels),
            Kind::Histogram => Err(fmt::Error),
            kind => encode(kind, self.family.encode_family(labels)?, value.into()),
        }
    }

    /// The series without labels.
    ///
    /// # Errors
    ///
    /// What the encoder said.
    pub fn bare(&mut self, value: impl Into<Value>) -> fmt::Result {
        self.put(&NO_LABELS, value)
    }

    /// A histogram with these labels.
    ///
    /// # Errors
    ///
    /// What the encoder said.
    pub fn histogram(&mut self, labels: &impl Labels, histogram: &Histogram) -> fmt::Result {
        histogram.encode(self.family.encode_family(labels)?)
    }
}

const NO_LABELS: [(&str, &str); 0] = [];

fn encode(kind: Kind, encoder: MetricEncoder<'_>, value: Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Whole(value)) => ConstCounter::new(value).encode(encoder),
        (Kind::Counter, Value::Real(value)) => ConstCounter::new(value).encode(encoder),
        (_, Value::Whole(value)) => ConstGauge::new(value).encode(encoder),
        (_, Value::Real(value)) => ConstGauge::new(value).encode(encoder),
    }
}

/// The table of all names of a program: a constant for each, in groups for whoever reads it, and `ALL`
/// of them.
#[macro_export]
macro_rules! names {
    ($($group:literal { $($name:ident = $kind:ident $text:literal, $help:literal;)* })*) => {
        $($(#[doc = $help]
        pub const $name: $crate::Name = $crate::Name::$kind($text, $help);)*)*

        /// All of them.
        pub const ALL: &[$crate::Name] = &[$($($name,)*)*];
    };
}
