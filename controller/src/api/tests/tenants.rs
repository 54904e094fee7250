//! Tenants among each other: what isn't theirs isn't there.

use kapok_proto::{
    common::v1 as common,
    fabric::v1::{
        CancelOperationRequest, CreateConsoleTicketRequest, CreateInstanceRequest,
        DeleteImageRequest, DeleteInstanceRequest, DeleteTenantRequest, ExplainAccessRequest,
        ExplainInstanceRequest, GetImageRequest, GetInstanceRequest, GetOperationRequest,
        GetTenantRequest, GetUserRequest, ListImagesRequest, ListInstancesRequest,
        ListOperationsRequest, ListTenantsRequest, RestartInstanceRequest, StartInstanceRequest,
        StopInstanceRequest, UpdateTenantRequest, WatchOperationRequest,
        explain_instance_request::Question,
    },
};

use kapok_types::{Digest, InstanceId};
use prost_types::FieldMask;

use super::*;

/// Two bureaus with one member each; all nodes and one image are everybody's.
struct City {
    lab: Lab,
    water: Clients,
    parks: Clients,
}

impl City {
    async fn new() -> Self {
        let lab = Lab::new().await.with_nodes(&["node-1"]).await;
        for name in ["water", "parks"] {
            lab.own(fixture::tenant(name, None)).await;
        }
        instances::import_base(&lab).await;
        let water = lab.user("user/wang", &["tenant_member in water"]).await;
        let parks = lab.user("user/zhao", &["tenant_member in parks"]).await;
        Self { lab, water, parks }
    }

    /// An instance and an image of the parks'.
    async fn furnish(&self) -> Furnished {
        let bytes = vec![1; 1 << 20];
        let header = images::header("own", common::DiskFormat::Raw, &bytes);
        let image = images::import(&self.parks, header, &bytes).await.unwrap();
        let wish = CreateInstanceRequest {
            vcpus: 1,
            ..instances::wish("web")
        };
        let operation = self.parks.instances().create_instance(wish).await.unwrap();
        let operation = operation.into_inner();
        Furnished {
            instance: operation.instance_id,
            image: image.id,
            digest: image.digest,
            operation: operation.id,
        }
    }
}

struct Furnished {
    instance: String,
    image: String,
    digest: String,
    operation: String,
}

/// All of a refusal, but for how the caller named the thing. Details are a map: in order, for the
/// order on the wire is by chance.
fn whole<T: fmt::Debug>(answer: Result<tonic::Response<T>, Status>, which: &str) -> String {
    use tonic_types::StatusExt as _;
    let status = answer.expect_err(which);
    let (info, others) = {
        let mut details = status.get_error_details();
        let info = details.error_info().cloned().expect("it says why");
        details.set_error_info("", "", []);
        (info, format!("{details:?}"))
    };
    let facts: std::collections::BTreeMap<_, _> = info.metadata.into_iter().collect();
    let (code, message) = (status.code(), status.message());
    let headers = status.metadata().keys().map(|key| format!("{key:?}"));
    let headers: Vec<_> = headers.collect();
    let text = format!(
        "{code:?} {message} {} {facts:?} {others} {headers:?}",
        info.reason
    );
    assert!(!text.contains("parks") || which.contains("parks"), "{text}");
    text.replace(which, "WHICH")
}

/// Every question and every change that names an instance.
async fn about_instance(who: &Clients, which: &str) -> Vec<String> {
    let instance = || which.to_owned();
    let mut client = who.instances();
    let get = GetInstanceRequest {
        instance: instance(),
    };
    let start = StartInstanceRequest {
        instance: instance(),
        request_id: "one".into(),
    };
    let stop = StopInstanceRequest {
        instance: instance(),
        request_id: String::new(),
    };
    let restart = RestartInstanceRequest {
        instance: instance(),
        request_id: String::new(),
    };
    let delete = DeleteInstanceRequest {
        instance: instance(),
        request_id: "two".into(),
        etag: "any".into(),
    };
    let explain = ExplainInstanceRequest {
        question: Some(Question::Instance(instance())),
    };
    let console = CreateConsoleTicketRequest {
        instance: instance(),
    };
    let why = ExplainAccessRequest {
        action: "instance.get".into(),
        object: format!("instance/{which}"),
        principal: String::new(),
    };
    vec![
        whole(client.get_instance(get).await, which),
        whole(client.start_instance(start).await, which),
        whole(client.stop_instance(stop).await, which),
        whole(client.restart_instance(restart).await, which),
        whole(client.delete_instance(delete).await, which),
        whole(client.explain_instance(explain).await, which),
        whole(client.create_console_ticket(console).await, which),
        whole(who.auth().explain_access(why).await, which),
    ]
}

