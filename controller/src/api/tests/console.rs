//! Consoles through the controller, with an agent that only echoes.

use kapok_proto::{
    agent::v1::{self as agent, node_service_server as served},
    common::v1 as common,
    fabric::v1::{
        CreateConsoleTicketRequest, DeleteInstanceRequest, Instance, OpenConsoleRequest,
        OpenConsoleResponse,
    },
};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver},
    watch,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming, transport::Server};

use super::*;

/// Answers as a node, and gives console input back in upper case.
struct Echo {
    /// What its server is made of.
    host: &'static [(&'static str, &'static str)],
    /// How its server does.
    server: watch::Receiver<Said>,
    /// Whoever accepted its parts: their epochs.
    accepted: UnboundedSender<u64>,
}

/// What an agent says of its server.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) health: Option<common::NodeHealth>,
    pub(super) parts: Option<agent::PartList>,
    pub(super) inventory: Option<common::Inventory>,
    pub(super) node: Option<agent::NodeFacts>,
}

impl Said {
    /// What a watch says of it.
    fn items(&self) -> Vec<agent::watch_item::Item> {
        use agent::watch_item::Item;
        let health = self.health.clone().map(Item::Health);
        let parts = self.parts.clone().map(Item::Parts);
        let node = self.node.clone().map(Item::Node);
        health.into_iter().chain(parts).chain(node).collect()
    }
}

macro_rules! absent {
    ($($method:ident: $request:ty => $answer:ident;)*) => {$(
        // As `async_trait` writes it: it doesn't look into macros.
        fn $method<'a, 'f>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<agent::$answer>, Status>> + Send + 'f>>
        where
            'a: 'f,
            Self: 'f,
        {
            Box::pin(async { Err(Status::unimplemented("not here")) })
        }
    )*};
}

#[tonic::async_trait]
impl served::NodeService for Echo {
    type ListIntentsStream = Answers<agent::ListIntentsResponse>;
    type WatchStream = Answers<agent::WatchResponse>;
    type HeartbeatStream = Answers<agent::HeartbeatResponse>;
    type ConsoleStream = Answers<agent::ConsoleResponse>;
    type PullImageStream = Answers<agent::PullImageResponse>;

    async fn get_node(
        &self,
        _: Request<agent::GetNodeRequest>,
    ) -> Result<Response<agent::GetNodeResponse>, Status> {
        let node = agent::NodeFacts {
            node_id: fixture::node_id(1).to_string(),
            arch: common::Arch::X8664.into(),
            cpus: 4,
            memory_mib: 8192,
            fingerprint: self
                .host
                .iter()
                .map(|(component, value)| ((*component).to_owned(), (*value).to_owned()))
                .collect(),
            ..agent::NodeFacts::default()
        };
        Ok(Response::new(agent::GetNodeResponse { node: Some(node) }))
    }

    async fn heartbeat(
        &self,
        _: Request<agent::HeartbeatRequest>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let sign = agent::HeartbeatResponse {
            hypervisor_up: true,
            node_id: fixture::node_id(1).to_string(),
            ..Default::default()
        };
        let beats = futures::stream::iter([Ok(sign)]);
        Ok(Response::new(answers(futures::StreamExt::chain(
            beats,
            futures::stream::pending(),
        ))))
    }

    async fn watch(
        &self,
        _: Request<agent::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        use agent::watch_response::Event;
        let mut server = self.server.clone();
        Ok(Response::new(answers(async_stream::stream! {
            let mut revision = 0;
            let mut event = |event| {
                revision += 1;
                Ok(agent::WatchResponse {
                    run_id: "run".into(),
                    revision,
                    event: Some(event),
                })
            };
            let item = |item| Event::Item(agent::WatchItem { item: Some(item) });
            yield event(Event::Begin(agent::WatchBegin {}));
            let first = server.borrow_and_update().items();
            for one in first {
                yield event(item(one));
            }
            yield event(Event::End(agent::WatchEnd {}));
            while server.changed().await.is_ok() {
                let items = server.borrow_and_update().items();
                for one in items {
                    yield event(item(one));
                }
            }
            std::future::pending::<()>().await;
        })))
    }

    async fn get_health(
        &self,
        request: Request<agent::GetHealthRequest>,
    ) -> Result<Response<agent::GetHealthResponse>, Status> {
        let mut health = self.server.borrow().health.clone();
        if let Some(health) = &mut health
            && request.into_inner().readings
        {
            health.readings = vec![common::Reading::default()];
        }
        Ok(Response::new(agent::GetHealthResponse { health }))
    }

