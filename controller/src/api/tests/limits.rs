use kapok_proto::fabric::v1::{
    CordonNodeRequest, GetInstanceRequest, GetNodeRequest, GetOperationRequest, ListNodesRequest,
    ListOperationsRequest,
};
use prost::Message as _;

use super::*;

/// FAULTS 18: one message over the limit is refused as such, and the next call works.
#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let lab = Lab::new().await;
    let instance = "x".repeat(MAX_MESSAGE_BYTES + 1);
    let refusal = refused(
        lab.instances()
            .get_instance(GetInstanceRequest { instance })
            .await,
    );
    assert_eq!(
        refusal,
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into())
    );
    let piece = images::header("x", kapok_proto::common::v1::DiskFormat::Raw, &[0; 16]);
    let parts = {
        use kapok_proto::fabric::v1::{ImportImageRequest, import_image_request::Part};
        [
            Part::Header(piece),
            Part::Data(vec![0; MAX_MESSAGE_BYTES + 1].into()),
        ]
        .map(|part| ImportImageRequest { part: Some(part) })
    };
    let refusal = refused(
        lab.images()
            .import_image(futures::stream::iter(parts))
            .await,
    );
    assert_eq!(
        refusal,
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into())
    );
    assert!(
        lab.nodes()
            .list_nodes(ListNodesRequest::default())
            .await
            .is_ok()
    );
}

/// Every refusal names the field.
#[tokio::test]
async fn bad_input_is_named() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let (mut nodes, mut operations) = (lab.nodes(), lab.operations());
    assert_eq!(
        field(nodes.get_node(GetNodeRequest::default()).await),
        "node"
    );
    let long = GetNodeRequest {
        node: "n".repeat(257),
    };
    assert_eq!(field(nodes.get_node(long).await), "node");
    let absent = GetNodeRequest {
        node: "node-2".into(),
    };
    assert_eq!(
        refused(nodes.get_node(absent).await),
        (Code::NotFound, "NOT_FOUND".into())
    );
    for operation in ["", "x", "0190D6B4-6F5E-7C3A-8B1E-2F6D1C9A0B11"] {
        let request = GetOperationRequest {
            operation: operation.into(),
        };
        assert_eq!(field(operations.get_operation(request).await), "operation");
    }
    let token = ListNodesRequest {
        page_size: 1,
        page_token: "tampered".into(),
    };
    assert_eq!(field(nodes.list_nodes(token).await), "page_token");
    let list = ListOperationsRequest {
        instance: "i".repeat(257),
        ..Default::default()
    };
    assert_eq!(field(operations.list_operations(list).await), "instance");
    let cordon = |reason: &str, request_id: &str| CordonNodeRequest {
        node: "node-1".into(),
        reason: reason.into(),
        request_id: request_id.into(),
    };
    assert_eq!(field(nodes.cordon_node(cordon("a\nb", "")).await), "reason");
    assert_eq!(
        field(nodes.cordon_node(cordon(&"r".repeat(257), "")).await),
        "reason"
    );
    assert_eq!(
        field(nodes.cordon_node(cordon("", "a\0b")).await),
        "request_id"
    );
    assert_eq!(
        field(nodes.cordon_node(cordon("", &"r".repeat(129))).await),
        "request_id"
    );
}