async fn about_image(who: &Clients, which: &str) -> Vec<String> {
    let image = || which.to_owned();
    let get = GetImageRequest { image: image() };
    let delete = DeleteImageRequest {
        image: image(),
        request_id: String::new(),
    };
    let create = CreateInstanceRequest {
        image: image(),
        ..instances::wish("mine")
    };
    let dry = CreateInstanceRequest {
        validate_only: true,
        ..create.clone()
    };
    let explain = ExplainInstanceRequest {
        question: Some(Question::Create(create.clone())),
    };
    vec![
        whole(who.images().get_image(get).await, which),
        whole(who.images().delete_image(delete).await, which),
        whole(who.instances().create_instance(create).await, which),
        whole(who.instances().create_instance(dry).await, which),
        whole(who.instances().explain_instance(explain).await, which),
    ]
}

async fn about_operation(who: &Clients, which: &str) -> Vec<String> {
    let operation = || which.to_owned();
    let get = GetOperationRequest {
        operation: operation(),
    };
    let watch = WatchOperationRequest {
        operation: operation(),
    };
    let cancel = CancelOperationRequest {
        operation: operation(),
        request_id: String::new(),
    };
    let watched = who.operations().watch_operation(watch).await;
    vec![
        whole(who.operations().get_operation(get).await, which),
        whole(watched.map(|_| tonic::Response::new(())), which),
        whole(who.operations().cancel_operation(cancel).await, which),
    ]
}

const NOBODYS: &str = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";

/// FAULTS 25: another tenant's instance, image and operation answer byte for byte like absent ones,
/// by name, by id and by digest.
#[tokio::test]
async fn another_tenants_things_answer_like_absent_ones() {
    let city = City::new().await;
    let water = &city.water;
    let instance = about_instance(water, "parks/web").await;
    let image = about_image(water, "parks/own").await;
    let tenant = |name: &str| GetTenantRequest {
        tenant: name.into(),
    };
    for answer in instance.iter().chain(&image) {
        assert!(answer.starts_with("NotFound"), "{answer}");
    }
    let there = city.furnish().await;
    assert_eq!(about_instance(water, "parks/web").await, instance);
    assert_eq!(about_image(water, "parks/own").await, image);
    assert_eq!(
        about_instance(water, &there.instance).await,
        about_instance(water, NOBODYS).await
    );
    assert_eq!(
        about_image(water, &there.image).await,
        about_image(water, NOBODYS).await
    );
    let other_digest = Digest::of(b"nothing").to_string();
    assert_eq!(
        about_image(water, &there.digest).await,
        about_image(water, &other_digest).await
    );
    assert_eq!(
        about_operation(water, &there.operation).await,
        about_operation(water, NOBODYS).await
    );
    assert_eq!(
        whole(water.tenants().get_tenant(tenant("parks")).await, "parks"),
        whole(water.tenants().get_tenant(tenant("moon")).await, "moon")
    );
    let update = |tenant: &str, path: &str| UpdateTenantRequest {
        tenant: tenant.into(),
        update_mask: Some(FieldMask {
            paths: vec![path.into()],
        }),
        ..UpdateTenantRequest::default()
    };
    for path in ["contacts", "quota.vcpus"] {
        let there = water.tenants().update_tenant(update("parks", path)).await;
        let nowhere = water.tenants().update_tenant(update("moon", path)).await;
        assert_eq!(whole(there, "parks"), whole(nowhere, "moon"), "{path}");
    }
    let delete = |tenant: &str| DeleteTenantRequest {
        tenant: tenant.into(),
        ..DeleteTenantRequest::default()
    };
    assert_eq!(
        whole(
            water.tenants().delete_tenant(delete("parks")).await,
            "parks"
        ),
        whole(water.tenants().delete_tenant(delete("moon")).await, "moon")
    );
    let into = CreateInstanceRequest {
        tenant: "parks".into(),
        ..instances::wish("mine")
    };
    let nowhere = CreateInstanceRequest {
        tenant: "moon".into(),
        ..instances::wish("mine")
    };
    assert_eq!(
        whole(water.instances().create_instance(into).await, "parks"),
        whole(water.instances().create_instance(nowhere).await, "moon")
    );
    for which in ["user/zhao", "user/nobody"] {
        let user = GetUserRequest { user: which.into() };
        let answer = water.users().get_user(user).await;
        assert_eq!(refused(answer).0, Code::NotFound, "{which}");
    }
    // Whose they are sees them all.
    let get = GetInstanceRequest {
        instance: "web".into(),
    };
    let own = city.parks.instances().get_instance(get).await.unwrap();
    assert_eq!(own.into_inner().tenant, "parks");
    let audit = &city.lab.api.audit.refusals;
    assert!(audit.total() > 0, "it is on record all the same");
}

