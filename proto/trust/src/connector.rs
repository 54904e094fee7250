//! The dialling end.
//!
//! Every connection takes the credentials of its moment, so a renewed certificate needs no new
//! channel. A dial succeeds only once the *server* has accepted our certificate: in TLS 1.3 a
//! client has finished before that, so the dial waits for the server's first word (its session
//! ticket, or data), and a refusal is an error of the dial and not of the first call.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use kapok_types::Env;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};
use tower::Service;

pub use crate::failure::of as failure;
use crate::{
    Connection, Connections, Credentials, Peer, Reason, TlsFailure,
    certificate::{self, Shown},
    connections::Lease,
    credentials::Moment,
    lasting::Until,
};

/// How long a dial may take, handshake and all.
pub const DIAL: Duration = Duration::from_secs(10);

/// How long the server's first word is waited for. A server that sends no session tickets and
/// lets the client speak first is taken as it is after that.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// Why a dial came to nothing. [`failure`] says whether TLS was the reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or the name can't be dialled at all.
    #[error("{0:?} can't be dialled: an address is HOST:PORT, a name a DNS name")]
    Address(String),
    /// Nobody answers.
    #[error("could not connect to {address}")]
    Connect {
        /// What was dialled.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The two ends couldn't agree on who they are.
    #[error("TLS with {address} failed")]
    Tls {
        /// What was dialled.
        address: String,
        /// What the handshake says.
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} didn't answer within {} s", DIAL.as_secs())]
    Timeout {
        /// What was dialled.
        address: String,
    },
    /// Its certificate is signed by the authority, but names no subject.
    #[error("the certificate of {address} can't be used")]
    Certificate {
        /// What was dialled.
        address: String,
        /// Why not.
        source: certificate::Error,
    },
    /// The server doesn't show the authority that was pinned.
    #[error("{address} doesn't show the authority that the token or fingerprint names")]
    Pin {
        /// What was dialled.
        address: String,
        /// What it shows instead.
        source: TlsFailure,
    },
    /// The settings couldn't be made.
    #[error("could not set up TLS")]
    Setup(#[from] crate::credentials::Error),
    /// HTTP/2 couldn't be begun.
    #[error("could not connect")]
    Transport(#[from] tonic::transport::Error),
}

/// A channel that dials when it is first used, and again when a connection has ended. `address`
/// is `HOST:PORT`, `dns` the name that the certificate must carry (see [`crate::dns`]). `tune`
/// sets deadlines, keep-alive and limits.
///
/// # Errors
/// The address can't be one.
pub fn channel(
    credentials: &Credentials,
    address: &str,
    dns: &str,
    tune: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, Error> {
    let dial = Dial::new(Source::Credentials(credentials.clone()), address, dns)?;
    Ok(tune(dial.endpoint()?).connect_with_connector_lazy(dial))
}

/// As [`channel`], but connected when it returns.
///
/// # Errors
/// The first dial failed.
pub async fn connect(
    credentials: &Credentials,
    address: &str,
    dns: &str,
    tune: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, Error> {
    let dial = Dial::new(Source::Credentials(credentials.clone()), address, dns)?;
    Ok(tune(dial.endpoint()?).connect_with_connector(dial).await?)
}

/// One connection without HTTP.
///
/// # Errors
/// The dial failed.
pub async fn stream(
    credentials: &Credentials,
    address: &str,
    dns: &str,
) -> Result<Connection, Error> {
    Dial::new(Source::Credentials(credentials.clone()), address, dns)?
        .dial()
        .await
}

/// How one server is dialled; tonic's connector.
#[derive(Clone)]
pub(crate) struct Dial {
    source: Source,
    address: Arc<str>,
    dns: ServerName<'static>,
    until: Option<Until>,
}

/// Where the settings of a new connection come from.
#[derive(Clone)]
pub(crate) enum Source {
    Credentials(Credentials),
    /// No certificate of our own: on the way to the first one.
    Anonymous(Arc<ClientConfig>, Connections),
}

impl Source {
    pub(crate) fn anonymous(config: Arc<ClientConfig>, env: Arc<dyn Env>) -> Self {
        Self::Anonymous(config, Connections::new(env))
    }

    /// The settings of this moment, and the moment.
    fn config(&self) -> (Arc<ClientConfig>, Option<Moment>) {
        match self {
            Self::Credentials(credentials) => {
                let then = credentials.moment();
                (then.client_config(), Some(then))
            }
            Self::Anonymous(config, _) => (config.clone(), None),
        }
    }

    /// Takes a connection in, unless its certificate holds no more since `then`.
    fn register(&self, shown: Arc<Shown>, then: Option<&Moment>) -> Result<Lease, TlsFailure> {
        let (credentials, then) = match (self, then) {
            (Self::Credentials(credentials), Some(then)) => (credentials, then),
            (Self::Credentials(credentials), None) => {
                return Ok(credentials.connections().register(shown));
            }
            (Self::Anonymous(_, connections), _) => return Ok(connections.register(shown)),
        };
        let lease = credentials.connections().register(shown.clone());
        match credentials.fault_since(then, &shown) {
            None => Ok(lease),
            Some(Reason::Revoked) => Err(TlsFailure::Revoked),
            Some(Reason::Expired) => Err(TlsFailure::Expired),
            Some(_) => Err(TlsFailure::UnknownIssuer),
        }
    }
}

impl Dial {
    pub(crate) fn new(source: Source, address: &str, dns: &str) -> Result<Self, Error> {
        let dns = ServerName::try_from(dns.to_owned()).map_err(|_| Error::Address(dns.into()))?;
        Ok(Self {
            source,
            address: address.into(),
            dns,
            until: None,
        })
    }

    /// The same, saying when its connection is due to be replaced.
    pub(crate) fn noting(self, until: Until) -> Self {
        let until = Some(until);
        Self { until, ..self }
    }

    /// tonic's half. The scheme says `http` because TLS is none of tonic's business here.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        Endpoint::from_shared(format!("http://{}", self.address))
            .ok()
            .filter(|endpoint| endpoint.uri().port_u16().is_some())
            .ok_or_else(|| Error::Address(self.address.to_string()))
    }

    pub(crate) async fn dial(self) -> Result<Connection, Error> {
        let late = Error::Timeout {
            address: self.address.to_string(),
        };
        timeout(DIAL, self.dial_unbounded())
            .await
            .map_err(|_| late)?
    }

    async fn dial_unbounded(self) -> Result<Connection, Error> {
        let address = || self.address.to_string();
        let tls = |source| Error::Tls {
            address: address(),
            source,
        };
        let tcp = TcpStream::connect(&*self.address).await;
        let tcp = tcp.map_err(|source| Error::Connect {
            address: address(),
            source,
        })?;
        let _ = tcp.set_nodelay(true);
        let remote: Option<SocketAddr> = tcp.peer_addr().ok();
        let (config, then) = self.source.config();
        let connecting = TlsConnector::from(config).connect(self.dns.clone(), tcp);
        let mut stream = connecting.await.map_err(tls)?;
        let early = match timeout(FIRST_WORD, first_word(&mut stream)).await {
            Ok(early) => early.map_err(tls)?,
            Err(_) => Vec::new(),
        };
        // The stock verifier took it, so there is one.
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let shown = Arc::new(Shown::read(chain).map_err(|source| Error::Certificate {
            address: address(),
            source,
        })?);
        let lease = self.source.register(shown.clone(), then.as_ref());
        let lease = lease.map_err(|failure| tls(io::Error::other(failure)))?;
        if let (Some(until), Source::Credentials(credentials)) = (&self.until, &self.source) {
            let lives = [credentials.certificate().life(), shown.certificate.life()];
            until.opened(credentials.env().monotonic(), lives);
        }
        let peer = Peer::proven(shown.certificate.clone(), remote);
        Ok(Connection::new(
            stream.into(),
            early,
            peer,
            Some(lease),
            None,
        ))
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Connection>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.dial().await.map(TokioIo::new) })
    }
}

/// Waits until the server has said something after our last word of the handshake; answers the
/// data that came along.
async fn first_word(stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        let mut bytes = [0; 4096];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().to_vec())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => {
                Poll::Ready(Ok(Vec::new()))
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
