//! A walk over every method of the API: each knows who asks, and each asks whether they may.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _};
use kapok_proto::fabric::v1::{self as wire, explain_instance_request::Question};
use kapok_scheduler::Domain;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::*;
use crate::{authz::Action, fabric::group::Kind};

/// What a method wants of its caller, with a message that gets as far as being refused.
enum Wants {
    /// A change: an auditor sees the object and is refused this action.
    Change(Action, Vec<u8>),
    /// A question about one thing: for whoever may see nothing, it isn't there.
    See(Vec<u8>),
    /// The same, asked of a node's agent; there are none here.
    Ask(Vec<u8>),
    /// A question about the fabric: whoever may see nothing is refused this action.
    Read(Action, Vec<u8>),
    /// A list of what may be seen: for whoever may see nothing, it is empty.
    List,
    /// Everybody's own.
    Own,
    /// A ticket that was asked for before.
    Ticket,
}

use Wants::{Ask, Change, List, Own, Read, See, Ticket};

/// Every method that people reach. One that isn't here isn't known to authorize.
fn methods(operation: &str) -> BTreeMap<&'static str, Wants> {
    let node = || "node-1".to_owned();
    let instance = || "web-1".to_owned();
    let image = || "base".to_owned();
    let flavor = || "small".to_owned();
    let system = || "default".to_owned();
    let group = || "web".to_owned();
    let mask = |path: &str| prost_types::FieldMask {
        paths: vec![path.to_owned()],
    };
    let operation = || operation.to_owned();
    let user = || "user/li-wei".to_owned();
    macro_rules! message {
        ($name:ident { $($field:ident: $value:expr),* }) => {{
            #[allow(clippy::needless_update, reason = "some have no other fields")]
            wire::$name { $($field: $value,)* ..Default::default() }.encode_to_vec()
        }};
    }
    let header = wire::ImportImageHeader {
        name: "new".into(),
        format: kapok_proto::common::v1::DiskFormat::Raw.into(),
        size_bytes: 1,
        tenant: "city".into(),
        ..wire::ImportImageHeader::default()
    };
    let header = wire::ImportImageRequest {
        part: Some(wire::import_image_request::Part::Header(header)),
    };
    let explain = wire::ExplainInstanceRequest {
        question: Some(Question::Instance(instance())),
    };
    BTreeMap::from([
        (
            "ControllerService/ListControllers",
            Read(Action::ControllerList, Vec::new()),
        ),
        (
            "ControllerService/StepDown",
            Change(Action::ControllerStepDown, Vec::new()),
        ),
        (
            "NodeService/GetNode",
            See(message!(GetNodeRequest { node: node() })),
        ),
        ("NodeService/ListNodes", Read(Action::NodeList, Vec::new())),
        (
            "NodeService/GetNodeHealth",
            Ask(message!(GetNodeHealthRequest { node: node() })),
        ),
        (
            "NodeService/ListNodeHealth",
            Read(Action::NodeList, Vec::new()),
        ),
        (
            "NodeService/GetNodeInventory",
            Ask(message!(GetNodeInventoryRequest { node: node() })),
        ),
        (
            "NodeService/ReleaseNode",
            Change(
                Action::NodeRelease,
                message!(ReleaseNodeRequest {
                    node: node(),
                    reason: "meant".into()
                }),
            ),
        ),
        (
            "NodeService/EndNodeRelease",
            Change(
                Action::NodeRelease,
                message!(EndNodeReleaseRequest { node: node() }),
            ),
        ),
        (
            "NodeService/ListDifferences",
            Read(Action::NodeList, Vec::new()),
        ),
        (
            "NodeService/AdoptNode",
            Change(
                Action::NodeAdopt,
                message!(AdoptNodeRequest {
                    node: node(),
                    etag: "0".into()
                }),
            ),
        ),
        (
            "NodeService/CordonNode",
            Change(
                Action::NodeCordon,
                message!(CordonNodeRequest { node: node() }),
            ),
        ),
        (
            "NodeService/UncordonNode",
            Change(
                Action::NodeUncordon,
                message!(UncordonNodeRequest { node: node() }),
            ),
        ),
        (
            "NodeService/UpdateNode",
            Change(
                Action::NodeUpdate,
                message!(UpdateNodeRequest {
                    node: node(),
                    vcpu_overcommit_permille: Some(2000)
                }),
            ),
        ),
        (
            "NodeService/RebindNode",
            Change(
                Action::NodeRebind,
                message!(RebindNodeRequest { node: node() }),
            ),
        ),
        (
            "NodeService/RevokeNode",
            Change(
                Action::NodeRevoke,
                message!(RevokeNodeRequest { node: node() }),
            ),
        ),
        (
            "NodeService/DeleteNode",
            Change(
                Action::NodeDelete,
                message!(DeleteNodeRequest { node: node() }),
            ),
        ),
        (
            "InstanceService/CreateInstance",
            Change(
                Action::InstanceCreate,
                message!(CreateInstanceRequest {
                    name: "web-2".into(),
                    image: image(),
                    vcpus: 1,
                    memory_mib: 64
                }),
            ),
        ),
        (
            "InstanceService/CreateInstances",
            Change(
                Action::InstanceCreate,
                message!(CreateInstancesRequest {
                    instances: vec![wire::CreateInstanceRequest {
                        name: "web-2".into(),
                        image: image(),
                        vcpus: 1,
                        memory_mib: 64,
                        ..wire::CreateInstanceRequest::default()
                    }]
                }),
            ),
        ),
        (
            "InstanceService/UpdateInstance",
            Change(
                Action::InstanceUpdate,
                message!(UpdateInstanceRequest {
                    instance: instance(),
                    update_mask: Some(mask("system")),
                    system: system()
                }),
            ),
        ),
        (
            "InstanceService/GetInstance",
            See(message!(GetInstanceRequest {
                instance: instance()
            })),
        ),
        ("InstanceService/ListInstances", List),
        (
            "InstanceService/StartInstance",
            Change(
                Action::InstanceStart,
                message!(StartInstanceRequest {
                    instance: instance()
                }),
            ),
        ),
        (
            "InstanceService/StopInstance",
            Change(
                Action::InstanceStop,
                message!(StopInstanceRequest {
                    instance: instance()
                }),
            ),
        ),
        (
            "InstanceService/RestartInstance",
            Change(
                Action::InstanceRestart,
                message!(RestartInstanceRequest {
                    instance: instance()
                }),
            ),
        ),
        (
            "InstanceService/ResizeInstance",
            Change(
                Action::InstanceResize,
                message!(ResizeInstanceRequest {
                    instance: instance(),
                    vcpus: 2
                }),
            ),
        ),
        (
            "InstanceService/DeleteInstance",
            Change(
                Action::InstanceDelete,
                message!(DeleteInstanceRequest {
                    instance: instance()
                }),
            ),
        ),
        (
            "InstanceService/ExplainInstance",
            See(explain.encode_to_vec()),
        ),
        (
            "InstanceService/CreateConsoleTicket",
            Change(
                Action::InstanceConsole,
                message!(CreateConsoleTicketRequest {
                    instance: instance()
                }),
            ),
        ),
        ("InstanceService/OpenConsole", Ticket),
        (
            "ImageService/ImportImage",
            Change(Action::ImageImport, header.encode_to_vec()),
        ),
        (
            "ImageService/GetImage",
            See(message!(GetImageRequest { image: image() })),
        ),
        ("ImageService/ListImages", List),
        (
            "ImageService/DeleteImage",
            Change(
                Action::ImageDelete,
                message!(DeleteImageRequest { image: image() }),
            ),
        ),
        (
            "OperationService/GetOperation",
            See(message!(GetOperationRequest {
                operation: operation()
            })),
        ),
        ("OperationService/ListOperations", List),
        (
            "OperationService/WatchOperation",
            See(message!(WatchOperationRequest {
                operation: operation()
            })),
        ),
        (
            "OperationService/CancelOperation",
            Change(
                Action::OperationCancel,
                message!(CancelOperationRequest {
                    operation: operation()
                }),
            ),
        ),
        (
            "EventService/WatchEvents",
            Read(Action::EventWatch, Vec::new()),
        ),
        (
            "SystemService/CreateSystem",
            Change(
                Action::SystemCreate,
                message!(CreateSystemRequest {
                    name: "billing".into()
                }),
            ),
        ),
        (
            "SystemService/GetSystem",
            See(message!(GetSystemRequest { system: system() })),
        ),
        (
            "UsageService/ListUsage",
            See(message!(ListUsageRequest {
                tenant: "city".into()
            })),
        ),
        (
            "UsageService/ListIdleInstances",
            See(message!(ListIdleInstancesRequest {
                tenant: "city".into()
            })),
        ),
        ("ReportService/GetPoolingReport", See(Vec::new())),
        ("SystemService/ListSystems", List),
        (
            "SystemService/UpdateSystem",
            Change(
                Action::SystemUpdate,
                message!(UpdateSystemRequest {
                    system: system(),
                    update_mask: Some(mask("owner"))
                }),
            ),
        ),
        (
            "SystemService/DeleteSystem",
            Change(
                Action::SystemDelete,
                message!(DeleteSystemRequest { system: system() }),
            ),
        ),
        (
            "GroupService/CreateGroup",
            Change(
                Action::GroupCreate,
                message!(CreateGroupRequest {
                    name: "db".into(),
                    kind: wire::GroupKind::Apart.into(),
                    domain: wire::GroupDomain::Node.into()
                }),
            ),
        ),
        (
            "GroupService/GetGroup",
            See(message!(GetGroupRequest { group: group() })),
        ),
        ("GroupService/ListGroups", List),
        (
            "GroupService/DeleteGroup",
            Change(
                Action::GroupDelete,
                message!(DeleteGroupRequest { group: group() }),
            ),
        ),
        (
            "FlavorService/CreateFlavor",
            Change(
                Action::FlavorCreate,
                message!(CreateFlavorRequest {
                    name: "large".into(),
                    vcpus: 1,
                    memory_mib: 64
                }),
            ),
        ),
        (
            "FlavorService/GetFlavor",
            See(message!(GetFlavorRequest { flavor: flavor() })),
        ),
        (
            "FlavorService/ListFlavors",
            Read(Action::FlavorList, Vec::new()),
        ),
        (
            "FlavorService/UpdateFlavor",
            Change(
                Action::FlavorUpdate,
                message!(UpdateFlavorRequest {
                    flavor: flavor(),
                    vcpus: 3,
                    update_mask: Some(mask("vcpus"))
                }),
            ),
        ),
        (
            "FlavorService/DeleteFlavor",
            Change(
                Action::FlavorDelete,
                message!(DeleteFlavorRequest { flavor: flavor() }),
            ),
        ),
        (
            "CapacityService/GetCapacity",
            Read(Action::CapacityGet, Vec::new()),
        ),
        (
            "PlanService/ComputePlan",
            // Of the refused, an auditor is one: it's for those who could carry it out.
            Change(
                Action::PlanCompute,
                message!(ComputePlanRequest {
                    kind: wire::PlanKind::Rebalance.into()
                }),
            ),
        ),
        (
            "TenantService/CreateTenant",
            Change(
                Action::TenantCreate,
                message!(CreateTenantRequest {
                    name: "water".into()
                }),
            ),
        ),
        (
            "TenantService/GetTenant",
            See(message!(GetTenantRequest {
                tenant: "city".into()
            })),
        ),
        (
            "TenantService/UpdateTenant",
            Change(
                Action::TenantUpdate,
                message!(UpdateTenantRequest {
                    tenant: "city".into(),
                    update_mask: Some(mask("contacts"))
                }),
            ),
        ),
        (
            "TenantService/DeleteTenant",
            Change(
                Action::TenantDelete,
                message!(DeleteTenantRequest {
                    tenant: "city".into()
                }),
            ),
        ),
        (
            "TenantService/ListTenants",
            Read(Action::TenantList, Vec::new()),
        ),
        (
            "UserService/CreateUser",
            Change(
                Action::UserCreate,
                message!(CreateUserRequest {
                    subject: "user/new".into()
                }),
            ),
        ),
        (
            "UserService/GetUser",
            See(message!(GetUserRequest { user: user() })),
        ),
        ("UserService/ListUsers", Read(Action::UserList, Vec::new())),
        (
            "UserService/UpdateUser",
            Change(
                Action::UserUpdate,
                message!(UpdateUserRequest {
                    user: user(),
                    disabled: Some(true)
                }),
            ),
        ),
        (
            "UserService/DeleteUser",
            Change(
                Action::UserDelete,
                message!(DeleteUserRequest { user: user() }),
            ),
        ),
        (
            "TokenService/CreateToken",
            Change(
                Action::TokenCreate,
                message!(CreateTokenRequest { subject: user() }),
            ),
        ),
        (
            "TokenService/ListTokens",
            Read(Action::TokenList, Vec::new()),
        ),
        (
            "TokenService/DeleteToken",
            Change(
                Action::TokenDelete,
                message!(DeleteTokenRequest {
                    token: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into()
                }),
            ),
        ),
        ("CertificateService/RenewCertificate", Own),
        (
            "CertificateService/ListCertificates",
            Read(Action::CertificateList, Vec::new()),
        ),
        (
            "CertificateService/RevokeCertificate",
            Change(
                Action::CertificateRevoke,
                message!(RevokeCertificateRequest {
                    serial: fixture::serial(1).to_string()
                }),
            ),
        ),
        (
            "CertificateService/ListAuthorities",
            Read(Action::AuthorityList, Vec::new()),
        ),
        (
            "CertificateService/RotateAuthority",
            Change(Action::AuthorityRotate, Vec::new()),
        ),
        ("AuthService/WhoAmI", Own),
        ("AuthService/ExplainAccess", Own),
        (
            "AuditService/ListAudit",
            Read(Action::AuditRead, Vec::new()),
        ),
        (
            "AuditService/ExportAudit",
            Read(Action::AuditExport, Vec::new()),
        ),
        (
            "AuditService/VerifyAudit",
            Read(Action::AuditVerify, Vec::new()),
        ),
    ])
}

