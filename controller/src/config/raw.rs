//! The file as it is written, and what is checked of it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use kapok_scheduler::Policy;
use kapok_telemetry::Telemetry;
use kapok_types::{
    Bytes,
    instance::MAX_DISK_BYTES,
    quantity::{GIB, MIB},
};
use serde::Deserialize;

use super::{Access, Config, Error, Https, Limits, Lives, Timing, store, values};
use crate::{
    audit,
    fabric::health::{self, Threshold},
    oidc,
};

/// The key, and what is wrong with its value.
type Wrong = (String, String);

const DAY: Duration = Duration::from_hours(24);

/// Keys of former versions, and what came in their place.
const GONE: [(&str, &str); 2] = [
    (
        "insecure_listen",
        "is gone: every port speaks TLS with certificates of the fabric now; make it with \
         kapok-controller init, and take this line out",
    ),
    (
        "nodes",
        "are not configured any more: a node joins with a token (kapok node token create NAME, \
         then kapok-agent join on the server); take these tables out. For a ratio other than \
         default_vcpu_overcommit: kapok node update",
    ),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    listen: SocketAddr,
    advertise: Option<String>,
    state_dir: PathBuf,
    store: store::Store,
    #[serde(deserialize_with = "values::size")]
    max_image_bytes: Bytes,
    #[serde(deserialize_with = "values::permille")]
    default_vcpu_overcommit: u32,
    https: RawHttps,
    trust: Lives,
    limits: Limits,
    authorization: RawAuthorization,
    audit: RawAudit,
    oidc: Option<oidc::Config>,
    scheduler: Policy,
    health: RawHealth,
    timing: Timing,
    telemetry: Telemetry,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHttps {
    listen: SocketAddr,
    advertise: Option<String>,
    healthz: Access,
    metrics: Access,
    metrics_token_file: Option<PathBuf>,
    metrics_max_series: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAuthorization {
    policies: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAudit {
    #[serde(deserialize_with = "values::duration")]
    retention: Duration,
    keep_entries: u64,
    #[serde(deserialize_with = "values::size")]
    keep_bytes: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHealth {
    quarantine: Threshold,
    drain: Threshold,
    #[serde(deserialize_with = "values::duration")]
    quiet: Duration,
    brake_percent: u32,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7700)),
            advertise: None,
            state_dir: "/var/lib/kapok/controller".into(),
            store: store::Store::default(),
            max_image_bytes: Bytes(64 * GIB),
            default_vcpu_overcommit: 4000,
            https: RawHttps::default(),
            trust: Lives::default(),
            limits: Limits::default(),
            authorization: RawAuthorization::default(),
            audit: RawAudit::default(),
            oidc: None,
            scheduler: Policy::default(),
            health: RawHealth::default(),
            timing: Timing::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Default for RawHttps {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7780)),
            advertise: None,
            healthz: Access::Open,
            metrics: Access::Mtls,
            metrics_token_file: None,
            metrics_max_series: 200_000,
        }
    }
}

impl Default for RawAudit {
    fn default() -> Self {
        let audit::Policy {
            retention,
            keep_entries,
            keep_bytes,
        } = audit::Policy::default();
        Self {
            retention,
            keep_entries,
            keep_bytes: Bytes(keep_bytes),
        }
    }
}

impl Default for RawHealth {
    fn default() -> Self {
        let health::Policy {
            quarantine,
            drain,
            quiet_ms,
            brake_percent,
        } = health::Policy::default();
        Self {
            quarantine,
            drain,
            quiet: Duration::from_millis(quiet_ms),
            brake_percent,
        }
    }
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, Error> {
    let malformed = |error: toml::de::Error| Error::Malformed {
        path: path.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    };
    let value = |(key, problem)| Error::Value {
        path: path.to_owned(),
        key,
        problem,
    };
    let table: toml::Table = toml::from_str(text).map_err(malformed)?;
    if let Some((key, instead)) = GONE.iter().find(|(key, _)| table.contains_key(*key)) {
        return Err(value(((*key).to_owned(), (*instead).to_owned())));
    }
    let raw: Raw = toml::from_str(text).map_err(malformed)?;
    raw.check().map_err(value)
}

impl Raw {
    fn check(self) -> Result<Config, Wrong> {
        let absolute = [
            ("state_dir", Some(&self.state_dir)),
            (
                "https.metrics_token_file",
                self.https.metrics_token_file.as_ref(),
            ),
            (
                "authorization.policies",
                self.authorization.policies.as_ref(),
            ),
        ];
        for (key, path) in absolute {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return wrong(key, format!("{} must be absolute", path.display()));
            }
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
        self.store.check()?;
        self.check_durations()?;
        self.check_limits()?;
        self.telemetry
            .check()
            .map_err(|problem| ("telemetry.otlp_endpoint".to_owned(), problem))?;
        let advertise = advertise("advertise", self.advertise, self.listen)?;
        Ok(Config {
            https: self.https.check(&advertise)?,
            advertise,
            listen: self.listen,
            state_dir: self.state_dir,
            store: self.store,
            max_image: self.max_image_bytes,
            default_vcpu_overcommit_permille: self.default_vcpu_overcommit,
            trust: self.trust,
            limits: self.limits,
            policies: self.authorization.policies,
            audit: audit::Policy {
                retention: self.audit.retention,
                keep_entries: self.audit.keep_entries,
                keep_bytes: self.audit.keep_bytes.get(),
            },
            oidc: self.oidc,
            placement: self.scheduler,
            health: self.health.check()?,
            timing: self.timing,
            telemetry: self.telemetry,
        })
    }

