//! Tenants' quotas, states and ends over gRPC, with as many clients as there may be.

use kapok_proto::fabric::v1::{
    Amounts, CreateInstanceRequest, CreateTenantRequest, DeleteInstanceRequest,
    DeleteTenantRequest, Dimension, ExplainAccessRequest, ExplainInstanceRequest, GetTenantRequest,
    ListTenantsRequest, Quota, RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest,
    Tenant, TenantState, UpdateTenantRequest, explain_instance_request::Question,
};
use kapok_store::redb::{Fault, MemoryDisk};
use prost_types::FieldMask;
use tonic_types::StatusExt as _;

use super::*;
use crate::fabric::Usages;

/// Clients that all want the same at once.
const CLIENTS: usize = 100;

/// Water with its office pumps, and parks; all nodes and one image are everybody's.
async fn city() -> Lab {
    let lab = Lab::new().await.with_nodes(&["node-1", "node-2"]).await;
    for (name, parent) in [("water", None), ("pumps", Some("water")), ("parks", None)] {
        lab.own(fixture::tenant(name, parent)).await;
    }
    instances::import_base(&lab).await;
    lab
}

fn change(tenant: &str, paths: &[&str]) -> UpdateTenantRequest {
    UpdateTenantRequest {
        tenant: tenant.into(),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
        ..UpdateTenantRequest::default()
    }
}

fn vcpus(tenant: &str, limit: u64) -> UpdateTenantRequest {
    UpdateTenantRequest {
        quota: Some(Quota {
            vcpus: Some(limit),
            ..Quota::default()
        }),
        ..change(tenant, &["quota.vcpus"])
    }
}

fn state(tenant: &str, state: TenantState) -> UpdateTenantRequest {
    UpdateTenantRequest {
        state: state.into(),
        ..change(tenant, &["state"])
    }
}

async fn update(who: &Clients, request: UpdateTenantRequest) -> Result<Tenant, Status> {
    Ok(who.tenants().update_tenant(request).await?.into_inner())
}

async fn get(who: &Clients, tenant: &str) -> Result<Tenant, Status> {
    let request = GetTenantRequest {
        tenant: tenant.into(),
    };
    Ok(who.tenants().get_tenant(request).await?.into_inner())
}

async fn delete(who: &Clients, tenant: &str) -> Result<(), Status> {
    let request = DeleteTenantRequest {
        tenant: tenant.into(),
        ..DeleteTenantRequest::default()
    };
    who.tenants().delete_tenant(request).await.map(drop)
}

/// An instance of one vCPU.
fn wish(tenant: &str, name: &str) -> CreateInstanceRequest {
    CreateInstanceRequest {
        tenant: tenant.into(),
        vcpus: 1,
        ..instances::wish(name)
    }
}

async fn create(who: &Clients, wish: CreateInstanceRequest) -> Result<String, Status> {
    let operation = who.instances().create_instance(wish).await?.into_inner();
    Ok(operation.instance_id)
}

fn told(answer: Result<impl fmt::Debug, Status>) -> (Code, String) {
    refused(answer)
}

/// What tenants use is what their instances come to, and no more.
fn nothing_leaked(lab: &Lab) {
    let snapshot = lab.api.ledger.snapshot();
    let fabric = &snapshot.fabric;
    let counted = Usages::counted(&fabric.tenants, fabric.instances.values());
    assert_eq!(fabric.usage, counted);
}

/// Removes an instance, and its node says that it is gone.
async fn remove(lab: &Lab, instance: &str) {
    let delete = DeleteInstanceRequest {
        instance: instance.into(),
        ..DeleteInstanceRequest::default()
    };
    lab.instances().delete_instance(delete).await.unwrap();
    let snapshot = lab.api.ledger.snapshot();
    let id: kapok_types::InstanceId = instance.parse().unwrap();
    let one = &snapshot.fabric.instances[&id].incarnations[0];
    lab.own(Command::IncarnationGone {
        node: one.node,
        incarnation: one.id,
    })
    .await;
}

/// FAULTS 27: 100 clients create for the last unit of a quota at once: exactly one wins. The
/// refusals say why, nothing leaks, and what the winner gives back has one winner again.
#[tokio::test]
async fn the_last_unit_of_a_quota_has_one_winner() {
    let lab = city().await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let machine = format!("machine/ci-{n}");
        clients.push(lab.user(&machine, &["tenant_member in pumps"]).await);
    }
    let limit = UpdateTenantRequest {
        quota: Some(Quota {
            instances: Some(1),
            ..Quota::default()
        }),
        ..change("water", &["quota.instances"])
    };
    update(&lab, limit).await.unwrap();
    for round in 0..3 {
        let asked = clients.iter().enumerate().map(|(n, client)| {
            let wish = wish("pumps", &format!("web-{round}-{n}"));
            create(client, wish)
        });
        let answers = soon(futures::future::join_all(asked)).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, CLIENTS - 1), "round {round}");
        for refusal in lost {
            assert_eq!(told(refusal), (Code::ResourceExhausted, "QUOTA".into()));
        }
        nothing_leaked(&lab);
        let water = get(&lab, "water").await.unwrap().usage.unwrap();
        assert_eq!(water.used.unwrap().instances, 1);
        remove(&lab, won[0].as_ref().unwrap()).await;
        let water = get(&lab, "water").await.unwrap().usage.unwrap();
        assert_eq!(water.held.unwrap(), Amounts::default());
    }
}

