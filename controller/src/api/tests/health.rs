//! Nodes' health over real gRPC, from an agent's word to what people see and may do about it.

use kapok_proto::{
    agent::v1::PartList,
    common::v1::{self as common, PartChange},
    fabric::v1::{
        CordonNodeRequest, EndNodeReleaseRequest, ExplainInstanceRequest, GetNodeHealthRequest,
        GetNodeInventoryRequest, GetNodeRequest, ListNodeHealthRequest, ListNodeHealthResponse,
        Node, NodeState, RebindNodeRequest, ReleaseNodeRequest, explain_instance_request::Question,
    },
};

use super::{
    console::{Echoes, Said},
    *,
};
use crate::fabric::{Condition, Judgement, Verdict, health::Policy};

fn said(
    condition: common::Condition,
    verdicts: &[(&str, common::Condition)],
) -> common::NodeHealth {
    let verdict = |(code, condition): &(&str, common::Condition)| common::Verdict {
        code: (*code).into(),
        condition: (*condition).into(),
        component: "memory/mc0".into(),
        summary: "1200 corrected errors in an hour".into(),
        remedy: "replace the module".into(),
        ..common::Verdict::default()
    };
    common::NodeHealth {
        condition: condition.into(),
        verdicts: verdicts.iter().map(verdict).collect(),
        ..common::NodeHealth::default()
    }
}

fn storm() -> common::NodeHealth {
    let degraded = common::Condition::Degraded;
    said(degraded, &[("MEMORY_CE_STORM", degraded)])
}

fn healthy() -> common::NodeHealth {
    said(common::Condition::Healthy, &[])
}

/// One node, node-1, with an agent that says what it is told to.
async fn watched(more: &str) -> (Lab, Echoes) {
    let agent = Echoes::new(&[]);
    let lab = Lab::start(agent.way(), more).await;
    lab.join(1, "node-1", "127.0.0.1:1").await;
    until(&lab, |node| node.reachable && node.capacity.is_some()).await;
    (lab, agent)
}

/// Waits until the log has it that node-1 is such.
async fn until(lab: &Lab, is_so: impl Fn(&fabric::Node) -> bool) {
    let mut changes = lab.api.ledger.changes();
    let so = changes.wait_for(|snapshot| snapshot.fabric.node("node-1").is_some_and(&is_so));
    drop(soon(so).await.unwrap());
}

async fn node(lab: &Lab) -> Node {
    let request = GetNodeRequest {
        node: "node-1".into(),
    };
    lab.nodes().get_node(request).await.unwrap().into_inner()
}

fn release(reason: &str) -> ReleaseNodeRequest {
    ReleaseNodeRequest {
        node: "node-1".into(),
        reason: reason.into(),
        life: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        request_id: String::new(),
    }
}

fn end_release() -> EndNodeReleaseRequest {
    EndNodeReleaseRequest {
        node: "node-1".into(),
        request_id: String::new(),
    }
}

/// What each node says to a small instance, and which filter refuses it.
async fn explained(lab: &Lab) -> Vec<(String, String)> {
    let request = ExplainInstanceRequest {
        question: Some(Question::Create(instances::wish("web"))),
    };
    let answer = lab.instances().explain_instance(request).await.unwrap();
    let nodes = answer.into_inner().nodes.into_iter();
    nodes.map(|node| (node.filter, node.reason)).collect()
}

