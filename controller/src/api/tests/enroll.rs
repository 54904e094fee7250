//! The way in: each refusal is on record. What it looks like on sockets is the harness's.

use kapok_proto::fabric::v1::{
    JoinControllerRequest, JoinNodeRequest, LoginRequest,
    enroll_service_server::EnrollService as _, login_request::Proof,
};
use kapok_trust::{Csr, Key};
use tonic::Request;

use super::*;

fn login(csr_pem: &str, nonce: &str, proof: Option<Proof>) -> Request<LoginRequest> {
    Request::new(LoginRequest {
        csr_pem: csr_pem.into(),
        oidc_nonce: nonce.into(),
        proof,
        life_seconds: 0,
    })
}

/// Whatever it is refused for, and also when it isn't looked at any more.
#[tokio::test]
async fn every_refusal_of_the_way_in_is_noted() {
    let lab = Lab::new().await;
    let refusals = &lab.api.audit.refusals;
    let before = refusals.total();
    let request = Key::generate().unwrap().request().unwrap();
    let token = || Some(Proof::Token("x".into()));
    for (login, code) in [
        (login("", "", token()), Code::InvalidArgument),
        (login(&request, "", None), Code::InvalidArgument),
        (login(&request, "", token()), Code::Unauthenticated),
    ] {
        assert_eq!(refused(lab.api.login(login).await).0, code);
    }
    let join = Request::new(JoinControllerRequest::default());
    let said = refused(lab.api.join_controller(join).await);
    assert_eq!(said, (Code::Unauthenticated, "TOKEN_REFUSED".into()));
    assert_eq!(refusals.total(), before + 4);
    let mut tries = 4;
    loop {
        tries += 1;
        let join = Request::new(JoinNodeRequest::default());
        let (code, reason) = refused(lab.api.join_node(join).await);
        if code == Code::ResourceExhausted {
            assert_eq!(reason, "TOO_FAST");
            break;
        }
        assert!(tries < 100, "{code:?}");
    }
    assert_eq!(refusals.total(), before + tries);
}

/// An ID token that somebody else has seen is worth nothing without the key that it was asked for.
#[tokio::test]
async fn an_id_token_is_for_one_key() {
    let oidc = "[oidc]\nissuer = \"http://127.0.0.1:1\"\nclient_id = \"kapok\"";
    let lab = Lab::start(Arc::new(Nobody), oidc).await;
    let key = |_| Key::generate().unwrap().request().unwrap();
    let [own, other] = [0, 1].map(key);
    let nonce = Csr::parse(&own).unwrap().nonce();
    // Whole but unsigned: the provider, who isn't there, would have to be asked.
    let token = concat!(
        "eyJhbGciOiJSUzI1NiJ9.",
        "eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjEiLCJzdWIiOiJsaSIsImF1ZCI6WyJrYXBvayJdLCJleHAiOjQwMDAwMDAwMDAsImlhdCI6MX0.",
        "AAAA"
    );
    let shown = || Some(Proof::OidcIdToken(token.into()));
    let stolen = lab.api.login(login(&other, &nonce, shown())).await;
    assert_eq!(
        refused(stolen),
        (Code::Unauthenticated, "LOGIN_REFUSED".into())
    );
    let whole = lab.api.login(login(&own, &nonce, shown())).await;
    assert_eq!(
        refused(whole),
        (Code::Unavailable, "OIDC_UNREACHABLE".into())
    );
}
