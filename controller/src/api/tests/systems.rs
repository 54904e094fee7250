//! Systems over gRPC: what is recorded of them, what their instances add up to, and whose they are.

use kapok_proto::{
    convert::timestamp,
    fabric::v1::{
        AvailabilityClass, CreateInstanceRequest, CreateSystemRequest, DeleteInstanceRequest,
        DeleteSystemRequest, GetInstanceRequest, GetSystemRequest, ListInstancesRequest,
        ListSystemsRequest, System, UpdateSystemRequest,
    },
};
use kapok_types::Timestamp;
use prost_types::FieldMask;

use super::*;
use crate::fabric::OperationOutcome;

/// Two bureaus with one member each, and everybody's image.
async fn city() -> (Lab, Clients, Clients) {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    for name in ["water", "parks"] {
        lab.own(fixture::tenant(name, None)).await;
    }
    instances::import_base(&lab).await;
    let water = lab.user("user/wang", &["tenant_member in water"]).await;
    let parks = lab.user("user/zhao", &["tenant_member in parks"]).await;
    (lab, water, parks)
}

fn wish(name: &str) -> CreateSystemRequest {
    CreateSystemRequest {
        name: name.into(),
        display_name: "收费系统".into(),
        owner: "王处长".into(),
        contacts: vec!["12345".into()],
        availability_class: AvailabilityClass::Restart.into(),
        ..CreateSystemRequest::default()
    }
}

fn within(system: &str, name: &str) -> CreateInstanceRequest {
    CreateInstanceRequest {
        system: system.into(),
        vcpus: 1,
        ..instances::wish(name)
    }
}

async fn create(who: &Clients, wish: CreateSystemRequest) -> Result<System, Status> {
    Ok(who.systems().create_system(wish).await?.into_inner())
}

async fn get(who: &Clients, which: &str) -> Result<System, Status> {
    let request = GetSystemRequest {
        system: which.into(),
    };
    Ok(who.systems().get_system(request).await?.into_inner())
}

async fn places(who: &Clients, request: ListSystemsRequest) -> (Vec<String>, String) {
    let page = who.systems().list_systems(request).await.unwrap();
    let page = page.into_inner();
    let places = page.systems.iter();
    let places = places.map(|one| format!("{}/{}", one.tenant, one.name));
    (places.collect(), page.next_page_token)
}

async fn update(
    who: &Clients,
    paths: &[&str],
    request: UpdateSystemRequest,
) -> Result<System, Status> {
    let request = UpdateSystemRequest {
        system: "billing".into(),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
        ..request
    };
    Ok(who.systems().update_system(request).await?.into_inner())
}

#[tokio::test]
async fn a_system_is_recorded_filled_and_removed() {
    let (lab, wang, _) = city().await;
    let made = create(&wang, wish("billing")).await.unwrap();
    assert_eq!((&*made.tenant, &*made.owner), ("water", "王处长"));
    assert_eq!(made.availability_class(), AvailabilityClass::Restart);
    assert!(made.request_time.is_some() && made.live_time.is_none());
    let operation = wang
        .instances()
        .create_instance(within("billing", "web"))
        .await
        .unwrap()
        .into_inner();
    wang.instances()
        .create_instance(within("", "db"))
        .await
        .unwrap();
    let seen = get(&wang, "billing").await.unwrap();
    assert_eq!((seen.instances, seen.vcpus, seen.memory_mib), (1, 1, 1024));
    assert_eq!(get(&wang, "default").await.unwrap().instances, 1);
    lab.own(Command::EndOperation {
        operation: operation.id.parse().unwrap(),
        outcome: OperationOutcome::Succeeded,
        detail: String::new(),
    })
    .await;
    assert!(get(&wang, "billing").await.unwrap().live_time.is_some());
    let mine = GetInstanceRequest {
        instance: "web".into(),
    };
    let web = wang.instances().get_instance(mine).await.unwrap();
    assert_eq!(web.into_inner().system, "billing");
    let of = ListInstancesRequest {
        system: "water/billing".into(),
        ..ListInstancesRequest::default()
    };
    let all = lab.instances().list_instances(of).await.unwrap();
    let names = all.into_inner().instances.into_iter().map(|one| one.name);
    assert_eq!(names.collect::<Vec<_>>(), ["web"]);
    let remove = || DeleteSystemRequest {
        system: "billing".into(),
        ..DeleteSystemRequest::default()
    };
    let used = wang.systems().delete_system(remove()).await;
    let in_use = (Code::FailedPrecondition, "SYSTEM_IN_USE".into());
    assert_eq!(refused(used), in_use);
    let gone = DeleteInstanceRequest {
        instance: "web".into(),
        ..DeleteInstanceRequest::default()
    };
    let snapshot = lab.api.ledger.snapshot();
    let water = "water".parse().unwrap();
    let web = snapshot.fabric.instance("web", &water).unwrap();
    let one = &web.incarnations[0];
    let (node, incarnation) = (one.node, one.id);
    wang.instances().delete_instance(gone).await.unwrap();
    lab.own(Command::IncarnationGone { node, incarnation })
        .await;
    wang.systems().delete_system(remove()).await.unwrap();
    assert_eq!(
        refused(get(&wang, "billing").await),
        (Code::NotFound, "NOT_FOUND".into())
    );
}