    fn check_durations(&self) -> Result<(), Wrong> {
        let Timing {
            heartbeat,
            lost_after,
            operation_deadline,
            metering,
        } = self.timing;
        let Lives {
            node,
            controller,
            person,
            machine,
        } = self.trust;
        let second = Duration::from_secs(1);
        let ten = second * 10;
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
            ("timing.operation_deadline", operation_deadline, second, DAY),
            ("timing.metering", metering, second * 60, DAY),
            ("trust.node_life", node, ten, 366 * DAY),
            ("trust.controller_life", controller, ten, 366 * DAY),
            ("trust.person_life", person, ten, 90 * DAY),
            ("trust.machine_life", machine, ten, 90 * DAY),
            (
                "limits.request_deadline",
                self.limits.request_deadline,
                second,
                Duration::from_mins(10),
            ),
            ("health.quiet", self.health.quiet, second, DAY),
            (
                "audit.retention",
                self.audit.retention,
                audit::MIN_RETENTION,
                36_600 * DAY,
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
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Wrong> {
        let Limits {
            requests_per_second,
            connections,
            connections_per_peer,
            ..
        } = self.limits;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let limits = [
            (
                "limits.requests_per_second",
                u64::from(requests_per_second),
                1,
                100_000,
            ),
            ("limits.connections", count(connections), 16, 1_000_000),
            (
                "limits.connections_per_peer",
                count(connections_per_peer),
                4,
                1_000_000,
            ),
            (
                "health.brake_percent",
                self.health.brake_percent.into(),
                1,
                100,
            ),
            (
                "audit.keep_entries",
                self.audit.keep_entries,
                1000,
                1_000_000_000,
            ),
            (
                "audit.keep_bytes",
                self.audit.keep_bytes.get(),
                MIB,
                1024 * GIB,
            ),
        ];
        for (key, value, least, most) in limits {
            if !(least..=most).contains(&value) {
                return wrong(
                    key,
                    format!("{value} is out of its limits: {least} to {most}"),
                );
            }
        }
        Ok(())
    }
}

impl RawHealth {
    /// Limits of numbers are checked with the others.
    fn check(self) -> Result<health::Policy, Wrong> {
        if self.drain == Threshold::Degraded {
            return wrong("health.drain", "must be \"off\" or \"failing\"".into());
        }
        if self.drain != Threshold::Off && self.quarantine == Threshold::Off {
            return wrong(
                "health.drain",
                "is for nodes in quarantine, and health.quarantine is \"off\": switch that on, or \
                 this off"
                    .into(),
            );
        }
        Ok(health::Policy {
            quarantine: self.quarantine,
            drain: self.drain,
            quiet_ms: u64::try_from(self.quiet.as_millis()).unwrap_or(u64::MAX),
            brake_percent: self.brake_percent,
        })
    }
}

impl RawHttps {
    fn check(self, main: &str) -> Result<Https, Wrong> {
        if self.healthz == Access::Token {
            return wrong("https.healthz", "must be \"open\" or \"mtls\"".into());
        }
        match (self.metrics, &self.metrics_token_file) {
            (Access::Token, None) => {
                return wrong(
                    "https.metrics_token_file",
                    "is missing, and https.metrics is \"token\": name the file that holds it"
                        .into(),
                );
            }
            (Access::Open | Access::Mtls, Some(_)) => {
                return wrong(
                    "https.metrics_token_file",
                    "is for https.metrics = \"token\" only".into(),
                );
            }
            _ => {}
        }
        // On the same host as the other port, unless somebody says otherwise.
        let fallback = values::host(main).map(|host| format!("{host}:{}", self.listen.port()));
        let given = self.advertise.or(fallback);
        Ok(Https {
            advertise: advertise("https.advertise", given, self.listen)?,
            listen: self.listen,
            healthz: self.healthz,
            metrics: self.metrics,
            metrics_token_file: self.metrics_token_file,
            metrics_max_series: self.metrics_max_series,
        })
    }
}

fn wrong<T>(key: &str, problem: String) -> Result<T, Wrong> {
    Err((key.to_owned(), problem))
}

/// What others dial: as stated, or the address that is listened on, or this host's name.
fn advertise(key: &str, given: Option<String>, listen: SocketAddr) -> Result<String, Wrong> {
    let address = match given {
        Some(given) => given,
        None if !listen.ip().is_unspecified() => listen.to_string(),
        None => format!("{}:{}", host_name(), listen.port()),
    };
    let unspecified = |host: &str| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    };
    match values::host(&address) {
        Some(host) if !unspecified(host) => Ok(address),
        _ => wrong(
            key,
            format!(
                "{address:?} must have the form \"HOST:PORT\" and be what nodes and people dial, \
                 as in \"10.0.0.1:{}\"",
                listen.port()
            ),
        ),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}
