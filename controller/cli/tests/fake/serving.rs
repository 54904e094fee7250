//! How the fake serves: mutual TLS as a controller does, with an authority of its own.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kapok_proto::fabric::v1::{
    Credential, audit_service_server::AuditServiceServer, auth_service_server::AuthServiceServer,
    capacity_service_server::CapacityServiceServer,
    certificate_service_server::CertificateServiceServer,
    controller_service_server::ControllerServiceServer, enroll_service_server::EnrollServiceServer,
    event_service_server::EventServiceServer, flavor_service_server::FlavorServiceServer,
    group_service_server::GroupServiceServer, image_service_server::ImageServiceServer,
    instance_service_server::InstanceServiceServer, node_service_server::NodeServiceServer,
    operation_service_server::OperationServiceServer, plan_service_server::PlanServiceServer,
    report_service_server::ReportServiceServer, system_service_server::SystemServiceServer,
    tenant_service_server::TenantServiceServer, token_service_server::TokenServiceServer,
    usage_service_server::UsageServiceServer, user_service_server::UserServiceServer,
};
use kapok_trust::{
    Acceptor, Authority, Certificate, ClientAuth, Credentials, Csr, Identity, Key, Limits,
    Material, Revoked, Serial, Token, authority::LIFE,
};
use kapok_types::{Env as _, Name, Timestamp, env::System};
use tokio::net::TcpListener;
use tonic::transport::Server;

use super::Fake;

/// What the fake issues certificates with.
pub struct Issuing {
    pub env: Arc<System>,
    pub authority: Authority,
    /// The token that lets somebody in, once.
    pub token: Token,
    /// The identity provider, if the fabric has one.
    pub issuer: std::sync::Mutex<String>,
    pub address: std::sync::Mutex<String>,
}

impl Issuing {
    /// A certificate for a request, whose life began `ago`.
    pub fn issue(&self, csr: &Csr, subject: &str, life: Duration, ago: Duration) -> Credential {
        let identity = Identity::new(fabric(), subject.parse().unwrap());
        let serial = Serial::new(&*self.env);
        let ago = u64::try_from(ago.as_millis()).unwrap();
        let begin = Timestamp(self.env.now().get() - ago);
        let chain_pem = self.authority.issue(csr, &identity, serial, life, begin);
        Credential {
            chain_pem: chain_pem.unwrap(),
            bundle_pem: self.authority.certificate_pem().to_owned(),
            crl_pem: self.authority.crl(&[], self.env.now()).unwrap(),
            subject: subject.to_owned(),
            fabric: fabric().to_string(),
            expire_time: None,
        }
    }
}

pub fn fabric() -> Name {
    "city".parse().unwrap()
}

