//! The configuration: `/etc/kapok/controller.toml`.
//!
//! Unknown keys are refused. Every error names the file, the key and what to do. Defaults are
//! those that the shipped example shows. The fabric's name isn't here: it was given once, to
//! `kapok-controller init`, and is part of every certificate since.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use kapok_scheduler::Policy;
use kapok_telemetry::Telemetry;
use kapok_types::Bytes;
use serde::Deserialize;

use crate::{audit, fabric::health, oidc};

mod raw;
pub mod store;
mod values;

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/kapok/controller.toml";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where people and agents reach the controller: gRPC, client certificates required.
    pub listen: SocketAddr,
    /// The same as others dial it: "HOST:PORT".
    pub advertise: String,
    /// Directory of the blobs, the keys and, with the embedded store, the log.
    pub state_dir: PathBuf,
    /// Where the log is kept.
    pub store: store::Store,
    /// Largest image that is taken.
    pub max_image: Bytes,
    /// vCPUs that one thread of a node may carry when the node joins, in permille.
    pub default_vcpu_overcommit_permille: u32,
    /// The HTTPS port.
    pub https: Https,
    /// How long certificates live.
    pub trust: Lives,
    /// What one peer and one identity may take.
    pub limits: Limits,
    /// Directory of the site's policies, if it has some.
    pub policies: Option<PathBuf>,
    /// What is kept of the log, and for how long.
    pub audit: audit::Policy,
    /// The identity provider, if there is one.
    pub oidc: Option<oidc::Config>,
    /// Which nodes new instances go to, and what is kept free.
    pub placement: Policy,
    /// What is done about nodes' health.
    pub health: health::Policy,
    /// Intervals and deadlines.
    pub timing: Timing,
    /// Traces.
    pub telemetry: Telemetry,
}

/// The HTTPS port: joining, logging in, `/healthz` and `/metrics`. A client needs no certificate
/// to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The same as others dial it: "HOST:PORT".
    pub advertise: String,
    /// Who may ask whether the controller is well.
    pub healthz: Access,
    /// Who may read the metrics.
    pub metrics: Access,
    /// The file that holds the bearer token of `token`.
    pub metrics_token_file: Option<PathBuf>,
    /// Most series of nodes on a page of metrics.
    pub metrics_max_series: usize,
}

/// Who may read a page of the HTTPS port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everybody.
    Open,
    /// Who shows a certificate of this fabric.
    Mtls,
    /// Who shows such a certificate, or the token in `metrics_token_file`.
    Token,
}

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lives {
    /// A node's; 10 s to 1 year.
    #[serde(rename = "node_life", deserialize_with = "values::duration")]
    pub node: Duration,
    /// A controller's; 10 s to 1 year.
    #[serde(rename = "controller_life", deserialize_with = "values::duration")]
    pub controller: Duration,
    /// A person's unless they wish for another, which may be up to 90 days; 10 s to 90 days.
    #[serde(rename = "person_life", deserialize_with = "values::duration")]
    pub person: Duration,
    /// A machine's unless it wishes for another; 10 s to 90 days.
    #[serde(rename = "machine_life", deserialize_with = "values::duration")]
    pub machine: Duration,
}

/// What one peer and one identity may take of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests of one identity in a second, on average; 1 to 100,000.
    pub requests_per_second: u32,
    /// Open connections in all, on each port; 16 to 1,000,000.
    pub connections: usize,
    /// Open connections of one address; 4 to 1,000,000.
    pub connections_per_peer: usize,
    /// How long a request may take that is neither a stream nor a wait; 1 s to 10 min.
    #[serde(deserialize_with = "values::duration")]
    pub request_deadline: Duration,
}

/// Intervals and deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How often agents are asked for life signs; 100 ms to 60 s.
    #[serde(deserialize_with = "values::duration")]
    pub heartbeat: Duration,
    /// Silence after which a node is unreachable; at least three heartbeats, at most 1 h.
    #[serde(deserialize_with = "values::duration")]
    pub lost_after: Duration,
    /// When waiting for an operation stops making sense; 1 s to 24 h.
    #[serde(deserialize_with = "values::duration")]
    pub operation_deadline: Duration,
    /// How often agents are asked how much processor time instances used; 1 min to 24 h.
    #[serde(deserialize_with = "values::duration")]
    pub metering: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            node: Duration::from_hours(30 * 24),
            controller: Duration::from_hours(30 * 24),
            person: Duration::from_hours(12),
            machine: Duration::from_hours(12),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: 100,
            connections: 4096,
            connections_per_peer: 256,
            request_deadline: Duration::from_mins(1),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            lost_after: Duration::from_secs(10),
            operation_deadline: Duration::from_mins(10),
            metering: Duration::from_hours(1),
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
        raw::parse(text, path)
    }

    /// Where the authorities' keys and the controller's own certificate lie.
    pub fn trust_dir(&self) -> PathBuf {
        self.state_dir.join("trust")
    }
}

#[cfg(test)]
mod tests;
