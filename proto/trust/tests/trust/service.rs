//! gRPC over it all: the handler knows who calls, and a channel outlives certificates.

use std::{net::SocketAddr, sync::Arc};

use kapok_trust::{
    Acceptor, Alert, ClientAuth, Credentials, Limits, Peer, Pin, TlsFailure, connector, pinned,
};
use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle};
use tonic::{
    Request, Status,
    transport::{Channel, Server},
};
use tonic_health::pb::{
    HealthCheckRequest, health_client::HealthClient, health_server::HealthServer,
};

use crate::support::{City, NODE, city, node_dns, until};

/// A health service that says who asked.
struct Service {
    address: SocketAddr,
    callers: mpsc::UnboundedReceiver<Option<Peer>>,
    task: AbortHandle,
}

impl Service {
    async fn start(credentials: &Credentials, auth: ClientAuth) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(credentials.clone(), auth, Limits::default());
        let (seen, callers) = mpsc::unbounded_channel();
        let health = tonic_health::server::HealthService::from_health_reporter(
            tonic_health::server::HealthReporter::new(),
        );
        let health = HealthServer::with_interceptor(health, move |request: Request<()>| {
            let _ = seen.send(request.extensions().get::<Peer>().cloned());
            Ok::<_, Status>(request)
        });
        let serving = Server::builder()
            .add_service(health)
            .serve_with_incoming(acceptor.incoming(listener));
        let task = tokio::spawn(serving).abort_handle();
        Self {
            address,
            callers,
            task,
        }
    }

    fn at(&self) -> String {
        self.address.to_string()
    }

    async fn caller(&mut self) -> Peer {
        self.callers
            .recv()
            .await
            .unwrap()
            .expect("every request carries its peer")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn check(channel: &Channel) -> Result<(), Status> {
    let request = HealthCheckRequest::default();
    HealthClient::new(channel.clone())
        .check(request)
        .await
        .map(drop)
}

#[tokio::test]
async fn the_handler_knows_who_calls() {
    let it = City::new(1);
    let mut service = Service::start(&it.credentials(NODE), ClientAuth::Required).await;
    let controller = it.credentials("controller/a");
    let channel =
        connector::channel(&controller, &service.at(), &node_dns(), |endpoint| endpoint).unwrap();
    check(&channel).await.unwrap();
    let peer = service.caller().await;
    assert_eq!(peer.subject().unwrap().to_string(), "controller/a");
    assert_eq!(peer.serial(), Some(controller.certificate().serial));
    assert!(peer.address().unwrap().ip().is_loopback());
}

/// FAULTS 24: the channel stays; its next connection takes the new certificate. And a revocation
/// reaches it: the call's error names the reason.
#[tokio::test]
async fn a_channel_outlives_certificates_and_reports_a_revocation() {
    let it = City::new(2);
    let mut material = it.material(NODE);
    let node = it.take(material.clone());
    let mut service = Service::start(&node, ClientAuth::Required).await;
    let controller = it.credentials("controller/a");
    let channel =
        connector::channel(&controller, &service.at(), &node_dns(), |endpoint| endpoint).unwrap();
    check(&channel).await.unwrap();
    let first = service.caller().await.serial().unwrap();

    controller.replace(it.material("controller/a")).unwrap();
    check(&channel).await.unwrap();
    assert_eq!(
        service.caller().await.serial(),
        Some(first),
        "the connection stays"
    );
    material.crl_pem = it.crl(&[first]);
    node.replace(material.clone()).unwrap();
    until("the connection is closed", || {
        node.connections().open() == 0
    })
    .await;
    until("at both ends", || controller.connections().open() == 0).await;
    check(&channel).await.unwrap();
    let second = service.caller().await.serial().unwrap();
    assert_eq!(second, controller.certificate().serial);

    material.crl_pem = it.crl(&[first, second]);
    node.replace(material).unwrap();
    until("at both ends", || controller.connections().open() == 0).await;
    let refused = check(&channel).await.unwrap_err();
    let failure = connector::failure(&refused);
    assert_eq!(
        failure,
        Some(TlsFailure::PeerRefusedUs(Alert::Revoked)),
        "{refused:?}"
    );
}

/// What dials an agent must see a certificate's trouble in the error of a call, too.
#[tokio::test]
async fn a_calls_error_names_the_servers_certificate() {
    let it = City::new(3);
    let service = Service::start(&it.credentials("user/alice"), ClientAuth::Required).await;
    let controller = it.credentials("controller/a");
    let lazy =
        connector::channel(&controller, &service.at(), &node_dns(), |endpoint| endpoint).unwrap();
    let refused = check(&lazy).await.unwrap_err();
    assert_eq!(
        connector::failure(&refused),
        Some(TlsFailure::WrongPurpose),
        "{refused:?}"
    );
    let (address, dns) = (service.at(), node_dns());
    let eager = connector::connect(&controller, &address, &dns, |endpoint| endpoint).await;
    let refused = eager.unwrap_err();
    assert_eq!(
        connector::failure(&refused),
        Some(TlsFailure::WrongPurpose),
        "{refused:?}"
    );
}

/// The way in: gRPC without a certificate, over the pinned authority.
#[tokio::test]
async fn a_pinned_channel_calls_as_nobody() {
    let it = City::new(4);
    let controller = it.credentials("controller/a");
    let mut service = Service::start(&controller, ClientAuth::Optional).await;
    let pin = Pin {
        fabric: city(),
        authority: it.authority.fingerprint(),
    };
    let env: Arc<dyn kapok_types::Env> = it.env.clone();
    let dialled = pinned::channel(&service.at(), &pin, env, |endpoint| endpoint).await;
    let (channel, bundle) = dialled.unwrap();
    check(&channel).await.unwrap();
    assert!(service.caller().await.identity().is_none());
    assert_eq!(bundle, *controller.bundle());
}
