//! FAULTS 24: certificates and authorities change under open connections.

use kapok_trust::{Alert, Bundle, Csr, Key, Material, TlsFailure, credentials};

use crate::support::{City, DAY, Echo, NODE, OTHER_NODE, echoes, ends, identity};
use kapok_types::Env as _;

/// A material of the newer authority: with a bridge from the older one, trusting both.
fn bridged(older: &City, newer: &City, subject: &str) -> Material {
    let now = newer.env.now();
    let cross = older
        .authority
        .cross_sign(newer.authority.certificate_pem(), older.serial(), now);
    let mut material = newer.material(subject);
    material.chain_pem += &cross.unwrap();
    material.bundle_pem += older.authority.certificate_pem();
    material
}

/// FAULTS 24.
#[tokio::test]
async fn a_renewed_certificate_serves_new_connections_and_ends_none() {
    let city = City::new(1);
    let (node, controller) = (city.credentials(NODE), city.credentials("controller/a"));
    let mut server = Echo::start(&node).await;
    let old = (node.certificate().serial, controller.certificate().serial);
    let mut first = server.dial(&controller).await.unwrap();

    let mut changed = node.changed();
    node.replace(city.material(NODE)).unwrap();
    controller.replace(city.material("controller/a")).unwrap();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    let new = (node.certificate().serial, controller.certificate().serial);
    assert_ne!(old, new);

    let mut second = server.dial(&controller).await.unwrap();
    assert!(echoes(&mut first).await, "open connections go on");
    assert!(echoes(&mut second).await);
    assert_eq!(first.peer().serial(), Some(old.0));
    assert_eq!(second.peer().serial(), Some(new.0));
    let seen: Vec<_> = server
        .peers_are(2)
        .await
        .iter()
        .map(kapok_trust::Peer::serial)
        .collect();
    assert_eq!(seen, [Some(old.1), Some(new.1)]);
}

/// FAULTS 24: whoever knows only the old authority verifies the new one's certificates over the
/// bridge, at either end. Without the bridge it doesn't.
#[tokio::test]
async fn nobody_is_locked_out_while_one_authority_follows_another() {
    let older = City::new(2);
    let newer = older.newer();
    let node = older.credentials(NODE);
    let server = Echo::start(&node).await;
    let late = older.credentials("controller/a");
    let mut before = server.dial(&late).await.unwrap();

    // The server's certificate is the new authority's; the client has never heard of it.
    node.replace(bridged(&older, &newer, NODE)).unwrap();
    let mut after = server.dial(&late).await.unwrap();
    assert!(echoes(&mut before).await && echoes(&mut after).await);
    assert_eq!(
        after.peer().certificate().unwrap().authority,
        newer.authority.fingerprint()
    );

    // The reverse: the client's certificate is the new one's, the server has never heard of it.
    let late_node = older.credentials(NODE);
    let late_server = Echo::start(&late_node).await;
    let ahead = older.take(bridged(&older, &newer, "controller/b"));
    let mut over_bridge = late_server.dial(&ahead).await.unwrap();
    assert!(echoes(&mut over_bridge).await);
    // A renewal at the end that doesn't know the new authority leaves it alone.
    late_node.replace(older.material(NODE)).unwrap();
    assert!(echoes(&mut over_bridge).await);

    // The guard of the guard: it is the bridge that makes it so.
    let mut unbridged = newer.material(NODE);
    unbridged.bundle_pem += older.authority.certificate_pem();
    node.replace(unbridged).unwrap();
    assert_eq!(server.refusal(&late).await, Some(TlsFailure::UnknownIssuer));
}

/// A retired authority's certificates let nobody in, and those who are in leave.
#[tokio::test]
async fn a_retired_authority_is_trusted_no_more() {
    let older = City::new(3);
    let newer = older.newer();
    let node = older.take(bridged(&older, &newer, NODE));
    let server = Echo::start(&node).await;
    let old_client = older.credentials("controller/a");
    let new_client = newer.credentials("controller/b");
    let mut old = server.dial(&old_client).await.unwrap();
    let mut new = server.dial(&new_client).await.unwrap();

    node.replace(newer.material(NODE)).unwrap();
    ends(&mut old).await;
    assert!(echoes(&mut new).await);
    let mut knows_both = older.material("controller/a");
    knows_both.bundle_pem += newer.authority.certificate_pem();
    let told = server.refusal(&older.take(knows_both)).await;
    assert_eq!(told, Some(TlsFailure::PeerRefusedUs(Alert::UnknownIssuer)));
}

