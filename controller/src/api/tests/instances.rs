use kapok_proto::{
    common::v1 as common,
    fabric::v1::{
        CancelOperationRequest, CreateConsoleTicketRequest, CreateInstanceRequest,
        DeleteInstanceRequest, ExplainInstanceRequest, GetInstanceRequest, GetNodeRequest,
        Instance, ListInstancesRequest, ListOperationsRequest, NodeState, OpenConsoleRequest,
        Operation, OperationKind, OperationState, ResizeInstanceRequest, RestartInstanceRequest,
        StopInstanceRequest, WatchOperationRequest, explain_instance_request::Question,
    },
};
use kapok_types::{
    Epoch, Generation,
    instance::Counters,
    phase::{Phase, Status as Report},
};

use super::*;
use crate::fabric::OperationOutcome;

async fn lab(nodes: &[&str]) -> Lab {
    let lab = Lab::new().await.with_nodes(nodes).await;
    import_base(&lab).await;
    lab
}

pub(super) async fn import_base(lab: &Lab) {
    let (bytes, raw) = (vec![0; 2 << 20], common::DiskFormat::Raw);
    images::import(lab, images::header("base", raw, &bytes), &bytes)
        .await
        .unwrap();
}

/// A new instance with its image.
pub(super) async fn on_a_node(lab: &Lab, name: &str) -> Instance {
    import_base(lab).await;
    create(lab, wish(name)).await.unwrap();
    get(lab, name).await
}

pub(super) fn wish(name: &str) -> CreateInstanceRequest {
    CreateInstanceRequest {
        name: name.into(),
        image: "base".into(),
        vcpus: 2,
        memory_mib: 1024,
        ..CreateInstanceRequest::default()
    }
}

async fn create(lab: &Lab, wish: CreateInstanceRequest) -> Result<Operation, Status> {
    Ok(lab.instances().create_instance(wish).await?.into_inner())
}

async fn get(lab: &Lab, name: &str) -> Instance {
    let request = GetInstanceRequest {
        instance: name.into(),
    };
    lab.instances()
        .get_instance(request)
        .await
        .unwrap()
        .into_inner()
}

/// An agent's word on an instance's first incarnation.
fn report(lab: &Lab, instance: &Instance, phase: Phase) {
    let one = &instance.incarnations[0];
    let status = Report {
        incarnation: one.id.parse().unwrap(),
        instance: instance.id.parse().unwrap(),
        generation: Generation(1),
        epoch: Epoch(1),
        phase,
        done: Counters::default(),
        ended: None,
        progress_permille: Some(420),
        guest_agent: true,
        drift: Vec::new(),
        detail: "pulling sha256:…".into(),
        size: None,
        resize_pending: false,
        assignment: None,
    };
    lab.api.observed.put(
        &one.node_name.parse().unwrap(),
        one.node_id.parse().unwrap(),
        status,
        true,
    );
}

#[tokio::test]
async fn without_nodes_nothing_fits_and_the_answer_says_so() {
    let lab = lab(&[]).await;
    let status = create(&lab, wish("web-1")).await.unwrap_err();
    assert_eq!(status.message(), "the fabric has no nodes");
    assert_eq!(
        refused::<()>(Err(status)),
        (Code::ResourceExhausted, "NO_CAPACITY".into())
    );
    let request = ExplainInstanceRequest {
        question: Some(Question::Create(wish("web-1"))),
    };
    let why = lab
        .instances()
        .explain_instance(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (why.node_name.as_str(), why.summary.as_str()),
        ("", "the fabric has no nodes")
    );
}