/// Served on another port, to whoever has no certificate yet.
const ENROLL: &str = "EnrollService";
/// For controllers among each other.
const FOLLOWER: &str = "FollowerService";

/// The methods of people's services, by the descriptors that the server was built from.
fn described() -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files = set.file.into_iter();
    let files = files.filter(|file| file.package() == "kapok.fabric.v1");
    let services = files.flat_map(|file| file.service);
    let methods = services.flat_map(|service| {
        let of = service.name().to_owned();
        let methods = service.method.into_iter();
        methods.map(move |method| format!("{of}/{}", method.name()))
    });
    methods
        .filter(|method| !method.starts_with(ENROLL) && !method.starts_with(FOLLOWER))
        .collect()
}

/// Bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}

/// Calls a method with one message. How long the first answer is, if there is one.
async fn call(who: &Clients, method: &str, message: &[u8]) -> Result<Option<usize>, Status> {
    let package = if method.starts_with("PeerService") {
        "kapok.agent.v1"
    } else {
        "kapok.fabric.v1"
    };
    let path = format!("/{package}.{method}").parse().unwrap();
    let mut client = tonic::client::Grpc::new(who.channel.clone());
    client.ready().await.unwrap();
    let messages = tonic::Request::new(futures::stream::iter([message.to_vec()]));
    let answer = client.streaming(messages, path, Raw);
    soon(answer).await?.into_inner().message().await
}