/// FAULTS 25: lists and events show what is one's own, and what is everybody's.
#[tokio::test]
async fn lists_and_events_show_what_may_be_seen() {
    let city = City::new().await;
    let there = city.furnish().await;
    let wish = CreateInstanceRequest {
        vcpus: 1,
        ..instances::wish("web")
    };
    // The name is free in each tenant.
    city.water.instances().create_instance(wish).await.unwrap();

    let instances = |who: &Clients, tenant: &str| {
        let mut client = who.instances();
        let request = ListInstancesRequest {
            tenant: tenant.into(),
            page_size: 1,
            ..ListInstancesRequest::default()
        };
        async move {
            let (mut all, mut request) = (Vec::new(), request);
            loop {
                let page = client.list_instances(request.clone()).await?.into_inner();
                all.extend(page.instances.iter().map(|one| one.tenant.clone()));
                if page.next_page_token.is_empty() {
                    return Ok::<_, Status>(all);
                }
                request.page_token = page.next_page_token;
            }
        }
    };
    assert_eq!(instances(&city.water, "").await.unwrap(), ["water"]);
    assert_eq!(instances(&city.lab, "").await.unwrap(), ["parks", "water"]);
    assert_eq!(instances(&city.lab, "parks").await.unwrap(), ["parks"]);
    let foreign = refused(instances(&city.water, "parks").await);
    assert_eq!(foreign, refused(instances(&city.water, "moon").await));

    let images = async |who: &Clients| -> Vec<String> {
        let list = who.images().list_images(ListImagesRequest::default()).await;
        let images = list.unwrap().into_inner().images.into_iter();
        images
            .map(|image| format!("{}/{}", image.tenant, image.name))
            .collect()
    };
    assert_eq!(images(&city.water).await, ["city/base"]);
    assert_eq!(images(&city.parks).await, ["city/base", "parks/own"]);

    let operations = async |who: &Clients, instance: &str| -> usize {
        let request = ListOperationsRequest {
            instance: instance.into(),
            ..ListOperationsRequest::default()
        };
        let list = who.operations().list_operations(request).await.unwrap();
        list.into_inner().operations.len()
    };
    assert_eq!(operations(&city.water, "").await, 1);
    assert_eq!(operations(&city.lab, "").await, 2);
    assert_eq!(operations(&city.water, &there.instance).await, 0);
    assert_eq!(operations(&city.water, "parks/web").await, 0);

    let tenants = async |who: &Clients| -> Vec<String> {
        let list = ListTenantsRequest::default();
        let list = who.tenants().list_tenants(list).await;
        let tenants = list.unwrap().into_inner().tenants.into_iter();
        tenants.map(|tenant| tenant.name).collect()
    };
    assert_eq!(tenants(&city.water).await, ["city", "water"]);

    for (who, own, other) in [
        (&city.water, "water", "parks"),
        (&city.parks, "parks", "water"),
    ] {
        let shown = events::events(who, Some(0)).await.unwrap();
        let created: Vec<_> = shown
            .iter()
            .filter(|event| event.kind == "instance.created")
            .collect();
        assert_eq!(created.len(), 1, "{own}");
        for event in &shown {
            assert!(!event.kind.starts_with("node."), "{event:?}");
            assert!(!event.kind.starts_with("user."), "{event:?}");
            assert!(!event.message.contains(other), "{event:?}");
        }
    }
    let all = events::events(&city.lab, Some(0)).await.unwrap();
    let created = all.iter().filter(|event| event.kind == "instance.created");
    assert_eq!(created.count(), 2);
}

