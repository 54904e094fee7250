//! A small controller for the tests of the command: it answers by script and records what it was
//! asked. It decides nothing; the real controller is tested elsewhere.

mod controllers;
pub mod people;
mod plans;
mod serving;
mod sizes;
mod usage;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use kapok_proto::{
    common::v1 as common,
    fabric::v1::{
        event_service_server::EventService, image_service_server::ImageService,
        instance_service_server::InstanceService, node_service_server::NodeService,
        operation_service_server::OperationService, *,
    },
    refusal,
};
use kapok_types::{Digest, Violation};
use tokio_stream::{Stream, StreamExt as _, iter};
use tonic::{Request, Response, Status, Streaming};

use self::serving::Issuing;
pub use self::serving::{Serving, serve};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// What it was asked.
#[derive(Debug, Default)]
pub struct Seen {
    pub creates: Vec<CreateInstanceRequest>,
    pub deletes: Vec<String>,
    pub watched: usize,
    pub imports: Vec<(ImportImageHeader, Digest)>,
    pub after: Vec<Option<u64>>,
    pub input: Vec<u8>,
    pub tokens: Vec<CreateTokenRequest>,
    pub logins: Vec<LoginRequest>,
    pub renewals: usize,
    /// The last entry of the log that whoever watched an operation had seen.
    pub min_seqs: Vec<Option<String>>,
    /// Whether it takes no changes, because nobody leads.
    pub leaderless: bool,
    /// Told of a creation that never gets an answer.
    pub stuck: Option<std::sync::mpsc::Sender<()>>,
    /// How often the leadership was given up.
    pub steps_down: u64,
    /// Other changes, as their requests print.
    pub changes: Vec<String>,
}

/// The controller, and what it was asked.
#[derive(Clone)]
pub struct Fake(pub Arc<Mutex<Seen>>, pub Arc<Issuing>);

fn unscripted<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this script"))
}

fn stream<T: Send + 'static>(answers: Vec<Result<T, Status>>) -> Response<Answers<T>> {
    Response::new(Box::pin(iter(answers)))
}

fn operation(name: &str, state: OperationState, progress: u32, detail: &str) -> Operation {
    Operation {
        // The name tells the watch which script to play.
        id: format!("op-{name}"),
        kind: OperationKind::Create.into(),
        state: state.into(),
        instance_name: name.into(),
        progress_permille: (progress > 0).then_some(progress),
        detail: detail.into(),
        ..Operation::default()
    }
}

impl Fake {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    fn changed(&self, request: &impl std::fmt::Debug) {
        self.seen().changes.push(format!("{request:?}"));
    }
}

#[tonic::async_trait]
impl InstanceService for Fake {
    type OpenConsoleStream = Answers<OpenConsoleResponse>;

    async fn create_instance(&self, request: Request<CreateInstanceRequest>) -> Answer<Operation> {
        let request = request.into_inner();
        let (name, image) = (request.name.clone(), request.image.clone());
        let stuck = {
            let mut seen = self.seen();
            seen.creates.push(request);
            seen.stuck.take()
        };
        if let Some(told) = stuck {
            told.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        let seen = self.seen();
        match image.as_str() {
            _ if seen.leaderless => Err(controllers::no_leader()),
            "absent" => Err(refusal::status(
                tonic::Code::NotFound,
                "NOT_FOUND",
                "image absent doesn't exist",
                [].into(),
            )),
            // The first answer is lost.
            _ if seen.creates.len() == 1 => Err(Status::unavailable("the log can't be written")),
            _ => {
                let placed = operation(&name, OperationState::Running, 0, "placed");
                let mut answer = Response::new(placed);
                let seq = "4711".parse().unwrap();
                answer.metadata_mut().insert("kapok-seq", seq);
                Ok(answer)
            }
        }
    }

    async fn create_instances(
        &self,
        request: Request<CreateInstancesRequest>,
    ) -> Answer<CreateInstancesResponse> {
        let request = request.into_inner();
        self.changed(&request);
        let made = request.instances.into_iter();
        let begun = |one: CreateInstanceRequest| {
            let detail = format!("placed with {}", one.groups.join(" and "));
            operation(&one.name, OperationState::Running, 0, &detail)
        };
        Ok(Response::new(CreateInstancesResponse {
            operations: made.map(begun).collect(),
        }))
    }

    async fn update_instance(&self, request: Request<UpdateInstanceRequest>) -> Answer<Instance> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(Response::new(Instance {
            name: request.instance,
            system: request.system,
            ..Instance::default()
        }))
    }

    async fn delete_instance(&self, request: Request<DeleteInstanceRequest>) -> Answer<Operation> {
        let name = request.into_inner().instance;
        if name == "missing" {
            return Err(Status::not_found("instance missing doesn't exist"));
        }
        self.seen().deletes.push(name.clone());
        Ok(Response::new(operation(
            &name,
            OperationState::Running,
            0,
            "",
        )))
    }

