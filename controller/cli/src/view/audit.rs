//! The record of changes and refusals.

use kapok_proto::fabric::v1 as wire;
use kapok_store::verify::Report;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, some, time};
use crate::{
    human::{dash, or_dash, plain},
    output::{columns, pairs},
};

/// One entry of the log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    sequence: u64,
    time: Option<Time>,
    actor: String,
    source: Option<String>,
    kinds: Vec<String>,
    objects: Vec<String>,
    outcome: String,
    messages: Vec<String>,
    operation_id: Option<String>,
    request_id: Option<String>,
    refused_count: u64,
    hash: String,
}

impl From<wire::AuditEntry> for Entry {
    fn from(entry: wire::AuditEntry) -> Self {
        Self {
            sequence: entry.sequence,
            time: time(entry.time),
            actor: entry.actor,
            source: some(entry.source),
            kinds: entry.kinds,
            objects: entry.objects,
            outcome: entry.outcome,
            messages: entry.messages,
            operation_id: some(entry.operation_id),
            request_id: some(entry.request_id),
            refused_count: entry.refused_count,
            hash: entry.hash,
        }
    }
}

impl Entry {
    fn outcome(&self) -> String {
        if self.refused_count > 1 {
            format!("{} x{}", plain(&self.outcome), self.refused_count)
        } else {
            plain(&self.outcome)
        }
    }

    fn time(&self) -> String {
        self.time.map_or_else(dash, |Time(time)| time.to_string())
    }
}

impl View for Entry {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["SEQUENCE", "TIME", "ACTOR", "OUTCOME", "OBJECT", "MESSAGE"];
        if wide {
            columns.extend(["FROM", "KIND", "OPERATION", "REQUEST"]);
        }
        columns
    }

    fn row(&self, _: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            self.sequence.to_string(),
            self.time(),
            or_dash(&self.actor),
            self.outcome(),
            or_dash(&self.objects.join(", ")),
            or_dash(&self.messages.join("; ")),
        ];
        if wide {
            row.extend([
                or_dash(self.source.as_deref().unwrap_or_default()),
                or_dash(&self.kinds.join(", ")),
                or_dash(self.operation_id.as_deref().unwrap_or_default()),
                or_dash(self.request_id.as_deref().unwrap_or_default()),
            ]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        let names = Self::columns(true);
        let values = self.row(now, true);
        pairs(&names.into_iter().zip(values).collect::<Vec<_>>())
    }
}

/// What a check of the log found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    sound: bool,
    entries: u64,
    first_sequence: u64,
    last_sequence: u64,
    /// The last entry's hash, of a file.
    head: Option<String>,
    /// Heads that nodes keep and that were compared.
    heads: u32,
    unasked_nodes: Vec<String>,
    faults: Vec<Fault>,
}

/// Something wrong with the log.
#[derive(Debug, Clone, Serialize)]
struct Fault {
    sequence: u64,
    kind: String,
    message: String,
}

impl From<wire::VerifyAuditResponse> for Verdict {
    fn from(answer: wire::VerifyAuditResponse) -> Self {
        let fault = |fault: wire::AuditFault| Fault {
            sequence: fault.sequence,
            kind: fault.kind,
            message: fault.message,
        };
        Self {
            sound: answer.sound,
            entries: answer.entries,
            first_sequence: answer.first_sequence,
            last_sequence: answer.last_sequence,
            head: None,
            heads: answer.heads,
            unasked_nodes: answer.unasked_nodes,
            faults: answer.faults.into_iter().map(fault).collect(),
        }
    }
}

impl From<Report> for Verdict {
    fn from(report: Report) -> Self {
        Self {
            sound: report.is_sound(),
            entries: report.entries,
            first_sequence: report.first.get(),
            last_sequence: report.last.seq.get(),
            head: (report.entries > 0).then(|| report.last.hash.to_string()),
            heads: report.heads,
            unasked_nodes: Vec::new(),
            faults: report
                .faults
                .into_iter()
                .map(|fault| Fault {
                    sequence: fault.seq.get(),
                    kind: fault.kind.as_str().to_owned(),
                    message: fault.message,
                })
                .collect(),
        }
    }
}

impl Verdict {
    /// Whether nothing is wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.sound
    }

    /// The earliest fault, in words.
    pub(crate) fn first_fault(&self) -> String {
        self.faults.first().map_or_else(
            || "it isn't sound".to_owned(),
            |fault| format!("entry {}: {}", fault.sequence, plain(&fault.message)),
        )
    }

    /// The answer for people.
    pub(crate) fn text(&self) -> String {
        let verdict = if self.sound {
            "nothing was edited, moved, cut or recomputed"
        } else {
            "something is wrong"
        };
        let range = format!(
            "{}, from {} to {}",
            self.entries, self.first_sequence, self.last_sequence
        );
        let mut lines = vec![("Verdict", verdict.to_owned()), ("Entries", range)];
        match &self.head {
            Some(head) => lines.push(("Head", head.clone())),
            None => lines.extend([
                ("Heads compared", self.heads.to_string()),
                ("Nodes not asked", or_dash(&self.unasked_nodes.join(", "))),
            ]),
        }
        let head = pairs(&lines);
        if self.faults.is_empty() {
            return head;
        }
        let rows = self.faults.iter().map(|fault| {
            vec![
                fault.sequence.to_string(),
                plain(&fault.kind),
                plain(&fault.message),
            ]
        });
        head + "\n" + &columns(&["SEQUENCE", "FAULT", "MESSAGE"], rows)
    }
}
