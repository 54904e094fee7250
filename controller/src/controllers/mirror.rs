//! Fetches what the log names by its content and what isn't here: images, and sealed segments of
//! the log. Whoever leads needs them; whoever led before may never come back.
//!
//! Every controller does so, also one that leads: it may have missed something while it followed. What
//! comes is checked against what the log says before it is kept.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use kapok_proto::fabric::v1::{
    ReadFileRequest,
    follower_service_client::FollowerServiceClient,
    read_file_request::{File, Span as WireSpan},
};
use kapok_store::{Archive, Segment, Store};
use kapok_types::{Digest, Env};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};
use tracing::{debug, info, warn};

use super::Controllers;
use crate::{
    fabric::{Fabric, Image},
    images::{Library, blob},
    ledger,
};

/// The pause after a round in which something stayed missing.
const RETRY: Duration = Duration::from_secs(10);
/// How long the next piece may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Largest segment that is taken, in bytes.
const MAX_SEGMENT_BYTES: usize = 256 * 1024 * 1024;

/// What is fetched, from whom, and where it is kept.
pub(crate) struct Mirror<S> {
    pub(crate) controllers: Controllers,
    pub(crate) ledger: ledger::Handle,
    pub(crate) library: Arc<Library>,
    pub(crate) archive: Archive<S>,
    pub(crate) env: Arc<dyn Env>,
}

/// Why a file didn't come.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("nobody that could be reached has it")]
    Nowhere,
    #[error(transparent)]
    Refused(#[from] tonic::Status),
    #[error("it can't be reached")]
    Dial(#[from] kapok_trust::connector::Error),
    #[error("the next piece took too long")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("it can't be kept")]
    Blob(#[from] blob::Error),
    #[error("it can't be kept")]
    Segments(#[from] kapok_store::segments::Error),
    #[error(transparent)]
    Store(#[from] kapok_store::Error),
    #[error("what came is not what the log names")]
    Other,
}

impl<S: Store> Mirror<S> {
    /// Fetches until stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let fetching = async {
            let mut changes = self.ledger.changes();
            let mut seen: Option<Fabric> = None;
            // Without a ledger the controller ends: that is its own to say.
            while changes.has_changed().is_ok() {
                let now = changes.borrow_and_update().fabric.clone();
                let same = seen.as_ref().is_some_and(|seen| {
                    seen.images.ptr_eq(&now.images) && seen.segments.ptr_eq(&now.segments)
                });
                if !same {
                    let whole = self.round(&now).await;
                    seen = whole.then_some(now);
                    if !whole {
                        tokio::time::sleep(self.env.jittered(RETRY)).await;
                        continue;
                    }
                }
                let _ended = changes.changed().await;
            }
        };
        stop.run_until_cancelled(fetching).await;
        stop.cancelled().await;
    }

    /// Whether everything is here afterwards.
    async fn round(&self, fabric: &Fabric) -> bool {
        let mut whole = true;
        let present: BTreeSet<Digest> = match self.library.blobs().list().await {
            Ok(present) => present.into_iter().collect(),
            Err(error) => {
                warn!(%error, "the blobs can't be listed");
                return false;
            }
        };
        for image in fabric.images.values() {
            if present.contains(&image.digest) {
                continue;
            }
            match self.image(image).await {
                Ok(()) => {
                    info!(image = %image.name, digest = %image.digest, "the image is here now, too");
                }
                Err(error) => {
                    whole = false;
                    debug!(image = %image.name, %error, "the image isn't here yet");
                }
            }
        }
        // What nobody names any more; where nodes are to be adopted, they may still start from it.
        if !self.controllers.leads() && fabric.adoption.is_none() {
            let named = crate::api::digests(fabric);
            if let Err(error) = self.library.collect(|| named.clone()).await {
                warn!(%error, "blobs that no image names are still here");
            }
        }
        let present = match self.archive.segments().list().await {
            Ok(present) => present,
            Err(error) => {
                warn!(%error, "the segments can't be listed");
                return false;
            }
        };
        for record in fabric.segments.values() {
            let span = record.segment.span();
            let is_here = present.contains(&span);
            if record.deleted.is_some() && is_here && !self.controllers.leads() {
                // Whoever leads has said so first.
                if let Err(error) = self.archive.segments().remove(span).await {
                    warn!(segment = %span, %error, "a segment whose retention is over is still here");
                }
            }
            if record.deleted.is_some() || is_here {
                continue;
            }
            match self.segment(&record.segment).await {
                Ok(()) => info!(segment = %span, "the segment is here now, too"),
                Err(error) => {
                    whole = false;
                    debug!(segment = %span, %error, "the segment isn't here yet");
                }
            }
        }
        whole
    }

    async fn image(&self, image: &Image) -> Result<(), Failed> {
        let file = File::Blob(image.digest.to_string());
        let mut last = Failed::Nowhere;
        for from in self.controllers.others() {
            let fetched = async {
                let mut pieces = read(self.controllers.dial(&from).await?, file.clone()).await?;
                let mut writer = self.library.blobs().begin(image.size).await?;
                while let Some(piece) = timeout(DEADLINE, pieces.message()).await?? {
                    writer.write(piece.data).await?;
                }
                writer.commit(Some(image.digest)).await?;
                Ok(())
            };
            match fetched.await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn segment(&self, segment: &Segment) -> Result<(), Failed> {
        // Mostly the store holds its entries for a while, and nobody need be asked.
        if self.archive.seal_again(segment).await?.is_some() {
            return Ok(());
        }
        let span = segment.span();
        let file = File::Segment(WireSpan {
            first: span.first.get(),
            last: span.last.get(),
        });
        let mut last = Failed::Nowhere;
        for from in self.controllers.others() {
            let fetched = async {
                let mut pieces = read(self.controllers.dial(&from).await?, file.clone()).await?;
                let mut content = BytesMut::new();
                while let Some(piece) = timeout(DEADLINE, pieces.message()).await?? {
                    if content.len() + piece.data.len() > MAX_SEGMENT_BYTES {
                        return Err(Failed::Other);
                    }
                    content.extend_from_slice(&piece.data);
                }
                let content = Bytes::from(content);
                match Segment::open(&content) {
                    Ok((opened, _)) if opened == *segment => {}
                    _ => return Err(Failed::Other),
                }
                Ok(self.archive.segments().put(span, content).await?)
            };
            match fetched.await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn read(
    channel: Channel,
    file: File,
) -> Result<Streaming<kapok_proto::fabric::v1::ReadFileResponse>, Failed> {
    let mut client = FollowerServiceClient::new(channel);
    let request = ReadFileRequest { file: Some(file) };
    let answer = timeout(DEADLINE, client.read_file(request)).await??;
    Ok(answer.into_inner())
}
