//! The audit: the log as auditors read it, its raw entries for files, and whether it still holds.
//!
//! A row is an entry; an entry of refusals is a row for each kind of them, so that each row has one
//! who and one from-where. Reading is bounded: a page that found little in a long stretch ends
//! early, with a token that leads on.

use futures::{StreamExt as _, stream::BoxStream};
use kapok_proto::{
    convert,
    fabric::v1::{
        AuditEntry, AuditFault, ExportAuditRequest, ExportAuditResponse, ListAuditRequest,
        ListAuditResponse, RawEntry, VerifyAuditRequest, VerifyAuditResponse,
        audit_service_server::AuditService,
    },
};
use kapok_store::{Batch, Entry, Follow, verify::Fault};
use kapok_types::{Seq, Timestamp};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Answers, Api, answers, caller::optional_key, page::Page, sentence, status};
use crate::{
    audit::Refusal,
    authz::{Action, Object},
    fabric::{Event, Fabric},
    log::Record,
};

/// Entries that one page looks at, at most.
const MAX_SCANNED: u64 = 20_000;
/// Entries that are read at a time when the newest come first.
const STRETCH: u64 = 1000;
/// Where a message of an export ends, in bytes.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// Which rows are asked for.
struct Filter {
    actor: String,
    object: String,
    refused_only: bool,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
}

/// A page that fills.
struct Filling {
    rows: Vec<(String, AuditEntry)>,
    wanted: usize,
    scanned: u64,
    /// The place that was looked at last.
    last: Seq,
}

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::AuditRead, &Object::Fabric, "")?;
        let ListAuditRequest {
            after_sequence,
            actor,
            object,
            refused_only,
            start_time,
            end_time,
            page_size,
            page_token,
            newest_first,
        } = request.into_inner();
        let filter = Filter {
            actor: optional_key("actor", actor)?,
            object: optional_key("object", object)?,
            refused_only,
            start: start_time.as_ref().map(convert::timestamp_from),
            end: end_time.as_ref().map(convert::timestamp_from),
        };
        let page = Page::new(
            filter.question(after_sequence, newest_first),
            page_size,
            &page_token,
        )?;
        let mut filling = Filling {
            rows: Vec::new(),
            wanted: page.size() + 1,
            scanned: 0,
            last: Seq::ZERO,
        };
        let place = page.after.as_deref().map(place).transpose()?;
        let ended = if newest_first {
            self.fill_backward(&filter, Seq(after_sequence), place, &mut filling)
                .await?
        } else {
            self.fill_forward(&filter, Seq(after_sequence), place, &mut filling)
                .await?
        };
        let Filling { rows, last, .. } = filling;
        let (entries, mut next_page_token) = page.take(rows.into_iter());
        if next_page_token.is_empty() && !ended {
            // Nothing more was found so far; the search goes on behind the last that was seen.
            let whole = if newest_first { 0 } else { usize::MAX };
            next_page_token = page.token(&key(last, whole));
        }
        Ok(Response::new(ListAuditResponse {
            entries,
            next_page_token,
        }))
    }

    type ExportAuditStream = Answers<ExportAuditResponse>;

    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::AuditExport, &Object::Fabric, "")?;
        let ExportAuditRequest {
            after_sequence,
            until_sequence,
        } = request.into_inner();
        let head = self.ledger.snapshot().head.seq;
        let last = match until_sequence {
            0 => head,
            until => head.min(Seq(until)),
        };
        let mut entries = self.entries(Seq(after_sequence).next(), last);
        let stop = self.stop.clone();
        let stream = async_stream::try_stream! {
            let mut message = ExportAuditResponse::default();
            let mut bytes = 0;
            loop {
                let entry = tokio::select! {
                    biased;
                    () = stop.cancelled() => Some(Err(Self::stopping())),
                    entry = entries.next() => entry,
                };
                let Some(entry) = entry.transpose()? else { break };
                let raw = raw(entry);
                let size = raw.encoded_len() + 8;
                if bytes + size > MESSAGE_BYTES && !message.entries.is_empty() {
                    yield std::mem::take(&mut message);
                    bytes = 0;
                }
                bytes += size;
                message.entries.push(raw);
            }
            if !message.entries.is_empty() {
                yield message;
            }
        };
        Ok(Response::new(answers(stream)))
    }

    async fn verify_audit(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::AuditVerify, &Object::Fabric, "")?;
        let verified = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Self::stopping()),
            verified = self.audit.verify(&self.ledger, &self.links) => verified,
        };
        let verified = verified.map_err(|error| status::store(&error))?;
        let report = verified.report;
        Ok(Response::new(VerifyAuditResponse {
            sound: report.is_sound(),
            entries: report.entries,
            first_sequence: report.first.get(),
            last_sequence: report.last.seq.get(),
            heads: report.heads,
            unasked_nodes: verified.unasked.iter().map(ToString::to_string).collect(),
            faults: report.faults.into_iter().map(fault).collect(),
        }))
    }
}

