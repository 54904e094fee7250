//! `NodeService`: commands, watch and heartbeat of one node.

use std::{sync::Arc, time::Duration};

use kapok_proto::{
    agent::v1::{self as wire, node_service_server::NodeService},
    convert,
};
use kapok_types::{Epoch, Generation, Intent, NodeId, Violation};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Services, status, wire as to};
use crate::{
    images::Source,
    instance::{
        changes::{Delete, MAX_RESYNC},
        state::Refusal,
    },
    watch::{Item, Key},
};

/// Most image sources in a request.
pub(super) const MAX_SOURCES: usize = 8;
/// Longest address of an image source, in bytes.
const MAX_ADDRESS_BYTES: usize = 512;
/// Longest ticket of an image source, in bytes.
const MAX_TICKET_BYTES: usize = 16 * 1024;
/// Most incarnations in one acknowledgement.
const MAX_ACKNOWLEDGED: usize = 1000;
/// Most intents in one message of a resync.
const MAX_PER_RESYNC_MESSAGE: usize = 100;
/// Most changes that are read from the hub at once.
const CHANGES_AT_ONCE: usize = 256;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl NodeService for Services {
    async fn get_node(&self, _: Request<wire::GetNodeRequest>) -> Answer<wire::GetNodeResponse> {
        match self.hub.get(Key::Node).as_deref() {
            Some(Item::Node(facts)) => Ok(Response::new(wire::GetNodeResponse {
                node: Some(to::facts(facts)),
            })),
            _ => Err(unseen()),
        }
    }

    async fn get_usage(&self, _: Request<wire::GetUsageRequest>) -> Answer<wire::GetUsageResponse> {
        Ok(Response::new(self.usage()))
    }

    async fn apply_instance(
        &self,
        request: Request<wire::ApplyInstanceRequest>,
    ) -> Answer<wire::ApplyInstanceResponse> {
        let trace = request.extensions().get().copied();
        let (intent, sources) = intent(request.into_inner())?;
        let taken = self.changes.apply(intent, sources, trace).await;
        let generation = taken.map_err(status::refused)?.get();
        Ok(Response::new(wire::ApplyInstanceResponse { generation }))
    }

    async fn delete_instance(
        &self,
        request: Request<wire::DeleteInstanceRequest>,
    ) -> Answer<wire::DeleteInstanceResponse> {
        let trace = request.extensions().get().copied();
        let delete = delete(&request.into_inner()).map_err(|wrong| status::bad(&[wrong]))?;
        let delete = Delete { trace, ..delete };
        self.changes.delete(delete).await.map_err(status::refused)?;
        Ok(Response::new(wire::DeleteInstanceResponse {}))
    }

    async fn acknowledge_gone(
        &self,
        request: Request<wire::AcknowledgeGoneRequest>,
    ) -> Answer<wire::AcknowledgeGoneResponse> {
        let request = request.into_inner();
        at_most(
            "incarnation_ids",
            request.incarnation_ids.len(),
            MAX_ACKNOWLEDGED,
        )?;
        let epoch = epoch(request.epoch)?;
        let incarnations = request
            .incarnation_ids
            .iter()
            .map(|id| convert::id(id, "incarnation_ids"))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|wrong| status::bad(&[wrong]))?;
        let done = self.changes.acknowledge(epoch, &incarnations).await;
        done.map_err(status::refused)?;
        Ok(Response::new(wire::AcknowledgeGoneResponse {}))
    }

    async fn resync(
        &self,
        request: Request<Streaming<wire::ResyncRequest>>,
    ) -> Answer<wire::ResyncResponse> {
        let mut messages = request.into_inner();
        let mut intents = Vec::new();
        let mut first = None;
        while let Some(message) = messages.message().await? {
            let epoch = epoch(message.epoch)?;
            match first {
                None => {
                    self.changes.enter(epoch).await.map_err(status::refused)?;
                    first = Some(epoch);
                }
                Some(first) if first != epoch => {
                    let wrong = Violation::new("epoch", "must be the same in every message");
                    return Err(status::bad(&[wrong]));
                }
                Some(_) => {}
            }
            at_most("instances", message.instances.len(), MAX_PER_RESYNC_MESSAGE)?;
            for instance in message.instances {
                intents.push(intent(instance)?);
            }
            if intents.len() > MAX_RESYNC {
                return Err(status::refused(Refusal::TooMany {
                    what: "the full intent",
                    count: intents.len(),
                    limit: MAX_RESYNC,
                }));
            }
            if message.complete {
                let strays = self.changes.resync(epoch, intents).await;
                let strays = strays.map_err(status::refused)?;
                return Ok(Response::new(wire::ResyncResponse {
                    stray_incarnation_ids: strays.iter().map(ToString::to_string).collect(),
                }));
            }
        }
        let wrong = Violation::new("complete", "was never set; nothing was changed");
        Err(status::bad(&[wrong]))
    }

    async fn list_instances(
        &self,
        _: Request<wire::ListInstancesRequest>,
    ) -> Answer<wire::ListInstancesResponse> {
        if !*self.listed.borrow() {
            return Err(unseen());
        }
        let mut answer = wire::ListInstancesResponse::default();
        for item in self.hub.all() {
            match item.as_ref() {
                Item::Instance(status) => answer.instances.push(status.into()),
                Item::Foreign(domain) => answer.foreign.push(to::foreign(domain)),
                Item::Node(_) | Item::Health(_) | Item::Parts(_) => {}
            }
        }
        Ok(Response::new(answer))
    }

    type ListIntentsStream = Answers<wire::ListIntentsResponse>;

    async fn list_intents(
        &self,
        _: Request<wire::ListIntentsRequest>,
    ) -> Answer<Self::ListIntentsStream> {
        if !*self.listed.borrow() {
            return Err(unseen());
        }
        let held = self.changes.held().await;
        let unread = u32::try_from(held.unread).unwrap_or(u32::MAX);
        let pieces = held.intents.chunks(MAX_PER_RESYNC_MESSAGE);
        let mut messages: Vec<_> = pieces
            .map(|piece| wire::ListIntentsResponse {
                intents: piece.iter().map(Into::into).collect(),
                ..wire::ListIntentsResponse::default()
            })
            .collect();
        messages.push(wire::ListIntentsResponse {
            unread,
            complete: true,
            ..wire::ListIntentsResponse::default()
        });
        let messages = futures::stream::iter(messages.into_iter().map(Ok));
        Ok(Response::new(self.until_stop(messages)))
    }

    type WatchStream = Answers<wire::WatchResponse>;

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        use wire::watch_response::Event;
        let run_id = self.run.to_string();
        let (hub, mut listed) = (Arc::clone(&self.hub), self.listed.clone());
        let message = move |revision, event| wire::WatchResponse {
            run_id: run_id.clone(),
            revision,
            event: Some(event),
        };
        let item = |item| Event::Item(wire::WatchItem { item: Some(item) });
        let stream = async_stream::stream! {
            // Counts within this stream: changes that a slow reader missed are folded in the
            // hub, so there are no gaps to count over.
            let mut revision = 0;
            // Before the first listing a snapshot would say that nothing is here.
            if listed.wait_for(|listed| *listed).await.is_err() {
                return;
            }
            let (snapshot, mut subscription) = hub.subscribe();
            yield Ok(message(revision, Event::Begin(wire::WatchBegin {})));
            for state in snapshot {
                yield Ok(message(revision, item(to::item(&state))));
            }
            yield Ok(message(revision, Event::End(wire::WatchEnd {})));
            loop {
                let Some(changes) = subscription.next(CHANGES_AT_ONCE).await else {
                    // It reads too slowly; whoever reads begins again.
                    return;
                };
                for change in changes {
                    if let Some(change) = to::change(&change) {
                        revision += 1;
                        yield Ok(message(revision, item(change)));
                    }
                }
            }
        };
        Ok(Response::new(self.until_stop(stream)))
    }

    type HeartbeatStream = Answers<wire::HeartbeatResponse>;

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Answer<Self::HeartbeatStream> {
        let interval = match request.into_inner().interval_ms {
            0 => 1000,
            wished @ 100..=60_000 => wished,
            wished => {
                let reason = format!("is {wished}; must be 0 or 100 to 60000");
                return Err(status::bad(&[Violation::new("interval_ms", reason)]));
            }
        };
        let (run, pulse) = (self.run, self.pulse.clone());
        let stream = async_stream::stream! {
            let mut ticks = tokio::time::interval(Duration::from_millis(interval.into()));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut sequence = 0;
            loop {
                ticks.tick().await;
                let Some(sign) = pulse.next().await else { return };
                sequence += 1;
                yield Ok(to::life_sign(run, sequence, &sign));
            }
        };
        Ok(Response::new(self.until_stop(stream)))
    }

    type ConsoleStream = Answers<wire::ConsoleResponse>;

    async fn console(
        &self,
        request: Request<Streaming<wire::ConsoleRequest>>,
    ) -> Answer<Self::ConsoleStream> {
        self.open_console(request.into_inner())
            .await
            .map(Response::new)
    }

    type PullImageStream = Answers<wire::PullImageResponse>;

    async fn pull_image(
        &self,
        request: Request<wire::PullImageRequest>,
    ) -> Answer<Self::PullImageStream> {
        self.start_pull(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_images(
        &self,
        _: Request<wire::ListImagesRequest>,
    ) -> Answer<wire::ListImagesResponse> {
        self.cached_images().await.map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<wire::RemoveImageRequest>,
    ) -> Answer<wire::RemoveImageResponse> {
        self.drop_image(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn request_certificate(
        &self,
        _: Request<wire::RequestCertificateRequest>,
    ) -> Answer<wire::RequestCertificateResponse> {
        self.certificate_request().await.map(Response::new)
    }

    async fn install_trust(
        &self,
        request: Request<wire::InstallTrustRequest>,
    ) -> Answer<wire::InstallTrustResponse> {
        self.take_trust(request).await.map(Response::new)
    }

    async fn keep_head(
        &self,
        request: Request<wire::KeepHeadRequest>,
    ) -> Answer<wire::KeepHeadResponse> {
        self.take_head(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_heads(
        &self,
        _: Request<wire::ListHeadsRequest>,
    ) -> Answer<wire::ListHeadsResponse> {
        Ok(Response::new(self.kept_heads()))
    }

    async fn get_health(
        &self,
        request: Request<wire::GetHealthRequest>,
    ) -> Answer<wire::GetHealthResponse> {
        self.judged(request.into_inner()).map(Response::new)
    }

    async fn get_inventory(
        &self,
        _: Request<wire::GetInventoryRequest>,
    ) -> Answer<wire::GetInventoryResponse> {
        self.stocked().map(Response::new)
    }

    async fn accept_parts(
        &self,
        request: Request<wire::AcceptPartsRequest>,
    ) -> Answer<wire::AcceptPartsResponse> {
        self.take_parts(&request.into_inner())
            .await
            .map(Response::new)
    }
}

/// Nothing is known of what is here yet.
fn unseen() -> Status {
    status::refused(Refusal::Starting {
        retry: Duration::from_secs(1),
    })
}

fn intent(mut request: wire::ApplyInstanceRequest) -> Result<(Intent, Vec<Source>), Status> {
    let intent = Intent::try_from(&request).map_err(|wrong| status::bad(&wrong))?;
    let sources = sources(std::mem::take(&mut request.image_sources), "image_sources")?;
    Ok((intent, sources))
}

pub(super) fn sources(sources: Vec<wire::PeerSource>, field: &str) -> Result<Vec<Source>, Status> {
    at_most(field, sources.len(), MAX_SOURCES)?;
    let taken = sources.into_iter().map(|wire| source(wire, field));
    taken
        .collect::<Result<_, _>>()
        .map_err(|wrong| status::bad(&[wrong]))
}

fn source(source: wire::PeerSource, field: &str) -> Result<Source, Violation> {
    let wire::PeerSource {
        address,
        node_id,
        ticket,
    } = source;
    let bounded = |part: &str, bytes: usize, limit| match bytes {
        bytes if bytes > limit => {
            let reason = format!("has {bytes} bytes; at most {limit}");
            Err(Violation::new(format!("{field}.{part}"), reason))
        }
        _ => Ok(()),
    };
    bounded("address", address.len(), MAX_ADDRESS_BYTES)?;
    bounded("ticket", ticket.len(), MAX_TICKET_BYTES)?;
    let node: Option<NodeId> = match node_id.as_str() {
        "" => None,
        id => Some(convert::id(id, &format!("{field}.node_id"))?),
    };
    Ok(Source {
        address,
        node,
        ticket,
    })
}

fn delete(request: &wire::DeleteInstanceRequest) -> Result<Delete, Violation> {
    let counted = |value, field: &str| match value {
        0 => Err(Violation::new(field, "is 0; counts from 1")),
        value => Ok(value),
    };
    Ok(Delete {
        incarnation: convert::id(&request.incarnation_id, "incarnation_id")?,
        instance: convert::id(&request.instance_id, "instance_id")?,
        node: convert::id(&request.node_id, "node_id")?,
        generation: Generation(counted(request.generation, "generation")?),
        epoch: Epoch(counted(request.epoch, "epoch")?),
        trace: None,
    })
}

pub(super) fn epoch(value: u64) -> Result<Epoch, Status> {
    match value {
        0 => Err(status::bad(&[Violation::new(
            "epoch",
            "is 0; counts from 1",
        )])),
        value => Ok(Epoch(value)),
    }
}

fn at_most(field: &str, count: usize, limit: usize) -> Result<(), Status> {
    if count > limit {
        let reason = format!("has {count} entries; at most {limit}");
        return Err(status::bad(&[Violation::new(field, reason)]));
    }
    Ok(())
}
