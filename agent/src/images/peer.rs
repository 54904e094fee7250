//! Reads blobs from the `PeerService` of a controller or another agent.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use kapok_proto::{
    MAX_MESSAGE_BYTES,
    agent::v1::{ReadBlobRequest, ReadBlobResponse, peer_service_client::PeerServiceClient},
};
use kapok_types::Digest;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use super::{Fetch, FetchError, Pieces};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a source may send nothing.
const SILENCE: Duration = Duration::from_secs(15);
/// Bytes under way that a connection may hold.
const WINDOW_BYTES: u32 = 512 * 1024;

/// The client of peers' blobs. One connection a read: pulls are rare and long.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peers;

#[async_trait]
impl Fetch for Peers {
    async fn read(&self, source: &str, digest: Digest, offset: u64) -> Result<Pieces, FetchError> {
        let endpoint = endpoint(source)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| FetchError::Broken {
                reason: chain(&error),
            })?;
        let mut client =
            PeerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = ReadBlobRequest {
            digest: digest.to_string(),
            offset,
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

fn endpoint(source: &str) -> Result<Endpoint, FetchError> {
    let illegal = || FetchError::Illegal {
        reason: format!("{source:?} is no source; it must be http://HOST:PORT"),
    };
    let authority = source.strip_prefix("http://").ok_or_else(illegal)?;
    if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
        return Err(illegal());
    }
    Ok(Endpoint::from_shared(source.to_owned())
        .map_err(|_| illegal())?
        .connect_timeout(CONNECT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
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

/// An error with its causes: the outermost of a transport error says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_plain_addresses() {
        for wrong in [
            "",
            "10.0.0.1:7700",
            "https://a:1",
            "file:///etc/shadow",
            "http://",
            "http://a:1/x",
            "http://user@a:1",
        ] {
            assert!(
                matches!(endpoint(wrong), Err(FetchError::Illegal { .. })),
                "{wrong}"
            );
        }
        endpoint("http://127.0.0.1:7700").unwrap();
        endpoint("http://[::1]:7700").unwrap();
    }
}
