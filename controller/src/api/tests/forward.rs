//! Who answers, and for whom.

use kapok_proto::fabric::v1::{ListTenantsRequest, WhoAmIRequest};

use super::*;

/// A request with a word in its metadata.
fn with<T>(message: T, key: &'static str, value: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(key, value.parse().unwrap());
    request
}

/// Whoever asks for others is a controller: nobody else is believed, and that they tried is noted. A
/// controller that asks for somebody is answered as that somebody would be.
#[tokio::test]
async fn only_a_controller_asks_for_others() {
    let lab = Lab::new().await;
    lab.user("user/nobody", &[]).await;
    let told = vouched("user/li-wei").told();
    for who in ["user/nobody", "user/stranger"] {
        let before = lab.api.audit.refusals.total();
        let request = with(WhoAmIRequest {}, "kapok-peer", &told);
        let answer = lab.of(who).auth().who_am_i(request).await;
        let refusal = (Code::PermissionDenied, "NOT_A_CONTROLLER".to_owned());
        assert_eq!(refused(answer), refusal, "{who}");
        assert_eq!(lab.api.audit.refusals.total(), before + 1);
    }
    let controller = lab.of("controller/b");
    let request = with(WhoAmIRequest {}, "kapok-peer", &told);
    let answer = controller.auth().who_am_i(request).await.unwrap();
    assert_eq!(answer.into_inner().subject, "user/li-wei");
    // For itself it is nobody here.
    let answer = controller.auth().who_am_i(WhoAmIRequest {}).await;
    assert_eq!(refused(answer).1, "NOT_A_PERSON");
    // It asks for no other controller, and for nobody who isn't named.
    for told in [vouched("controller/c").told().as_str(), "somebody"] {
        let request = with(WhoAmIRequest {}, "kapok-peer", told);
        let answer = controller.auth().who_am_i(request).await;
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument, "{told}");
    }
}

/// The certificate that somebody is asked for with must be theirs by the log.
#[tokio::test]
async fn a_certificate_of_somebody_else_proves_nothing() {
    let lab = Lab::new().await;
    let snapshot = lab.api.ledger.snapshot();
    let mut records = snapshot.fabric.certificates.values();
    let theirs = records.find(|record| record.subject.to_string() == "user/auditor");
    let serial = theirs.unwrap().serial;
    let fabric = lab.api.trust.fabric();
    let told = format!("spiffe://{fabric}/user/li-wei {serial} -");
    let request = with(WhoAmIRequest {}, "kapok-peer", &told);
    let answer = lab.of("controller/b").auth().who_am_i(request).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    let told = format!("spiffe://{fabric}/user/auditor {serial} -");
    let request = with(WhoAmIRequest {}, "kapok-peer", &told);
    let answer = lab.of("controller/b").auth().who_am_i(request).await;
    assert_eq!(answer.unwrap().into_inner().subject, "user/auditor");
}

/// Every answer says which entry it holds, and one that must hold a later one isn't given.
#[tokio::test]
async fn an_answer_says_how_fresh_it_is() {
    let lab = Lab::new().await;
    let list = |least: u64| {
        with(
            ListTenantsRequest::default(),
            "kapok-min-seq",
            &least.to_string(),
        )
    };
    let answer = lab.tenants().list_tenants(list(1)).await.unwrap();
    let seq = answer
        .metadata()
        .get("kapok-seq")
        .unwrap()
        .to_str()
        .unwrap();
    let seq: u64 = seq.parse().unwrap();
    assert_eq!(seq, lab.api.ledger.snapshot().head.seq.get());
    lab.tenants().list_tenants(list(seq)).await.unwrap();
    let refusal = refused(lab.tenants().list_tenants(list(seq + 1)).await);
    assert_eq!(refusal, (Code::Unavailable, "BEHIND".to_owned()));
    // An entry that comes meanwhile is waited for.
    let mut tenants = lab.tenants();
    let (answer, ()) = tokio::join!(
        tenants.list_tenants(list(seq + 1)),
        lab.own(fixture::tenant("water", None))
    );
    let listed = answer.unwrap().into_inner().tenants;
    assert!(listed.iter().any(|tenant| tenant.name == "water"));
}
