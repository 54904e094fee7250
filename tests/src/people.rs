//! People's side: the public API over gRPC, with the waits that tests need.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kapok_proto::{
    common::v1::{Arch, DiskFormat, RunPolicy},
    fabric::v1::{
        CancelOperationRequest, CordonNodeRequest, CreateInstanceRequest, DeleteInstanceRequest,
        Event, ExplainInstanceRequest, ExplainInstanceResponse, GetInstanceRequest, GetNodeRequest,
        GetOperationRequest, Image, ImportImageHeader, ImportImageRequest, Instance,
        ListInstancesRequest, ListOperationsRequest, Node, Operation, OperationState,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest, UncordonNodeRequest,
        UpdateNodeRequest, WatchEventsRequest, event_service_client::EventServiceClient,
        image_service_client::ImageServiceClient, import_image_request::Part,
        instance_service_client::InstanceServiceClient, node_service_client::NodeServiceClient,
        operation_service_client::OperationServiceClient,
    },
    refusal,
};
use kapok_trust::Lasting;
use kapok_types::Env;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::env::SimEnv;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// The image that every cluster has.
pub const IMAGE: &str = "debian";
/// Its size in bytes.
pub const IMAGE_BYTES: usize = 1 << 20;

/// A client of the controller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct People {
    channel: Lasting,
    env: Arc<SimEnv>,
}

/// What tests say of a new instance; the rest is small.
pub fn small(name: &str) -> CreateInstanceRequest {
    CreateInstanceRequest {
        name: name.into(),
        image: IMAGE.into(),
        vcpus: 1,
        memory_mib: 256,
        run_policy: RunPolicy::RestartOnCrash.into(),
        ..CreateInstanceRequest::default()
    }
}

impl People {
    /// People who reach the controller through this channel.
    pub fn new(channel: impl Into<Lasting>, env: Arc<SimEnv>) -> Self {
        let channel = channel.into();
        Self { channel, env }
    }

    /// The instances' service.
    pub fn instances(&self) -> InstanceServiceClient<Lasting> {
        InstanceServiceClient::new(self.channel.clone())
    }

    /// The operations' service.
    pub fn operations(&self) -> OperationServiceClient<Lasting> {
        OperationServiceClient::new(self.channel.clone())
    }

    /// The nodes' service.
    pub fn nodes(&self) -> NodeServiceClient<Lasting> {
        NodeServiceClient::new(self.channel.clone())
    }

    /// The events' service.
    pub fn event_service(&self) -> EventServiceClient<Lasting> {
        EventServiceClient::new(self.channel.clone())
    }

    /// A new request id.
    pub fn request_id(&self) -> String {
        self.env.uuid().to_string()
    }

    /// Imports the image [`IMAGE`].
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn import(&self) -> Result<Image, Status> {
        let header = ImportImageHeader {
            name: IMAGE.into(),
            format: DiskFormat::Raw.into(),
            size_bytes: u64::try_from(IMAGE_BYTES).unwrap(),
            arch: Arch::X8664.into(),
            request_id: self.request_id(),
            ..ImportImageHeader::default()
        };
        let data = bytes::Bytes::from(vec![0; IMAGE_BYTES / 4]);
        let parts = std::iter::once(Part::Header(header))
            .chain(std::iter::repeat_n(Part::Data(data), 4))
            .map(|part| ImportImageRequest { part: Some(part) })
            .collect::<Vec<_>>();
        let mut client = ImageServiceClient::new(self.channel.clone());
        bounded(client.import_image(stream::iter(parts))).await
    }

