//! Where readings come from: one file a source.
//!
//! A source reads files under the [`Host`]'s root or runs a tool. It may block and may hang: it is
//! called on a thread of its own, never twice at a time, and given up after its deadline. It keeps
//! no history; the judge does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Component, Host, Quantity, Reading,
    config::{Config, Span},
};

// Memory and processors.
pub mod edac;
pub mod machine_check;
pub mod rapl;
pub mod throttle;

// Sensors.
pub mod hwmon;
pub mod thermal;

// Networks.
pub mod bond;
pub mod fec;
pub mod nic;

// Disks and what is made of them.
pub mod block;
pub mod filesystem;
pub mod md;

// Time and kernel.
pub mod clock;
pub mod kernel;
pub mod oom;
pub mod pressure;
pub mod suspend;

// What tools say.
pub mod ceph;
pub mod ipmi;
pub mod lvm;
pub mod probe;
pub mod rasdaemon;
pub mod redfish;
pub mod smartctl;
pub mod zfs;

/// A source of readings.
#[async_trait]
pub trait Source: Send + Sync {
    /// Its name, `[a-z0-9_-]`.
    fn name(&self) -> &str;

    /// How often it is asked.
    fn cadence(&self) -> Duration;

    /// How long it may take before it is given up.
    fn deadline(&self) -> Duration;

    /// Reads. Called on a thread that may block.
    ///
    /// # Errors
    ///
    /// [`Failure::Absent`] when the server has nothing of the kind, else why nothing was read. What
    /// could not be read of a single part is a reading of its own, not an error.
    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure>;
}

/// Why a source said nothing.
pub use kapok_helper::Failure;

/// The sources that a configuration asks for, at its times.
pub fn all(config: &Config) -> Vec<Arc<dyn Source>> {
    let wanted = every(config)
        .into_iter()
        .filter(|source| !config.off.contains(source.name()));
    let timed = wanted.map(|source| -> Arc<dyn Source> {
        let of = |spans: &BTreeMap<String, Span>| spans.get(source.name()).map(|span| span.0);
        let cadence = of(&config.every).unwrap_or_else(|| source.cadence());
        let deadline = of(&config.deadline).unwrap_or_else(|| source.deadline());
        Arc::new(Timed {
            source,
            cadence,
            deadline,
        })
    });
    timed.collect()
}

/// All sources at their own times, also those that are off: one line a source.
pub(crate) fn every(config: &Config) -> Vec<Arc<dyn Source>> {
    vec![
        // Files.
        files("edac", edac::read),
        files("machine_check", machine_check::read),
        files("throttle", throttle::read),
        files("hwmon", hwmon::read),
        files("thermal", thermal::read),
        Arc::new(rapl::Rapl::default()),
        files("nic", nic::read),
        files("bond", bond::read),
        files("block", block::read),
        Arc::new(filesystem::Filesystem::new(config.filesystems.clone())),
        files("md", md::read),
        files("kernel", kernel::read),
        files("oom", oom::read),
        files("pressure", pressure::read),
        Arc::new(suspend::Suspend::default()),
        // Tools.
        Arc::new(clock::Clock),
        Arc::new(fec::Fec),
        Arc::new(smartctl::Smartctl),
        Arc::new(ipmi::Ipmi::new(config.ipmi.clone())),
        Arc::new(redfish::Redfish::new(config.redfish.clone())),
        Arc::new(rasdaemon::Rasdaemon),
        Arc::new(lvm::Lvm),
        Arc::new(zfs::Zfs),
        Arc::new(ceph::Ceph::new(config.ceph.clone())),
        Arc::new(probe::Probes::new(config.probe.clone())),
    ]
}

/// A source at times that aren't its own.
struct Timed {
    source: Arc<dyn Source>,
    cadence: Duration,
    deadline: Duration,
}

#[async_trait]
impl Source for Timed {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn cadence(&self) -> Duration {
        self.cadence
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        self.source.read(host).await
    }
}

/// How often files are read.
const CADENCE: Duration = Duration::from_secs(10);
/// How long files may take: a sensor behind a slow bus takes its time.
const DEADLINE: Duration = Duration::from_secs(5);

/// A source that only reads files and remembers nothing.
struct Files {
    name: &'static str,
    read: fn(&Host) -> Result<Vec<Reading>, Failure>,
}

fn files(name: &'static str, read: fn(&Host) -> Result<Vec<Reading>, Failure>) -> Arc<dyn Source> {
    Arc::new(Files { name, read })
}

#[async_trait]
impl Source for Files {
    fn name(&self) -> &str {
        self.name
    }

    fn cadence(&self) -> Duration {
        CADENCE
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        (self.read)(host)
    }
}

/// What was found of one part, or that it could not be read: that hides no other part.
fn part(
    found: Result<Vec<Reading>, Failure>,
    component: &Component,
    quantity: Quantity,
) -> Vec<Reading> {
    found.unwrap_or_else(|failure| vec![Reading::unreadable(component, quantity, failure)])
}

/// What was found, or *absent* if nothing was.
fn found(readings: Vec<Reading>, nothing: &str) -> Result<Vec<Reading>, Failure> {
    if readings.is_empty() {
        return Err(Failure::Absent(nothing.to_owned()));
    }
    Ok(readings)
}

/// A plain decimal number; none for anything else, such as "inf".
fn decimal(word: &str) -> Option<f64> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    let number = word.parse::<f64>().ok()?;
    (word.bytes().all(plain) && number.is_finite()).then_some(number)
}

/// A whole number, to 53 bits.
fn float(number: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits).unwrap_or(u32::MAX));
    half(number >> 32) * 4_294_967_296.0 + half(number & 0xffff_ffff)
}

/// How many there are.
fn count(number: usize) -> f64 {
    float(u64::try_from(number).unwrap_or(u64::MAX))
}

/// The number of an object of sysfs: 3 of "mc3" with the prefix "mc".
fn number_of(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests;
