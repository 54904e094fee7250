//! Ceph's own word on its health, through `ceph`.
//!
//! Off until it is configured: the cluster is everybody's, and asking it needs a key. The whole
//! cluster is one array; which of its checks complain is said in words, since they come and go.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long the cluster may take.
const QUESTION: Duration = Duration::from_secs(20);

/// How the cluster is asked: `[health.ceph]`. There, and empty, is enough where the node has the
/// usual files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Arguments before the question, such as `["--name", "client.health"]`.
    pub arguments: Vec<String>,
}

/// The source. Without settings, the server has nothing of the kind.
#[derive(Debug, Clone, Default)]
pub struct Ceph {
    settings: Option<Settings>,
}

impl Ceph {
    /// A source that asks in this way.
    pub const fn new(settings: Option<Settings>) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Source for Ceph {
    fn name(&self) -> &'static str {
        "ceph"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let absent = || Failure::Absent("no Ceph cluster is configured".to_owned());
        let settings = self.settings.as_ref().ok_or_else(absent)?;
        let mut arguments: Vec<&str> = settings.arguments.iter().map(String::as_str).collect();
        arguments.extend([
            "--connect-timeout",
            "15",
            "health",
            "detail",
            "--format",
            "json",
        ]);
        // It was configured: a tool that is missing is something that should be there.
        let output = host.run("ceph", &arguments, QUESTION).await;
        let output = output.map_err(|failure| Failure::Unreadable(failure.to_string()))?;
        if output.status != Some(0) {
            return Err(Failure::Unreadable(format!("ceph {}", output.end())));
        }
        parse(&output.text).map_err(Failure::Unreadable)
    }
}

#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    #[serde(default)]
    checks: serde_json::Map<String, serde_json::Value>,
}

fn parse(text: &str) -> Result<Vec<Reading>, String> {
    let health: Health =
        serde_json::from_str(text).map_err(|error| format!("ceph's answer: {error}"))?;
    let (degraded, failed) = match health.status.as_str() {
        "HEALTH_OK" => (false, false),
        "HEALTH_WARN" => (true, false),
        "HEALTH_ERR" => (true, true),
        other => {
            return Err(format!(
                "ceph's health is {:?}",
                other.get(..32).unwrap_or(other)
            ));
        }
    };
    let checks: Vec<&str> = health.checks.keys().map(String::as_str).take(16).collect();
    let checks = checks.join(", ");
    let ceph = Component::new(Kind::Array, "ceph");
    let flag = |quantity, so| Reading::flag(&ceph, quantity, so).with_note(&checks, "");
    Ok(vec![
        flag(quantity::ARRAY_DEGRADED, degraded),
        flag(quantity::ARRAY_FAILED, failed),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WARN: &str = include_str!("../../tests/tools/ceph/warn.json");

    #[test]
    fn the_cluster_s_own_word_is_taken() {
        let flags = |text: &str| -> Vec<f64> {
            parse(text)
                .unwrap()
                .iter()
                .filter_map(Reading::value)
                .collect()
        };
        assert_eq!(
            flags(r#"{"status":"HEALTH_OK","checks":{},"mutes":[]}"#),
            [0.0, 0.0]
        );
        assert_eq!(flags(WARN), [1.0, 0.0]);
        let note = parse(WARN).unwrap()[0].note.clone().unwrap();
        assert!(
            note.chars()
                .all(|c| matches!(c, 'A'..='Z' | '_' | ',' | ' ' | '\n')),
            "{note}"
        );
        assert_eq!(flags(&WARN.replace("_WARN", "_ERR")), [1.0, 1.0]);
        assert!(parse(r#"{"status":"HEALTHY"}"#).is_err());
    }

    proptest! {
        /// FAULTS 63: an answer that was cut is unreadable.
        #[test]
        fn garbage_and_cut_answers_are_unreadable(text in ".{0,100}", at in 0_usize..WARN.trim_end().len()) {
            let _ = parse(&text);
            prop_assert!(parse(&WARN[..at]).is_err());
        }
    }
}
