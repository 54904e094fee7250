//! Reads blobs from the `PeerService` of a controller or another agent, over mTLS.
//!
//! Whoever serves is known by its certificate, the node by its own; the ticket, which a controller
//! made for this node and this blob, is the right to read.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use kapok_proto::{
    MAX_MESSAGE_BYTES,
    agent::v1::{ReadBlobRequest, ReadBlobResponse, peer_service_client::PeerServiceClient},
};
use kapok_trust::{connector, dns};
use kapok_types::Digest;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{Fetch, FetchError, Pieces, Source};
use crate::trust::{Trust, with_causes};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a source may send nothing.
const SILENCE: Duration = Duration::from_secs(15);
/// Bytes under way that a connection may hold.
const WINDOW_BYTES: u32 = 512 * 1024;

/// The client of peers' blobs. One connection a read: pulls are rare and long.
#[derive(Debug, Clone)]
pub struct Peers {
    trust: Trust,
}

impl Peers {
    /// A client that shows the node's certificate.
    pub fn new(trust: Trust) -> Self {
        Self { trust }
    }

    async fn dial(&self, source: &Source) -> Result<Channel, FetchError> {
        let credentials = self.trust.credentials().ok_or_else(|| FetchError::Broken {
            reason: "this node has no certificate to show".into(),
        })?;
        let fabric = self.trust.fabric();
        let name = match source.node {
            Some(node) => dns::node(fabric, node),
            None => dns::controller(fabric),
        };
        let tune = |endpoint: Endpoint| {
            endpoint
                .connect_timeout(CONNECT)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
        };
        let dialled = connector::connect(credentials, &source.address, &name, tune).await;
        dialled.map_err(|error| FetchError::Broken {
            reason: with_causes(&error),
        })
    }
}

#[async_trait]
impl Fetch for Peers {
    async fn read(
        &self,
        source: &Source,
        digest: Digest,
        offset: u64,
    ) -> Result<Pieces, FetchError> {
        check(&source.address)?;
        let channel = self.dial(source).await?;
        let mut client =
            PeerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = ReadBlobRequest {
            digest: digest.to_string(),
            offset,
            ticket: source.ticket.clone(),
        };
        let answer = tokio::time::timeout(SILENCE, client.read_blob(request))
            .await
            .map_err(|_| silent())?
            .map_err(|status| refused(&status))?;
        Ok(Box::pin(stream::unfold(
            Some(answer.into_inner()),
            next_piece,
        )))
    }
}

/// The next piece, and the stream if it goes on.
async fn next_piece(
    stream: Option<Streaming<ReadBlobResponse>>,
) -> Option<(
    Result<Bytes, FetchError>,
    Option<Streaming<ReadBlobResponse>>,
)> {
    let mut stream = stream?;
    match tokio::time::timeout(SILENCE, stream.message()).await {
        Ok(Ok(Some(piece))) => Some((Ok(piece.data), Some(stream))),
        Ok(Ok(None)) => None,
        Ok(Err(status)) => Some((Err(refused(&status)), None)),
        Err(_) => Some((Err(silent()), None)),
    }
}

/// An address is a host and a port, and can't smuggle anything else into a URL.
fn check(address: &str) -> Result<(), FetchError> {
    let parts = address.rsplit_once(':');
    let sound = parts.is_some_and(|(host, port)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-[]:".contains(c);
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
    });
    if sound {
        return Ok(());
    }
    Err(FetchError::Illegal {
        reason: format!("{address:?} is no address; it must be HOST:PORT"),
    })
}

fn refused(status: &Status) -> FetchError {
    match status.code() {
        Code::NotFound => FetchError::Absent,
        Code::OutOfRange => FetchError::OutOfRange,
        code => FetchError::Broken {
            reason: format!("{code:?}: {}", status.message()),
        },
    }
}

fn silent() -> FetchError {
    FetchError::Broken {
        reason: format!("it sent nothing for {} s", SILENCE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_plain_addresses() {
        for wrong in [
            "",
            "10.0.0.1",
            ":7700",
            "http://a:1",
            "https://a:1",
            "file:///etc/shadow",
            "a:1/x",
            "user@a:1",
            "a:99999",
        ] {
            assert!(
                matches!(check(wrong), Err(FetchError::Illegal { .. })),
                "{wrong}"
            );
        }
        check("127.0.0.1:7700").unwrap();
        check("[::1]:7700").unwrap();
        check("controller-1.example:7700").unwrap();
    }
}
