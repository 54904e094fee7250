//! Who gets in, what the roles may do over gRPC, and how it is explained.

use kapok_proto::fabric::v1::{
    CordonNodeRequest, CreateUserRequest, ExplainAccessRequest, ExplainAccessResponse,
    GetInstanceRequest, ListAuditRequest, ListNodesRequest, ListUsersRequest, StopInstanceRequest,
    WhoAmIRequest,
};

use super::*;

async fn list_nodes(who: &Clients) -> Result<(), Status> {
    let list = ListNodesRequest::default();
    who.nodes().list_nodes(list).await.map(drop)
}

/// FAULTS 20 and 22: who one is, is what the connection proved. Nothing in a request counts.
#[tokio::test]
async fn only_known_people_and_machines_get_in() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    lab.user("machine/ci", &["auditor"]).await;
    let anonymous = connect(&lab.dial, Peer::anonymous(None));
    let elsewhere = Identity::new(
        "other".parse().unwrap(),
        Subject::User("li-wei".parse().unwrap()),
    );
    let elsewhere = connect(&lab.dial, Peer::vouched(elsewhere, None));
    let node = format!("node/{}", fixture::node_id(1));
    let cases = [
        (lab.of("machine/ci"), None),
        (anonymous, Some((Code::Unauthenticated, "NO_CERTIFICATE"))),
        (elsewhere, Some((Code::Unauthenticated, "OTHER_FABRIC"))),
        (
            lab.of("user/stranger"),
            Some((Code::Unauthenticated, "UNKNOWN_USER")),
        ),
        (
            lab.of("machine/li-wei"),
            Some((Code::Unauthenticated, "UNKNOWN_USER")),
        ),
        (
            lab.of(&node),
            Some((Code::PermissionDenied, "NOT_A_PERSON")),
        ),
        (
            lab.of("controller/a"),
            Some((Code::PermissionDenied, "NOT_A_PERSON")),
        ),
    ];
    for (who, expected) in cases {
        let before = lab.api.audit.refusals.total();
        let mut request = tonic::Request::new(ListNodesRequest::default());
        let claim = "li-wei".parse().unwrap();
        request.metadata_mut().insert("kapok-user", claim);
        let answer = who.nodes().list_nodes(request).await;
        let noted = lab.api.audit.refusals.total() - before;
        match expected {
            None => assert!(answer.is_ok()),
            Some((code, reason)) => {
                assert_eq!(refused(answer), (code, reason.to_owned()));
                assert_eq!(noted, 1, "{reason}");
            }
        }
    }
}

/// What is taken away is gone with the next call, on connections that are open.
#[tokio::test]
async fn a_disabled_user_is_out_at_once() {
    let lab = Lab::new().await;
    let wang = lab.user("user/wang", &["auditor"]).await;
    list_nodes(&wang).await.unwrap();
    let disable = |disabled| Command::UpdateUser {
        user: "user/wang".parse().unwrap(),
        grant: fixture::grants(&[]),
        revoke: fixture::grants(&[]),
        disabled: Some(disabled),
    };
    lab.own(disable(true)).await;
    let out = refused(list_nodes(&wang).await);
    assert_eq!(out, (Code::PermissionDenied, "DISABLED".into()));
    lab.own(disable(false)).await;
    list_nodes(&wang).await.unwrap();
    lab.own(Command::DeleteUser {
        user: "user/wang".parse().unwrap(),
    })
    .await;
    let out = refused(list_nodes(&wang).await);
    assert_eq!(out, (Code::Unauthenticated, "UNKNOWN_USER".into()));
    // They may still learn that.
    let who = wang.auth().who_am_i(WhoAmIRequest::default()).await;
    assert!(who.unwrap().into_inner().grants.is_empty());
}

/// The three administrators over gRPC: each is refused what is another's, and that is on record.
#[tokio::test]
async fn the_three_administrators_are_kept_apart() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    let instance = instances::on_a_node(&lab, "web-1").await;
    let security = lab.of("user/security-administrator");
    let auditor = lab.of("user/auditor");
    let forbidden = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    let absent = (Code::NotFound, "NOT_FOUND".to_owned());

    let audit = async |who: &Clients| {
        let list = who.audit().list_audit(ListAuditRequest::default()).await;
        list.map(drop)
    };
    let users = async |who: &Clients| {
        let list = who.users().list_users(ListUsersRequest::default()).await;
        list.map(drop)
    };
    let create = async |who: &Clients| {
        let request = CreateUserRequest {
            subject: "user/new".into(),
            ..CreateUserRequest::default()
        };
        who.users().create_user(request).await.map(drop)
    };
    let stop = async |who: &Clients| {
        let request = StopInstanceRequest {
            instance: instance.id.clone(),
            request_id: String::new(),
        };
        who.instances().stop_instance(request).await.map(drop)
    };
    let get = async |who: &Clients| {
        let request = GetInstanceRequest {
            instance: "web-1".into(),
        };
        who.instances().get_instance(request).await.map(drop)
    };
    let cordon = async |who: &Clients| {
        let request = CordonNodeRequest {
            node: "node-1".into(),
            ..CordonNodeRequest::default()
        };
        who.nodes().cordon_node(request).await.map(drop)
    };

    // The first can neither read nor change audit and users.
    assert_eq!(refused(audit(&lab).await), forbidden);
    assert_eq!(refused(users(&lab).await), forbidden);
    assert_eq!(refused(create(&lab).await), forbidden);
    // The second can't touch instances, nor see them.
    assert_eq!(refused(get(&security).await), absent);
    assert_eq!(refused(stop(&security).await), absent);
    assert_eq!(refused(cordon(&security).await), forbidden);
    assert_eq!(refused(audit(&security).await), forbidden);
    create(&security).await.unwrap();
    users(&security).await.unwrap();
    // The third reads everything and changes nothing.
    audit(&auditor).await.unwrap();
    users(&auditor).await.unwrap();
    get(&auditor).await.unwrap();
    assert_eq!(refused(stop(&auditor).await), forbidden);
    assert_eq!(refused(create(&auditor).await), forbidden);
    assert_eq!(refused(cordon(&auditor).await), forbidden);
    stop(&lab).await.unwrap();
    assert_eq!(lab.api.audit.refusals.total(), 10);
}