/// FAULTS 24: rotation in the middle of many dials drops none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_dial_fails_while_certificates_and_authorities_roll() {
    let older = City::new(4);
    let newer = older.newer();
    let (node, controller) = (older.credentials(NODE), older.credentials("controller/a"));
    let server = Echo::start(&node).await;
    let mut kept = server.dial(&controller).await.unwrap();
    let dials = async {
        for _ in 0..60 {
            let mut connection = server.dial(&controller).await.unwrap();
            assert!(echoes(&mut connection).await);
            assert!(echoes(&mut kept).await);
        }
    };
    let rotate = async {
        for n in 0..30 {
            if n < 10 {
                node.replace(older.material(NODE)).unwrap();
                controller.replace(older.material("controller/a")).unwrap();
            } else {
                // Never at the same moment: the overlap is what makes it safe.
                node.replace(bridged(&older, &newer, NODE)).unwrap();
                tokio::task::yield_now().await;
                controller
                    .replace(bridged(&older, &newer, "controller/a"))
                    .unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(dials, rotate);
    server.refused_nobody();
}

/// A material that doesn't fit together changes nothing.
#[tokio::test]
async fn a_wrong_material_is_refused_and_changes_nothing() {
    let city = City::new(5);
    let node = city.credentials(NODE);
    let serial = node.certificate().serial;
    let fine = city.material(NODE);
    let other_key = Key::generate().unwrap().to_pem().to_string();
    let mut swapped = fine.clone();
    swapped.key_pem = other_key;
    let mut untrusted = fine.clone();
    untrusted.bundle_pem = City::new(50).authority.certificate_pem().to_owned();
    let mut forged_list = fine.clone();
    let impostor = city.newer();
    forged_list.crl_pem = city.crl(&[serial]);
    // One digit of the signature, eight before the text's end.
    let at = forged_list.crl_pem.find("\n-----END").unwrap() - 8;
    let other = if forged_list.crl_pem.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    forged_list.crl_pem.replace_range(at..=at, other);
    let mut strange_list = fine.clone();
    strange_list.crl_pem = impostor.crl(&[serial]);
    let mut cut = fine.clone();
    cut.chain_pem.truncate(200);

    assert!(matches!(
        node.replace(swapped),
        Err(credentials::Error::Key(_))
    ));
    assert!(matches!(
        node.replace(untrusted),
        Err(credentials::Error::Untrusted(_))
    ));
    assert!(matches!(
        node.replace(forged_list),
        Err(credentials::Error::Crl)
    ));
    assert!(matches!(node.replace(cut), Err(credentials::Error::Chain)));
    assert!(matches!(
        node.replace(city.material(OTHER_NODE)),
        Err(credentials::Error::OtherSubject { .. })
    ));
    assert_eq!(node.certificate().serial, serial);
    assert!(!node.changed().has_changed().unwrap());
    // Another authority's list has no say here.
    node.replace(strange_list).unwrap();
    assert!(!node.is_revoked(&serial));
}

/// An agent whose certificate ran out still starts, and can say when.
#[tokio::test]
async fn an_expired_certificate_is_taken_by_its_holder() {
    let city = City::new(6);
    let material = city.material(NODE);
    city.env.advance(3 * DAY);
    let node = city.take(material);
    assert!(!node.certificate().is_valid_at(city.env.now()));
    let server = Echo::start(&node).await;
    let told = server.refusal(&city.credentials("controller/a")).await;
    assert_eq!(told, Some(TlsFailure::Expired));
}

/// What is stored is what is loaded, and is served from.
#[tokio::test]
async fn credentials_survive_the_disk() {
    let city = City::new(7);
    let home = tempfile::tempdir().unwrap();
    let material = city.material(NODE);
    kapok_trust::Credentials::store(home.path(), &material).unwrap();
    let node = kapok_trust::Credentials::load(home.path(), city.env.clone()).unwrap();
    assert_eq!(*node.material(), material);
    let bundle = Bundle::parse_pem(&material.bundle_pem).unwrap();
    assert_eq!(*node.bundle(), bundle);
    // The key stays the node's own through a renewal.
    let key = Key::from_pem(&material.key_pem).unwrap();
    let csr = Csr::parse(&key.request().unwrap()).unwrap();
    let now = city.env.now();
    let renewed = city
        .authority
        .issue(&csr, &identity(NODE), city.serial(), DAY, now);
    let mut renewal = material.clone();
    renewal.chain_pem = renewed.unwrap();
    node.replace(renewal).unwrap();
}
