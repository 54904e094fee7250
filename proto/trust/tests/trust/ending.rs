//! No connection outlives the certificate that opened it, at either end.

use std::time::Duration;

use crate::support::{City, DAY, Echo, NODE, echoes, ends, until};
use kapok_types::Env as _;

/// FAULTS 21: a revocation reaches those who are already in.
#[tokio::test]
async fn revoking_a_client_ends_its_connections_and_no_others() {
    let city = City::new(1);
    let mut material = city.material(NODE);
    let node = city.take(material.clone());
    let server = Echo::start(&node).await;
    let (alice, bob) = (city.credentials("user/alice"), city.credentials("user/bob"));
    let mut of_alice = [
        server.dial(&alice).await.unwrap(),
        server.dial(&alice).await.unwrap(),
    ];
    let mut of_bob = server.dial(&bob).await.unwrap();
    until("three connections", || node.connections().open() == 3).await;
    assert_eq!(node.connections().serials()[&alice.certificate().serial], 2);

    material.crl_pem = city.crl(&[alice.certificate().serial]);
    node.replace(material).unwrap();
    for connection in &mut of_alice {
        ends(connection).await;
    }
    assert!(echoes(&mut of_bob).await);
    until("one connection", || node.connections().open() == 1).await;
}

/// The dialling end lets go of a server whose certificate was revoked.
#[tokio::test]
async fn revoking_a_server_ends_the_connections_to_it() {
    let city = City::new(2);
    let node = city.credentials(NODE);
    let server = Echo::start(&node).await;
    let mut material = city.material("controller/a");
    let controller = city.take(material.clone());
    let mut connection = server.dial(&controller).await.unwrap();
    assert!(echoes(&mut connection).await);

    material.crl_pem = city.crl(&[node.certificate().serial]);
    controller.replace(material).unwrap();
    ends(&mut connection).await;
    drop(connection);
    assert_eq!(controller.connections().open(), 0);
}

/// FAULTS 21: a certificate that runs out ends what it opened, whichever end it is.
#[tokio::test]
async fn connections_end_with_their_certificates() {
    let city = City::new(3);
    let hour = Duration::from_hours(1);
    let short = |subject| city.take(city.material_from(subject, city.env.now(), hour));
    let (node, controller) = (city.credentials(NODE), city.credentials("controller/a"));
    let server = Echo::start(&node).await;
    let mut long_lived = server.dial(&controller).await.unwrap();
    let mut from_short = server.dial(&short("user/alice")).await.unwrap();
    let short_server = Echo::start(&short(NODE)).await;
    let mut to_short = short_server.dial(&controller).await.unwrap();
    for connection in [&mut long_lived, &mut from_short, &mut to_short] {
        assert!(echoes(connection).await);
    }

    city.env.advance(2 * hour);
    ends(&mut from_short).await;
    ends(&mut to_short).await;
    assert!(echoes(&mut long_lived).await);
    city.env.advance(DAY);
    ends(&mut long_lived).await;
}
