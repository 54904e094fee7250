//! `agent.toml`: what an administrator decides about one agent.
//!
//! Unknown keys are refused. An error names file, line and key, and says what would be right.
//! Reading the file decides nothing else: the wiring turns a [`Config`] into options of the parts.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use kapok_health::Rules;
use kapok_telemetry::Telemetry;
use kapok_types::{MemoryMib, Name, ThreadSet};
use serde::{Deserialize, Deserializer};

mod offering;

pub use offering::{DeviceRule, Offering};

/// The shipped example, which also is the default configuration.
pub const SHIPPED: &str = include_str!("../../systemd/agent.toml");

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where controllers reach the gRPC services, over mTLS.
    pub listen: SocketAddr,
    /// Where the agent keeps its local store, its node id, its trust and images that are being
    /// pulled.
    pub state_dir: PathBuf,
    /// Memory kept for the host, in MiB.
    pub reserved_memory_mib: u64,
    /// Host threads that are set aside for dedicated vCPUs, in the kernel's list form.
    #[serde(deserialize_with = "offering::threads")]
    pub dedicated_cpus: ThreadSet,
    /// After a boot, start instances on shared pools without the controller's word.
    pub site_power_loss_start: bool,
    /// What monitoring reads.
    pub http: Http,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// The hypervisor.
    pub libvirt: Libvirt,
    /// Deadlines and intervals.
    pub timing: Timing,
    /// How the server is watched.
    pub health: kapok_health::config::Config,
    /// Traces.
    pub telemetry: Telemetry,
    /// Which PCI devices guests can be given.
    pub devices: Vec<DeviceRule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7701)),
            state_dir: "/var/lib/kapok/agent".into(),
            reserved_memory_mib: 1024,
            dedicated_cpus: ThreadSet::default(),
            site_power_loss_start: false,
            http: Http::default(),
            metrics: Metrics::default(),
            libvirt: Libvirt::default(),
            timing: Timing::default(),
            health: kapok_health::config::Config::default(),
            telemetry: Telemetry::default(),
            devices: Vec::new(),
        }
    }
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where `/healthz` and `/metrics` are served, over TLS.
    pub listen: SocketAddr,
    /// Who may read `/healthz`.
    pub healthz: Access,
    /// Who may read `/metrics`.
    pub metrics: Access,
    /// A file whose only line is the bearer token of [`Access::Token`]: 16 to 1024 printable
    /// characters.
    pub token_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7781)),
            healthz: Access::Open,
            metrics: Access::Mtls,
            token_file: None,
        }
    }
}

/// Who may read a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everybody who reaches the address.
    Open,
    /// Who shows a certificate of the fabric for a controller, a machine or this node.
    Mtls,
    /// Who sends the token of `token_file` as a bearer, or may by [`Access::Mtls`].
    Token,
    /// Nobody: the page isn't served.
    Off,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// How often domains and the kernel are asked for their numbers.
    #[serde(deserialize_with = "duration")]
    pub sample_every: Duration,
    /// Most series of domains, sensors and other things that others make, on one page.
    pub max_series: usize,
    /// Other exporters whose names are exported as well.
    pub compat: BTreeSet<Compat>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sample_every: Duration::from_secs(3),
            max_series: 50_000,
            compat: BTreeSet::new(),
        }
    }
}

/// An exporter that others' dashboards were made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// prometheus-libvirt-exporter.
    Libvirt,
    /// `node_exporter`.
    Node,
    /// `smartctl_exporter`.
    Smartctl,
    /// `ipmi_exporter`.
    Ipmi,
}