    async fn get_inventory(
        &self,
        _: Request<agent::GetInventoryRequest>,
    ) -> Result<Response<agent::GetInventoryResponse>, Status> {
        let Some(inventory) = self.server.borrow().inventory.clone() else {
            let message = "it is being read";
            return Err(status::unavailable("INVENTORY_UNREAD", message));
        };
        Ok(Response::new(agent::GetInventoryResponse {
            inventory: Some(inventory),
        }))
    }

    async fn accept_parts(
        &self,
        request: Request<agent::AcceptPartsRequest>,
    ) -> Result<Response<agent::AcceptPartsResponse>, Status> {
        let _ = self.accepted.send(request.into_inner().epoch);
        Ok(Response::new(agent::AcceptPartsResponse {}))
    }

    async fn console(
        &self,
        request: Request<Streaming<agent::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let mut input = request.into_inner();
        let opening = input.message().await?.unwrap_or_default();
        if opening.input.is_some() {
            return std::future::pending().await;
        }
        if !opening.force {
            return Err(refusal::status(
                Code::FailedPrecondition,
                "CONSOLE_TAKEN",
                "somebody else has it",
                std::collections::BTreeMap::new(),
            ));
        }
        Ok(Response::new(answers(async_stream::try_stream! {
            yield output(opening.incarnation_id.as_bytes());
            while let Some(message) = input.message().await? {
                yield output(&message.input.unwrap_or_default().data.to_ascii_uppercase());
            }
        })))
    }

    async fn pull_image(
        &self,
        _: Request<agent::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_intents(
        &self,
        _: Request<agent::ListIntentsRequest>,
    ) -> Result<Response<Self::ListIntentsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    absent! {
        apply_instance: agent::ApplyInstanceRequest => ApplyInstanceResponse;
        delete_instance: agent::DeleteInstanceRequest => DeleteInstanceResponse;
        acknowledge_gone: agent::AcknowledgeGoneRequest => AcknowledgeGoneResponse;
        resync: Streaming<agent::ResyncRequest> => ResyncResponse;
        list_instances: agent::ListInstancesRequest => ListInstancesResponse;
        get_usage: agent::GetUsageRequest => GetUsageResponse;
        list_images: agent::ListImagesRequest => ListImagesResponse;
        remove_image: agent::RemoveImageRequest => RemoveImageResponse;
        request_certificate: agent::RequestCertificateRequest => RequestCertificateResponse;
        install_trust: agent::InstallTrustRequest => InstallTrustResponse;
        keep_head: agent::KeepHeadRequest => KeepHeadResponse;
        list_heads: agent::ListHeadsRequest => ListHeadsResponse;
    }
}

fn output(bytes: &[u8]) -> agent::ConsoleResponse {
    let data = bytes.to_vec().into();
    agent::ConsoleResponse {
        output: Some(common::ConsoleData { data }),
        dropped_bytes: 0,
    }
}

fn text(message: Option<OpenConsoleResponse>) -> String {
    String::from_utf8(message.unwrap().output.unwrap().data.to_vec()).unwrap()
}

/// Reaches [`Echo`] over pipes, whoever is meant.
pub(super) struct Echoes {
    dial: UnboundedSender<DuplexStream>,
    /// How its server does.
    pub(super) server: watch::Sender<Said>,
    /// The epochs at which its parts were accepted.
    pub(super) accepted: UnboundedReceiver<u64>,
}

/// The way to [`Echoes`].
struct Way(UnboundedSender<DuplexStream>);

impl Echoes {
    pub(super) fn new(host: &'static [(&'static str, &'static str)]) -> Self {
        let (dial, dialled) = unbounded_channel();
        let incoming = UnboundedReceiverStream::new(dialled).map(Ok::<_, io::Error>);
        let (server, said) = watch::channel(Said::default());
        let (accepting, accepted) = unbounded_channel();
        let echo = Echo {
            host,
            server: said,
            accepted: accepting,
        };
        // Ends with the last who could dial.
        tokio::spawn(
            Server::builder()
                .add_service(served::NodeServiceServer::new(echo))
                .serve_with_incoming(incoming),
        );
        Self {
            dial,
            server,
            accepted,
        }
    }

    /// How it is reached.
    pub(super) fn way(&self) -> Arc<dyn Dialer> {
        Arc::new(Way(self.dial.clone()))
    }
}

#[tonic::async_trait]
impl Dialer for Way {
    async fn dial(&self, _: &str, _: NodeId) -> Result<Channel, connector::Error> {
        let dial = self.0.clone();
        let pipe = tower::service_fn(move |_: tonic::transport::Uri| {
            let (near, far) = tokio::io::duplex(256 * 1024);
            let dialled = dial.send(far).map(|()| TokioIo::new(near));
            std::future::ready(dialled.map_err(|_| io::Error::other("the agent stopped")))
        });
        Ok(Endpoint::from_static("http://agent").connect_with_connector_lazy(pipe))
    }