struct World {
    lab: Lab,
    methods: BTreeMap<&'static str, Wants>,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::new().await.with_nodes(&["node-1"]).await;
        instances::on_a_node(&lab, "web-1").await;
        lab.own(fixture::flavor("small", &[])).await;
        let (kind, domain) = (Kind::Apart, Domain::Node);
        lab.own(fixture::group("city", "web", kind, domain)).await;
        let snapshot = lab.api.ledger.snapshot();
        let operation = snapshot.fabric.operations.keys().next().unwrap();
        let methods = methods(&operation.to_string());
        Self { lab, methods }
    }
}

fn message(wants: &Wants) -> &[u8] {
    match wants {
        Change(_, message) | See(message) | Ask(message) | Read(_, message) => message,
        List | Own | Ticket => &[],
    }
}

#[test]
fn every_method_is_known_to_authorize() {
    let known: Vec<String> = methods("").into_keys().map(str::to_owned).collect();
    let mut described = described();
    described.sort();
    assert_eq!(known, described);
}

/// FAULTS 22 and 23: a node's certificate opens nothing of people's; nor does none.
#[tokio::test]
async fn no_method_answers_nodes_or_strangers() {
    let World { lab, methods } = World::new().await;
    let node = lab.of(&format!("node/{}", fixture::node_id(1)));
    let anonymous = connect(&lab.dial, Peer::anonymous(None));
    let stranger = lab.of("user/stranger");
    for (method, wants) in &methods {
        let message = message(wants);
        assert_eq!(
            refused(call(&node, method, message).await),
            (Code::PermissionDenied, "NOT_A_PERSON".into()),
            "{method}"
        );
        assert_eq!(
            refused(call(&anonymous, method, message).await),
            (Code::Unauthenticated, "NO_CERTIFICATE".into()),
            "{method}"
        );
        if *method != "AuthService/WhoAmI" {
            assert_eq!(
                refused(call(&stranger, method, message).await),
                (Code::Unauthenticated, "UNKNOWN_USER".into()),
                "{method}"
            );
        }
    }
    // And the other way round.
    let peer = call(&lab, "PeerService/ReadBlob", &[]).await;
    assert_eq!(refused(peer), (Code::PermissionDenied, "NOT_A_NODE".into()));
    for method in ["GetAuthorityKey", "ReadFile", "RenewController", "Report"] {
        for who in [&*lab, &node, &anonymous] {
            let answer = call(who, &format!("FollowerService/{method}"), &[]).await;
            let refusal = (Code::PermissionDenied, "NOT_A_CONTROLLER".into());
            assert_eq!(refused(answer), refusal, "{method}");
        }
    }
}

