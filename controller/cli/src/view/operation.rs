//! Operations.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, age, some, time, when, word};
use crate::{
    human::{dash, or_dash, plain, span},
    output::pairs,
};

/// A long-running change.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Operation {
    /// Null for a dry run.
    id: Option<String>,
    pub(crate) kind: String,
    pub(crate) state: String,
    instance_id: Option<String>,
    instance_name: String,
    requested_by: String,
    create_time: Option<Time>,
    end_time: Option<Time>,
    deadline: Option<Time>,
    pub(crate) progress_permille: Option<u32>,
    pub(crate) detail: String,
    generation: u64,
    trace_id: Option<String>,
    /// The state as decisions need it.
    #[serde(skip)]
    pub(crate) wire_state: wire::OperationState,
}

impl From<wire::Operation> for Operation {
    fn from(operation: wire::Operation) -> Self {
        Self {
            wire_state: operation.state(),
            id: some(operation.id),
            kind: word!(wire::OperationKind, "OPERATION_KIND_", operation.kind),
            state: word!(wire::OperationState, "OPERATION_STATE_", operation.state),
            instance_id: some(operation.instance_id),
            instance_name: operation.instance_name,
            requested_by: operation.requested_by,
            create_time: time(operation.create_time),
            end_time: time(operation.end_time),
            deadline: time(operation.deadline),
            progress_permille: operation.progress_permille,
            detail: operation.detail,
            generation: operation.generation,
            trace_id: some(operation.trace_id),
        }
    }
}

impl Operation {
    /// Its id, or nothing for a dry run.
    pub(crate) fn id_text(&self) -> String {
        self.id.clone().unwrap_or_default()
    }

    /// The instance it is about.
    pub(crate) fn subject(&self) -> String {
        or_dash(&self.instance_name)
    }

    /// Whether it has ended. A state from a newer controller hasn't, as far as we know.
    pub(crate) fn has_ended(&self) -> bool {
        use wire::OperationState as State;
        !matches!(self.wire_state, State::Unspecified | State::Running)
    }

    /// What goes on, in one line.
    pub(crate) fn headline(&self) -> String {
        let detail = if self.detail.is_empty() {
            &self.state
        } else {
            &self.detail
        };
        format!("{} {}: {}", self.kind, self.subject(), plain(detail))
    }

    /// How it ended, in one line.
    pub(crate) fn ending(&self) -> String {
        let took = match (self.create_time, self.end_time) {
            (Some(Time(from)), Some(Time(to))) => {
                let ms = to.millis_since(from);
                if ms < 10_000 {
                    format!(" after {}.{}s", ms / 1000, ms % 1000 / 100)
                } else {
                    format!(" after {}", span(ms))
                }
            }
            _ => String::new(),
        };
        let detail = match self.detail.as_str() {
            "" => String::new(),
            detail => format!(": {}", plain(detail)),
        };
        format!(
            "{}: {} {}{took}{detail}",
            self.subject(),
            self.kind,
            self.state
        )
    }

    fn progress(&self) -> String {
        self.progress_permille
            .map_or_else(dash, |permille| format!("{}%", permille.min(1000) / 10))
    }

    fn took(&self, now: Timestamp) -> String {
        let end = self.end_time.map_or(now, |Time(end)| end);
        self.create_time
            .map_or_else(dash, |Time(start)| span(end.millis_since(start)))
    }
}

impl View for Operation {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec![
            "ID", "KIND", "INSTANCE", "STATE", "PROGRESS", "TOOK", "AGE", "DETAIL",
        ];
        if wide {
            columns.extend(["GENERATION", "BY"]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            or_dash(&self.id_text()),
            self.kind.clone(),
            self.subject(),
            self.state.clone(),
            self.progress(),
            self.took(now),
            age(self.create_time, now),
            or_dash(&self.detail),
        ];
        if wide {
            row.extend([self.generation.to_string(), or_dash(&self.requested_by)]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&[
            ("ID", or_dash(&self.id_text())),
            ("Kind", self.kind.clone()),
            ("State", self.state.clone()),
            ("Detail", or_dash(&self.detail)),
            ("Progress", self.progress()),
            ("Instance", self.subject()),
            (
                "Instance ID",
                or_dash(self.instance_id.as_deref().unwrap_or_default()),
            ),
            ("Generation", self.generation.to_string()),
            ("Requested by", or_dash(&self.requested_by)),
            (
                "Trace",
                or_dash(self.trace_id.as_deref().unwrap_or_default()),
            ),
            ("Accepted", when(self.create_time, now)),
            ("Ended", when(self.end_time, now)),
            (
                "Deadline",
                self.deadline
                    .map_or_else(dash, |Time(time)| time.to_string()),
            ),
        ])
    }
}
