//! What an administrator decides about a node's sources: `[health]` of `agent.toml`.
//!
//! ```toml
//! [health]
//! off = ["rapl"]
//! every = { smartctl = "30m" }
//! deadline = { smartctl = "1m" }
//! filesystems = { state = "/var/lib/kapok", pool = "/var/lib/libvirt/images" }
//! tools = { smartctl = "/opt/smartmontools/sbin/smartctl" }
//!
//! [health.rules.MEMORY_CE_STORM]
//! at_least = 500
//! ```
//!
//! Unknown keys and unknown sources are refused. Nothing here is read from anywhere else: who
//! embeds it adds the file systems that the agent itself needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use nix::unistd::geteuid;
use serde::{Deserialize, Deserializer};

use crate::{
    Host,
    rules::{Overrides, Rules},
    source::{self, ceph, ipmi, probe, redfish},
};

/// Shortest and longest cadence, in seconds.
const EVERY_SECONDS: (u64, u64) = (1, 86_400);
/// Shortest and longest deadline, in seconds.
const DEADLINE_SECONDS: (u64, u64) = (1, 600);
/// Longest name of a file system, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The whole section.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Sources that are not asked.
    pub off: BTreeSet<String>,
    /// How often a source is asked, where that differs from its own cadence.
    pub every: BTreeMap<String, Span>,
    /// How long a source may take, where that differs from its own deadline.
    pub deadline: BTreeMap<String, Span>,
    /// File systems that are watched: a name, and an absolute path on it.
    pub filesystems: BTreeMap<String, PathBuf>,
    /// Where a tool is, if not where distributions put it: its name, and an absolute path.
    pub tools: BTreeMap<String, PathBuf>,
    /// Where `kapok-helper` listens.
    pub helper: Helper,
    /// How the management controller is asked over IPMI.
    pub ipmi: ipmi::Settings,
    /// How a management controller is asked over Redfish; none is, without it.
    pub redfish: Option<redfish::Settings>,
    /// How the Ceph cluster is asked; none is, without it.
    pub ceph: Option<ceph::Settings>,
    /// Where the site's own probes are.
    pub probe: probe::Settings,
    /// Rules that differ from the built-in ones.
    pub rules: Overrides,
}

/// A length of time, written like "10s" or "1m 30s".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The path of the helper's socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Helper(pub PathBuf);

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Error {
    /// The key, dotted: "health.every.edac".
    pub key: String,
    /// What would be right.
    pub reason: String,
}

impl Config {
    /// Checks what the types can't say.
    ///
    /// # Errors
    ///
    /// The first key that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let sources = source::every(&Self::default());
        let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
        let known = |table: &str, name: &str| {
            if names.contains(&name) {
                return Ok(());
            }
            let reason = format!("{name:?} is no source; there are {}", names.join(", "));
            Err(Error::new(&format!("health.{table}"), reason))
        };
        for name in &self.off {
            known("off", name)?;
        }
        for (table, spans, (least, most)) in [
            ("every", &self.every, EVERY_SECONDS),
            ("deadline", &self.deadline, DEADLINE_SECONDS),
        ] {
            for (name, Span(span)) in spans {
                known(table, name)?;
                if !(Duration::from_secs(least)..=Duration::from_secs(most)).contains(span) {
                    let reason = format!("must be {least} s to {most} s");
                    return Err(Error::new(&format!("health.{table}.{name}"), reason));
                }
            }
        }
        for (table, paths) in [("filesystems", &self.filesystems), ("tools", &self.tools)] {
            for (name, path) in paths {
                let key = format!("health.{table}.{name}");
                if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('/') {
                    let reason = format!("a name is 1 to {MAX_NAME_BYTES} bytes without a slash");
                    return Err(Error::new(&key, reason));
                }
                if !path.is_absolute() {
                    return Err(Error::new(&key, "must be an absolute path"));
                }
            }
        }
        if !self.helper.0.is_absolute() {
            return Err(Error::new("health.helper", "must be an absolute path"));
        }
        let checked = |key: &str, checked: Result<(), String>| {
            checked.map_err(|reason| Error::new(&format!("health.{key}"), reason))
        };
        checked("ipmi", self.ipmi.check())?;
        checked(
            "redfish",
            self.redfish
                .as_ref()
                .map_or(Ok(()), redfish::Settings::check),
        )?;
        checked("probe", self.probe.check())?;
        match Rules::with(&self.rules) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(&error.key, error.reason)),
        }
    }

    /// The server at "/" with the configured tools; and with the helper, unless this process is
    /// root: then it may do itself whatever the helper may.
    pub fn host(&self) -> Host {
        let tools = self.tools.iter();
        let host = tools.fold(Host::new("/"), |host, (tool, program)| {
            host.with_tool(tool, program)
        });
        if geteuid().is_root() {
            return host;
        }
        host.with_helper(&self.helper.0)
    }
}