/// FAULTS 28: zero, overflowing and out-of-limit numbers, and names that aren't there.
#[tokio::test]
async fn a_bad_wish_creates_nothing() {
    let lab = lab(&["node-1"]).await;
    let bad = |change: fn(&mut CreateInstanceRequest)| {
        let mut wish = wish("web-1");
        change(&mut wish);
        wish
    };
    for (wish, expected) in [
        (bad(|wish| wish.vcpus = 0), "vcpus"),
        (bad(|wish| wish.vcpus = u32::MAX), "vcpus"),
        (bad(|wish| wish.memory_mib = 0), "memory_mib"),
        (bad(|wish| wish.memory_mib = u64::MAX), "memory_mib"),
        (bad(|wish| wish.root_disk_bytes = 1), "root_disk_bytes"),
        (
            bad(|wish| wish.root_disk_bytes = u64::MAX),
            "root_disk_bytes",
        ),
        (bad(|wish| wish.name = "x</name><devices>".into()), "name"),
        (bad(|wish| wish.image = String::new()), "image"),
        (bad(|wish| wish.run_policy = 77), "run_policy"),
    ] {
        assert_eq!(field(create(&lab, wish).await), expected);
    }
    let absent = refused(create(&lab, bad(|wish| wish.image = "nothing".into())).await);
    assert_eq!(absent, (Code::NotFound, "NOT_FOUND".into()));
    let large = create(&lab, bad(|wish| wish.vcpus = 5)).await.unwrap_err();
    assert!(
        large.message().contains("node-1: vCPUs 4 free of 5 asked"),
        "{}",
        large.message()
    );
    let list = lab
        .instances()
        .list_instances(ListInstancesRequest::default())
        .await
        .unwrap();
    assert!(list.into_inner().instances.is_empty());
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let lab = lab(&["node-1"]).await;
    let head = lab.api.ledger.snapshot().head;
    let dry = CreateInstanceRequest {
        validate_only: true,
        ..wish("web-1")
    };
    let operation = create(&lab, dry).await.unwrap();
    assert_eq!(
        (operation.id.as_str(), operation.instance_name.as_str()),
        ("", "web-1")
    );
    assert_eq!(operation.detail, "would be placed on node-1");
    let bad = CreateInstanceRequest {
        validate_only: true,
        vcpus: 5,
        ..wish("web-1")
    };
    assert_eq!(refused(create(&lab, bad).await).1, "NO_CAPACITY");
    assert_eq!(lab.api.ledger.snapshot().head, head);
}

/// *Unreachable* is never *dead*: what isn't known is shown as unknown.
#[tokio::test]
async fn an_instance_stands_where_its_agent_says() {
    let lab = lab(&["node-1"]).await;
    create(&lab, wish("web-1")).await.unwrap();
    let phase = |instance: &Instance| instance.phase();
    let fresh = get(&lab, "web-1").await;
    assert_eq!(phase(&fresh), common::Phase::Pending);
    assert_eq!(fresh.incarnations[0].claim_memory_mib, 1024 + 4 + 16 + 128);
    report(&lab, &fresh, Phase::Running);
    let running = get(&lab, &fresh.id).await;
    assert_eq!(
        (phase(&running), running.guest_agent),
        (common::Phase::Running, true)
    );
    lab.own(Command::LoseNode {
        node: "node-1".parse().unwrap(),
        reason: "silence".into(),
    })
    .await;
    let lost = get(&lab, "web-1").await;
    assert_eq!(
        (phase(&lost), lost.guest_agent),
        (common::Phase::Unknown, false)
    );
    assert_eq!(
        lost.detail,
        "node-1 doesn't answer; it was last seen running"
    );
    let node = GetNodeRequest {
        node: "node-1".into(),
    };
    let node = lab.nodes().get_node(node).await.unwrap().into_inner();
    assert_eq!((node.state(), node.instances), (NodeState::Unreachable, 1));
    assert_eq!(node.vcpus.unwrap().free, 2);
}

/// What is wrong with a node that answers is said, one by one.
#[tokio::test]
async fn a_node_in_trouble_is_degraded_not_dead() {
    use kapok_proto::agent::v1::HeartbeatResponse;
    let lab = lab(&["node-1"]).await;
    let name = "node-1".parse().unwrap();
    lab.report(1, "node-1", true).await;
    lab.api.observed.heard(
        &name,
        &HeartbeatResponse {
            quarantined: vec!["x".into()],
            ..HeartbeatResponse::default()
        },
    );
    let node = GetNodeRequest {
        node: "node-1".into(),
    };
    let node = lab.nodes().get_node(node).await.unwrap().into_inner();
    assert_eq!(node.state(), NodeState::Degraded);
    for word in ["full intent", "hypervisor doesn't answer", "quarantined: x"] {
        assert!(
            node.detail.contains(word),
            "{:?} lacks {word:?}",
            node.detail
        );
    }
    assert!(node.heartbeat_age_ms.is_some());
}