impl Api {
    /// Entries from a place up to another, wherever they are; from the first kept, if that place
    /// is gone.
    fn entries(&self, from: Seq, last: Seq) -> BoxStream<'static, Result<Entry, Status>> {
        let history = self.audit.history.clone();
        let stream = async_stream::try_stream! {
            let mut next = from;
            let mut log = history.follow(next);
            while next <= last {
                match log.next().await {
                    None => Err(Self::stopping())?,
                    Some(Err(error)) => Err(status::store(&error))?,
                    Some(Ok(Follow::Trimmed { first })) if first > next => {
                        next = first;
                        log = history.follow(next);
                    }
                    Some(Ok(Follow::Trimmed { first })) => Err(status::trimmed(first))?,
                    Some(Ok(Follow::Batch(batch))) => {
                        for entry in within(batch, next, last) {
                            next = entry.seq.next();
                            yield entry;
                        }
                    }
                }
            }
        };
        stream.boxed()
    }

    /// Fills a page with what follows a place. Says whether the log ended.
    async fn fill_forward(
        &self,
        filter: &Filter,
        after: Seq,
        place: Option<(Seq, usize)>,
        filling: &mut Filling,
    ) -> Result<bool, Status> {
        let snapshot = self.ledger.snapshot();
        let head = snapshot.head.seq;
        // The entry that the page before ended in may have more rows.
        let from = place.map_or(after.next(), |(seq, _)| seq).max(after.next());
        let mut entries = self.entries(from, head);
        while let Some(entry) = entries.next().await.transpose()? {
            let seen = match place {
                Some((seq, index)) if seq == entry.seq => index.saturating_add(1),
                _ => 0,
            };
            let mut rows = rows(&entry, &snapshot.fabric)?;
            rows.drain(..seen.min(rows.len()));
            let keyed = rows.into_iter().enumerate();
            let keyed = keyed.map(|(index, row)| (key(entry.seq, seen + index), row));
            filling.add(entry.seq, keyed.filter(|(_, row)| filter.takes(row)));
            if filling.is_full() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same with what stands before a place, the newest first.
    async fn fill_backward(
        &self,
        filter: &Filter,
        after: Seq,
        place: Option<(Seq, usize)>,
        filling: &mut Filling,
    ) -> Result<bool, Status> {
        let snapshot = self.ledger.snapshot();
        // Rows of an entry before the one that the page before ended with.
        let mut until = match place {
            Some((seq, 0)) => Seq(seq.get().saturating_sub(1)),
            Some((seq, _)) => seq,
            None => snapshot.head.seq,
        };
        while until > after {
            let from = Seq(until.get().saturating_sub(STRETCH)).max(after).next();
            let found: Vec<Result<Entry, Status>> = self.entries(from, until).collect().await;
            let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
            for entry in found.iter().rev() {
                let mut rows = rows(entry, &snapshot.fabric)?;
                if let Some((seq, index)) = place
                    && seq == entry.seq
                {
                    rows.truncate(index);
                }
                let keyed = rows.into_iter().enumerate().rev();
                let keyed = keyed.map(|(index, row)| (key(entry.seq, index), row));
                filling.add(entry.seq, keyed.filter(|(_, row)| filter.takes(row)));
                if filling.is_full() {
                    return Ok(false);
                }
            }
            if found.first().is_none_or(|first| first.seq > from) {
                // What stands before is past its retention.
                return Ok(true);
            }
            until = Seq(from.get().saturating_sub(1));
        }
        Ok(true)
    }
}

impl Filter {
    /// The list and its filters, for the page's token.
    fn question(&self, after: u64, newest_first: bool) -> String {
        let time = |at: Option<Timestamp>| at.map(Timestamp::get);
        format!(
            "audit {after} {newest_first} {} {:?} {:?} {:?} {:?}",
            self.refused_only,
            time(self.start),
            time(self.end),
            self.actor,
            self.object
        )
    }

    fn takes(&self, row: &AuditEntry) -> bool {
        let at = row.time.as_ref().map(convert::timestamp_from);
        let within = |at: Timestamp| {
            self.start.is_none_or(|start| at >= start) && self.end.is_none_or(|end| at < end)
        };
        let named = |object: &String| object.starts_with(&self.object);
        (self.actor.is_empty() || row.actor == self.actor)
            && (self.object.is_empty() || row.objects.iter().any(named))
            && (!self.refused_only || row.refused_count > 0)
            && at.is_none_or(within)
    }
}

impl Filling {
    fn add(&mut self, seq: Seq, rows: impl Iterator<Item = (String, AuditEntry)>) {
        self.scanned += 1;
        self.last = seq;
        self.rows.extend(rows);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.wanted || self.scanned >= MAX_SCANNED
    }
}

/// The entries of a batch from a place up to another.
fn within(batch: Batch, from: Seq, last: Seq) -> impl Iterator<Item = Entry> {
    let entries = batch.into_iter();
    entries.filter(move |entry| (from..=last).contains(&entry.seq))
}

/// The key of a row: its entry's place, and which of its rows it is.
fn key(seq: Seq, index: usize) -> String {
    format!("{seq}.{index}")
}

fn place(key: &str) -> Result<(Seq, usize), Status> {
    let parsed = key
        .split_once('.')
        .and_then(|(seq, index)| Some((Seq(seq.parse().ok()?), index.parse().ok()?)));
    parsed.ok_or_else(|| status::bad_field("page_token", "is no token of an earlier answer"))
}

fn raw(entry: Entry) -> RawEntry {
    RawEntry {
        sequence: entry.seq.get(),
        previous_hash: entry.prev.to_string(),
        hash: entry.hash.to_string(),
        payload: entry.payload,
    }
}

fn fault(fault: Fault) -> AuditFault {
    AuditFault {
        sequence: fault.seq.get(),
        kind: fault.kind.as_str().to_owned(),
        message: fault.message,
    }
}

/// The rows of one entry: one for all its changes, and one for each kind of refusal.
fn rows(entry: &Entry, fabric: &Fabric) -> Result<Vec<AuditEntry>, Status> {
    let record = Record::decode(&entry.payload).map_err(|error| {
        tracing::error!(%error, seq = %entry.seq, "an entry can't be shown");
        let message = format!(
            "entry {} of the log can't be read by this version",
            entry.seq
        );
        Status::internal(message)
    })?;
    let mut change = AuditEntry {
        sequence: entry.seq.get(),
        time: Some(convert::timestamp(record.at)),
        actor: record.by.to_string(),
        source: record.from,
        outcome: "done".to_owned(),
        request_id: record.request_id.unwrap_or_default(),
        hash: entry.hash.to_string(),
        ..AuditEntry::default()
    };
    let mut refusals = Vec::new();
    for event in &record.events {
        let said = sentence::of(event, fabric).unwrap_or_default();
        if let Event::Refused { refusal } = event {
            refusals.push(refused(&change, refusal, said.text));
            continue;
        }
        change.kinds.push(event.kind().to_owned());
        if !said.text.is_empty() {
            change.messages.push(said.text);
        }
        if change.operation_id.is_empty() {
            change.operation_id = said.operation_id;
        }
        if let Some((kind, _)) = event.kind().split_once('.')
            && !said.subject_name.is_empty()
        {
            let object = format!("{kind}/{}", said.subject_name);
            if !change.objects.contains(&object) {
                change.objects.push(object);
            }
        }
    }
    let mut rows = Vec::new();
    if !change.kinds.is_empty() || refusals.is_empty() {
        rows.push(change);
    }
    rows.extend(refusals);
    Ok(rows)
}

fn refused(entry: &AuditEntry, refusal: &Refusal, message: String) -> AuditEntry {
    let objects = Some(refusal.object.clone()).filter(|object| !object.is_empty());
    AuditEntry {
        actor: refusal.by.to_string(),
        source: refusal.from.clone(),
        kinds: vec!["refused".to_owned()],
        objects: objects.into_iter().collect(),
        outcome: "refused".to_owned(),
        messages: Some(message)
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect(),
        refused_count: refusal.count,
        ..entry.clone()
    }
}