/// A tenant's events are shown to it when the fabric has forgotten the thing itself.
#[tokio::test]
async fn events_of_what_is_gone_are_shown_to_whose_it_was() {
    let city = City::new().await;
    let there = city.furnish().await;
    let delete = DeleteInstanceRequest {
        instance: "web".into(),
        ..DeleteInstanceRequest::default()
    };
    city.parks
        .instances()
        .delete_instance(delete)
        .await
        .unwrap();
    let snapshot = city.lab.api.ledger.snapshot();
    let instance = &snapshot.fabric.instances[&there.instance.parse::<InstanceId>().unwrap()];
    city.lab
        .own(Command::IncarnationGone {
            node: fixture::node_id(1),
            incarnation: instance.incarnations[0].id,
        })
        .await;
    let kinds = async |who: &Clients| -> Vec<String> {
        let shown = events::events(who, Some(0)).await.unwrap();
        let about = shown
            .into_iter()
            .filter(|event| event.subject_id == there.instance);
        about.map(|event| event.kind).collect()
    };
    let own = kinds(&city.parks).await;
    for kind in ["instance.created", "incarnation.placed", "instance.removed"] {
        assert!(
            own.iter().any(|known| known == kind),
            "{own:?} lacks {kind}"
        );
    }
    assert_eq!(kinds(&city.water).await, Vec::<String>::new());
}

/// Bare names are those of the home tenant, and an image's are looked up from there to the root.
#[tokio::test]
async fn names_are_looked_up_at_home() {
    let city = City::new().await;
    city.furnish().await;
    let image = |which: &str| GetImageRequest {
        image: which.into(),
    };
    for (who, which, expected) in [
        (&city.parks, "own", Some("parks")),
        (&city.parks, "base", Some("city")),
        (&city.water, "own", None),
        (&city.lab.li_wei, "own", None),
        (&city.lab.li_wei, "parks/own", Some("parks")),
    ] {
        let found = who.images().get_image(image(which)).await;
        let tenant = found.map(|image| image.into_inner().tenant).ok();
        assert_eq!(tenant.as_deref(), expected, "{which}");
    }
    // A tenant's image is no other tenant's to start from, whoever asks.
    let wish = CreateInstanceRequest {
        tenant: "water".into(),
        image: "parks/own".into(),
        ..instances::wish("mine")
    };
    let refusal = refused(city.lab.instances().create_instance(wish).await);
    assert_eq!(refusal, (Code::NotFound, "NOT_FOUND".into()));
}

/// How full each node is, is for those who run them.
#[tokio::test]
async fn a_tenant_learns_whether_it_fits_and_not_what_each_node_has() {
    let city = City::new().await;
    let explain = |who: &Clients| {
        let mut client = who.instances();
        let request = ExplainInstanceRequest {
            question: Some(Question::Create(instances::wish("web"))),
        };
        async move { client.explain_instance(request).await.unwrap().into_inner() }
    };
    let told = explain(&city.water).await;
    assert!(
        told.nodes.is_empty() && !told.summary.is_empty(),
        "{told:?}"
    );
    assert_eq!(explain(&city.lab).await.nodes.len(), 1);
}
