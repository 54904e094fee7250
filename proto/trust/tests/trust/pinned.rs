//! The way in without a certificate: one fingerprint is trusted, and nothing is said before it
//! was verified.

use std::sync::Arc;

use kapok_trust::{
    Acceptor, Bundle, ClientAuth, Credentials, Fingerprint, Limits, Pin, TlsFailure, Token,
    connector, pinned,
};
use kapok_types::Env;

use crate::support::{City, Echo, city};

async fn controller(credentials: Credentials) -> Echo {
    Echo::serve(Acceptor::new(
        credentials,
        ClientAuth::Optional,
        Limits::default(),
    ))
    .await
}

fn pin(city: &City) -> Pin {
    Token::new(
        crate::support::city(),
        city.authority.fingerprint(),
        &*city.env,
    )
    .pin()
}

/// The authority that the controller at `address` was verified against.
async fn bundle(address: &str, pin: &Pin, env: Arc<dyn Env>) -> Result<Bundle, connector::Error> {
    let dialled = pinned::channel(address, pin, env, |endpoint| endpoint).await;
    dialled.map(|(_, bundle)| bundle)
}

#[tokio::test]
async fn a_pinned_authority_is_found_and_verified() {
    let city = City::new(1);
    let mut server = controller(city.credentials("controller/a")).await;
    let bundle = bundle(&server.at(), &pin(&city), city.env.clone())
        .await
        .unwrap();
    assert!(bundle.contains(&city.authority.fingerprint()));
    let peer = server.peers_are(1).await.remove(0);
    assert!(peer.identity().is_none());
}

/// A token that was made before a rollover is still good after it.
#[tokio::test]
async fn the_older_authority_is_found_while_it_is_trusted() {
    let older = City::new(2);
    let newer = older.newer();
    let mut material = newer.material("controller/a");
    let now = Env::now(&*older.env);
    let cross = older
        .authority
        .cross_sign(newer.authority.certificate_pem(), older.serial(), now);
    material.chain_pem += &cross.unwrap();
    material.bundle_pem += older.authority.certificate_pem();
    let server = controller(newer.take(material)).await;
    for city in [&older, &newer] {
        let bundle = bundle(&server.at(), &pin(city), city.env.clone())
            .await
            .unwrap();
        assert_eq!(bundle.roots().len(), 1);
        assert!(bundle.contains(&city.authority.fingerprint()));
    }
}

/// An impostor may copy the authority's certificate, but not what it has signed.
#[tokio::test]
async fn impostors_are_refused() {
    let city = City::new(3);
    let impostor = City::new(30);
    // It shows a chain of its own with the true authority's certificate at the end.
    let mut material = impostor.material("controller/a");
    material.bundle_pem += city.authority.certificate_pem();
    let copied = controller(impostor.take(material)).await;
    let refused = bundle(&copied.at(), &pin(&city), city.env.clone()).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        connector::failure(&refused),
        Some(TlsFailure::UnknownIssuer),
        "{refused}"
    );
    assert!(copied.peers().is_empty());

    // It doesn't even do that.
    let stranger = controller(impostor.credentials("controller/a")).await;
    let refused = bundle(&stranger.at(), &pin(&city), city.env.clone()).await;
    assert!(matches!(refused, Err(connector::Error::Pin { .. })));
    assert!(stranger.peers().is_empty());

    // A member of the fabric that is no controller.
    let node = controller(city.credentials(crate::support::NODE)).await;
    let refused = bundle(&node.at(), &pin(&city), city.env.clone()).await;
    let refused = refused.unwrap_err();
    assert_eq!(connector::failure(&refused), Some(TlsFailure::WrongName));
}

#[tokio::test]
async fn a_wrong_pin_finds_nobody() {
    let it = City::new(4);
    let server = controller(it.credentials("controller/a")).await;
    for pin in [
        Pin {
            fabric: city(),
            authority: Fingerprint::of(b"another"),
        },
        Pin {
            fabric: "town".parse().unwrap(),
            authority: it.authority.fingerprint(),
        },
    ] {
        let refused = bundle(&server.at(), &pin, it.env.clone()).await;
        assert!(matches!(refused, Err(connector::Error::Pin { .. })));
    }
    assert!(server.peers().is_empty());
}