#[tokio::test]
async fn every_method_asks_whether_the_caller_may() {
    let World { lab, methods } = World::new().await;
    let nobody = lab.user("user/nobody", &[]).await;
    let auditor = lab.of("user/auditor");
    let action = |status: &Status| {
        use tonic_types::StatusExt as _;
        let details = status.get_details_error_info();
        details.and_then(|info| info.metadata.get("action").cloned())
    };
    for (method, wants) in &methods {
        let before = lab.api.audit.refusals.total();
        let noted = || lab.api.audit.refusals.total() - before;
        match wants {
            Change(wanted, message) => {
                let status = call(&auditor, method, message).await.expect_err(method);
                assert_eq!(
                    status.code(),
                    Code::PermissionDenied,
                    "{method}: {status:?}"
                );
                assert_eq!(
                    action(&status).as_deref(),
                    Some(wanted.as_str()),
                    "{method}"
                );
                assert_eq!(noted(), 1, "{method}");
                assert!(call(&nobody, method, message).await.is_err(), "{method}");
                assert_eq!(noted(), 2, "{method}");
            }
            Read(wanted, message) => {
                let status = call(&nobody, method, message).await.expect_err(method);
                assert_eq!(
                    status.code(),
                    Code::PermissionDenied,
                    "{method}: {status:?}"
                );
                assert_eq!(
                    action(&status).as_deref(),
                    Some(wanted.as_str()),
                    "{method}"
                );
                assert_eq!(noted(), 1, "{method}");
            }
            See(message) => {
                let refusal = refused(call(&nobody, method, message).await);
                assert_eq!(refusal, (Code::NotFound, "NOT_FOUND".into()), "{method}");
                assert_eq!(noted(), 1, "{method}");
                assert!(call(&auditor, method, message).await.is_ok(), "{method}");
            }
            Ask(message) => {
                let refusal = refused(call(&nobody, method, message).await);
                assert_eq!(refusal, (Code::NotFound, "NOT_FOUND".into()), "{method}");
                assert_eq!(noted(), 1, "{method}");
                let refusal = refused(call(&auditor, method, message).await);
                let unreachable = (Code::Unavailable, "NODE_UNREACHABLE".into());
                assert_eq!(refusal, unreachable, "{method}");
            }
            List => {
                let length = call(&nobody, method, &[]).await.unwrap();
                assert_eq!(length, Some(0), "{method} shows something");
                assert_ne!(call(&lab, method, &[]).await.unwrap(), Some(0), "{method}");
            }
            Ticket => {
                let refusal = refused(call(&nobody, method, &[]).await);
                assert_eq!(refusal.0, Code::Unauthenticated, "{method}");
            }
            Own => {
                let denied = call(&nobody, method, &[]).await;
                let code = denied.err().map(|status| status.code());
                assert_ne!(code, Some(Code::PermissionDenied), "{method}");
            }
        }
    }
}
