//! `[store]`: where the log is kept.

use std::{fmt, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::values;

/// Where the log is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// What the controller uses.
    pub backend: Backend,
    /// How etcd is reached, if it is used or moved to.
    pub etcd: Option<Etcd>,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Embedded: a file in `state_dir`.
    #[default]
    Redb,
    /// An etcd cluster.
    Etcd,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redb => "redb",
            Self::Etcd => "etcd",
        })
    }
}

/// How an etcd cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// Each member's address: "https://HOST:PORT"; "http://" on loopback only.
    pub endpoints: Vec<String>,
    /// Where in etcd the log is, with a slash at its end; at most 96 bytes.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// Who signed the members' certificates, in PEM; needed for "https://".
    pub ca_file: Option<PathBuf>,
    /// What the controller shows them, in PEM; needed for "https://".
    pub certificate_file: Option<PathBuf>,
    /// That certificate's key, in PEM.
    pub key_file: Option<PathBuf>,
    /// A user of etcd's own, where its authentication is on.
    pub user: Option<String>,
    /// The file with that user's password.
    pub password_file: Option<PathBuf>,
    /// How long a controller that is gone keeps others from leading; 2 s to 1 min.
    #[serde(default = "lease", deserialize_with = "values::duration")]
    pub lease: Duration,
    /// How long etcd may take for an answer; 500 ms to 1 min.
    #[serde(default = "deadline", deserialize_with = "values::duration")]
    pub deadline: Duration,
}

fn prefix() -> String {
    "/kapok/".to_owned()
}

fn lease() -> Duration {
    Duration::from_secs(3)
}

fn deadline() -> Duration {
    Duration::from_secs(5)
}

impl Store {
    /// What is wrong with it: the key and why.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, why: String| Err((format!("store.etcd.{key}"), why));
        let Some(etcd) = &self.etcd else {
            return match self.backend {
                Backend::Redb => Ok(()),
                Backend::Etcd => wrong(
                    "endpoints",
                    "is missing, and store.backend is \"etcd\": name the members' addresses".into(),
                ),
            };
        };
        if etcd.endpoints.is_empty() {
            return wrong("endpoints", "is empty: name the members' addresses".into());
        }
        for endpoint in &etcd.endpoints {
            if let Err(why) = etcd.reaches(endpoint) {
                return wrong("endpoints", format!("{endpoint:?} {why}"));
            }
        }
        if !etcd.prefix.ends_with('/') || etcd.prefix.len() > 96 {
            let why = "must end with a slash and have at most 96 bytes";
            return wrong("prefix", format!("{:?} {why}", etcd.prefix));
        }
        let files = [
            ("ca_file", &etcd.ca_file),
            ("certificate_file", &etcd.certificate_file),
            ("key_file", &etcd.key_file),
            ("password_file", &etcd.password_file),
        ];
        for (key, file) in files {
            if let Some(file) = file.as_ref().filter(|file| !file.is_absolute()) {
                return wrong(key, format!("{} must be absolute", file.display()));
            }
        }
        if etcd.user.is_some() != etcd.password_file.is_some() {
            return wrong("password_file", "goes with store.etcd.user".into());
        }
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let durations = [
            ("lease", etcd.lease, second * 2),
            ("deadline", etcd.deadline, second / 2),
        ];
        for (key, value, least) in durations {
            if value < least || value > minute {
                let human = humantime::format_duration;
                return wrong(
                    key,
                    format!(
                        "{} is out of its limits: {} to 1m",
                        human(value),
                        human(least)
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Etcd {
    /// Whether TLS is spoken.
    pub fn is_secured(&self) -> bool {
        self.ca_file.is_some()
    }

    fn reaches(&self, endpoint: &str) -> Result<(), &'static str> {
        let files = [&self.ca_file, &self.certificate_file, &self.key_file];
        if let Some(address) = endpoint.strip_prefix("https://") {
            if files.iter().any(|file| file.is_none()) {
                return Err("needs ca_file, certificate_file and key_file");
            }
            return values::host(address)
                .map(drop)
                .ok_or("is no \"https://HOST:PORT\"");
        }
        let Some(address) = endpoint.strip_prefix("http://") else {
            return Err("must begin with https://");
        };
        if files.iter().any(|file| file.is_some()) {
            return Err("is in the clear, and a certificate is configured; write https://");
        }
        // The log is the fabric: whoever can write there rules it.
        let host = values::host(address).ok_or("is no \"http://HOST:PORT\"")?;
        let is_loopback = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        is_loopback
            .then_some(())
            .ok_or("is in the clear, which only loopback may be; write https://")
    }
}