async fn listed(
    who: &Clients,
    page_size: u32,
    page_token: String,
    unhealthy: bool,
) -> ListNodeHealthResponse {
    let request = ListNodeHealthRequest {
        page_size,
        page_token,
        unhealthy,
    };
    who.nodes()
        .list_node_health(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_verdict_keeps_new_instances_off_until_its_node_is_well() {
    let (lab, agent) = watched("[health]\nquiet = \"1s\"").await;
    instances::import_base(&lab).await;
    assert_eq!(node(&lab).await.condition(), common::Condition::Unknown);
    let tell = |health| {
        agent
            .server
            .send_modify(|server| server.health = Some(health));
    };
    tell(storm());
    until(&lab, fabric::Node::is_quarantined).await;
    let shown = node(&lab).await;
    assert_eq!(shown.condition(), common::Condition::Degraded);
    assert_eq!(shown.verdicts, ["MEMORY_CE_STORM memory/mc0"]);
    assert_eq!(shown.state(), NodeState::Degraded);
    let detail = "quarantined: MEMORY_CE_STORM memory/mc0";
    assert!(shown.detail.starts_with(detail), "{}", shown.detail);
    let refused = (
        "quarantined".into(),
        "quarantined: MEMORY_CE_STORM memory/mc0".into(),
    );
    assert_eq!(explained(&lab).await, [refused]);
    let told = events::events(&lab, Some(0)).await.unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|event| (&*event.kind, &*event.message))
        .collect();
    assert!(
        told.contains(&(
            "node.judged",
            "the server of node node-1 is degraded: MEMORY_CE_STORM memory/mc0: 1200 corrected \
             errors in an hour"
        )),
        "{told:?}"
    );
    assert!(
        told.contains(&(
            "node.quarantined",
            "node node-1 is in quarantine: MEMORY_CE_STORM memory/mc0"
        )),
        "{told:?}"
    );

    // The same with other numbers writes nothing.
    let before = lab.api.ledger.snapshot().head.seq;
    let mut louder = storm();
    louder.verdicts[0].summary = "1300 corrected errors in an hour".into();
    tell(louder);
    let name = "node-1".parse().unwrap();
    let mut changes = lab.api.observed.changes();
    soon(changes.wait_for(|_| {
        let health = lab.api.observed.health(&name).0.unwrap();
        health.verdicts[0].summary.starts_with("1300")
    }))
    .await
    .unwrap();
    tell(healthy());
    until(&lab, |node| {
        node.health.as_ref().unwrap().verdicts.is_empty()
    })
    .await;
    assert_eq!(lab.api.ledger.snapshot().head.seq, before.next());
    until(&lab, |node| node.quarantine.is_none()).await;
    assert_eq!(explained(&lab).await[0].0, "");
    assert_eq!(node(&lab).await.condition(), common::Condition::Healthy);
}

/// DESIGN: separated roles. Who keeps nodes gives such a word; it is on record, and goes before the
/// verdicts but not before a cordon.
#[tokio::test]
async fn a_persons_word_goes_before_verdicts_and_is_on_record() {
    let (lab, agent) = watched("").await;
    instances::import_base(&lab).await;
    let nothing = lab.nodes().release_node(release("so")).await;
    assert_eq!(
        refused(nothing),
        (Code::FailedPrecondition, "NODE_NOT_QUARANTINED".into())
    );
    agent
        .server
        .send_modify(|server| server.health = Some(storm()));
    until(&lab, fabric::Node::is_quarantined).await;
    for who in [
        "security_administrator",
        "auditor",
        "tenant_administrator in city",
    ] {
        let who = lab.user(&format!("user/{}", &who[..4]), &[who]).await;
        let refusal = refused(who.nodes().release_node(release("so")).await);
        let seen = matches!(refusal.0, Code::PermissionDenied | Code::NotFound);
        assert!(seen, "{refusal:?}");
    }
    assert_eq!(field(lab.nodes().release_node(release("")).await), "reason");
    let long = ReleaseNodeRequest {
        life: Some(prost_types::Duration {
            seconds: 31 * 24 * 3600,
            nanos: 0,
        }),
        ..release("so")
    };
    assert_eq!(field(lab.nodes().release_node(long).await), "life");
    let released = lab.nodes().release_node(release("the module comes")).await;
    let released = released.unwrap().into_inner();
    let word = released.release.clone().unwrap();
    assert_eq!(
        (&*word.by, &*word.reason),
        ("user/li-wei", "the module comes")
    );
    assert!(released.detail.contains("user/li-wei released it until"));
    assert_eq!(explained(&lab).await[0].0, "");
    let cordon = CordonNodeRequest {
        node: "node-1".into(),
        reason: "wait".into(),
        request_id: String::new(),
    };
    lab.nodes().cordon_node(cordon).await.unwrap();
    assert_eq!(explained(&lab).await[0].0, "cordoned");
    let uncordon = kapok_proto::fabric::v1::UncordonNodeRequest {
        node: "node-1".into(),
        request_id: String::new(),
    };
    lab.nodes().uncordon_node(uncordon).await.unwrap();
    let ended = lab.nodes().end_node_release(end_release()).await.unwrap();
    assert!(ended.into_inner().release.is_none());
    assert_eq!(explained(&lab).await[0].0, "quarantined");
    let again = lab.nodes().end_node_release(end_release()).await;
    assert_eq!(
        refused(again),
        (Code::FailedPrecondition, "NODE_NOT_RELEASED".into())
    );
    let told = events::events(&lab, Some(0)).await.unwrap();
    let released = told.iter().find(|event| event.kind == "node.released");
    let released = released.unwrap();
    assert_eq!(released.actor, "user/li-wei");
    assert!(
        released.message.ends_with(": the module comes"),
        "{}",
        released.message
    );
}

#[tokio::test]
async fn health_and_inventory_are_asked_of_the_agent() {
    let (lab, agent) = watched("").await;
    let ask = |readings| GetNodeHealthRequest {
        node: "node-1".into(),
        readings,
    };
    let inventory = || GetNodeInventoryRequest {
        node: "node-1".into(),
    };
    soon(async {
        while lab.api.links.client(fixture::node_id(1)).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let unread = lab.nodes().get_node_inventory(inventory()).await;
    assert_eq!(
        refused(unread),
        (Code::Unavailable, "INVENTORY_UNREAD".into())
    );
    let disk = common::Disk {
        serial: "S3Z9".into(),
        ..common::Disk::default()
    };
    let server = Said {
        health: Some(storm()),
        inventory: Some(common::Inventory {
            disks: vec![disk],
            ..common::Inventory::default()
        }),
        ..Said::default()
    };
    agent.server.send_replace(server);
    let auditor = lab.of("user/auditor");
    let answer = auditor.nodes().get_node_health(ask(true)).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!(answer.node.unwrap().name, "node-1");
    let health = answer.health.unwrap();
    assert_eq!(health.verdicts, storm().verdicts);
    assert_eq!(health.readings.len(), 1);
    let answer = auditor
        .nodes()
        .get_node_inventory(inventory())
        .await
        .unwrap();
    assert_eq!(
        answer.into_inner().inventory.unwrap().disks[0].serial,
        "S3Z9"
    );
}

/// A module that is gone is told as an event; a rebind makes the agent take what is there.
#[tokio::test]
async fn parts_that_change_are_told_and_accepted_by_a_rebind() {
    let (lab, mut agent) = watched("").await;
    let parts = |all: &[&str], changes: &[&str]| PartList {
        parts: all
            .iter()
            .map(|part| ((*part).to_owned(), "32 GiB".to_owned()))
            .collect(),
        changes: changes
            .iter()
            .map(|part| PartChange {
                part: (*part).into(),
                before: "32 GiB".into(),
                after: String::new(),
            })
            .collect(),
    };
    let tell = |parts| {
        agent
            .server
            .send_modify(|server| server.parts = Some(parts));
    };
    tell(parts(&["memory/A1", "memory/A2"], &[]));
    until(&lab, |node| node.parts.len() == 2).await;
    let rebind = || RebindNodeRequest {
        node: "node-1".into(),
        request_id: String::new(),
    };
    let nothing = lab.nodes().rebind_node(rebind()).await;
    assert_eq!(
        refused(nothing),
        (Code::FailedPrecondition, "FINGERPRINT_UNCHANGED".into())
    );
    tell(parts(&["memory/A1"], &["memory/A2"]));
    until(&lab, |node| node.parts.len() == 1).await;
    let told = events::events(&lab, Some(0)).await.unwrap();
    let changed = told.iter().find(|event| event.kind == "node.parts_changed");
    let changed = changed.unwrap();
    assert_eq!(
        changed.message,
        "node node-1: memory/A2 is gone (was 32 GiB)"
    );
    assert_eq!(changed.actor, "node/node-1");
    lab.nodes().rebind_node(rebind()).await.unwrap();
    let epoch = soon(agent.accepted.recv()).await.unwrap();
    assert_eq!(epoch, lab.api.ledger.snapshot().epoch.get());
    until(&lab, |node| !node.accepting_parts).await;
}

/// An agent whose own record of accepted parts can't be read compares nothing and says so as one
/// change: a rebind is legal, and mends it.
#[tokio::test]
async fn a_lost_record_of_parts_is_mended_by_a_rebind() {
    let (lab, mut agent) = watched("").await;
    let parts = PartList {
        parts: [("memory/A1".into(), "32 GiB".into())].into(),
        changes: vec![PartChange {
            part: "parts".into(),
            before: String::new(),
            after: "can't be read".into(),
        }],
    };
    agent
        .server
        .send_modify(|server| server.parts = Some(parts));
    until(&lab, |node| node.parts.len() == 1).await;
    let rebind = RebindNodeRequest {
        node: "node-1".into(),
        request_id: String::new(),
    };
    lab.nodes().rebind_node(rebind).await.unwrap();
    soon(agent.accepted.recv()).await.unwrap();
    until(&lab, |node| !node.accepting_parts).await;
}

/// A tenant's load and a hung guest are shown, and the node is healthy all the same.
#[tokio::test]
async fn what_guests_do_is_shown_and_keeps_nothing_off() {
    let (lab, agent) = watched("").await;
    let degraded = common::Condition::Degraded;
    let mut load = said(degraded, &[("PRESSURE_STALLED", degraded)]);
    load.verdicts[0].component = "pressure/memory".into();
    agent
        .server
        .send_modify(|server| server.health = Some(load));
    until(&lab, |node| node.health.is_some()).await;
    let shown = node(&lab).await;
    assert_eq!(shown.condition(), common::Condition::Healthy);
    assert_eq!(shown.verdicts, ["PRESSURE_STALLED pressure/memory"]);
    assert_eq!(shown.state(), NodeState::Ready);
    assert_eq!(
        listed(&lab, 0, String::new(), false).await.counts["healthy"],
        1
    );
}

#[tokio::test]
async fn the_list_has_the_worst_first_and_goes_on_where_it_ended() {
    let lab = Lab::new().await;
    let lab = lab.with_nodes(&["a", "b", "c", "d", "e"]).await;
    let judge = async |number: u8, name: &str, condition: Condition| {
        let verdict = Verdict {
            code: "FAN_STOPPED".into(),
            component: "fan/1".into(),
            condition,
            summary: "0 rpm".into(),
        };
        let verdicts = match condition {
            Condition::Healthy => Vec::new(),
            _ => vec![verdict],
        };
        lab.own(Command::JudgeNode {
            node: name.parse().unwrap(),
            id: fixture::node_id(number),
            judgement: Judgement::new(condition, verdicts),
            policy: Policy::default(),
        })
        .await;
    };
    judge(1, "a", Condition::Healthy).await;
    judge(2, "b", Condition::Degraded).await;
    judge(3, "c", Condition::Failing).await;
    judge(4, "d", Condition::Degraded).await;
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = listed(&lab, 2, token, false).await;
        // Nothing was heard of them since this controller started: none is called healthy.
        let counts: Vec<_> = page.counts.iter().map(|(word, n)| (&**word, *n)).collect();
        assert_eq!(
            counts,
            [
                ("degraded", 2),
                ("failing", 1),
                ("healthy", 0),
                ("unknown", 2)
            ]
        );
        names.extend(page.nodes.into_iter().map(|node| node.node));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["c", "a", "e", "b", "d"]);
    let all = listed(&lab, 0, String::new(), true).await;
    let c = &all.nodes[0];
    assert_eq!(c.health.as_ref().unwrap().verdicts[0].summary, "0 rpm");
    // The first that turned took the only place.
    let held = |at: usize| all.nodes[at].quarantine.as_ref().map(|one| one.held);
    assert_eq!(
        (held(0), held(3), held(4)),
        (Some(true), Some(false), Some(true))
    );
    let foreign = lab
        .nodes()
        .list_node_health(ListNodeHealthRequest {
            page_token: "ff".into(),
            ..ListNodeHealthRequest::default()
        })
        .await;
    assert_eq!(field(foreign), "page_token");
}