    /// Asks for a small running instance.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn create(&self, name: &str) -> Result<Operation, Status> {
        self.create_as(small(name)).await
    }

    /// Asks for an instance.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn create_as(&self, mut wanted: CreateInstanceRequest) -> Result<Operation, Status> {
        if wanted.request_id.is_empty() {
            wanted.request_id = self.request_id();
        }
        bounded(self.instances().create_instance(wanted)).await
    }

    /// Turns an instance on.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn start(&self, name: &str) -> Result<Operation, Status> {
        let wanted = StartInstanceRequest {
            instance: name.into(),
            request_id: self.request_id(),
        };
        bounded(self.instances().start_instance(wanted)).await
    }

    /// Turns an instance off.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn stop(&self, name: &str) -> Result<Operation, Status> {
        let wanted = StopInstanceRequest {
            instance: name.into(),
            request_id: self.request_id(),
        };
        bounded(self.instances().stop_instance(wanted)).await
    }

    /// Shuts an instance down and starts it.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn restart(&self, name: &str) -> Result<Operation, Status> {
        let wanted = RestartInstanceRequest {
            instance: name.into(),
            request_id: self.request_id(),
        };
        bounded(self.instances().restart_instance(wanted)).await
    }

    /// Deletes an instance.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn delete(&self, name: &str) -> Result<Operation, Status> {
        let wanted = DeleteInstanceRequest {
            instance: name.into(),
            request_id: self.request_id(),
            etag: String::new(),
        };
        self.delete_as(wanted).await
    }

    /// Deletes an instance.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn delete_as(&self, wanted: DeleteInstanceRequest) -> Result<Operation, Status> {
        bounded(self.instances().delete_instance(wanted)).await
    }

    /// An instance.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn instance(&self, name: &str) -> Result<Instance, Status> {
        let wanted = GetInstanceRequest {
            instance: name.into(),
        };
        bounded(self.instances().get_instance(wanted)).await
    }

    /// All instances (at most a page of them).
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn list(&self) -> Result<Vec<Instance>, Status> {
        let wanted = ListInstancesRequest::default();
        Ok(bounded(self.instances().list_instances(wanted))
            .await?
            .instances)
    }

    /// Why an instance is where it is.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn explain(
        &self,
        question: ExplainInstanceRequest,
    ) -> Result<ExplainInstanceResponse, Status> {
        bounded(self.instances().explain_instance(question)).await
    }

    /// A node.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn node(&self, name: &str) -> Result<Node, Status> {
        bounded(self.nodes().get_node(GetNodeRequest { node: name.into() })).await
    }

    /// A node takes nothing new.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn cordon(&self, name: &str) -> Result<Node, Status> {
        let wanted = CordonNodeRequest {
            node: name.into(),
            reason: "a test".into(),
            request_id: self.request_id(),
        };
        bounded(self.nodes().cordon_node(wanted)).await
    }

    /// A node takes instances again.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn uncordon(&self, name: &str) -> Result<Node, Status> {
        let wanted = UncordonNodeRequest {
            node: name.into(),
            request_id: self.request_id(),
        };
        bounded(self.nodes().uncordon_node(wanted)).await
    }

    /// A node's agent listens somewhere else.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn set_address(&self, name: &str, address: &str) -> Result<Node, Status> {
        let wanted = UpdateNodeRequest {
            node: name.into(),
            address: Some(address.into()),
            request_id: self.request_id(),
            ..UpdateNodeRequest::default()
        };
        bounded(self.nodes().update_node(wanted)).await
    }

    /// An operation.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn operation(&self, id: &str) -> Result<Operation, Status> {
        let wanted = GetOperationRequest {
            operation: id.into(),
        };
        bounded(self.operations().get_operation(wanted)).await
    }

    /// Operations that have not ended.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn running(&self) -> Result<Vec<Operation>, Status> {
        let wanted = ListOperationsRequest {
            running_only: true,
            ..Default::default()
        };
        Ok(bounded(self.operations().list_operations(wanted))
            .await?
            .operations)
    }

    /// Ends an operation early.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn cancel(&self, id: &str) -> Result<Operation, Status> {
        let wanted = CancelOperationRequest {
            operation: id.into(),
            request_id: self.request_id(),
        };
        bounded(self.operations().cancel_operation(wanted)).await
    }

    /// Waits until an operation has ended.
    pub async fn ended(&self, id: &str, bound: Duration) -> Operation {
        let wait = async {
            loop {
                if let Ok(operation) = self.operation(id).await
                    && operation.state() != OperationState::Running
                {
                    return operation;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        if let Ok(operation) = timeout(bound, wait).await {
            return operation;
        }
        panic!(
            "{:?} has not ended within {bound:?}",
            self.operation(id).await
        )
    }

    /// Waits until an accepted operation has succeeded.
    #[track_caller]
    pub fn succeeds(
        &self,
        accepted: Result<Operation, Status>,
    ) -> impl Future<Output = Operation> + use<'_> {
        let accepted = accepted.unwrap_or_else(|status| panic!("refused: {status:?}"));
        async move {
            let ended = self.ended(&accepted.id, Duration::from_mins(3)).await;
            assert_eq!(ended.state(), OperationState::Succeeded, "{ended:?}");
            ended
        }
    }

    /// The log's events after a position, up to now.
    ///
    /// # Errors
    ///
    /// What the controller said.
    pub async fn events_after(&self, sequence: u64) -> Result<Vec<Event>, Status> {
        let wanted = WatchEventsRequest {
            after_sequence: Some(sequence),
            until_now: true,
        };
        let read = async {
            let answer = self.event_service().watch_events(wanted).await?;
            let answers: Vec<_> = answer.into_inner().collect().await;
            let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
            Ok(answers
                .into_iter()
                .flat_map(|answer| answer.events)
                .collect())
        };
        timeout(CALL, read).await.unwrap_or_else(|_| Err(slow()))
    }
}

/// The stable reason of a refusal, or nothing.
pub fn reason(status: &Status) -> String {
    refusal::reason(status).unwrap_or_default()
}

async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(CALL, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(slow()),
    }
}

fn slow() -> Status {
    Status::deadline_exceeded("the controller gave no answer")
}