/// FAULTS 27: whatever ends a create early, no node's refusal and no failed write holds a unit.
#[tokio::test]
async fn a_create_that_fails_holds_nothing() {
    let lab = city().await;
    update(&lab, vcpus("parks", 64)).await.unwrap();
    let large = CreateInstanceRequest {
        vcpus: 32,
        ..wish("parks", "large")
    };
    for _ in 0..3 {
        let refusal = told(create(&lab, large.clone()).await);
        assert_eq!(refusal, (Code::ResourceExhausted, "NO_CAPACITY".into()));
    }
    let dry = CreateInstanceRequest {
        validate_only: true,
        ..wish("parks", "web")
    };
    create(&lab, dry).await.unwrap();
    let parks = get(&lab, "parks").await.unwrap();
    assert_eq!(parks.usage.unwrap().held.unwrap(), Amounts::default());

    let mut unknown = 0;
    for calls in 0..6 {
        let disk = MemoryDisk::new();
        let (store, blobs) = (Redb::on_disk(&disk).unwrap(), Memory::default());
        let way = Arc::new(blobs.clone());
        let lab = Lab::over(Arc::new(Nobody), "", store, way, blobs).await;
        let lab = lab.with_nodes(&["node-1"]).await;
        instances::import_base(&lab).await;
        update(&lab, vcpus("city", 1)).await.unwrap();
        let wish = CreateInstanceRequest {
            request_id: "one".into(),
            ..wish("", "web")
        };
        disk.fail(calls, Fault::SyncUnheard);
        if let Err(status) = create(&lab, wish.clone()).await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            unknown += 1;
        }
        disk.heal();
        // The same request until it is known: it is one instance, and one unit.
        let known = async {
            loop {
                match create(&lab, wish.clone()).await {
                    Err(status) if status.code() == Code::Unavailable => {
                        tokio::task::yield_now().await;
                    }
                    other => break other,
                }
            }
        };
        soon(known).await.unwrap();
        nothing_leaked(&lab);
        let other = CreateInstanceRequest {
            name: "other".into(),
            request_id: String::new(),
            ..wish
        };
        let refusal = told(create(&lab, other).await);
        assert_eq!(refusal, (Code::ResourceExhausted, "QUOTA".into()));
    }
    assert!(unknown > 0, "no fault ever hit");
}

/// FAULTS 25: a refusal names the quota with its numbers to whoever reaches its tenant; to others
/// it says that one above is full.
#[tokio::test]
async fn a_full_quota_tells_its_numbers_to_its_own() {
    let lab = city().await;
    let zhao = lab.user("user/zhao", &["tenant_member in water"]).await;
    let wang = lab.user("user/wang", &["tenant_member in pumps"]).await;
    update(&lab, vcpus("water", 1)).await.unwrap();
    create(&wang, wish("", "web")).await.unwrap();

    let status = create(&zhao, wish("", "db")).await.unwrap_err();
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.metadata["tenant"], "water");
    assert_eq!(info.metadata["dimensions"], "vcpus");
    let failure = &details.quota_failure().unwrap().violations[0];
    assert_eq!(
        (&*failure.subject, &*failure.description),
        (
            "tenant/water",
            "vCPUs: 1 of 1 used or reserved, 1 more asked"
        )
    );
    let status = create(&wang, wish("", "db")).await.unwrap_err();
    assert_eq!(
        status.message(),
        "a quota above tenant pumps has no room for it: vCPUs"
    );
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "QUOTA");
    assert!(!info.metadata.contains_key("tenant"), "{info:?}");
    assert!(details.quota_failure().is_none());
    // The same in an explanation.
    let question = ExplainInstanceRequest {
        question: Some(Question::Create(wish("", "db"))),
    };
    let why = wang.instances().explain_instance(question).await.unwrap();
    let why = why.into_inner();
    assert_eq!((&*why.summary, &*why.node_name), (status.message(), ""));
}

