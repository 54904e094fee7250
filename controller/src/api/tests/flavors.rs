//! Flavors over gRPC: who may use which, and what isn't theirs to know.

use kapok_proto::fabric::v1::{
    CreateFlavorRequest, CreateInstanceRequest, DeleteFlavorRequest, ExplainInstanceRequest,
    Flavor, GetFlavorRequest, GetInstanceRequest, ListFlavorsRequest, UpdateFlavorRequest,
    explain_instance_request::Question,
};
use prost_types::FieldMask;

use super::*;

async fn city() -> Lab {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    for (name, above) in [("water", None), ("pumps", Some("water")), ("parks", None)] {
        lab.own(fixture::tenant(name, above)).await;
    }
    instances::import_base(&lab).await;
    lab
}

fn wish(name: &str, visible_to: &[&str]) -> CreateFlavorRequest {
    CreateFlavorRequest {
        name: name.into(),
        vcpus: 2,
        memory_mib: 1024,
        description: "小型".into(),
        visible_to: visible_to.iter().map(ToString::to_string).collect(),
        ..CreateFlavorRequest::default()
    }
}

/// An instance of a flavor's size.
fn of(flavor: &str, name: &str) -> CreateInstanceRequest {
    CreateInstanceRequest {
        flavor: flavor.into(),
        vcpus: 0,
        memory_mib: 0,
        ..instances::wish(name)
    }
}

async fn create(who: &Clients, wish: CreateFlavorRequest) -> Result<Flavor, Status> {
    Ok(who.flavors().create_flavor(wish).await?.into_inner())
}

async fn get(who: &Clients, name: &str) -> Result<Flavor, Status> {
    let request = GetFlavorRequest {
        flavor: name.into(),
    };
    Ok(who.flavors().get_flavor(request).await?.into_inner())
}

async fn names(who: &Clients) -> Vec<String> {
    let all = ListFlavorsRequest::default();
    let page = who.flavors().list_flavors(all).await.unwrap().into_inner();
    page.flavors.into_iter().map(|one| one.name).collect()
}

#[tokio::test]
async fn a_flavor_is_made_used_changed_and_removed() {
    let lab = city().await;
    let wang = lab.user("user/wang", &["tenant_member in water"]).await;
    let made = create(&lab, wish("small", &[])).await.unwrap();
    assert_eq!(made.visible_to, ["city"]);
    let seen = get(&wang, "small").await.unwrap();
    assert_eq!((seen.vcpus, seen.memory_mib), (2, 1024));
    assert_eq!(seen.description, "小型");
    let question = ExplainInstanceRequest {
        question: Some(Question::Create(of("small", "web"))),
    };
    let why = wang.instances().explain_instance(question).await.unwrap();
    assert_eq!(why.into_inner().claim_vcpus, 2);
    wang.instances()
        .create_instance(of("small", "web"))
        .await
        .unwrap();
    let request = UpdateFlavorRequest {
        flavor: "small".into(),
        update_mask: Some(FieldMask {
            paths: vec!["vcpus".into()],
        }),
        etag: made.etag.clone(),
        vcpus: 4,
        // Not in the mask: it stays.
        memory_mib: 0,
        ..UpdateFlavorRequest::default()
    };
    let changed = lab.flavors().update_flavor(request.clone()).await.unwrap();
    let changed = changed.into_inner();
    assert_eq!((changed.vcpus, changed.memory_mib), (4, 1024));
    let stale = lab.flavors().update_flavor(request.clone()).await;
    assert_eq!(refused(stale), (Code::Aborted, "STALE_ETAG".into()));
    let mine = GetInstanceRequest {
        instance: "web".into(),
    };
    let web = wang.instances().get_instance(mine).await.unwrap();
    let web = web.into_inner();
    assert_eq!(web.flavor, "small");
    assert_eq!(web.spec.unwrap().vcpus, 2);
    for paths in [vec![], vec!["name".to_owned()], vec!["vcpus.x".to_owned()]] {
        let wrong = UpdateFlavorRequest {
            update_mask: Some(FieldMask { paths }),
            ..request.clone()
        };
        let refused = lab.flavors().update_flavor(wrong).await;
        assert_eq!(field(refused), "update_mask");
    }
    let delete = || DeleteFlavorRequest {
        flavor: "small".into(),
        request_id: "once".into(),
        ..DeleteFlavorRequest::default()
    };
    lab.flavors().delete_flavor(delete()).await.unwrap();
    lab.flavors().delete_flavor(delete()).await.unwrap();
    assert!(names(&lab).await.is_empty());
}

#[tokio::test]
async fn who_makes_instances_makes_no_flavors() {
    let lab = city().await;
    create(&lab, wish("small", &[])).await.unwrap();
    let boss = lab
        .user("user/boss", &["tenant_administrator in water"])
        .await;
    let forbidden = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    let made = create(&boss, wish("own", &["water"])).await;
    assert_eq!(refused(made), forbidden);
    let delete = DeleteFlavorRequest {
        flavor: "small".into(),
        ..DeleteFlavorRequest::default()
    };
    assert_eq!(
        refused(boss.flavors().delete_flavor(delete).await),
        forbidden
    );
}

/// FAULTS 25: a flavor of another tenant's answers like one that isn't there, and one that is shared
/// doesn't say with whom.
#[tokio::test]
async fn another_tenants_flavor_answers_like_an_absent_one() {
    let lab = city().await;
    let wang = lab.user("user/wang", &["tenant_member in water"]).await;
    for (name, tenants) in [
        ("all", &[][..]),
        ("below", &["pumps"]),
        ("both", &["parks", "water"]),
        ("theirs", &["parks"]),
    ] {
        create(&lab, wish(name, tenants)).await.unwrap();
    }
    assert_eq!(names(&lab).await, ["all", "below", "both", "theirs"]);
    assert_eq!(names(&wang).await, ["all", "below", "both"]);
    let there = CreateInstanceRequest {
        tenant: "pumps".into(),
        ..of("below", "pump")
    };
    wang.instances().create_instance(there).await.unwrap();
    let here = wang.instances().create_instance(of("below", "pump")).await;
    assert_eq!(refused(here).0, Code::NotFound);
    assert_eq!(get(&wang, "both").await.unwrap().visible_to, ["water"]);
    let told = |status: Status, which: &str| {
        let text = format!("{:?} {}", status.code(), status.message());
        text.replace(which, "WHICH")
    };
    let mut answers = Vec::new();
    for which in ["theirs", "nothing"] {
        let delete = DeleteFlavorRequest {
            flavor: which.into(),
            ..DeleteFlavorRequest::default()
        };
        let make = wang.instances().create_instance(of(which, "web")).await;
        let delete = wang.flavors().delete_flavor(delete).await;
        answers.push([
            told(get(&wang, which).await.unwrap_err(), which),
            told(make.unwrap_err(), which),
            told(delete.unwrap_err(), which),
        ]);
    }
    assert!(answers[0].iter().all(|told| told.starts_with("NotFound")));
    assert_eq!(answers[0], answers[1]);
}