    async fn open_console(
        &self,
        request: Request<Streaming<OpenConsoleRequest>>,
    ) -> Answer<Answers<OpenConsoleResponse>> {
        let fake = self.clone();
        // Echoes until somebody says bye.
        let mut open = true;
        let echo = request.into_inner().map(move |message| {
            let message = message?;
            let data = match message.input {
                None if message.ticket == "ticket for web" => "console of web\n".into(),
                None => return Err(Status::unauthenticated("no such ticket")),
                Some(input) => input.data,
            };
            fake.seen().input.extend_from_slice(&data);
            let output = Some(common::ConsoleData { data });
            Ok(OpenConsoleResponse {
                output,
                dropped_bytes: 0,
            })
        });
        let echo = echo.take_while(move |answer: &Result<OpenConsoleResponse, Status>| {
            let was_open = open;
            let bye = |data: &[u8]| data.starts_with(b"bye");
            let answer = answer
                .as_ref()
                .ok()
                .and_then(|answer| answer.output.as_ref());
            open = answer.is_some_and(|output| !bye(&output.data));
            was_open && open
        });
        Ok(Response::new(Box::pin(echo)))
    }

    async fn create_console_ticket(
        &self,
        request: Request<CreateConsoleTicketRequest>,
    ) -> Answer<CreateConsoleTicketResponse> {
        let ticket = format!("ticket for {}", request.into_inner().instance);
        Ok(Response::new(CreateConsoleTicketResponse { ticket }))
    }

