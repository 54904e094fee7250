//! Consoles through the controller, with an agent that only echoes.

use kapok_proto::{
    agent::v1::{self as agent, node_service_server as served},
    common::v1 as common,
    fabric::v1::{OpenConsoleRequest, OpenConsoleResponse},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::*;
use crate::link::Tcp;

/// Answers as a node, and gives console input back in upper case.
struct Echo;

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
    type WatchStream = Answers<agent::WatchResponse>;
    type HeartbeatStream = Answers<agent::HeartbeatResponse>;
    type ConsoleStream = Answers<agent::ConsoleResponse>;
    type PullImageStream = Answers<agent::PullImageResponse>;

    async fn get_node(
        &self,
        _: Request<agent::GetNodeRequest>,
    ) -> Result<Response<agent::GetNodeResponse>, Status> {
        let node = agent::NodeFacts {
            node_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
            arch: common::Arch::X8664.into(),
            cpus: 4,
            memory_mib: 8192,
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
            node_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
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
        Ok(Response::new(answers(futures::stream::pending())))
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

    absent! {
        apply_instance: agent::ApplyInstanceRequest => ApplyInstanceResponse;
        delete_instance: agent::DeleteInstanceRequest => DeleteInstanceResponse;
        acknowledge_gone: agent::AcknowledgeGoneRequest => AcknowledgeGoneResponse;
        resync: Streaming<agent::ResyncRequest> => ResyncResponse;
        list_instances: agent::ListInstancesRequest => ListInstancesResponse;
        list_images: agent::ListImagesRequest => ListImagesResponse;
        remove_image: agent::RemoveImageRequest => RemoveImageResponse;
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

/// A node whose agent echoes, and an instance there.
async fn echoing() -> (
    tokio::task::AbortHandle,
    Lab,
    kapok_proto::fabric::v1::Instance,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let agent = tokio::spawn(
        Server::builder()
            .add_service(served::NodeServiceServer::new(Echo))
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    let nodes = format!("[[nodes]]\nname = \"node-1\"\naddress = \"{address}\"");
    let lab = Lab::start(Arc::new(Tcp), &nodes).await;
    let mut changes = lab.api.ledger.changes();
    let enrolled = changes.wait_for(|snapshot| snapshot.fabric.fleet.len() == 1);
    soon(enrolled).await.unwrap();
    let instance = instances::on_a_node(&lab, "web-1").await;
    (agent.abort_handle(), lab, instance)
}

/// Neither a caller that says nothing nor an agent that answers nothing outlives the controller.
#[tokio::test]
async fn an_opening_ends_when_the_controller_stops() {
    let (agent, lab, _) = echoing().await;
    let unanswered = OpenConsoleRequest {
        instance: "web-1".into(),
        input: Some(common::ConsoleData::default()),
        ..OpenConsoleRequest::default()
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
    agent.abort();
}

#[tokio::test]
async fn a_console_carries_both_ways_until_one_side_ends() {
    let (agent, lab, instance) = echoing().await;
    let open = |force| OpenConsoleRequest {
        instance: "web-1".into(),
        force,
        input: None,
    };
    let taken = lab
        .instances()
        .open_console(futures::stream::iter([open(false)]))
        .await;
    // The agent's own word, with its reason.
    assert_eq!(
        refused(taken),
        (Code::FailedPrecondition, "CONSOLE_TAKEN".into())
    );

    let (keys, input) = mpsc::channel(4);
    keys.send(open(true)).await.unwrap();
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
    agent.abort();
}