/// FAULTS 25: another tenant's quota is read and set like an absent tenant's; one above is there
/// without numbers; one's own is seen and set from above alone.
#[tokio::test]
async fn whose_quota_is_whose() {
    let lab = city().await;
    let wang = lab
        .user("user/wang", &["tenant_administrator in water"])
        .await;
    update(&lab, vcpus("water", 8)).await.unwrap();
    update(&lab, vcpus("city", 9)).await.unwrap();
    update(&lab, vcpus("parks", 7)).await.unwrap();
    let absent = (Code::NotFound, "NOT_FOUND".to_owned());
    let forbidden = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    for tenant in ["parks", "moon"] {
        let suspended = state(tenant, TenantState::Suspended);
        assert_eq!(told(get(&wang, tenant).await), absent);
        assert_eq!(told(update(&wang, vcpus(tenant, 1)).await), absent);
        assert_eq!(told(update(&wang, suspended).await), absent);
        let contacts = change(tenant, &["contacts"]);
        assert_eq!(told(update(&wang, contacts).await), absent);
        assert_eq!(told(delete(&wang, tenant).await), absent);
    }
    let city = get(&wang, "city").await.unwrap();
    assert_eq!((city.quota, city.usage), (None, None));
    assert_eq!((city.etag.as_str(), city.reserved), ("", None));
    let own = get(&wang, "water").await.unwrap();
    assert_eq!(own.quota.unwrap().vcpus, Some(8));
    let mut tenants = wang.tenants();
    let all = tenants.list_tenants(ListTenantsRequest::default()).await;
    let all = all.unwrap().into_inner().tenants;
    let numbers = |tenant: &Tenant| (tenant.name.clone(), tenant.usage.is_some());
    assert_eq!(
        all.iter().map(numbers).collect::<Vec<_>>(),
        [
            ("city".to_owned(), false),
            ("pumps".to_owned(), true),
            ("water".to_owned(), true)
        ]
    );
    for own in [
        vcpus("water", 100),
        state("water", TenantState::Closing),
        vcpus("city", 100),
    ] {
        assert_eq!(told(update(&wang, own).await), forbidden);
    }
    assert_eq!(told(delete(&wang, "water").await), forbidden);
    let mixed = UpdateTenantRequest {
        display_name: "水".into(),
        ..change("water", &["display_name", "quota.vcpus"])
    };
    assert_eq!(told(update(&wang, mixed).await), forbidden);
    // What they may, they may: themselves, and from above.
    let called = UpdateTenantRequest {
        display_name: "水务局".into(),
        contacts: vec!["desk@water.example".into()],
        ..change("water", &["display_name", "contacts"])
    };
    let water = update(&wang, called).await.unwrap();
    assert_eq!((&*water.display_name, water.contacts.len()), ("水务局", 1));
    update(&wang, vcpus("pumps", 2)).await.unwrap();
    // And that is what an explanation of it says.
    for (object, allowed) in [("tenant/water", false), ("tenant/pumps", true)] {
        let why = ExplainAccessRequest {
            action: "quota.set".into(),
            object: object.into(),
            principal: String::new(),
        };
        let why = wang.auth().explain_access(why).await.unwrap().into_inner();
        assert_eq!(why.allowed, allowed, "{}", why.summary);
        assert!(why.summary.contains(object), "{}", why.summary);
    }
    // Events tell numbers to those who may know them.
    let sets = async |who: &Clients| {
        let events = events::events(who, Some(0)).await.unwrap();
        let sets = events
            .into_iter()
            .filter(|event| event.kind == "tenant.quota_set");
        sets.map(|event| event.subject_name).collect::<Vec<_>>()
    };
    assert_eq!(sets(&wang).await, ["water", "pumps"]);
    assert_eq!(sets(&lab).await, ["water", "city", "parks", "pumps"]);
}

