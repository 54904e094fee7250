//! A city with an authority and a clock, and a server that echoes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kapok_trust::{
    Acceptor, Authority, ClientAuth, Connection, Credentials, Csr, Identity, Key, Limits, Material,
    Peer, Reason, Revoked, Serial, TlsFailure, connector,
};
use kapok_types::{Env as _, Name, Timestamp, env::Seeded};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::timeout,
};

/// How long a test waits for what must happen.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A life that no test outlives.
pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) const NODE: &str = "node/0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";
pub(crate) const OTHER_NODE: &str = "node/0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b12";

/// The name by which [`NODE`] is dialled.
pub(crate) fn node_dns() -> String {
    identity(NODE).dns_names().remove(0)
}

pub(crate) fn city() -> Name {
    "city".parse().unwrap()
}

pub(crate) fn identity(subject: &str) -> Identity {
    Identity::new(city(), subject.parse().unwrap())
}

/// An authority of the fabric "city", and the clock that its members read.
pub(crate) struct City {
    pub(crate) env: Arc<Seeded>,
    pub(crate) authority: Authority,
}

impl City {
    pub(crate) fn new(seed: u64) -> Self {
        let env = Seeded::new(seed);
        let authority = Authority::create(&city(), &*env, 100 * DAY).unwrap();
        Self { env, authority }
    }

    /// A second authority of the same fabric, on the same clock.
    pub(crate) fn newer(&self) -> Self {
        let authority = Authority::create(&city(), &*self.env, 100 * DAY).unwrap();
        let env = self.env.clone();
        Self { env, authority }
    }

    pub(crate) fn serial(&self) -> Serial {
        Serial::new(&*self.env)
    }

    /// A certificate from `from` on, with a key of its own, trusting this authority alone.
    pub(crate) fn material_from(&self, subject: &str, from: Timestamp, life: Duration) -> Material {
        let key = Key::generate().unwrap();
        let csr = Csr::parse(&key.request().unwrap()).unwrap();
        let identity = identity(subject);
        let issued = self
            .authority
            .issue(&csr, &identity, self.serial(), life, from);
        Material {
            chain_pem: issued.unwrap(),
            key_pem: key.to_pem().to_string(),
            bundle_pem: self.authority.certificate_pem().to_owned(),
            crl_pem: String::new(),
        }
    }

    pub(crate) fn material(&self, subject: &str) -> Material {
        self.material_from(subject, self.env.now(), DAY)
    }

    pub(crate) fn credentials(&self, subject: &str) -> Credentials {
        self.take(self.material(subject))
    }

    pub(crate) fn take(&self, material: Material) -> Credentials {
        Credentials::new(material, self.env.clone()).unwrap()
    }

    /// This authority's list with these on it.
    pub(crate) fn crl(&self, serials: &[Serial]) -> String {
        let at = self.env.now();
        let revoked: Vec<_> = serials
            .iter()
            .map(|&serial| Revoked { serial, at })
            .collect();
        self.authority.crl(&revoked, at).unwrap()
    }
}

/// A server that sends back what it reads; ends when dropped.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) acceptor: Acceptor,
    peers: watch::Receiver<Vec<Peer>>,
    task: AbortHandle,
}

impl Echo {
    pub(crate) async fn start(credentials: &Credentials) -> Self {
        let acceptor = Acceptor::new(credentials.clone(), ClientAuth::Required, Limits::default());
        Self::serve(acceptor).await
    }

    pub(crate) async fn serve(acceptor: Acceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = acceptor.incoming(listener);
        let (seen, peers) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            while let Some(connection) = incoming.next().await {
                let connection = connection.unwrap();
                seen.send_modify(|peers| peers.push(connection.peer().clone()));
                served.spawn(async move {
                    let (mut from, mut to) = tokio::io::split(connection);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Self {
            address,
            acceptor,
            peers,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn at(&self) -> String {
        self.address.to_string()
    }

    /// Dials as `client`, for the name of [`NODE`].
    pub(crate) async fn dial(&self, client: &Credentials) -> Result<Connection, connector::Error> {
        connector::stream(client, &self.at(), &node_dns()).await
    }

    /// Dials, and says why that came to nothing.
    pub(crate) async fn refusal(&self, client: &Credentials) -> Option<TlsFailure> {
        connector::failure(&self.dial(client).await.unwrap_err())
    }

    /// Who was let in so far.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.peers.borrow().clone()
    }

    pub(crate) async fn peers_are(&mut self, n: usize) -> Vec<Peer> {
        let wait = self.peers.wait_for(|peers| peers.len() == n);
        timeout(BOUND, wait).await.unwrap().unwrap().clone()
    }

    /// Waits until `n` were refused for `reason`.
    pub(crate) async fn refused(&self, reason: Reason, n: u64) {
        let refusals = self.acceptor.refusals();
        until(
            &format!("{n} x {reason}, is {:?}", refusals.snapshot()),
            || refusals.get(reason) == n,
        )
        .await;
        let snapshot = refusals.snapshot();
        assert_eq!(snapshot.values().sum::<u64>(), n, "{snapshot:?}");
    }

    /// Nobody was refused so far.
    pub(crate) fn refused_nobody(&self) {
        let snapshot = self.acceptor.refusals().snapshot();
        assert!(snapshot.values().all(|n| *n == 0), "{snapshot:?}");
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a connection goes both ways.
pub(crate) async fn echoes(connection: &mut Connection) -> bool {
    let mut answer = [0; 4];
    let ask = async {
        connection.write_all(b"ping").await?;
        connection.flush().await?;
        connection.read_exact(&mut answer).await
    };
    timeout(BOUND, ask).await.unwrap().is_ok() && answer == *b"ping"
}

/// Waits until a connection is seen to end: an error or the end of the stream.
pub(crate) async fn ends(connection: &mut Connection) {
    let mut byte = [0; 1];
    let read = timeout(BOUND, connection.read(&mut byte))
        .await
        .expect("the connection goes on");
    assert!(!matches!(read, Ok(1..)), "an end was expected, not data");
}

/// A plain connection from one of the loopback network's addresses.
pub(crate) async fn tcp_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(source.parse().unwrap(), 0))
        .unwrap();
    socket.connect(to).await.unwrap()
}

/// Waits for a condition, with a bound.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let wait = async {
        while !holds() {
            looks.tick().await;
        }
    };
    assert!(timeout(BOUND, wait).await.is_ok(), "never came: {what}");
}
