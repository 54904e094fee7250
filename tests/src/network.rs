//! The network between simulated processes: pipes with switches.
//!
//! ```text
//!   dialling side ──pipe── relay ──pipe── listening side
//!                            ▲
//!                  the line's switches: cut, refuse, hang (each way), delay
//! ```
//!
//! An address has one line; all connections to it follow its switches. What a hung line holds
//! back is delivered late when it heals, as TCP does. A process that is killed cancels its token:
//! all its connections end at once, seen from both sides.
//!
//! There is no TLS here: a wire vouches for who dials, as certificates do on real sockets.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::Stream;
use hyper_util::rt::TokioIo;
use kapok_controller::link::Dialer;
use kapok_trust::{Identity, Peer, Subject, connector};
use kapok_types::{Name, NodeId};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
        ReadHalf, WriteHalf, duplex, split,
    },
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, server::Connected};
use tower::service_fn;

/// What a pipe holds, in bytes: about a socket's buffer.
const PIPE_BYTES: usize = 64 * 1024;

/// Where everybody dials from.
const NOWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// The name of every simulated fabric.
pub fn fabric() -> Name {
    "simulated".parse().unwrap()
}

/// All lines and listeners. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Network(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    listeners: BTreeMap<String, Listener>,
    lines: BTreeMap<String, watch::Sender<Line>>,
    dials: BTreeMap<String, Vec<Instant>>,
}

#[derive(Debug)]
struct Listener {
    connections: mpsc::UnboundedSender<Connection>,
    owner: CancellationToken,
}

/// The listening side of a connection. It knows who dialled.
#[derive(Debug)]
pub struct Connection {
    pipe: DuplexStream,
    peer: Peer,
}

/// The switches of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Line {
    /// Counts cuts: a connection lives within one number.
    cuts: u64,
    refuses: bool,
    hangs_towards: bool,
    hangs_back: bool,
    delay: Duration,
}

impl Network {
    /// Listens until `owner` is cancelled or the stream is dropped.
    pub fn listen(
        &self,
        address: &str,
        owner: CancellationToken,
    ) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let listener = Listener { connections, owner };
        self.lock().listeners.insert(address.to_owned(), listener);
        UnboundedReceiverStream::new(accepted).map(Ok)
    }

    /// A way to dial for whom the wire vouches, as long as `owner` isn't cancelled.
    pub fn dialer(&self, who: Subject, owner: CancellationToken) -> Wire {
        Wire {
            network: self.clone(),
            who: Identity::new(fabric(), who),
            owner,
        }
    }

    /// Ends all connections to an address; new ones can be made.
    pub fn cut(&self, address: &str) {
        self.change(address, |line| line.cuts += 1);
    }

    /// Ends all connections to an address and refuses new ones.
    pub fn refuse(&self, address: &str) {
        self.change(address, |line| {
            line.refuses = true;
            line.cuts += 1;
        });
    }

    /// Nothing passes in either direction, and nobody is told.
    pub fn hang(&self, address: &str) {
        self.change(address, |line| {
            (line.hangs_towards, line.hangs_back) = (true, true);
        });
    }

    /// Nothing passes towards the address; its answers and streams do.
    pub fn hang_towards(&self, address: &str) {
        self.change(address, |line| line.hangs_towards = true);
    }

    /// Nothing passes back from the address; calls reach it.
    pub fn hang_back(&self, address: &str) {
        self.change(address, |line| line.hangs_back = true);
    }

    /// Every piece takes this long in each direction.
    pub fn delay(&self, address: &str, delay: Duration) {
        self.change(address, |line| line.delay = delay);
    }

    /// Ends every fault of an address. What hung is delivered.
    pub fn heal(&self, address: &str) {
        self.change(address, |line| {
            *line = Line {
                cuts: line.cuts,
                ..Line::default()
            }
        });
    }

    /// When the address was dialled.
    pub fn dials(&self, address: &str) -> Vec<Instant> {
        self.lock().dials.get(address).cloned().unwrap_or_default()
    }

    fn change(&self, address: &str, change: impl FnOnce(&mut Line)) {
        self.line(address).send_modify(change);
    }

    fn line(&self, address: &str) -> watch::Sender<Line> {
        self.lock()
            .lines
            .entry(address.to_owned())
            .or_default()
            .clone()
    }

    /// Connects as soon as the line lets it.
    async fn connect(
        &self,
        address: &str,
        who: Identity,
        owner: CancellationToken,
    ) -> io::Result<DuplexStream> {
        self.lock()
            .dials
            .entry(address.to_owned())
            .or_default()
            .push(Instant::now());
        let mut line = self.line(address).subscribe();
        let passes = |line: &Line| line.refuses || !(line.hangs_towards || line.hangs_back);
        let now = *line
            .wait_for(passes)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        if now.refuses || owner.is_cancelled() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, relay_near) = duplex(PIPE_BYTES);
        let (relay_far, far) = duplex(PIPE_BYTES);
        let listening = {
            let inner = self.lock();
            let listener = inner
                .listeners
                .get(address)
                .filter(|listener| !listener.owner.is_cancelled());
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let connection = Connection {
                pipe: far,
                peer: Peer::vouched(who, Some(NOWHERE.into())),
            };
            listener
                .connections
                .send(connection)
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            listener.owner.clone()
        };
        tokio::spawn(relay(
            relay_near,
            relay_far,
            line,
            now.cuts,
            [owner, listening],
        ));
        Ok(near)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries bytes both ways until the line is cut, an owner dies or both sides have closed.
