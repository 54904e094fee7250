//! The listening end: who comes in, and who doesn't.
//!
//! ```text
//!  accept ──> admission (bounds) ──> handshake (own task, deadline) ──> incoming stream
//!                  └── too many            └── refused, counted
//! ```
//!
//! One task accepts and never waits for a peer; each handshake is a task of its own within the
//! bounds. All of them end with the [`Incoming`] stream. Nothing here can end the stream: a
//! listener out of file descriptors waits and goes on.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    ClientAuth, Connection, Connections, Credentials, Peer, Reason, Refusals,
    admission::{Admission, Slot},
    certificate::Shown,
};

/// How long the listener rests when the system refuses to accept (no file descriptors).
const REST: Duration = Duration::from_millis(200);

/// How many accepted connections may wait to be served.
const BACKLOG: usize = 64;

/// Bounds of one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one address.
    pub connections_per_peer: usize,
    /// Unfinished handshakes at once.
    pub handshakes: usize,
    /// Unfinished handshakes at once of one address.
    pub handshakes_per_peer: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_peer: 512,
            handshakes: 1024,
            handshakes_per_peer: 128,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

type OnRefusal = Arc<dyn Fn(Reason, SocketAddr) + Send + Sync>;

/// Takes connections in with TLS. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    credentials: Credentials,
    auth: ClientAuth,
    handshake_timeout: Duration,
    admission: Admission,
    refusals: Refusals,
    on_refusal: Option<OnRefusal>,
}

impl Acceptor {
    /// Shows `credentials`, and asks for the peer's as `auth` says.
    pub fn new(credentials: Credentials, auth: ClientAuth, limits: Limits) -> Self {
        Self {
            credentials,
            auth,
            handshake_timeout: limits.handshake_timeout,
            admission: Admission::new(limits),
            refusals: Refusals::new(),
            on_refusal: None,
        }
    }

    /// Calls `told` for every refusal, from the task that refused. It must not block.
    pub fn on_refusal(mut self, told: impl Fn(Reason, SocketAddr) + Send + Sync + 'static) -> Self {
        self.on_refusal = Some(Arc::new(told));
        self
    }

    /// Counts of those that were not let in.
    pub const fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The credentials' open connections.
    pub fn connections(&self) -> &Connections {
        self.credentials.connections()
    }

    /// Accepts from `listener` until the stream is dropped. Never yields an error. Needs a
    /// runtime.
    pub fn incoming(&self, listener: TcpListener) -> Incoming {
        let (accepted, connections) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(self.clone().accept(listener, accepted));
        Incoming {
            connections,
            task: task.abort_handle(),
        }
    }

    async fn accept(self, listener: TcpListener, accepted: mpsc::Sender<Connection>) {
        let mut handshakes = JoinSet::new();
        loop {
            let (stream, address) = tokio::select! {
                Some(_) = handshakes.join_next() => continue,
                taken = listener.accept() => match taken {
                    Ok(taken) => taken,
                    Err(error) if is_about_one_connection(&error) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(REST).await;
                        continue;
                    }
                },
            };
            let Some(slot) = self.admission.admit(address.ip()) else {
                self.refuse(Reason::TooMany, address);
                continue;
            };
            let (this, accepted) = (self.clone(), accepted.clone());
            handshakes.spawn(async move {
                match this.handshake(stream, address, slot).await {
                    // Whoever served has gone: so has the connection.
                    Ok(connection) => drop(accepted.send(connection).await),
                    Err(reason) => this.refuse(reason, address),
                }
            });
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        mut slot: Slot,
    ) -> Result<Connection, Reason> {
        let _ = stream.set_nodelay(true);
        let then = self.credentials.moment();
        let accepting = TlsAcceptor::from(then.server_config(self.auth)).accept(stream);
        let stream = timeout(self.handshake_timeout, accepting)
            .await
            .map_err(|_| Reason::Timeout)?
            .map_err(|error| Reason::of_handshake(&error))?;
        slot.established();
        let (peer, lease) = match stream.get_ref().1.peer_certificates() {
            None => (Peer::anonymous(Some(address)), None),
            Some(chain) => {
                let shown = Arc::new(Shown::read(chain).map_err(|_| Reason::NoIdentity)?);
                if shown.certificate.identity.fabric != *then.fabric() {
                    return Err(Reason::NoIdentity);
                }
                let lease = self.connections().register(shown.clone());
                if let Some(reason) = self.credentials.fault_since(&then, &shown) {
                    return Err(reason);
                }
                let peer = Peer::proven(shown.certificate.clone(), Some(address));
                (peer, Some(lease))
            }
        };
        Ok(Connection::new(
            stream.into(),
            Vec::new(),
            peer,
            lease,
            Some(slot),
        ))
    }

    fn refuse(&self, reason: Reason, address: SocketAddr) {
        self.refusals.count(reason);
        tracing::debug!(%reason, %address, "connection refused");
        if let Some(told) = &self.on_refusal {
            told(reason, address);
        }
    }
}

/// Whether only the one connection failed that was about to be accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Connections that were let in. Accepting ends when it is dropped.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    task: AbortHandle,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|next| next.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("credentials", &self.credentials)
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}