async fn why(
    who: &Clients,
    principal: &str,
    action: &str,
    object: &str,
) -> Result<ExplainAccessResponse, Status> {
    let request = ExplainAccessRequest {
        principal: principal.into(),
        action: action.into(),
        object: object.into(),
    };
    Ok(who.auth().explain_access(request).await?.into_inner())
}

#[tokio::test]
async fn an_answer_names_the_deciding_policies() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    instances::on_a_node(&lab, "web-1").await;
    let auditor = lab.of("user/auditor");

    let own = why(&lab, "", "instance.delete", "instance/web-1")
        .await
        .unwrap();
    assert!(
        own.allowed && own.policies[0].id == "system-administrator",
        "{own:?}"
    );
    assert_eq!(own.policies[0].source, "built-in");
    let denied = why(&lab, "", "audit.read", "").await.unwrap();
    assert!(!denied.allowed, "{denied:?}");
    let ids: Vec<_> = denied
        .policies
        .iter()
        .map(|one| (&*one.id, one.forbids))
        .collect();
    assert_eq!(
        ids,
        [
            ("audit-for-auditors", true),
            ("system-administrator-apart", true)
        ]
    );
    assert!(denied.policies[0].text.contains("forbid"));
    assert!(
        denied.summary.contains("audit-for-auditors"),
        "{}",
        denied.summary
    );

    // Of another: for those who may see roles.
    let other = why(&auditor, "user/li-wei", "node.cordon", "node/node-1")
        .await
        .unwrap();
    assert!(other.allowed, "{other:?}");
    let none = why(
        &auditor,
        "security-administrator",
        "instance.get",
        "instance/web-1",
    );
    let none = none.await.unwrap();
    assert!(!none.allowed && none.policies[0].forbids, "{none:?}");
    assert_eq!(
        refused(why(&lab, "user/auditor", "audit.read", "").await),
        refused(why(&lab, "user/nobody", "audit.read", "").await),
    );
    let grant = "user/li-wei/auditor";
    let gives = why(&auditor, "security-administrator", "user.grant", grant).await;
    assert!(gives.unwrap().allowed);

    for (action, object, expected) in [
        ("instance.format", "", "action"),
        ("instance.delete", "", "object"),
        ("instance.delete", "node/node-1", "object"),
        ("user.grant", "user/li-wei", "object"),
        ("node.get", "disk/x", "object"),
    ] {
        assert_eq!(field(why(&auditor, "", action, object).await), expected);
    }
    let unknown = why(&lab, "", "instance.format", "").await.unwrap_err();
    assert!(unknown.message().contains("instance.delete"), "{unknown:?}");
    let absent = why(&lab, "", "instance.get", "instance/web-9").await;
    assert_eq!(refused(absent).0, Code::NotFound);
}

#[tokio::test]
async fn somebody_learns_who_they_are() {
    let lab = Lab::new().await;
    lab.own(fixture::tenant("water", None)).await;
    let wang = lab
        .user("user/wang", &["tenant_administrator in water"])
        .await;
    let who = wang.auth().who_am_i(WhoAmIRequest::default()).await;
    let who = who.unwrap().into_inner();
    assert_eq!(
        (&*who.subject, &*who.home_tenant, &*who.fabric),
        ("user/wang", "water", "city")
    );
    assert_eq!((who.grants.len(), &*who.grants[0].tenant), (1, "water"));
    let nobody = lab
        .of("user/nobody")
        .auth()
        .who_am_i(WhoAmIRequest::default())
        .await;
    assert!(nobody.unwrap().into_inner().grants.is_empty());
    let node = lab.of(&format!("node/{}", fixture::node_id(1)));
    let node = node.auth().who_am_i(WhoAmIRequest::default()).await;
    assert_eq!(refused(node).0, Code::PermissionDenied);
}