async fn relay(
    near: DuplexStream,
    far: DuplexStream,
    mut line: watch::Receiver<Line>,
    cuts: u64,
    owners: [CancellationToken; 2],
) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    let towards = pump(near_read, far_write, line.clone(), |line| {
        line.hangs_towards
    });
    let back = pump(far_read, near_write, line.clone(), |line| line.hangs_back);
    tokio::select! {
        biased;
        () = owners[0].cancelled() => {}
        () = owners[1].cancelled() => {}
        _ = line.wait_for(|line| line.cuts != cuts) => {}
        _ = async { tokio::join!(towards, back) } => {}
    }
}

async fn pump(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut line: watch::Receiver<Line>,
    hangs: impl Fn(&Line) -> bool,
) -> io::Result<()> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut piece).await?;
        let delay = match line.wait_for(|line| !hangs(line)).await {
            Ok(line) => line.delay,
            Err(_) => return Ok(()),
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..count]).await?;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// One process's way to dial.
#[derive(Debug, Clone)]
pub struct Wire {
    network: Network,
    who: Identity,
    owner: CancellationToken,
}

impl Wire {
    /// A channel that connects when first used, and again when its connection is gone.
    pub fn channel(&self, address: &str) -> Channel {
        // Any text that is a URI does: the connector knows the address.
        Endpoint::from_static("http://simulated")
            .connect_with_connector_lazy(self.connector(address))
    }

    fn connector(
        &self,
        address: &str,
    ) -> impl tower::Service<
        tonic::transport::Uri,
        Response = TokioIo<DuplexStream>,
        Error = io::Error,
        Future: Send,
    >
    + Send
    + 'static
    + use<> {
        let (wire, address) = (self.clone(), address.to_owned());
        service_fn(move |_| {
            let (wire, address) = (wire.clone(), address.clone());
            async move {
                wire.network
                    .connect(&address, wire.who, wire.owner)
                    .await
                    .map(TokioIo::new)
            }
        })
    }
}

#[async_trait]
impl Dialer for Wire {
    async fn dial(&self, address: &str, _node: NodeId) -> Result<Channel, connector::Error> {
        Endpoint::from_static("http://simulated")
            .connect_timeout(Duration::from_secs(3))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_with_connector(self.connector(address))
            .await
            .map_err(connector::Error::from)
    }

    async fn dial_controller(&self, address: &str, _: &Name) -> Result<Channel, connector::Error> {
        Ok(self.channel(address))
    }
}

#[cfg(test)]
mod tests;