    async fn dial_controller(&self, _: &str, _: &Name) -> Result<Channel, connector::Error> {
        std::future::pending().await
    }
}

/// A node whose agent echoes, and an instance there.
async fn echoing() -> (Lab, Instance) {
    let lab = Lab::start(Echoes::new(&[]).way(), "").await;
    lab.join(1, "node-1", "127.0.0.1:1").await;
    let mut changes = lab.api.ledger.changes();
    let reached = changes.wait_for(|snapshot| {
        let nodes = &snapshot.fabric.nodes;
        nodes
            .values()
            .any(|node| node.capacity.is_some() && node.reachable)
    });
    drop(soon(reached).await.unwrap());
    let instance = instances::on_a_node(&lab, "web-1").await;
    (lab, instance)
}

async fn ticket(who: &Clients, instance: &str) -> Result<String, Status> {
    let request = CreateConsoleTicketRequest {
        instance: instance.into(),
    };
    let answer = who.instances().create_console_ticket(request).await?;
    Ok(answer.into_inner().ticket)
}

fn show(ticket: &str, force: bool) -> OpenConsoleRequest {
    OpenConsoleRequest {
        ticket: ticket.into(),
        force,
        input: None,
    }
}

/// Opens a console and says nothing.
async fn open(who: &Clients, ticket: &str) -> Result<Streaming<OpenConsoleResponse>, Status> {
    let first = futures::stream::iter([show(ticket, true)]);
    let input = first.chain(futures::stream::pending());
    Ok(who.instances().open_console(input).await?.into_inner())
}

/// FAULTS 29: a ticket is good once, for the one it was given to, for that life of that instance.
#[tokio::test]
async fn a_ticket_opens_one_console_once_for_one_person() {
    let (lab, instance) = echoing().await;
    let wang = lab.user("user/wang", &["system_administrator"]).await;
    let no = (Code::Unauthenticated, "TICKET_REFUSED".to_owned());

    let first = ticket(&lab, "web-1").await.unwrap();
    let mut console = open(&lab, &first).await.unwrap();
    let echoed = soon(console.message()).await.unwrap();
    assert_eq!(text(echoed), instance.incarnations[0].id);
    assert_eq!(refused(open(&lab, &first).await), no, "used");

    let stolen = ticket(&lab, "web-1").await.unwrap();
    assert_eq!(refused(open(&wang, &stolen).await), no, "another's");
    assert_eq!(refused(open(&lab, &stolen).await), no, "it was seen");
    for wrong in ["", "web-1", &"0".repeat(64)] {
        assert_eq!(refused(open(&lab, wrong).await), no, "{wrong:?}");
    }

    // For a life of this instance that has ended.
    let past = super::super::console::Opens {
        instance: instance.id.parse().unwrap(),
        incarnation: System::new().incarnation_id(),
    };
    let li_wei = "user/li-wei".parse().unwrap();
    let past = lab.api.tickets.give(past, &li_wei).unwrap().reveal();
    assert_eq!(refused(open(&lab, &past).await), no, "of a life that ended");

    // The instance itself is gone meanwhile, and there is another one of that name.
    let old = ticket(&lab, "web-1").await.unwrap();
    let delete = DeleteInstanceRequest {
        instance: "web-1".into(),
        ..DeleteInstanceRequest::default()
    };
    lab.instances().delete_instance(delete).await.unwrap();
    lab.own(Command::IncarnationGone {
        node: fixture::node_id(1),
        incarnation: instance.incarnations[0].id.parse().unwrap(),
    })
    .await;
    instances::on_a_node(&lab, "web-1").await;
    assert_eq!(refused(open(&lab, &old).await), no, "another instance");
}

/// A role that was taken away between asking and opening counts.
#[tokio::test]
async fn a_ticket_outlives_no_role() {
    let (lab, _) = echoing().await;
    let wang = lab.user("user/wang", &["tenant_member in city"]).await;
    let ticket = ticket(&wang, "web-1").await.unwrap();
    lab.own(Command::UpdateUser {
        user: "user/wang".parse().unwrap(),
        grant: fixture::grants(&[]),
        revoke: fixture::grants(&["tenant_member in city"]),
        disabled: None,
    })
    .await;
    let open = open(&wang, &ticket).await;
    assert_eq!(refused(open), (Code::NotFound, "NOT_FOUND".into()));
}

/// An open console is no way round a role that was taken away, nor round being disabled.
#[tokio::test]
async fn an_open_console_outlives_no_role() {
    let (lab, _) = echoing().await;
    let update = |who: &str, revoke: &[&str], disabled| Command::UpdateUser {
        user: who.parse().unwrap(),
        grant: fixture::grants(&[]),
        revoke: fixture::grants(revoke),
        disabled,
    };
    let open_for = async |who: &str| {
        let person = lab.user(who, &["tenant_member in city"]).await;
        let ticket = ticket(&person, "web-1").await.unwrap();
        let mut console = open(&person, &ticket).await.unwrap();
        soon(console.message()).await.unwrap();
        (person, console)
    };
    let (_wang, mut first) = open_for("user/wang").await;
    let (_zhao, mut second) = open_for("user/zhao").await;
    lab.own(update("user/wang", &["tenant_member in city"], None))
        .await;
    let ended = soon(first.message()).await;
    assert_eq!(refused(ended), (Code::NotFound, "NOT_FOUND".into()));
    lab.own(update("user/zhao", &[], Some(true))).await;
    let ended = soon(second.message()).await;
    assert_eq!(refused(ended), (Code::PermissionDenied, "DISABLED".into()));
}

/// FAULTS 29: the log says who may open which console, and never with what.
#[tokio::test]
async fn a_grant_is_on_record_without_its_ticket() {
    let (lab, instance) = echoing().await;
    let before = lab.api.ledger.snapshot().head.seq;
    let ticket = ticket(&lab, "web-1").await.unwrap();
    let mut log = (lab.api.follow)(before.next());
    let Some(Ok(Follow::Batch(batch))) = soon(log.next()).await else {
        panic!("the grant is not in the log");
    };
    let entries: Vec<_> = batch.into_iter().collect();
    let [entry] = &entries[..] else {
        panic!("{entries:?}");
    };
    let payload = String::from_utf8_lossy(&entry.payload);
    for part in ["console_granted", "user/li-wei", &instance.id] {
        assert!(payload.contains(part), "{payload} lacks {part}");
    }
    assert!(!payload.contains(&ticket), "{payload}");
    let refused = open(&lab, "nothing").await.unwrap_err();
    assert!(!format!("{refused:?} {:?}", lab.api).contains(&ticket));
}

/// Neither a caller that says nothing nor an agent that answers nothing outlives the controller.
#[tokio::test]
async fn an_opening_ends_when_the_controller_stops() {
    let (lab, _) = echoing().await;
    let unanswered = OpenConsoleRequest {
        input: Some(common::ConsoleData::default()),
        ..show(&ticket(&lab, "web-1").await.unwrap(), false)
    };
    let (keys, silent) = mpsc::channel(1);
    let mut calls = [lab.instances(), lab.instances()];
    let [first, second] = &mut calls;
    let silent = first.open_console(ReceiverStream::new(silent));
    let waiting = futures::StreamExt::chain(
        futures::stream::iter([unanswered]),
        futures::stream::pending(),
    );
    let waiting = second.open_console(waiting);
    let stop = async {
        // Both are under way: what comes on the same connection later is answered.
        for _ in 0..8 {
            let list = kapok_proto::fabric::v1::ListNodesRequest::default();
            lab.nodes().list_nodes(list).await.unwrap();
        }
        lab.stop.cancel();
    };
    let (silent, waiting, ()) = soon(async { tokio::join!(biased; silent, waiting, stop) }).await;
    for ended in [silent, waiting] {
        assert_eq!(refused(ended), (Code::Unavailable, "STOPPING".into()));
    }
    drop(keys);
}

#[tokio::test]
async fn a_console_carries_both_ways_until_one_side_ends() {
    let (lab, instance) = echoing().await;
    let shown = show(&ticket(&lab, "web-1").await.unwrap(), false);
    let taken = lab
        .instances()
        .open_console(futures::stream::iter([shown]))
        .await;
    // The agent's own word, with its reason.
    assert_eq!(
        refused(taken),
        (Code::FailedPrecondition, "CONSOLE_TAKEN".into())
    );

    let (keys, input) = mpsc::channel(4);
    let shown = show(&ticket(&lab, "web-1").await.unwrap(), true);
    keys.send(shown).await.unwrap();
    let output = lab
        .instances()
        .open_console(ReceiverStream::new(input))
        .await
        .unwrap();
    let mut output = output.into_inner();
    assert_eq!(
        text(soon(output.message()).await.unwrap()),
        instance.incarnations[0].id
    );
    let type_in = |bytes: Vec<u8>| OpenConsoleRequest {
        input: Some(common::ConsoleData { data: bytes.into() }),
        ..OpenConsoleRequest::default()
    };
    keys.send(type_in(b"uname".to_vec())).await.unwrap();
    assert_eq!(text(soon(output.message()).await.unwrap()), "UNAME");
    // A piece over the limit ends the console.
    keys.send(type_in(vec![b'x'; 64 * 1024 + 1])).await.unwrap();
    assert_eq!(soon(output.message()).await.unwrap(), None);
}
