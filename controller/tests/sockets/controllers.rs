//! A server becomes one more controller: with a token of its own, once; and it gets the authorities'
//! keys from whoever leads, and from nobody else.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kapok_controller::{
    fabric::{Command, Origin, TokenUse},
    join::{Error, Joined, Options, join},
    trust::{Opened, Vault},
};
use kapok_proto::fabric::v1::{
    CreateTokenRequest, GetAuthorityKeyRequest, GetAuthorityKeyResponse, JoinControllerRequest,
    ReadFileRequest, ReadFileResponse, RenewControllerRequest, RenewControllerResponse,
    ReportRequest, ReportResponse,
    follower_service_server::{FollowerService, FollowerServiceServer},
};
use kapok_trust::{Acceptor, ClientAuth, Credentials, Limits, Token, authority::LIFE, files};
use kapok_types::Env;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, Request, Response, Status, transport::Server};

use crate::{
    enroll::token,
    world::{World, fabric, request},
};

/// What the one that leads serves to the others, as far as joining asks for it.
#[derive(Clone)]
struct Leader {
    vault: Vault,
    /// Whether it gives another authority's key than is asked for.
    lies: bool,
    /// Whether it answers at all.
    up: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl FollowerService for Leader {
    type ReadFileStream = tokio_stream::Pending<Result<ReadFileResponse, Status>>;

    async fn get_authority_key(
        &self,
        request: Request<GetAuthorityKeyRequest>,
    ) -> Result<Response<GetAuthorityKeyResponse>, Status> {
        let peer = request.extensions().get::<kapok_trust::Peer>().unwrap();
        assert!(peer.subject().unwrap().is_controller());
        if !self.up.load(Ordering::Relaxed) {
            return Err(Status::unavailable("it stops"));
        }
        let asked = request.into_inner().fingerprint;
        let mut found = self.vault.all().into_iter().find(|authority| {
            // The wrong one, to whoever is lied to.
            (authority.fingerprint().to_string() == asked) != self.lies
        });
        let found = found.take().ok_or_else(|| Status::not_found("not here"))?;
        Ok(Response::new(GetAuthorityKeyResponse {
            certificate_pem: found.certificate_pem().to_owned(),
            key_pem: found.key_pem().to_string(),
        }))
    }

    async fn report(&self, _: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn renew_controller(
        &self,
        _: Request<RenewControllerRequest>,
    ) -> Result<Response<RenewControllerResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn read_file(
        &self,
        _: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

/// A fabric whose leader is reached by other controllers at a port of its own.
struct Fabric {
    world: World,
    leader: Leader,
    security: Credentials,
    serving: JoinHandle<()>,
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fabric {
    async fn new(lies: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = World::new(&format!("advertise = \"{address}\"\n")).await;
        let leader = Leader {
            vault: world.vault.clone(),
            lies,
            up: Arc::new(AtomicBool::new(true)),
        };
        let credentials = world.credentials.clone();
        let accept = Acceptor::new(credentials, ClientAuth::Required, Limits::default());
        let server = Server::builder().add_service(FollowerServiceServer::new(leader.clone()));
        let serving = tokio::spawn(async move {
            let served = server.serve_with_incoming(accept.incoming(listener));
            served.await.unwrap();
        });
        Self {
            security: world.person("security-administrator"),
            world,
            leader,
            serving,
        }
    }

    async fn token(&self, subject: &str) -> Token {
        token(&self.world, &self.security, subject).await
    }

    async fn join(&self, home: &TempDir, token: &Token) -> Result<Joined, Error> {
        let env: Arc<dyn Env> = self.world.env.clone();
        let options = Options {
            // Nobody is at the first one.
            controllers: vec!["127.0.0.1:1".to_owned(), self.world.open.clone()],
            token: token.reveal().parse().unwrap(),
            trust: home.path().join("trust"),
        };
        join(options, &env).await
    }

    /// What a start would find.
    async fn opened(&self, home: &TempDir) -> Result<Opened, kapok_controller::trust::Error> {
        Opened::load(&home.path().join("trust"), self.world.env.clone()).await
    }
}

#[tokio::test]
async fn a_server_becomes_a_controller_once_with_each_token() {
    let fabric = Fabric::new(false).await;
    let home = tempfile::tempdir().unwrap();
    let first = fabric.token("controller/b").await;
    let joined = fabric.join(&home, &first).await.unwrap();
    assert_eq!(
        (joined.name.as_str(), joined.fabric.as_str()),
        ("b", "city")
    );
    assert!(joined.missing.is_empty());
    let opened = fabric.opened(&home).await.unwrap();
    let own = opened.credentials().certificate();
    assert_eq!(own.subject().to_string(), "controller/b");
    let held = opened.vault().all();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].fingerprint(), own.authority);
    assert!(!home.path().join("trust/joining").exists());
    // The log knows it, and by which token.
    let snapshot = fabric.world.api.ledger.snapshot();
    let record = &snapshot.fabric.certificates[&own.serial];
    assert_eq!(record.token, Some(first.id()));
    drop(snapshot);

    // Used up, of another kind, unknown: all the same from outside.
    let other = tempfile::tempdir().unwrap();
    let again = fabric.join(&other, &first).await.unwrap_err();
    assert!(matches!(again, Error::Token), "{again}");
    assert!(again.to_string().contains("kapok token create controller/"));
    let system = fabric.world.person("system-administrator");
    let node = token(&fabric.world, &system, "node/b").await;
    assert!(matches!(
        fabric.join(&other, &node).await,
        Err(Error::Token)
    ));
    let unknown = Token::new(
        first.fabric().clone(),
        first.authority(),
        &*fabric.world.env,
    );
    assert!(matches!(
        fabric.join(&other, &unknown).await,
        Err(Error::Token)
    ));
    assert!(fabric.opened(&other).await.is_err());

    // It comes back with another token, and what it held before is called off.
    let second = fabric.token("controller/b").await;
    fabric.join(&home, &second).await.unwrap();
    let back = fabric.opened(&home).await.unwrap();
    let back = back.credentials().certificate();
    let snapshot = fabric.world.api.ledger.snapshot();
    assert!(snapshot.fabric.certificates[&own.serial].revoked.is_some());
    assert!(snapshot.fabric.certificates[&back.serial].revoked.is_none());
}

/// A crash, or a leader that goes: the same command goes on with what came for the token.
#[tokio::test]
async fn a_join_goes_on_where_it_ended() {
    let fabric = Fabric::new(false).await;
    let home = tempfile::tempdir().unwrap();
    fabric.leader.up.store(false, Ordering::Relaxed);
    let first = fabric.token("controller/b").await;
    let cut = fabric.join(&home, &first).await.unwrap_err();
    assert!(matches!(cut, Error::Keys { .. }), "{cut}");
    assert!(
        cut.to_string().contains("Run the same command again"),
        "{cut}"
    );
    // Nothing can be started over it yet.
    assert!(fabric.opened(&home).await.is_err());
    let pending = files::load(&home.path().join("trust/joining")).unwrap();
    fabric.leader.up.store(true, Ordering::Relaxed);
    fabric.join(&home, &first).await.unwrap();
    let opened = fabric.opened(&home).await.unwrap();
    assert_eq!(*opened.credentials().material(), pending);

    // Another token begins anew.
    fabric.leader.up.store(false, Ordering::Relaxed);
    let home = tempfile::tempdir().unwrap();
    let second = fabric.token("controller/c").await;
    fabric.join(&home, &second).await.unwrap_err();
    fabric.leader.up.store(true, Ordering::Relaxed);
    let third = fabric.token("controller/d").await;
    let joined = fabric.join(&home, &third).await.unwrap();
    assert_eq!(joined.name.as_str(), "d");
}

#[tokio::test]
async fn another_fabrics_directory_and_a_leader_that_lies_are_refused() {
    let ours = Fabric::new(true).await;
    let home = tempfile::tempdir().unwrap();
    let token = ours.token("controller/b").await;
    // It has no other key to give; then it has.
    let refused = ours.join(&home, &token).await.unwrap_err();
    assert!(matches!(refused, Error::Keys { .. }), "{refused}");
    let env = &*ours.world.env;
    let other = kapok_trust::Authority::create(&fabric(), env, LIFE).unwrap();
    ours.leader.vault.put(other).await.unwrap();
    let refused = ours.join(&home, &token).await.unwrap_err();
    assert!(refused.to_string().contains("it gave"), "{refused}");
    assert!(ours.opened(&home).await.is_err());

    let name = "town".parse().unwrap();
    let town = kapok_trust::Authority::create(&name, env, LIFE).unwrap();
    let home = tempfile::tempdir().unwrap();
    let vault = Vault::open(&home.path().join("trust")).unwrap();
    vault.put(town).await.unwrap();
    let refused = ours.join(&home, &token).await.unwrap_err();
    assert!(matches!(refused, Error::OtherFabric { .. }), "{refused}");
    assert_eq!(fs::read_dir(home.path().join("trust")).unwrap().count(), 1);
}

/// Who leads is nobody else's to become: their own certificate would end with it.
#[tokio::test]
async fn nobody_becomes_the_controller_that_leads() {
    let fabric = Fabric::new(false).await;
    let asked = CreateTokenRequest {
        subject: "controller/a".into(),
        ..CreateTokenRequest::default()
    };
    let mut tokens = fabric.world.tokens(&fabric.security);
    let refused = tokens.create_token(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // The token of one that leads by now.
    let own = fabric.world.credentials.certificate();
    let env = &*fabric.world.env;
    let token = Token::new(own.identity.fabric.clone(), own.authority, env);
    let command = Command::CreateToken {
        subject: "controller/a".parse().unwrap(),
        life_ms: 0,
        new: TokenUse {
            id: token.id(),
            hash: token.secret_hash(),
        },
    };
    let ledger = &fabric.world.api.ledger;
    let made = ledger.submit(Origin::controller(), None, command).await;
    made.unwrap();
    let (_, csr_pem) = request();
    let mut enroll = fabric.world.enroll(&token.pin()).await;
    let asked = JoinControllerRequest {
        token: token.reveal().to_string(),
        csr_pem,
    };
    let refused = enroll.join_controller(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let snapshot = fabric.world.api.ledger.snapshot();
    let mut all = snapshot.fabric.certificates_of(own.subject());
    assert!(all.all(|certificate| certificate.revoked.is_none()));
}