/// A fake that serves on loopback until dropped.
pub struct Serving {
    pub fake: Fake,
    /// Where commands go.
    pub address: String,
    /// Where people log in.
    pub enroll: String,
    /// A folder of this test's own: the home of whoever types.
    pub home: tempfile::TempDir,
    /// The credential of user/ada.
    pub credential: PathBuf,
    credentials: Credentials,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Serving {
    /// Writes the credential of somebody whose certificate's life began `ago`.
    pub fn credential(&self, subject: &str, life: Duration, ago: Duration) -> PathBuf {
        let name = format!("{}.pem", subject.replace('/', "-"));
        let path = self.home.path().join(name);
        let controllers = format!("# controllers: {}\n", self.address);
        write(&self.fake.1, &path, subject, life, ago, &controllers);
        path
    }

    /// Another controller of the same fabric.
    pub fn beside(&self) -> Self {
        start(self.fake.1.clone(), "controller/b")
    }

    /// Ends it as a kill does: its connections break with what was asked on them.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    /// Revokes the certificate in a credential's file, at the server.
    pub fn revoke(&self, path: &Path) {
        let chain = fs::read_to_string(path).unwrap();
        let serial = Certificate::parse_pem(&chain).unwrap().serial;
        let issuing = &self.fake.1;
        let now = issuing.env.now();
        let mut material = (*self.credentials.material()).clone();
        let revoked = [Revoked { serial, at: now }];
        material.crl_pem = issuing.authority.crl(&revoked, now).unwrap();
        self.credentials.replace(material).unwrap();
    }
}

fn write(issuing: &Issuing, path: &Path, subject: &str, life: Duration, ago: Duration, head: &str) {
    let key = Key::generate().unwrap();
    let csr = Csr::parse(&key.request().unwrap()).unwrap();
    let issued = issuing.issue(&csr, subject, life, ago);
    let text = format!(
        "# fabric: {}\n{head}{}{}{}{}",
        issued.fabric,
        *key.to_pem(),
        issued.chain_pem,
        issued.bundle_pem,
        issued.crl_pem
    );
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    std::io::Write::write_all(&mut file.open(path).unwrap(), text.as_bytes()).unwrap();
}

/// Starts one on free ports.
pub fn serve() -> Serving {
    let env = System::new();
    let authority = Authority::create(&fabric(), &*env, LIFE).unwrap();
    let token = Token::new(fabric(), authority.fingerprint(), &*env);
    let issuing = Arc::new(Issuing {
        env,
        authority,
        token,
        issuer: std::sync::Mutex::default(),
        address: std::sync::Mutex::default(),
    });
    let serving = start(issuing, "controller/a");
    let issuing = &serving.fake.1;
    issuing.address.lock().unwrap().clone_from(&serving.address);
    serving
}

/// Starts one with the authority that `issuing` has.
fn start(issuing: Arc<Issuing>, name: &str) -> Serving {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let key = Key::generate().unwrap();
    let csr = Csr::parse(&key.request().unwrap()).unwrap();
    let hour = Duration::from_hours(1);
    let issued = issuing.issue(&csr, name, hour, Duration::ZERO);
    let material = Material {
        chain_pem: issued.chain_pem,
        key_pem: key.to_pem().to_string(),
        bundle_pem: issued.bundle_pem,
        crl_pem: issued.crl_pem,
    };
    let credentials = Credentials::new(material, issuing.env.clone()).unwrap();
    let fake = Fake(Arc::default(), issuing);
    let listen = || {
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)));
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    };
    let ((main, address), (people, enroll)) = (listen(), listen());
    let accept = |auth| Acceptor::new(credentials.clone(), auth, Limits::default());
    let guard = runtime.enter();
    let (required, optional) = (
        accept(ClientAuth::Required).incoming(main),
        accept(ClientAuth::Optional).incoming(people),
    );
    drop(guard);
    runtime.spawn(
        Server::builder()
            .add_service(InstanceServiceServer::new(fake.clone()))
            .add_service(OperationServiceServer::new(fake.clone()))
            .add_service(ImageServiceServer::new(fake.clone()))
            .add_service(EventServiceServer::new(fake.clone()))
            .add_service(NodeServiceServer::new(fake.clone()))
            .add_service(UserServiceServer::new(fake.clone()))
            .add_service(TokenServiceServer::new(fake.clone()))
            .add_service(TenantServiceServer::new(fake.clone()))
            .add_service(FlavorServiceServer::new(fake.clone()))
            .add_service(SystemServiceServer::new(fake.clone()))
            .add_service(GroupServiceServer::new(fake.clone()))
            .add_service(UsageServiceServer::new(fake.clone()))
            .add_service(ReportServiceServer::new(fake.clone()))
            .add_service(CapacityServiceServer::new(fake.clone()))
            .add_service(PlanServiceServer::new(fake.clone()))
            .add_service(CertificateServiceServer::new(fake.clone()))
            .add_service(AuthServiceServer::new(fake.clone()))
            .add_service(AuditServiceServer::new(fake.clone()))
            .add_service(ControllerServiceServer::new(fake.clone()))
            .serve_with_incoming(required),
    );
    runtime.spawn(
        Server::builder()
            .add_service(EnrollServiceServer::new(fake.clone()))
            .serve_with_incoming(optional),
    );
    let mut serving = Serving {
        fake,
        address,
        enroll,
        home: tempfile::tempdir().unwrap(),
        credential: PathBuf::new(),
        credentials,
        runtime: Some(runtime),
    };
    serving.credential = serving.credential("user/ada", hour, Duration::ZERO);
    serving
}
