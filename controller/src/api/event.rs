//! What happened, from the log: first what is there, then what comes.

use futures::StreamExt as _;
use kapok_proto::{
    convert,
    fabric::v1::{
        Event, WatchEventsRequest, WatchEventsResponse, event_service_server::EventService,
    },
};
use kapok_store::{Entry, Follow};
use kapok_types::Seq;
use tonic::{Request, Response, Status};

use super::{Answers, Api, answers, caller::Caller, sentence, status, visible::Past};
use crate::{
    authz::{Action, Object},
    fabric::Fabric,
    log::Record,
};

#[tonic::async_trait]
impl EventService for Api {
    type WatchEventsStream = Answers<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Answers<WatchEventsResponse>>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::EventWatch, &Object::Fabric, "")?;
        let WatchEventsRequest {
            after_sequence,
            until_now,
        } = request.into_inner();
        let head = self.ledger.snapshot().head.seq;
        let after = after_sequence.map_or(head, Seq);
        if after > head {
            return Err(status::ahead(after.get(), head));
        }
        let last = until_now.then_some(head);
        let api = self.clone();
        let open = self.event_streams.hold();
        let stream = async_stream::stream! {
            let _open = open;
            // Whoever loses the stream before the first event knows where to go on.
            yield Ok(WatchEventsResponse { sequence: after.get(), events: Vec::new() });
            if last.is_some_and(|last| after >= last) {
                return;
            }
            let mut next = after.next();
            let mut past = Past::default();
            let mut log = (api.follow)(next);
            let mut published = api.ledger.changes();
            loop {
                let followed = tokio::select! {
                    biased;
                    () = api.stop.cancelled() => None,
                    followed = log.next() => followed,
                };
                match followed {
                    None => {
                        yield Err(Self::stopping());
                        return;
                    }
                    Some(Err(error)) => {
                        yield Err(status::store(&error));
                        return;
                    }
                    // From the first kept, wherever that is.
                    Some(Ok(Follow::Trimmed { first })) if after == Seq::ZERO && next == Seq(1) => {
                        next = first;
                        log = (api.follow)(first);
                    }
                    Some(Ok(Follow::Trimmed { first })) => {
                        yield Err(status::trimmed(first));
                        return;
                    }
                    Some(Ok(Follow::Batch(batch))) => {
                        // The store wakes followers before the ledger publishes what it stored:
                        // without the wait, names of what is new would be missing.
                        let stored = batch.head().seq;
                        let caught_up = tokio::select! {
                            biased;
                            () = api.stop.cancelled() => None,
                            caught_up = published.wait_for(|now| now.head.seq >= stored) => {
                                caught_up.ok().map(|now| now.fabric.clone())
                            }
                        };
                        let Some(fabric) = caught_up else {
                            yield Err(Self::stopping());
                            return;
                        };
                        for entry in batch {
                            // A batch may begin before the place that was asked for.
                            if entry.seq < next {
                                continue;
                            }
                            if last.is_some_and(|last| entry.seq > last) {
                                return;
                            }
                            match api.events(&caller, &entry, &fabric, &mut past) {
                                Ok(events) if events.is_empty() => {}
                                Ok(events) => {
                                    yield Ok(WatchEventsResponse {
                                        sequence: entry.seq.get(),
                                        events,
                                    });
                                }
                                Err(refused) => {
                                    yield Err(refused);
                                    return;
                                }
                            }
                            next = entry.seq.next();
                        }
                        if last.is_some_and(|last| next > last) {
                            return;
                        }
                    }
                }
            }
        };
        Ok(Response::new(answers(stream)))
    }
}

impl Api {
    /// The events of one entry that a caller sees; they share its sequence and its hash.
    fn events(
        &self,
        caller: &Caller,
        entry: &Entry,
        fabric: &Fabric,
        past: &mut Past,
    ) -> Result<Vec<Event>, Status> {
        let record = Record::decode(&entry.payload).map_err(|error| {
            tracing::error!(%error, seq = %entry.seq, "an entry can't be shown");
            Status::internal(format!(
                "entry {} of the log can't be read by this version",
                entry.seq
            ))
        })?;
        let seen = record
            .events
            .iter()
            .filter(|event| self.may_see_event(caller, fabric, past, event));
        let told = seen.filter_map(|event| Some((event, sentence::of(event, fabric)?)));
        Ok(told
            .map(|(event, said)| Event {
                sequence: entry.seq.get(),
                time: Some(convert::timestamp(record.at)),
                kind: event.kind().to_owned(),
                actor: record.by.to_string(),
                subject_id: said.subject_id,
                subject_name: said.subject_name,
                operation_id: said.operation_id,
                message: said.text,
                hash: entry.hash.to_string(),
            })
            .collect())
    }
}