#[tokio::test]
async fn a_change_names_its_fields_and_leaves_the_others() {
    let (lab, wang, _) = city().await;
    let made = create(&wang, wish("billing")).await.unwrap();
    let end = Timestamp(lab.api.env.now().get() + 3 * 24 * 3_600_000);
    let request = UpdateSystemRequest {
        owner: "not in the mask".into(),
        availability_class: AvailabilityClass::None.into(),
        end_time: Some(timestamp(end)),
        etag: made.etag,
        ..UpdateSystemRequest::default()
    };
    let fields = ["availability_class", "end_time"];
    let changed = update(&wang, &fields, request.clone()).await.unwrap();
    assert_eq!(changed.availability_class(), AvailabilityClass::None);
    assert_eq!(
        (&*changed.owner, changed.end_warning_days),
        ("王处长", None)
    );
    let stale = update(&wang, &fields, request).await;
    assert_eq!(refused(stale), (Code::Aborted, "STALE_ETAG".into()));
    lab.own(Command::ReviewSystems).await;
    let warned = get(&wang, "billing").await.unwrap();
    assert_eq!(warned.end_warning_days, Some(7));
    // Whoever looked before the warning may still change it: nobody's record has changed.
    assert_eq!(warned.etag, changed.etag);
    let nothing = UpdateSystemRequest::default;
    for (paths, expected) in [
        (&["name"][..], "update_mask"),
        (&[], "update_mask"),
        (&["request_time"], "request_time"),
    ] {
        assert_eq!(field(update(&wang, paths, nothing()).await), expected);
    }
    let unknown = UpdateSystemRequest {
        availability_class: 77,
        ..nothing()
    };
    let refused = update(&wang, &["availability_class"], unknown).await;
    assert_eq!(field(refused), "availability_class");
}

/// FAULTS 25: another tenant's system answers like one that isn't there, and lists show one's own.
#[tokio::test]
async fn another_tenants_system_answers_like_an_absent_one() {
    let (lab, wang, zhao) = city().await;
    create(&zhao, wish("trees")).await.unwrap();
    create(&wang, wish("billing")).await.unwrap();
    create(&wang, wish("pipes")).await.unwrap();
    let told = |status: Status, which: &str| {
        let text = format!("{:?} {}", status.code(), status.message());
        text.replace(which, "WHICH")
    };
    let mut answers = Vec::new();
    for which in ["parks/trees", "parks/none"] {
        let delete = DeleteSystemRequest {
            system: which.into(),
            ..DeleteSystemRequest::default()
        };
        let of = ListInstancesRequest {
            system: which.into(),
            ..ListInstancesRequest::default()
        };
        answers.push([
            told(get(&wang, which).await.unwrap_err(), which),
            told(
                wang.systems().delete_system(delete).await.unwrap_err(),
                which,
            ),
            told(
                wang.instances().list_instances(of).await.unwrap_err(),
                which,
            ),
        ]);
    }
    assert!(answers[0].iter().all(|told| told.starts_with("NotFound")));
    assert_eq!(answers[0], answers[1]);
    let there = CreateSystemRequest {
        tenant: "parks".into(),
        ..wish("more")
    };
    let absent = (Code::NotFound, "NOT_FOUND".to_owned());
    assert_eq!(refused(create(&wang, there).await), absent);
    let other = wang
        .instances()
        .create_instance(within("trees", "web"))
        .await;
    assert_eq!(refused(other), absent);
    let all = ListSystemsRequest::default;
    assert_eq!(
        places(&wang, all()).await.0,
        ["water/billing", "water/pipes"]
    );
    let water = ListSystemsRequest {
        tenant: "water".into(),
        page_size: 1,
        ..all()
    };
    let (first, page_token) = places(&lab, water.clone()).await;
    let rest = ListSystemsRequest {
        page_token,
        ..water
    };
    let (second, end) = places(&lab, rest).await;
    assert_eq!(
        (first, second),
        (
            vec!["water/billing".to_owned()],
            vec!["water/pipes".to_owned()],
        )
    );
    assert_eq!(end, "");
    assert_eq!(places(&lab, all()).await.0.len(), 3);
}
