//! A management controller's Redfish service: HTTPS on loopback, and resources as texts.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use kapok_health::source::redfish::Settings;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

type Resources = Arc<Mutex<BTreeMap<String, String>>>;

/// A controller; it ends with this.
pub(crate) struct Bmc {
    address: SocketAddr,
    fingerprint: String,
    resources: Resources,
    _server: JoinSet<()>,
}

impl Bmc {
    pub(crate) async fn start() -> Self {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let mut fingerprint = String::new();
        for byte in Sha256::digest(&certificate) {
            write!(fingerprint, "{byte:02x}").unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], private)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let resources = Resources::default();
        let mut server = JoinSet::new();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        server.spawn(serve(listener, acceptor, resources.clone()));
        Self {
            address,
            fingerprint,
            resources,
            _server: server,
        }
    }

    /// How it is asked.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            address: self.address.to_string(),
            user: None,
            password_file: None,
            ca_file: None,
            fingerprint: Some(self.fingerprint.clone()),
            insecure: false,
        }
    }

    /// What it says from now on.
    pub(crate) fn say(&self, resources: &BTreeMap<String, String>) {
        self.resources.lock().unwrap().extend(resources.clone());
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, resources: Resources) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, acceptor.clone(), resources.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// One question a connection, as some controllers do it.
async fn answer(stream: TcpStream, acceptor: TlsAcceptor, resources: Resources) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if !stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            return;
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line);
    }
    let path = lines.first().and_then(|line| line.split(' ').nth(1));
    let resource = path.and_then(|path| resources.lock().unwrap().get(path).cloned());
    let (status, body) = resource.map_or(("404 Not Found", String::new()), |it| ("200 OK", it));
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all((head + &body).as_bytes()).await;
    let _ = stream.shutdown().await;
}