/// `[libvirt]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Libvirt {
    /// Which libvirtd.
    pub uri: String,
    /// The storage pool of root disks and images.
    pub pool: String,
    /// Whether other nodes use the same pool.
    pub pool_shared: bool,
    /// The network that instances are plugged into.
    pub network: String,
    /// Further networks, by which instances may be plugged in that name them.
    pub networks: BTreeSet<Name>,
    /// How guests are run.
    pub virt_type: VirtChoice,
    /// A Linux kernel that the probe of `auto` boots.
    pub probe_kernel: Option<PathBuf>,
    /// An initramfs for it that says the probe's word on the serial console; made by the package.
    pub probe_initrd: Option<PathBuf>,
    /// How long the probe's guest may take to reach userland.
    #[serde(deserialize_with = "seconds")]
    pub probe_seconds: Duration,
}

impl Default for Libvirt {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".into(),
            pool: "kapok".into(),
            pool_shared: false,
            network: "kapok".into(),
            networks: BTreeSet::new(),
            virt_type: VirtChoice::Auto,
            probe_kernel: None,
            probe_initrd: None,
            probe_seconds: Duration::from_secs(20),
        }
    }
}

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtChoice {
    /// KVM if a Linux guest reaches userland under it, else emulation.
    Auto,
    /// KVM, unprobed.
    Kvm,
    /// Emulation.
    Qemu,
}

/// `[timing]`, each as text like "10s" or "1m 30s".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How long a call to the hypervisor is waited for before its domain counts as *unknown*.
    #[serde(deserialize_with = "duration")]
    pub call_deadline: Duration,
    /// How long a guest may take to shut down before it is turned off hard.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
    /// How often each domain is looked at without a hint.
    #[serde(deserialize_with = "duration")]
    pub observe_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            call_deadline: Duration::from_secs(10),
            shutdown_grace: Duration::from_mins(1),
            observe_every: Duration::from_secs(5),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{} can't be read", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}{}: {key}{reason}", file.display(), Line(*line))]
    Wrong {
        /// Which file.
        file: PathBuf,
        /// Its line, from 1; 0 when no line can be named.
        line: usize,
        /// The key and a colon, or empty for a syntax error.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

struct Line(usize);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            line => write!(f, ":{line}"),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// With file, line and key.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file).map_err(|source| Error::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(&text, file)
    }

    /// Checks a file's text; `file` is only named in errors.
    ///
    /// # Errors
    ///
    /// With file, line and key.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let (line, key) = error
                .span()
                .map_or((0, String::new()), |span| place(text, span.start));
            Error::Wrong {
                file: file.to_owned(),
                line,
                key,
                reason: error.message().to_owned(),
            }
        })?;
        config.check().map_err(|(key, reason)| Error::Wrong {
            file: file.to_owned(),
            line: line_of(text, key),
            key: format!("{key}: "),
            reason,
        })?;
        config
            .check_health()
            .map_err(|(key, reason)| Error::Wrong {
                file: file.to_owned(),
                line: line_of(text, &key),
                key: format!("{key}: "),
                reason,
            })?;
        Ok(config)
    }

    /// Memory kept for the host.
    pub fn reserved_memory(&self) -> MemoryMib {
        MemoryMib(self.reserved_memory_mib)
    }

    /// What of the node single instances can have.
    pub fn offering(&self) -> Offering {
        Offering {
            dedicated: self.dedicated_cpus.clone(),
            devices: self.devices.clone(),
            networks: self.libvirt.networks.clone(),
        }
    }

    /// The guest of the probe, if one is configured.
    #[cfg(feature = "libvirt")]
    pub fn probe_guest(&self) -> Option<crate::probe::Guest> {
        let path = |path: &Option<PathBuf>| path.as_ref()?.to_str().map(str::to_owned);
        Some(crate::probe::Guest {
            kernel: path(&self.libvirt.probe_kernel)?,
            initrd: path(&self.libvirt.probe_initrd)?,
            timeout: self.libvirt.probe_seconds,
        })
    }

    /// What the types of `[health]` can't say. The key is dotted.
    fn check_health(&self) -> Result<(), (String, String)> {
        let checked = self.health.check();
        checked.map_err(|wrong| (wrong.key, wrong.reason))?;
        let rules = Rules::with(&self.health.rules);
        rules.map_err(|wrong| (wrong.key, wrong.reason)).map(drop)
    }

    /// What the types can't say. The key is dotted.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.state_dir.is_absolute() {
            return Err(("state_dir", "must be an absolute path".into()));
        }
        self.telemetry
            .check()
            .map_err(|reason| ("telemetry.otlp_endpoint", reason))?;
        let http = &self.http;
        match &http.token_file {
            None if [http.healthz, http.metrics].contains(&Access::Token) => {
                return Err((
                    "http.token_file",
                    "is missing, and a page is behind \"token\": name a file with the token".into(),
                ));
            }
            Some(file) if !file.is_absolute() => {
                return Err(("http.token_file", "must be an absolute path".into()));
            }
            _ => {}
        }
        for (key, value) in [
            ("libvirt.pool", &self.libvirt.pool),
            ("libvirt.network", &self.libvirt.network),
        ] {
            if value.is_empty() || value.contains(['/', '\0']) || value.len() > 255 {
                return Err((
                    key,
                    "must be 1 to 255 bytes without a slash or a NUL".into(),
                ));
            }
        }
        if self.libvirt.uri.is_empty() || self.libvirt.uri.contains('\0') {
            return Err((
                "libvirt.uri",
                "must be a libvirt URI, for example \"qemu:///system\"".into(),
            ));
        }
        if self.libvirt.probe_kernel.is_some() != self.libvirt.probe_initrd.is_some() {
            return Err((
                "libvirt.probe_kernel",
                "needs `probe_initrd` beside it, and the other way round".into(),
            ));
        }
        for (key, value, least, most) in [
            ("timing.call_deadline", self.timing.call_deadline, 1, 600),
            (
                "timing.shutdown_grace",
                self.timing.shutdown_grace,
                0,
                86_400,
            ),
            ("timing.observe_every", self.timing.observe_every, 1, 3600),
            ("metrics.sample_every", self.metrics.sample_every, 1, 60),
            ("libvirt.probe_seconds", self.libvirt.probe_seconds, 1, 600),
        ] {
            if value < Duration::from_secs(least) || value > Duration::from_secs(most) {
                return Err((key, format!("must be {least} s to {most} s")));
            }
        }
        Ok(())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} isn't a duration; write for example \"10s\" or \"1m 30s\""
        ))
    })
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