    async fn get_instance(&self, _: Request<GetInstanceRequest>) -> Answer<Instance> {
        unscripted()
    }
    async fn list_instances(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Answer<ListInstancesResponse> {
        unscripted()
    }
    async fn start_instance(&self, _: Request<StartInstanceRequest>) -> Answer<Operation> {
        unscripted()
    }
    async fn stop_instance(&self, _: Request<StopInstanceRequest>) -> Answer<Operation> {
        unscripted()
    }
    async fn resize_instance(&self, request: Request<ResizeInstanceRequest>) -> Answer<Operation> {
        self.changed(request.get_ref());
        let mut begun = operation("web", OperationState::Running, 0, "");
        begun.kind = OperationKind::Resize.into();
        Ok(Response::new(begun))
    }
    async fn restart_instance(&self, _: Request<RestartInstanceRequest>) -> Answer<Operation> {
        unscripted()
    }
    async fn explain_instance(
        &self,
        _: Request<ExplainInstanceRequest>,
    ) -> Answer<ExplainInstanceResponse> {
        Ok(Response::new(ExplainInstanceResponse {
            node_name: "rack1-a".into(),
            summary: "it would go to rack1-a".into(),
            ..ExplainInstanceResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl OperationService for Fake {
    type WatchOperationStream = Answers<Operation>;

    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Answer<Answers<Operation>> {
        use OperationState::{Cancelled, Detached, Failed, Running, Succeeded, Superseded};
        let min_seq = request.metadata().get("kapok-min-seq");
        let min_seq = min_seq.map(|seq| seq.to_str().unwrap().to_owned());
        let id = request.into_inner().operation;
        let name = id.strip_prefix("op-").unwrap_or_default().to_owned();
        let mut seen = self.seen();
        seen.min_seqs.push(min_seq);
        seen.watched += 1;
        let step = |state, progress, detail| Ok(operation(&name, state, progress, detail));
        let ended = match name.as_str() {
            "failed" => Failed,
            "cancelled" => Cancelled,
            "superseded" => Superseded,
            "detached" => Detached,
            "slow" => {
                let never = tokio_stream::pending();
                let begin = iter([step(Running, 100, "pulling the image")]);
                return Ok(Response::new(Box::pin(begin.chain(never))));
            }
            _ => Succeeded,
        };
        Ok(if seen.watched == 1 && ended == Succeeded {
            // The connection breaks half-way.
            let broken = Err(Status::unavailable("going down"));
            stream(vec![step(Running, 250, "pulling the image"), broken])
        } else {
            stream(vec![
                step(Running, 800, "starting"),
                step(ended, 1000, "as scripted"),
            ])
        })
    }

    async fn get_operation(&self, _: Request<GetOperationRequest>) -> Answer<Operation> {
        unscripted()
    }
    async fn list_operations(
        &self,
        _: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        unscripted()
    }
    async fn cancel_operation(&self, _: Request<CancelOperationRequest>) -> Answer<Operation> {
        unscripted()
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn import_image(&self, request: Request<Streaming<ImportImageRequest>>) -> Answer<Image> {
        use import_image_request::Part;
        let mut parts = request.into_inner();
        let Some(ImportImageRequest {
            part: Some(Part::Header(header)),
        }) = parts.message().await?
        else {
            return Err(Status::invalid_argument("the first message is no header"));
        };
        if header.name == "refused" {
            return Err(refusal::bad_request(&[Violation::new(
                "format",
                "has a backing file",
            )]));
        }
        let mut content = Vec::new();
        while let Some(piece) = parts.message().await? {
            match piece.part {
                Some(Part::Data(data)) => content.extend_from_slice(&data),
                _ => return Err(Status::invalid_argument("a second header")),
            }
        }
        if u64::try_from(content.len()).unwrap() != header.size_bytes {
            return Err(Status::invalid_argument("cut short"));
        }
        let digest = Digest::of(&content);
        self.seen().imports.push((header.clone(), digest));
        let stored = if header.name == "liar" {
            Digest::of(b"other")
        } else {
            digest
        };
        Ok(Response::new(Image {
            name: header.name,
            digest: stored.to_string(),
            format: header.format,
            size_bytes: header.size_bytes,
            arch: header.arch,
            ..Image::default()
        }))
    }

    async fn get_image(&self, _: Request<GetImageRequest>) -> Answer<Image> {
        unscripted()
    }
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        unscripted()
    }
    async fn delete_image(&self, _: Request<DeleteImageRequest>) -> Answer<DeleteImageResponse> {
        unscripted()
    }
}

#[tonic::async_trait]
impl EventService for Fake {
    type WatchEventsStream = Answers<WatchEventsResponse>;

    /// Ten thousand events at once to those who don't follow; two a connection to those who do,
    /// until the sixth, after which the log is trimmed.
    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Answer<Answers<WatchEventsResponse>> {
        let request = request.into_inner();
        self.seen().after.push(request.after_sequence);
        let from = request.after_sequence.unwrap_or(0) + 1;
        let event = |sequence| {
            let event = Event {
                sequence,
                kind: "node.ready".into(),
                ..Event::default()
            };
            Ok(WatchEventsResponse {
                sequence,
                events: vec![event],
            })
        };
        if request.until_now {
            return Ok(stream((from..=10_000).map(event).collect()));
        }
        if from > 6 || self.seen().after.len() > 10 {
            let metadata = [("first".to_owned(), "100".to_owned())].into();
            let message = "the log starts at 100";
            return Err(refusal::status(
                tonic::Code::OutOfRange,
                "TRIMMED",
                message,
                metadata,
            ));
        }
        let broken = Err(Status::unavailable("going down"));
        Ok(stream(vec![event(from), event(from + 1), broken]))
    }
}

#[tonic::async_trait]
impl NodeService for Fake {
    /// Three pages of two nodes.
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        let token = request.into_inner().page_token;
        let page: u32 = if token.is_empty() {
            0
        } else {
            token.parse().unwrap()
        };
        let node = |number| Node {
            name: format!("node-{number}"),
            ..Node::default()
        };
        Ok(Response::new(ListNodesResponse {
            nodes: vec![node(2 * page), node(2 * page + 1)],
            next_page_token: if page < 2 {
                (page + 1).to_string()
            } else {
                String::new()
            },
        }))
    }

    async fn get_node(&self, _: Request<GetNodeRequest>) -> Answer<Node> {
        unscripted()
    }
    async fn cordon_node(&self, _: Request<CordonNodeRequest>) -> Answer<Node> {
        unscripted()
    }
    async fn uncordon_node(&self, _: Request<UncordonNodeRequest>) -> Answer<Node> {
        unscripted()
    }

    async fn update_node(&self, request: Request<UpdateNodeRequest>) -> Answer<Node> {
        let request = request.into_inner();
        let node = request.node.clone();
        self.changed(&request);
        named(node)
    }

    /// What a server with a bad module says.
    async fn get_node_health(
        &self,
        request: Request<GetNodeHealthRequest>,
    ) -> Answer<GetNodeHealthResponse> {
        let GetNodeHealthRequest { node, readings } = request.into_inner();
        let mut health = unwell();
        health.components = vec![
            common::ComponentHealth {
                component: "disk/sda".into(),
                condition: common::Condition::Healthy.into(),
            },
            common::ComponentHealth {
                component: "memory/mc0".into(),
                condition: common::Condition::Degraded.into(),
            },
        ];
        if readings {
            let evidence = &health.verdicts[0].evidence;
            health.readings.clone_from(evidence);
        }
        Ok(Response::new(GetNodeHealthResponse {
            node: Some(Node {
                name: node,
                ..Node::default()
            }),
            health: Some(health),
        }))
    }

    /// Two pages, the worst first.
    async fn list_node_health(
        &self,
        request: Request<ListNodeHealthRequest>,
    ) -> Answer<ListNodeHealthResponse> {
        let request = request.into_inner();
        let summary = |node: &str, health| NodeHealthSummary {
            node: node.into(),
            health: Some(health),
            ..NodeHealthSummary::default()
        };
        let healthy = common::NodeHealth {
            condition: common::Condition::Healthy.into(),
            ..common::NodeHealth::default()
        };
        let first = request.page_token.is_empty();
        let nodes = match (first, request.unhealthy) {
            (true, _) => vec![summary("rack1-a", unwell())],
            (false, false) => vec![summary("rack1-b", healthy)],
            (false, true) => Vec::new(),
        };
        let counts = [
            ("degraded", 1),
            ("failing", 0),
            ("healthy", 1),
            ("unknown", 0),
        ];
        Ok(Response::new(ListNodeHealthResponse {
            nodes,
            next_page_token: if first { "2".into() } else { String::new() },
            counts: counts.map(|(word, count)| (word.to_owned(), count)).into(),
        }))
    }

    async fn get_node_inventory(
        &self,
        _: Request<GetNodeInventoryRequest>,
    ) -> Answer<GetNodeInventoryResponse> {
        let disk = common::Disk {
            name: "sda".into(),
            serial: "S3Z9".into(),
            transport: "ata".into(),
            size_bytes: 1 << 40,
            ..common::Disk::default()
        };
        let inventory = common::Inventory {
            disks: vec![disk],
            ..common::Inventory::default()
        };
        Ok(Response::new(GetNodeInventoryResponse {
            inventory: Some(inventory),
        }))
    }

    async fn release_node(&self, request: Request<ReleaseNodeRequest>) -> Answer<Node> {
        let request = request.into_inner();
        let node = request.node.clone();
        self.changed(&request);
        named(node)
    }

    async fn list_differences(
        &self,
        _: Request<ListDifferencesRequest>,
    ) -> Answer<ListDifferencesResponse> {
        let difference = Difference {
            kind: DifferenceKind::Unknown.into(),
            instance_id: "0196f3c4-7a51-7c55-9d7b-0f1e6b8f5a01".into(),
            tenant: "city".into(),
            name: "web".into(),
            detail: "the node has it: it is taken up as it is there".into(),
            ..Difference::default()
        };
        let node = NodeDifferences {
            node: "rack1-a".into(),
            asked: true,
            etag: "e1".into(),
            differences: vec![difference],
            ..NodeDifferences::default()
        };
        Ok(Response::new(ListDifferencesResponse {
            adopting: true,
            cause: "restored".into(),
            nodes: vec![node],
            ..ListDifferencesResponse::default()
        }))
    }

    async fn adopt_node(&self, request: Request<AdoptNodeRequest>) -> Answer<Node> {
        let request = request.into_inner();
        let node = request.node.clone();
        self.changed(&request);
        named(node)
    }

    async fn end_node_release(&self, request: Request<EndNodeReleaseRequest>) -> Answer<Node> {
        let request = request.into_inner();
        self.changed(&request);
        Err(refusal::status(
            tonic::Code::FailedPrecondition,
            "NODE_NOT_RELEASED",
            "node rack1-a is not released; its verdicts decide already",
            [].into(),
        ))
    }

    async fn rebind_node(&self, request: Request<RebindNodeRequest>) -> Answer<Node> {
        let request = request.into_inner();
        let message = "the hardware of rack1-a is as it was";
        self.changed(&request);
        Err(refusal::status(
            tonic::Code::FailedPrecondition,
            "FINGERPRINT_UNCHANGED",
            message,
            [].into(),
        ))
    }

    async fn revoke_node(&self, request: Request<RevokeNodeRequest>) -> Answer<Node> {
        let request = request.into_inner();
        let node = request.node.clone();
        self.changed(&request);
        named(node)
    }

    async fn delete_node(&self, request: Request<DeleteNodeRequest>) -> Answer<DeleteNodeResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteNodeResponse {}))
    }
}

/// Condition and one verdict of a server with a bad module.
fn unwell() -> common::NodeHealth {
    let reading = common::Reading {
        component: "memory/mc0".into(),
        quantity: "correctable_errors".into(),
        read: Some(common::reading::Read::Value(1200.0)),
        source: "edac".into(),
        ..common::Reading::default()
    };
    let verdict = common::Verdict {
        code: "MEMORY_CE_STORM".into(),
        condition: common::Condition::Degraded.into(),
        component: "memory/mc0".into(),
        summary: "1200 corrected errors in an hour".into(),
        evidence: vec![reading],
        remedy: "replace the module".into(),
        ..common::Verdict::default()
    };
    common::NodeHealth {
        condition: common::Condition::Degraded.into(),
        verdicts: vec![verdict],
        ..common::NodeHealth::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
fn named(name: String) -> Answer<Node> {
    let node = Node {
        name,
        ..Node::default()
    };
    Ok(Response::new(node))
}
