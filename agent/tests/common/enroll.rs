//! A controller's side of joining, on a real socket: it certifies whoever brings the token.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use kapok_proto::{
    fabric::v1::{
        Credential, GetFabricRequest, GetFabricResponse, JoinControllerRequest,
        JoinControllerResponse, JoinNodeRequest, JoinNodeResponse, LoginRequest, LoginResponse,
        enroll_service_server::{EnrollService, EnrollServiceServer},
    },
    refusal,
};
use kapok_trust::{Acceptor, ClientAuth, Credentials, Limits, Subject, Token};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status};

use super::fabric::Fabric;

/// The door that servers join by.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) token: Token,
    inner: Arc<Inner>,
    _serving: AbortOnDropHandle<()>,
}

struct Inner {
    fabric: Arc<Fabric>,
    secret: String,
    /// The reason of its refusal, from now on.
    refuses: Mutex<Option<&'static str>>,
    asked: Mutex<Vec<JoinNodeRequest>>,
}

impl Door {
    /// A controller of this fabric.
    pub(crate) async fn open(fabric: &Arc<Fabric>) -> Self {
        Self::as_who(fabric, fabric.controller()).await
    }

    /// The same with these credentials.
    pub(crate) async fn as_who(fabric: &Arc<Fabric>, who: Credentials) -> Self {
        let authority = fabric.authority.fingerprint();
        let token = Token::new(fabric.name.clone(), authority, fabric.env.as_ref());
        let inner = Arc::new(Inner {
            fabric: Arc::clone(fabric),
            secret: token.reveal().to_string(),
            refuses: Mutex::default(),
            asked: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(who, ClientAuth::Optional, Limits::default());
        let server = tonic::transport::Server::builder()
            .add_service(EnrollServiceServer::from_arc(Arc::clone(&inner)))
            .serve_with_incoming(acceptor.incoming(listener));
        let serving = tokio::spawn(async move {
            let _ended = server.await;
        });
        Self {
            address,
            token,
            inner,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        *self.inner.refuses.lock().unwrap() = Some(reason);
    }

    pub(crate) fn asked(&self) -> Vec<JoinNodeRequest> {
        self.inner.asked.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl EnrollService for Inner {
    async fn get_fabric(
        &self,
        _: Request<GetFabricRequest>,
    ) -> Result<Response<GetFabricResponse>, Status> {
        Err(Status::unimplemented("nobody logs in here"))
    }

    async fn join_node(
        &self,
        request: Request<JoinNodeRequest>,
    ) -> Result<Response<JoinNodeResponse>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        let refused = match *self.refuses.lock().unwrap() {
            None if request.token != self.secret => Some("TOKEN_REFUSED"),
            refused => refused,
        };
        if let Some(reason) = refused {
            let code = match reason {
                "TOKEN_REFUSED" => Code::Unauthenticated,
                _ => Code::FailedPrecondition,
            };
            return Err(refusal::status(code, reason, "no", BTreeMap::default()));
        }
        let subject = Subject::Node(request.node_id.parse().unwrap());
        let now = self.fabric.env.now();
        let life = Duration::from_hours(1);
        let (chain_pem, _) = self.fabric.certify(&request.csr_pem, subject, now, life);
        let credential = Credential {
            chain_pem,
            bundle_pem: self.fabric.bundle(),
            ..Default::default()
        };
        Ok(Response::new(JoinNodeResponse {
            credential: Some(credential),
            name: "node-1".into(),
            controllers: vec!["127.0.0.1:7700".into()],
        }))
    }

    async fn join_controller(
        &self,
        _: Request<JoinControllerRequest>,
    ) -> Result<Response<JoinControllerResponse>, Status> {
        Err(Status::unimplemented("no controller joins here"))
    }

    async fn login(&self, _: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        Err(Status::unimplemented("nobody logs in here"))
    }
}