/// FAULTS 28: numbers that no quota can be, and fields that there are not.
#[tokio::test]
async fn bad_changes_are_named() {
    let lab = city().await;
    let negative = u64::MAX;
    let reserved = |vcpus| UpdateTenantRequest {
        reserved: Some(Amounts {
            vcpus,
            ..Amounts::default()
        }),
        ..change("parks", &["reserved.vcpus"])
    };
    for (request, expected) in [
        (vcpus("parks", negative), "quota.vcpus"),
        (reserved(negative), "reserved.vcpus"),
        (change("parks", &[]), "update_mask"),
        (change("parks", &["usage"]), "update_mask"),
        (change("parks", &["quota.disks"]), "update_mask"),
        (change("parks", &["state"]), "state"),
        (state("city", TenantState::Suspended), "state"),
        (change("Parks", &["contacts"]), "tenant"),
        (
            UpdateTenantRequest {
                contacts: vec!["x".repeat(257)],
                ..change("parks", &["contacts"])
            },
            "contacts",
        ),
        (
            UpdateTenantRequest {
                contacts: vec!["a".into(); 17],
                ..change("parks", &["contacts"])
            },
            "contacts",
        ),
    ] {
        assert_eq!(field(update(&lab, request).await), expected);
    }
    // More than the nodes have is kept for nobody: 2 nodes with 4 threads.
    let refusal = told(update(&lab, reserved(1000)).await);
    assert_eq!(refusal, (Code::ResourceExhausted, "QUOTA".into()));
    let parks = update(&lab, vcpus("parks", 0)).await.unwrap();
    assert_eq!(parks.quota.unwrap().vcpus, Some(0), "zero is a limit");
    let refusal = told(create(&lab, wish("parks", "web")).await);
    assert_eq!(refusal, (Code::ResourceExhausted, "QUOTA".into()));
    let parks = update(&lab, change("parks", &["quota"])).await.unwrap();
    assert_eq!(parks.quota.unwrap(), Quota::default(), "none is none");
    create(&lab, wish("parks", "web")).await.unwrap();
    let stale = UpdateTenantRequest {
        etag: "1f6d".into(),
        ..vcpus("parks", 5)
    };
    let refusal = told(update(&lab, stale).await);
    assert_eq!(refusal, (Code::Aborted, "STALE_ETAG".into()));
}

#[tokio::test]
async fn a_lowered_quota_is_shown_as_overcommitted() {
    let lab = city().await;
    for n in 0..3 {
        create(&lab, wish("parks", &format!("web-{n}")))
            .await
            .unwrap();
    }
    let parks = update(&lab, vcpus("parks", 1)).await.unwrap();
    let [over] = &parks.overcommitted[..] else {
        panic!("{parks:?}")
    };
    assert_eq!((over.dimension(), over.amount), (Dimension::Vcpus, 2));
    let snapshot = lab.api.ledger.snapshot();
    let running = snapshot.fabric.instances.values();
    assert_eq!(running.filter(|one| !one.deleting).count(), 3);
}

#[tokio::test]
async fn a_tenant_is_suspended_resumed_closed_and_removed() {
    let lab = city().await;
    let wang = lab.user("user/wang", &["tenant_member in pumps"]).await;
    let web = create(&wang, wish("", "web")).await.unwrap();
    let suspended = state("water", TenantState::Suspended);
    update(&lab, suspended).await.unwrap();
    let kept = (Code::FailedPrecondition, "TENANT_STATE".to_owned());
    assert_eq!(told(create(&wang, wish("", "db")).await), kept);
    let stop = StopInstanceRequest {
        instance: "web".into(),
        ..StopInstanceRequest::default()
    };
    let restart = RestartInstanceRequest {
        instance: "web".into(),
        ..RestartInstanceRequest::default()
    };
    let start = StartInstanceRequest {
        instance: "web".into(),
        ..StartInstanceRequest::default()
    };
    let mut instances = wang.instances();
    instances.restart_instance(restart).await.unwrap();
    instances.stop_instance(stop).await.unwrap();
    assert_eq!(told(instances.start_instance(start.clone()).await), kept);
    let tenant = CreateTenantRequest {
        name: "valves".into(),
        parent: "pumps".into(),
        ..CreateTenantRequest::default()
    };
    let refusal = lab.tenants().create_tenant(tenant).await;
    assert_eq!(told(refusal), kept);

    update(&lab, state("water", TenantState::Active))
        .await
        .unwrap();
    instances.start_instance(start).await.unwrap();
    let closing = update(&lab, state("pumps", TenantState::Closing)).await;
    assert_eq!(closing.unwrap().state(), TenantState::Closing);
    assert_eq!(told(create(&wang, wish("", "db")).await), kept);
    let in_use = (Code::FailedPrecondition, "TENANT_IN_USE".to_owned());
    assert_eq!(told(delete(&lab, "pumps").await), in_use);
    remove(&lab, &web).await;
    assert_eq!(told(delete(&lab, "pumps").await), in_use, "wang is there");
    lab.own(Command::DeleteUser {
        user: "user/wang".parse().unwrap(),
    })
    .await;
    delete(&lab, "pumps").await.unwrap();
    assert_eq!(told(get(&lab, "pumps").await).0, Code::NotFound);
    let shown = events::events(&lab, Some(0)).await.unwrap();
    let about = shown.iter().filter(|event| event.subject_name == "pumps");
    let messages: Vec<_> = about.map(|event| event.message.as_str()).collect();
    let messages: Vec<_> = messages
        .into_iter()
        .filter(|message| message.starts_with("tenant "))
        .collect();
    assert_eq!(
        messages,
        [
            "tenant pumps was created below water",
            "tenant pumps is closing: what runs there runs on, nothing new is made",
            "tenant pumps below water was removed",
        ]
    );
}