impl Default for Helper {
    fn default() -> Self {
        Self(kapok_helper::SOCKET.into())
    }
}

impl Error {
    /// What is wrong with a key.
    pub fn new(key: &str, reason: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            reason: reason.into(),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|_| {
            serde::de::Error::custom(format!(
                "{text:?} isn't a duration; write for example \"10s\" or \"1m 30s\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_is_configured_comes_before_a_source_s_own() {
        let config = check(
            r#"
            off = ["rapl"]
            every = { edac = "1m 30s" }
            deadline = { edac = "2s" }
            filesystems = { state = "/var/lib/kapok" }
            tools = { chronyc = "/opt/chronyc" }
            "#,
        )
        .unwrap();
        let all = source::all(&config);
        let edac = all.iter().find(|source| source.name() == "edac").unwrap();
        assert_eq!(edac.cadence(), Duration::from_secs(90));
        assert_eq!(edac.deadline(), Duration::from_secs(2));
        assert!(all.iter().all(|source| source.name() != "rapl"));
        assert_eq!(
            config.host().tool("chronyc").unwrap(),
            PathBuf::from("/opt/chronyc")
        );
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_key() {
        for (text, complaint) in [
            ("of = []", "unknown field `of`"),
            (r#"off = ["edak"]"#, "health.off: \"edak\" is no source"),
            (
                r#"every = { edak = "1s" }"#,
                "health.every: \"edak\" is no source",
            ),
            (r#"every = { edac = "soon" }"#, "\"soon\" isn't a duration"),
            (
                r#"every = { edac = "10ms" }"#,
                "health.every.edac: must be 1 s to 86400 s",
            ),
            (
                r#"deadline = { edac = "1h" }"#,
                "health.deadline.edac: must be 1 s to 600 s",
            ),
            (
                r#"filesystems = { state = "kapok" }"#,
                "health.filesystems.state: must be an absolute path",
            ),
            (
                r#"helper = "helper.sock""#,
                "health.helper: must be an absolute path",
            ),
            (
                "[rules.NOT_A_RULE]\nenabled = false",
                "health.rules.NOT_A_RULE: there is no such rule",
            ),
            (
                "ipmi = { arguments = [\"-H\", \"bmc7\", \"-Psecret\"] }",
                "health.ipmi: no password or key among arguments",
            ),
            (
                r#"redfish = { address = "bmc7" }"#,
                "health.redfish: set one of ca_file, fingerprint and insecure",
            ),
            (
                r#"probe = { folder = "probes" }"#,
                "health.probe: folder must be an absolute path",
            ),
            (
                r#"tools = { "a/b" = "/bin/true" }"#,
                "health.tools.a/b: a name is",
            ),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.starts_with(complaint), "{text}: {refused}");
        }
    }

    #[test]
    fn every_source_has_a_name_of_its_own_and_a_deadline_within_its_cadence() {
        let all = source::every(&Config::default());
        let names: BTreeSet<_> = all.iter().map(|source| source.name()).collect();
        assert_eq!(names.len(), all.len());
        for source in &all {
            assert!(source.deadline() <= source.cadence(), "{}", source.name());
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
            assert!(source.name().chars().all(fits), "{}", source.name());
        }
    }
}