/// FAULTS 33 and 34 at the API: the same request again has one effect; other content is refused.
#[tokio::test]
async fn a_request_id_means_one_request() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let cordon = |reason: &str| CordonNodeRequest {
        node: "node-1".into(),
        reason: reason.into(),
        request_id: "req-1".into(),
    };
    let mut nodes = lab.nodes();
    let first = nodes.cordon_node(cordon("fan")).await.unwrap().into_inner();
    let head = lab.api.ledger.snapshot().head;
    assert_eq!(
        nodes.cordon_node(cordon("fan")).await.unwrap().into_inner(),
        first
    );
    assert_eq!(lab.api.ledger.snapshot().head, head, "nothing was written");
    let reused = refused(nodes.cordon_node(cordon("disk")).await);
    assert_eq!(reused, (Code::InvalidArgument, "REQUEST_ID_REUSED".into()));
    assert_eq!(first.cordon_reason, "fan");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let names: Vec<_> = (1..=5).map(|number| format!("node-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let lab = Lab::new().await.with_nodes(&names).await;
    let (mut shown, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = ListNodesRequest {
            page_size: 2,
            page_token,
        };
        let page = lab.nodes().list_nodes(request).await.unwrap().into_inner();
        shown.extend(page.nodes.into_iter().map(|node| node.name));
        (page_token, pages) = (page.next_page_token, pages + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        (shown, pages),
        (names.iter().map(ToString::to_string).collect(), 3)
    );
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let lab = Lab::new().await;
    let mut health = HealthClient::new(lab.li_wei.channel.clone());
    for service in [
        "",
        "kapok.fabric.v1.InstanceService",
        "kapok.agent.v1.PeerService",
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        assert_eq!(
            health.check(request).await.unwrap().into_inner().status,
            1,
            "{service}"
        );
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(lab.li_wei.channel.clone());
    let request = futures::stream::iter([request]);
    let mut answers = client
        .server_reflection_info(request)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in ["Node", "Instance", "Image", "Operation", "Event"] {
        assert!(
            names.contains(&&*format!("kapok.fabric.v1.{service}Service")),
            "{names:?}"
        );
    }
}

/// FAULTS 26: no request of people has a field that binds an instance to a node or a UUID.
#[test]
fn no_request_sets_an_internal_binding() {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = set
        .file
        .iter()
        .filter(|file| file.package() == "kapok.fabric.v1")
        // A server that joins says who it is; people don't reach that service.
        .filter(|file| !file.name().ends_with("/enroll.proto"));
    let requests = ours.flat_map(|file| &file.message_type).filter(|message| {
        message.name().ends_with("Request") || message.name() == "ImportImageHeader"
    });
    let fields: Vec<_> = requests
        .flat_map(|message| {
            message
                .field
                .iter()
                .map(|field| (message.name(), field.name()))
        })
        .collect();
    assert!(fields.len() > 40, "the descriptors were read");
    for (message, field) in fields {
        let internal = [
            "id",
            "uuid",
            "node_id",
            "instance_id",
            "incarnation_id",
            "generation",
            "epoch",
            "claim",
            "assignment",
            "surplus",
            "owner",
            "created_by",
        ];
        // Who answers for a business system is a text for people.
        let told = field == "owner" && message.ends_with("SystemRequest");
        assert!(told || !internal.contains(&field), "{message}.{field}");
    }
    // What an instance needs of its node is said in kinds and counts, and nothing of a node's own:
    // no thread, no cell's number, no device's address.
    let mut all = set.file.iter().flat_map(|file| &file.message_type);
    let needs = all.find(|message| message.name() == "Needs").unwrap();
    let names = needs
        .field
        .iter()
        .map(prost_types::FieldDescriptorProto::name);
    let fields: Vec<_> = names.collect();
    let known = [
        "dedicated_cpus",
        "huge_pages",
        "cells",
        "cpu_features",
        "devices",
        "pool",
        "network",
        "labels",
    ];
    assert_eq!(fields, known);
}

/// What came without a request id is not remembered: nobody can ask for it again.
#[tokio::test]
async fn a_missing_request_id_is_not_made_up() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let cordon = |request_id: &str| CordonNodeRequest {
        node: "node-1".into(),
        reason: String::new(),
        request_id: request_id.into(),
    };
    lab.nodes().cordon_node(cordon("")).await.unwrap();
    assert!(lab.api.ledger.snapshot().fabric.requests.is_empty());
    lab.nodes().cordon_node(cordon("mine")).await.unwrap();
    assert_eq!(lab.api.ledger.snapshot().fabric.requests.len(), 1);
}
