//! The configuration: `/etc/kapok/controller.toml`.
//!
//! Unknown keys are refused. Every error names the file, the key and what to do. Defaults are
//! those that the shipped example shows.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use kapok_types::{
    Bytes, Name,
    instance::MAX_DISK_BYTES,
    quantity::{GIB, MIB},
};
use serde::{Deserialize, Deserializer, de};
use tonic::transport::Uri;

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/kapok/controller.toml";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where people and agents reach the controller.
    pub listen: SocketAddr,
    /// Whether addresses other than loopback are allowed without TLS.
    pub insecure_listen: bool,
    /// Where agents pull blobs from: "http://HOST:PORT".
    pub advertise: String,
    /// Directory of the log and the blobs.
    pub state_dir: PathBuf,
    /// Largest image that is taken.
    pub max_image: Bytes,
    /// The fabric's nodes.
    pub nodes: Vec<NodeConfig>,
    /// Intervals and deadlines.
    pub timing: Timing,
}

/// One node of the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name.
    pub name: Name,
    /// Where its agent listens: "HOST:PORT".
    pub address: String,
    /// vCPUs that one physical thread may carry, in permille.
    pub vcpu_overcommit_permille: u32,
}

/// Intervals and deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How often agents are asked for life signs; 100 ms to 60 s.
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// Silence after which a node is unreachable; at least three heartbeats, at most 1 h.
    #[serde(deserialize_with = "duration")]
    pub lost_after: Duration,
    /// When waiting for an operation stops making sense; 1 s to 24 h.
    #[serde(deserialize_with = "duration")]
    pub operation_deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            lost_after: Duration::from_secs(10),
            operation_deadline: Duration::from_mins(10),
        }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("{}: can't be read; make the file, or name another with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't TOML, or has an unknown key or a value of another kind.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it, and what.
        problem: String,
    },
    /// A value is out of its limits.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, as `timing.heartbeat`.
        key: String,
        /// What is wrong, the limit, and what to do.
        problem: String,
    },
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    listen: SocketAddr,
    insecure_listen: bool,
    advertise: Option<String>,
    state_dir: PathBuf,
    #[serde(deserialize_with = "size")]
    max_image_bytes: Bytes,
    nodes: Vec<RawNode>,
    timing: Timing,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Name,
    address: String,
    #[serde(default = "default_overcommit", deserialize_with = "permille")]
    vcpu_overcommit: u32,
}

fn default_overcommit() -> u32 {
    4000
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7700)),
            insecure_listen: false,
            advertise: None,
            state_dir: "/var/lib/kapok/controller".into(),
            max_image_bytes: Bytes(64 * GIB),
            nodes: Vec::new(),
            timing: Timing::default(),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// [`Error`] names the file and the key.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks a file's text; `path` is for the errors.
    ///
    /// # Errors
    ///
    /// [`Error`] names the file and the key.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let raw: Raw = toml::from_str(text).map_err(|error| Error::Malformed {
            path: path.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        })?;
        raw.check().map_err(|(key, problem)| Error::Value {
            path: path.to_owned(),
            key,
            problem,
        })
    }
}

impl Raw {
    fn check(self) -> Result<Config, (String, String)> {
        let wrong = |key: &str, problem: String| Err((key.to_owned(), problem));
        let open = self.insecure_listen;
        if !self.listen.ip().is_loopback() && !open {
            return wrong(
                "listen",
                format!(
                    "{} is no loopback address, and there is no TLS yet: use 127.0.0.1, or set \
                     insecure_listen = true in a laboratory",
                    self.listen
                ),
            );
        }
        if !self.state_dir.is_absolute() {
            return wrong(
                "state_dir",
                format!("{} must be absolute", self.state_dir.display()),
            );
        }
        let bytes = self.max_image_bytes.get();
        if !(MIB..=MAX_DISK_BYTES).contains(&bytes) {
            return wrong(
                "max_image_bytes",
                format!(
                    "{} is out of its limits: 1 MiB to 64 TiB",
                    self.max_image_bytes
                ),
            );
        }
        let Timing {
            heartbeat,
            lost_after,
            operation_deadline,
        } = self.timing;
        let limits = [
            (
                "timing.heartbeat",
                heartbeat,
                Duration::from_millis(100),
                Duration::from_mins(1),
            ),
            (
                "timing.lost_after",
                lost_after,
                heartbeat * 3,
                Duration::from_hours(1),
            ),
            (
                "timing.operation_deadline",
                operation_deadline,
                Duration::from_secs(1),
                Duration::from_hours(24),
            ),
        ];
        for (key, value, least, most) in limits {
            if value < least || value > most {
                let human = humantime::format_duration;
                return wrong(
                    key,
                    format!(
                        "{} is out of its limits: {} to {}",
                        human(value),
                        human(least),
                        human(most)
                    ),
                );
            }
        }
        let nodes = check_nodes(self.nodes, open)?;
        Ok(Config {
            advertise: advertise(self.advertise, self.listen)?,
            listen: self.listen,
            insecure_listen: open,
            state_dir: self.state_dir,
            max_image: self.max_image_bytes,
            nodes,
            timing: self.timing,
        })
    }
}

