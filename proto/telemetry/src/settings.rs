//! `[telemetry]`: what an administrator decides about traces.

use serde::{Deserialize, Deserializer};

/// The table `[telemetry]` of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where spans are sent over OTLP (gRPC): "http://HOST:PORT". Nowhere without it.
    pub otlp_endpoint: Option<String>,
    /// Which share of the traces that begin here is exported, 0.0 to 1.0. One whose beginning is
    /// exported already always is.
    pub sample_ratio: Ratio,
}

/// A share from none (0.0) to all (1.0). Kept as the number's bits, so that equal is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio(u64);

/// Where spans go, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// "http://HOST:PORT" of an OTLP collector (gRPC).
    pub endpoint: String,
    /// Which share of the traces that begin here.
    pub ratio: Ratio,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: Ratio::ALL,
        }
    }
}

impl Ratio {
    /// All traces.
    pub const ALL: Self = Self(1.0_f64.to_bits());

    /// The share as a number from 0.0 to 1.0.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = f64::deserialize(deserializer)?;
        if !(0.0..=1.0).contains(&given) {
            let reason = format!("{given} is out of its limits: 0.0 to 1.0");
            return Err(serde::de::Error::custom(reason));
        }
        Ok(Self(given.to_bits()))
    }
}

impl Telemetry {
    /// Where spans go, if anywhere.
    pub fn export(&self) -> Option<Export> {
        Some(Export {
            endpoint: self.otlp_endpoint.clone()?,
            ratio: self.sample_ratio,
        })
    }

    /// What the types can't say: what is wrong with `otlp_endpoint`.
    ///
    /// # Errors
    ///
    /// The endpoint can't be one.
    pub fn check(&self) -> Result<(), String> {
        self.otlp_endpoint.as_deref().map_or(Ok(()), check)
    }
}

impl Export {
    /// All traces to this endpoint, if it can be one: for programs without a configuration file,
    /// which find it in the environment. What others read there too must not be in the way.
    pub fn to(endpoint: String) -> Option<Self> {
        check(&endpoint).ok()?;
        let ratio = Ratio::ALL;
        Some(Self { endpoint, ratio })
    }
}

fn check(endpoint: &str) -> Result<(), String> {
    let uri: http::Uri = endpoint.parse().map_err(|_| wrong(endpoint))?;
    let plain = uri.scheme_str() == Some("http")
        && uri.host().is_some_and(|host| !host.is_empty())
        && matches!(uri.path(), "" | "/");
    plain.then_some(()).ok_or_else(|| wrong(endpoint))
}

fn wrong(endpoint: &str) -> String {
    format!(
        "{endpoint:?} must have the form \"http://HOST:PORT\", a collector's gRPC port; for one \
         behind TLS run a collector beside this program"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_and_checked() {
        let none: Telemetry = toml::from_str("").unwrap();
        assert_eq!(none, Telemetry::default());
        assert_eq!(none.export(), None);
        let given: Telemetry =
            toml::from_str("otlp_endpoint = \"http://[::1]:4317\"\nsample_ratio = 0.25").unwrap();
        assert!((given.export().unwrap().ratio.get() - 0.25).abs() < f64::EPSILON);
        assert_eq!(given.check(), Ok(()));
        for bad in ["sample_ratio = 1.5", "sample_ratio = nan", "sampling = 1.0"] {
            assert!(toml::from_str::<Telemetry>(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "collector:4317",
            "https://collector:4317",
            "http://a/v1/traces",
        ] {
            let telemetry = Telemetry {
                otlp_endpoint: Some(bad.into()),
                ..Telemetry::default()
            };
            assert!(telemetry.check().is_err(), "{bad}");
        }
        assert_eq!(Export::to("https://collector:4317".into()), None);
        assert_eq!(
            Export::to("http://[::1]:4317".into()).unwrap().ratio,
            Ratio::ALL
        );
    }
}