/// The name of the table, or of the list of tables, that begins on a line.
fn table(line: &str) -> Option<&str> {
    let one = |text| str::strip_prefix(text, '[')?.strip_suffix(']');
    let name = one(line.trim())?;
    Some(one(name).unwrap_or(name))
}

/// Line (from 1) and key with a colon, as far as a byte offset tells.
fn place(text: &str, offset: usize) -> (usize, String) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let table = before.lines().rev().find_map(table);
    let key = text
        .lines()
        .nth(line - 1)
        .and_then(|line| line.split_once('='))
        .map(|(key, _)| key.trim())
        .filter(|key| !key.is_empty() && !key.starts_with('#'));
    let dotted = match (table, key) {
        (Some(table), Some(key)) => format!("{table}.{key}: "),
        (None, Some(key)) => format!("{key}: "),
        _ => String::new(),
    };
    (line, dotted)
}

/// The line (from 1) that sets a dotted key; 0 if the default did.
fn line_of(text: &str, dotted: &str) -> usize {
    let (wanted, key) = dotted.rsplit_once('.').unwrap_or(("", dotted));
    let mut table = "";
    for (index, line) in text.lines().enumerate() {
        if let Some(name) = self::table(line) {
            table = name;
        } else if table == wanted
            && line
                .split_once('=')
                .is_some_and(|(name, _)| name.trim() == key)
        {
            return index + 1;
        }
    }
    0
}

#[cfg(test)]
mod tests;
