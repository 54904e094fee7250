//! Events: one line each, because they may never end.

use kapok_proto::fabric::v1 as wire;
use serde::Serialize;

use super::{Time, some, time};
use crate::human::{dash, or_dash, plain};

/// One entry of the log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    time: Option<Time>,
    kind: String,
    actor: String,
    subject_id: Option<String>,
    subject_name: Option<String>,
    operation_id: Option<String>,
    message: String,
    hash: String,
}

impl From<wire::Event> for Event {
    fn from(event: wire::Event) -> Self {
        Self {
            sequence: event.sequence,
            time: time(event.time),
            kind: event.kind,
            actor: event.actor,
            subject_id: some(event.subject_id),
            subject_name: some(event.subject_name),
            operation_id: some(event.operation_id),
            message: event.message,
            hash: event.hash,
        }
    }
}

impl Event {
    /// The line above the first event.
    pub(crate) fn header(wide: bool) -> String {
        let line = format!(
            "{:<8}  {:<24}  {:<24}  {:<16}",
            "SEQUENCE", "TIME", "KIND", "SUBJECT"
        );
        if wide {
            format!("{line}  {:<16}  {:<36}  MESSAGE", "ACTOR", "OPERATION")
        } else {
            format!("{line}  MESSAGE")
        }
    }

    /// The event in one line.
    pub(crate) fn line(&self, wide: bool) -> String {
        let time = self.time.map_or_else(dash, |Time(time)| time.to_string());
        let subject = self.subject_name.as_deref().or(self.subject_id.as_deref());
        let subject = or_dash(subject.unwrap_or_default());
        let kind = plain(&self.kind);
        let line = format!(
            "{:<8}  {time:<24}  {kind:<24}  {subject:<16}",
            self.sequence
        );
        let message = plain(&self.message);
        if wide {
            let operation = or_dash(self.operation_id.as_deref().unwrap_or_default());
            format!(
                "{line}  {:<16}  {operation:<36}  {message}",
                or_dash(&self.actor)
            )
        } else {
            format!("{line}  {message}")
        }
    }
}
