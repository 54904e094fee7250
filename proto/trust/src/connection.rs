//! One TLS connection, accepted or dialled.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::{Peer, admission::Slot, connections::Lease};

/// A TLS connection whose peer is known. Reads and writes fail from the moment on that the peer's
/// certificate expires or is revoked.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// What came along with the handshake's last words.
    early: Vec<u8>,
    peer: Peer,
    lease: Option<Lease>,
    /// Its place among its address's connections, if it was accepted.
    _slot: Option<Slot>,
}

impl Connection {
    pub(crate) fn new(
        stream: TlsStream<TcpStream>,
        early: Vec<u8>,
        peer: Peer,
        lease: Option<Lease>,
        slot: Option<Slot>,
    ) -> Self {
        Self {
            stream,
            early,
            peer,
            lease,
            _slot: slot,
        }
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The TLS stream's own facts: version, suite, application protocol.
    pub fn tls(&self) -> &rustls::CommonState {
        self.stream.get_ref().1
    }

    /// An error once the certificate holds no more.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.lease.as_mut().map(|lease| lease.poll_ended(cx)) {
            Some(Poll::Ready(())) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the peer's certificate has expired or was revoked",
            )),
            Some(Poll::Pending) | None => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_held(cx)?;
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..n]);
            self.early.drain(..n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_held(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_held(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_held(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
