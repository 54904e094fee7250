//! The controllers and the store's members.

use std::time::Duration;

use kapok_proto::fabric::v1 as wire;
use kapok_types::Bytes;
use serde::Serialize;

use super::{some, word, yes_no};
use crate::{
    human::{dash, or_dash, plain, span},
    output::columns,
};

/// An answer to `controller ls`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Leadership {
    pub(crate) epoch: u64,
    seq: u64,
    pub(crate) controllers: Vec<Controller>,
    /// Empty where the log lies in a file of the controller's.
    members: Vec<Member>,
}

/// A controller.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Controller {
    pub(crate) name: String,
    address: String,
    role: String,
    version: String,
    seq: u64,
    behind: u64,
    age_ms: u64,
    missing_keys: u32,
}

/// A member of the store's cluster.
#[derive(Debug, Clone, Serialize)]
struct Member {
    /// Null while nobody can say.
    name: Option<String>,
    endpoint: String,
    /// Why it doesn't answer; null if it does. What follows is null otherwise.
    failure: Option<String>,
    version: Option<String>,
    leads: Option<bool>,
    database_bytes: Option<u64>,
    used_bytes: Option<u64>,
    /// Null too if it doesn't say.
    quota_bytes: Option<u64>,
    latency_us: Option<u64>,
    alarms: Vec<String>,
}

impl From<wire::ListControllersResponse> for Leadership {
    fn from(answer: wire::ListControllersResponse) -> Self {
        Self {
            epoch: answer.epoch,
            seq: answer.seq,
            controllers: answer
                .controllers
                .into_iter()
                .map(Controller::from)
                .collect(),
            members: answer.members.into_iter().map(Member::from).collect(),
        }
    }
}

impl From<wire::Controller> for Controller {
    fn from(controller: wire::Controller) -> Self {
        let age = duration(controller.age);
        Self {
            name: controller.name,
            address: controller.address,
            role: word!(wire::ControllerRole, "CONTROLLER_ROLE_", controller.role),
            version: controller.version,
            seq: controller.seq,
            behind: controller.behind,
            age_ms: age.as_millis().try_into().unwrap_or(u64::MAX),
            missing_keys: controller.missing_keys,
        }
    }
}

impl From<wire::StoreMember> for Member {
    fn from(member: wire::StoreMember) -> Self {
        let failure = some(member.failure);
        let answers = failure.is_none();
        let latency = duration(member.latency).as_micros();
        Self {
            name: some(member.name),
            endpoint: member.endpoint,
            version: some(member.version).filter(|_| answers),
            leads: answers.then_some(member.leads),
            database_bytes: answers.then_some(member.database_bytes),
            used_bytes: answers.then_some(member.used_bytes),
            quota_bytes: Some(member.quota_bytes).filter(|&quota| answers && quota > 0),
            latency_us: answers.then(|| latency.try_into().unwrap_or(u64::MAX)),
            alarms: member.alarms,
            failure,
        }
    }
}

/// A span of time from the wire; a negative one is none.
fn duration(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|wire| wire.try_into().ok())
        .unwrap_or_default()
}

impl Leadership {
    /// The one that leads.
    pub(crate) fn leader(&self) -> Option<&Controller> {
        self.controllers.iter().find(|one| one.leads())
    }

    /// The answer for people.
    pub(crate) fn text(&self, wide: bool) -> String {
        let mut headers = vec!["NAME", "ROLE", "ADDRESS", "VERSION", "BEHIND", "HEARD"];
        if wide {
            headers.push("ENTRY");
        }
        headers.push("MISSING KEYS");
        let rows = self.controllers.iter().map(|one| one.row(wide));
        let controllers = columns(&headers, rows);
        if self.members.is_empty() {
            return controllers;
        }
        let mut headers = vec!["STORE", "ENDPOINT", "VERSION", "DATABASE", "LATENCY"];
        if wide {
            headers.extend(["USED", "LEADS"]);
        }
        headers.push("HEALTH");
        let rows = self.members.iter().map(|one| one.row(wide));
        format!("{controllers}\n{}", columns(&headers, rows))
    }
}

impl Controller {
    fn leads(&self) -> bool {
        self.role == "leads"
    }

    fn row(&self, wide: bool) -> Vec<String> {
        let follows = |text: String| if self.leads() { dash() } else { text };
        let mut row = vec![
            plain(&self.name),
            self.role.clone(),
            or_dash(&self.address),
            or_dash(&self.version),
            follows(self.behind.to_string()),
            follows(format!("{} ago", span(self.age_ms))),
        ];
        if wide {
            row.push(self.seq.to_string());
        }
        row.push(self.missing_keys.to_string());
        row
    }
}

impl Member {
    fn row(&self, wide: bool) -> Vec<String> {
        let text = |text: &Option<String>| or_dash(text.as_deref().unwrap_or_default());
        let size = |bytes: Option<u64>| bytes.map_or_else(dash, |bytes| Bytes(bytes).to_string());
        let database = match (self.database_bytes, self.quota_bytes) {
            (Some(bytes), Some(quota)) => format!("{} of {}", Bytes(bytes), Bytes(quota)),
            (bytes, _) => size(bytes),
        };
        let latency = self
            .latency_us
            .map_or_else(dash, |us| format!("{}.{} ms", us / 1000, us % 1000 / 100));
        let mut row = vec![
            text(&self.name),
            plain(&self.endpoint),
            text(&self.version),
            database,
            latency,
        ];
        if wide {
            row.extend([size(self.used_bytes), self.leads.map_or_else(dash, yes_no)]);
        }
        row.push(match (&self.failure, self.alarms.as_slice()) {
            (Some(failure), _) => format!("doesn't answer: {}", plain(failure)),
            (None, []) => "healthy".to_owned(),
            (None, alarms) => plain(&alarms.join(", ")),
        });
        row
    }
}

/// What became of a leadership that was given up.
#[derive(Debug, Serialize)]
pub(crate) struct SteppedDown {
    /// The controllers that might take over; empty when that answer got lost.
    pub(crate) successors: Vec<String>,
    /// The one that leads now; null when that wasn't waited for.
    pub(crate) leader: Option<String>,
    /// Its leadership; null when that wasn't waited for.
    pub(crate) epoch: Option<u64>,
}
