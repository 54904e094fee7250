//! A controller on loopback, and people with credentials.

use std::{sync::Arc, time::Duration};

use kapok_controller::{
    api::Api,
    config::Config,
    controller::{Controller, Options},
    images::Memory,
    link::Tls,
    trust::{
        Opened, Vault,
        init::{Founding, found_in_memory},
    },
};
use kapok_proto::fabric::v1::{
    certificate_service_client::CertificateServiceClient,
    enroll_service_client::EnrollServiceClient, node_service_client::NodeServiceClient,
    token_service_client::TokenServiceClient, user_service_client::UserServiceClient,
};
use kapok_store::{Redb, segments::MemorySegments};
use kapok_trust::{
    Acceptor, Authority, ClientAuth, Credentials, Csr, Identity, Key, Limits, Material, Pin,
    Refusals, Serial, Subject, connector, dns, pinned,
};
use kapok_types::{Env, Epoch, Name, Timestamp, env::System};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// How long anything here may take.
pub(crate) const BOUND: Duration = Duration::from_mins(1);

/// A controller that is stopped when dropped.
pub(crate) struct World {
    pub(crate) env: Arc<System>,
    pub(crate) vault: Vault,
    pub(crate) credentials: Credentials,
    pub(crate) api: Api,
    /// Where commands go.
    pub(crate) main: String,
    /// The HTTPS port.
    pub(crate) open: String,
    pub(crate) main_refusals: Refusals,
    pub(crate) open_refusals: Refusals,
    people: Vec<(Subject, Material)>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl World {
    /// As configured, but on free ports.
    pub(crate) async fn new(config: &str) -> Self {
        let config = Config::parse(config, "test".as_ref()).unwrap();
        let (env, vault) = (System::new(), Vault::memory());
        let store = Arc::new(Redb::in_memory().unwrap());
        let founding = Founding {
            fabric: fabric(),
            controller: "a".parse().unwrap(),
            lives: config.trust,
            controllers: Vec::new(),
            enroll: Vec::new(),
        };
        let made = found_in_memory(store.clone(), env.clone(), &founding, vault.clone())
            .await
            .unwrap();
        let credentials = Credentials::new(made.controller, env.clone()).unwrap();
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (main, open) = (bind().await.unwrap(), bind().await.unwrap());
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (main_address, open_address) = (address(&main), address(&open));
        let limits = Limits {
            connections: config.limits.connections,
            connections_per_peer: config.limits.connections_per_peer,
            ..Limits::default()
        };
        let mut controller = Controller::start(Options {
            config,
            store,
            env: env.clone(),
            blobs: Arc::new(Memory::default()),
            segments: Arc::new(MemorySegments::new()),
            dialer: Arc::new(Tls(credentials.clone())),
            trust: Opened::memory(credentials.clone(), vault.clone()),
            epoch_floor: Epoch::ZERO,
        })
        .await
        .unwrap();
        let acceptor = |auth| Acceptor::new(credentials.clone(), auth, limits.clone());
        let (required, optional) = (
            acceptor(ClientAuth::Required),
            acceptor(ClientAuth::Optional),
        );
        let (main_refusals, open_refusals) =
            (required.refusals().clone(), optional.refusals().clone());
        let ports = vec![
            ("grpc", main_refusals.clone()),
            ("https", open_refusals.clone()),
        ];
        let https = controller.https(ports).unwrap();
        controller.serve_https(https, optional.incoming(open));
        let (api, stop) = (controller.api().clone(), controller.stop_token());
        let serving = tokio::spawn(async move {
            controller.serve(required.incoming(main)).await.unwrap();
            controller.shutdown().await;
        });
        Self {
            env,
            vault,
            credentials,
            api,
            main: main_address,
            open: open_address,
            main_refusals,
            open_refusals,
            people: made.people,
            stop,
            serving,
        }
    }

    /// The controller ends, and everything with it.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        timeout(BOUND, &mut self.serving).await.unwrap().unwrap();
    }

    /// One of the first three people.
    pub(crate) fn person(&self, name: &str) -> Credentials {
        Credentials::new(self.material(name), self.env.clone()).unwrap()
    }

    pub(crate) fn material(&self, name: &str) -> Material {
        let wanted = Subject::User(name.parse().unwrap());
        let found = self.people.iter().find(|(who, _)| *who == wanted);
        found.unwrap().1.clone()
    }

    /// The authority that signed first.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        self.vault.all().remove(0)
    }

    /// A certificate that the authority signs without anybody's knowing: made at a time, for a
    /// life.
    pub(crate) fn signed(
        &self,
        authority: &Authority,
        subject: Subject,
        at: Timestamp,
        life: Duration,
    ) -> Material {
        let key = Key::generate().unwrap();
        let csr = Csr::parse(&key.request().unwrap()).unwrap();
        let identity = Identity::new(authority.fabric().clone(), subject);
        let serial = Serial::new(&*self.env);
        Material {
            chain_pem: authority.issue(&csr, &identity, serial, life, at).unwrap(),
            key_pem: key.to_pem().as_str().to_owned(),
            bundle_pem: self.material("auditor").bundle_pem.clone(),
            crl_pem: String::new(),
        }
    }

    /// A channel with somebody's credentials to the port for commands.
    pub(crate) fn channel(&self, credentials: &Credentials) -> Channel {
        let name = dns::controller(&fabric());
        connector::channel(credentials, &self.main, &name, |endpoint| {
            endpoint.timeout(BOUND)
        })
        .unwrap()
    }

    pub(crate) fn nodes(&self, credentials: &Credentials) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel(credentials))
    }

    pub(crate) fn tokens(&self, credentials: &Credentials) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel(credentials))
    }

    pub(crate) fn users(&self, credentials: &Credentials) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.channel(credentials))
    }

    pub(crate) fn certificates(
        &self,
        credentials: &Credentials,
    ) -> CertificateServiceClient<Channel> {
        CertificateServiceClient::new(self.channel(credentials))
    }

    /// The way in for whoever has no certificate.
    pub(crate) async fn enroll(&self, pin: &Pin) -> EnrollServiceClient<Channel> {
        EnrollServiceClient::new(self.anonymous(&self.open, pin).await.unwrap())
    }

    pub(crate) async fn anonymous(
        &self,
        address: &str,
        pin: &Pin,
    ) -> Result<Channel, connector::Error> {
        let (channel, _) =
            pinned::channel(address, pin, self.env.clone(), |it| it.timeout(BOUND)).await?;
        Ok(channel)
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin {
            fabric: fabric(),
            authority: self.authority().fingerprint(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.env.now()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn fabric() -> Name {
    "city".parse().unwrap()
}

/// A new key, and a request for a certificate for it.
pub(crate) fn request() -> (Key, String) {
    let key = Key::generate().unwrap();
    let csr = key.request().unwrap();
    (key, csr)
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(BOUND, waiting).await.expect(what);
}