#[tokio::test]
async fn an_operation_is_watched_to_its_end() {
    let lab = lab(&["node-1"]).await;
    let operation = create(&lab, wish("web-1")).await.unwrap();
    let request = WatchOperationRequest {
        operation: operation.id.clone(),
    };
    let mut watch = lab
        .operations()
        .watch_operation(request)
        .await
        .unwrap()
        .into_inner();
    let first = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(
        (first.state(), first.detail.as_str()),
        (OperationState::Running, "pending")
    );
    report(&lab, &get(&lab, "web-1").await, Phase::Pulling);
    let second = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(second.progress_permille, Some(420));
    lab.own(Command::EndOperation {
        operation: operation.id.parse().unwrap(),
        outcome: OperationOutcome::Succeeded,
        detail: String::new(),
    })
    .await;
    let last = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(
        (last.state(), last.progress_permille),
        (OperationState::Succeeded, Some(1000))
    );
    assert_eq!(soon(watch.message()).await.unwrap(), None);
    let cancel = CancelOperationRequest {
        operation: operation.id,
        request_id: String::new(),
    };
    let ended = refused(lab.operations().cancel_operation(cancel).await);
    assert_eq!(ended, (Code::FailedPrecondition, "OPERATION_ENDED".into()));
}

#[tokio::test]
async fn changes_answer_with_operations() {
    let lab = lab(&["node-1", "node-2"]).await;
    create(&lab, wish("web-1")).await.unwrap();
    create(
        &lab,
        CreateInstanceRequest {
            vcpus: 4,
            ..wish("web-2")
        },
    )
    .await
    .unwrap();
    let named = |instance: &str| (instance.to_owned(), String::new());
    let (instance, request_id) = named("web-1");
    let stop = StopInstanceRequest {
        instance,
        request_id,
    };
    let stopped = lab
        .instances()
        .stop_instance(stop)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stopped.generation, 2);
    let (instance, request_id) = named("web-1");
    let restart = RestartInstanceRequest {
        instance,
        request_id,
    };
    let refusal = refused(lab.instances().restart_instance(restart).await);
    assert_eq!(refusal, (Code::FailedPrecondition, "NOT_RUNNING".into()));

    let list = ListOperationsRequest {
        instance: "web-1".into(),
        ..Default::default()
    };
    let all = lab
        .operations()
        .list_operations(list)
        .await
        .unwrap()
        .into_inner()
        .operations;
    let states: Vec<_> = all
        .iter()
        .map(|one| (one.generation, one.state()))
        .collect();
    assert_eq!(
        states,
        [
            (2, OperationState::Running),
            (1, OperationState::Superseded)
        ]
    );
    let running = ListOperationsRequest {
        running_only: true,
        ..Default::default()
    };
    let running = lab
        .operations()
        .list_operations(running)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(running.operations.len(), 2);

    for (node, expected) in [("node-1", "web-1"), ("node-2", "web-2")] {
        let request = ListInstancesRequest {
            node: node.into(),
            ..Default::default()
        };
        let there = lab
            .instances()
            .list_instances(request)
            .await
            .unwrap()
            .into_inner();
        let names: Vec<_> = there
            .instances
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, [expected]);
    }
    let delete = |etag: &str| DeleteInstanceRequest {
        instance: "web-1".into(),
        request_id: String::new(),
        etag: etag.into(),
    };
    let stale = refused(lab.instances().delete_instance(delete("old")).await);
    assert_eq!(stale, (Code::Aborted, "STALE_ETAG".into()));
    let etag = get(&lab, "web-1").await.etag;
    lab.instances()
        .delete_instance(delete(&etag))
        .await
        .unwrap();
    let gone = get(&lab, "web-1").await;
    assert!(gone.deleting && gone.phase() == common::Phase::Deleting);
}