fn advertise(given: Option<String>, listen: SocketAddr) -> Result<String, (String, String)> {
    let wrong = |problem: String| Err(("advertise".to_owned(), problem));
    let Some(url) = given else {
        if listen.ip().is_unspecified() {
            return wrong(format!(
                "is missing, and {listen} is no address that agents could pull images from: state \
                 one, as in advertise = \"http://10.0.0.1:{}\"",
                listen.port()
            ));
        }
        return Ok(format!("http://{listen}"));
    };
    let sound = url.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri.port_u16().is_some()
            && uri.path() == "/"
            && uri.query().is_none()
            && !url.ends_with('/')
            && !url.contains('@')
    });
    if sound {
        Ok(url)
    } else {
        wrong(format!("{url:?} must have the form \"http://HOST:PORT\""))
    }
}

fn check_nodes(raw: Vec<RawNode>, open: bool) -> Result<Vec<NodeConfig>, (String, String)> {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut nodes = Vec::with_capacity(raw.len());
    for RawNode {
        name,
        address,
        vcpu_overcommit,
    } in raw
    {
        let wrong = |problem| Err((format!("nodes.{name}.address"), problem));
        let Some(host) = host(&address) else {
            return wrong(format!("{address:?} must have the form \"HOST:PORT\""));
        };
        if !is_loopback(host) && !open {
            return wrong(format!(
                "{address} is no loopback address, and there is no TLS yet: set \
                 insecure_listen = true in a laboratory"
            ));
        }
        if !names.insert(name.clone()) {
            return Err((
                format!("nodes.{name}"),
                "is there twice: give it another name".into(),
            ));
        }
        if !addresses.insert(address.clone()) {
            return wrong(format!("{address} is another node's as well"));
        }
        nodes.push(NodeConfig {
            name,
            address,
            vcpu_overcommit_permille: vcpu_overcommit,
        });
    }
    Ok(nodes)
}

/// The host of "HOST:PORT", if it has that form.
fn host(address: &str) -> Option<&str> {
    let uri: Uri = format!("http://{address}").parse().ok()?;
    uri.port_u16().filter(|port| *port != 0)?;
    let (host, _) = address.rsplit_once(':')?;
    (uri.authority()?.as_str() == address && !address.contains('@')).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        de::Error::custom(format!(
            "{text:?} is no duration ({error}); write \"1s\" or \"10m\""
        ))
    })
}

/// A number of bytes with its unit: "64GiB".
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "B" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(MIB),
        "GiB" => Some(GIB),
        "TiB" => Some(1024 * GIB),
        _ => None,
    };
    let number = digits.trim_end().parse::<u64>().ok();
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Bytes)
        .ok_or_else(|| de::Error::custom(format!("{text:?} is no size; write \"64GiB\"")))
}

/// A ratio such as 4 or 1.5, kept in permille.
fn permille<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if !(0.1..=64.0).contains(&ratio) {
        return Err(de::Error::custom(format!(
            "{ratio} is out of its limits: 0.1 to 64.0"
        )));
    }
    // Through text: there is no checked conversion of a fraction to a whole number.
    format!("{:.0}", ratio * 1000.0)
        .parse()
        .map_err(de::Error::custom)
}

#[cfg(test)]
mod tests;