/// A resize over the wire: a dry run changes nothing, an etag is asked, the node's room is said, and
/// what is in effect stands beside what is meant.
#[tokio::test]
async fn a_resize_is_an_operation() {
    let lab = lab(&["node-1"]).await;
    create(&lab, wish("web-1")).await.unwrap();
    let before = get(&lab, "web-1").await;
    let resize = |vcpus| ResizeInstanceRequest {
        instance: "web-1".into(),
        vcpus,
        ..Default::default()
    };
    let dry = ResizeInstanceRequest {
        validate_only: true,
        ..resize(2)
    };
    let would_be = lab.instances().resize_instance(dry).await.unwrap();
    let would_be = would_be.into_inner();
    assert_eq!(
        (would_be.id.as_str(), would_be.kind()),
        ("", OperationKind::Resize)
    );
    assert_eq!(get(&lab, "web-1").await.etag, before.etag);

    let stale = ResizeInstanceRequest {
        etag: "old".into(),
        ..resize(2)
    };
    let stale = refused(lab.instances().resize_instance(stale).await);
    assert_eq!(stale, (Code::Aborted, "STALE_ETAG".into()));
    let large = refused(lab.instances().resize_instance(resize(500)).await);
    assert_eq!(large, (Code::ResourceExhausted, "NO_ROOM".into()));

    let fresh = ResizeInstanceRequest {
        etag: before.etag,
        request_id: "once".into(),
        ..resize(2)
    };
    let first = lab
        .instances()
        .resize_instance(fresh.clone())
        .await
        .unwrap();
    let again = lab.instances().resize_instance(fresh).await.unwrap();
    assert_eq!(first.get_ref().id, again.get_ref().id);
    let after = get(&lab, "web-1").await;
    assert_eq!(after.spec.as_ref().unwrap().vcpus, 2);
    assert_eq!(
        (after.generation, after.incarnations[0].claim_vcpus),
        (2, 2)
    );
    report(&lab, &after, Phase::Running);
    let status = get(&lab, "web-1").await.incarnations[0].status.clone();
    assert_eq!(status.unwrap().vcpus, 0, "an agent that doesn't tell");
}

#[tokio::test]
async fn explain_answers_without_the_instances_own_claim() {
    let lab = lab(&["node-1", "node-2"]).await;
    create(
        &lab,
        CreateInstanceRequest {
            vcpus: 4,
            ..wish("web-1")
        },
    )
    .await
    .unwrap();
    let ask = |question| {
        let mut instances = lab.instances();
        let request = ExplainInstanceRequest {
            question: Some(question),
        };
        async move {
            instances
                .explain_instance(request)
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let why = ask(Question::Instance("web-1".into())).await.unwrap();
    assert_eq!(why.node_name, "node-1");
    assert_eq!(
        why.summary,
        "web-1 is on node-1, chosen when it was created; placed anew it would stay there (2 of 2 \
         nodes fit)"
    );
    assert_eq!(why.claim_memory.unwrap().total_mib, 1024 + 4 + 32 + 128);
    let why = ask(Question::Create(wish("web-2"))).await.unwrap();
    assert_eq!(why.node_name, "node-2");
    let answers: Vec<_> = why
        .nodes
        .iter()
        .map(|node| (node.node_name.as_str(), node.fits, &*node.filter))
        .collect();
    assert_eq!(answers, [("node-2", true, ""), ("node-1", false, "vcpus")]);
    assert_eq!(
        refused(ask(Question::Create(wish("web-1"))).await).0,
        Code::AlreadyExists
    );
    assert_eq!(
        refused(ask(Question::Instance("web-9".into())).await).0,
        Code::NotFound
    );
}

#[tokio::test]
async fn a_console_needs_an_agent_that_answers() {
    let lab = lab(&["node-1"]).await;
    create(&lab, wish("web-1")).await.unwrap();
    let ask = |instance: &str| {
        let request = CreateConsoleTicketRequest {
            instance: instance.into(),
        };
        let mut instances = lab.instances();
        async move { instances.create_console_ticket(request).await }
    };
    let ticket = ask("web-1").await.unwrap().into_inner().ticket;
    let shown = OpenConsoleRequest {
        ticket,
        ..Default::default()
    };
    let open = lab
        .instances()
        .open_console(futures::stream::iter([shown]))
        .await;
    assert_eq!(
        refused(open),
        (Code::Unavailable, "NODE_UNREACHABLE".into())
    );
    assert_eq!(
        refused(ask("web-9").await),
        (Code::NotFound, "NOT_FOUND".into())
    );
    assert_eq!(refused(ask("").await).0, Code::InvalidArgument);
}
