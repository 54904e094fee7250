//! People's images, and how one comes in.

use std::{ops::Bound, time::Duration};

use bytes::Bytes as Piece;
use kapok_proto::{
    common::v1 as common,
    convert,
    fabric::v1::{
        DeleteImageRequest, DeleteImageResponse, GetImageRequest, Image, ImportImageHeader,
        ImportImageRequest, ListImagesRequest, ListImagesResponse,
        image_service_server::ImageService, import_image_request::Part,
    },
};
use kapok_types::{
    Bytes, Digest, Name, Violation,
    instance::{Arch, DiskFormat},
};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Api,
    caller::{Caller, key, parsed, request_id},
    page::Page,
    status, view,
};
use crate::fabric::{Command, Denied, Fabric, Outcome};

/// Longest pause between two pieces of an import.
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);
/// Largest piece, in bytes.
const MAX_PIECE_BYTES: usize = 1024 * 1024;

/// What an import says of itself, checked.
struct Header {
    name: Name,
    format: DiskFormat,
    size: Bytes,
    expected: Option<Digest>,
    arch: Arch,
    request_id: String,
}

#[tonic::async_trait]
impl ImageService for Api {
    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<Image>, Status> {
        let caller = Caller::of(&request);
        let mut parts = request.into_inner();
        let header = match self.next_part(&mut parts).await? {
            Some(Part::Header(header)) => self.header(&header)?,
            _ => return Err(status::bad_field("header", "must be the first message")),
        };
        self.not_taken(&header)?;
        let refused = |error| status::import(&error);
        let mut incoming = self
            .library
            .import(header.format, header.size)
            .await
            .map_err(refused)?;
        while let Some(part) = self.next_part(&mut parts).await? {
            incoming.feed(piece(part)?).await.map_err(refused)?;
        }
        let stored = incoming.finish(header.expected).await.map_err(refused)?;
        let command = Command::RegisterImage {
            name: header.name,
            digest: stored.digest,
            format: header.format,
            size: header.size,
            virtual_size: stored.virtual_size,
            arch: header.arch,
        };
        let registered = self.submit(caller, header.request_id, command).await;
        // From here on it is an image's blob, or garbage.
        drop(stored);
        let done = match registered {
            Ok(done) => done,
            Err(refused) => {
                self.collect_garbage().await;
                return Err(refused);
            }
        };
        let image = match done.outcome {
            Outcome::Image(id) => done.snapshot.fabric.images.get(&id),
            _ => None,
        };
        let image = image.ok_or_else(|| {
            let message = "the image of this request was removed since";
            status::status(Code::NotFound, "NOT_FOUND", message, &[])
        })?;
        Ok(Response::new(view::image(image)))
    }

    async fn get_image(
        &self,
        request: Request<GetImageRequest>,
    ) -> Result<Response<Image>, Status> {
        let which = key("image", request.into_inner().image)?;
        let snapshot = self.ledger.snapshot();
        let image = snapshot.fabric.image(&which);
        let absent = || {
            status::denied(&Denied::Absent {
                kind: "image",
                which: which.clone(),
            })
        };
        Ok(Response::new(view::image(image.ok_or_else(absent)?)))
    }

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let ListImagesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page = Page::new("images".into(), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Name>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let rest = fabric.image_names.range((from, Bound::Unbounded));
        let shown = rest
            .filter_map(|(name, id)| Some((name.to_string(), view::image(fabric.images.get(id)?))));
        let (images, next_page_token) = page.take(shown);
        Ok(Response::new(ListImagesResponse {
            images,
            next_page_token,
        }))
    }

    async fn delete_image(
        &self,
        request: Request<DeleteImageRequest>,
    ) -> Result<Response<DeleteImageResponse>, Status> {
        let caller = Caller::of(&request);
        let DeleteImageRequest {
            image,
            request_id: id,
        } = request.into_inner();
        let image = key("image", image)?;
        let id = request_id(&id, &*self.env)?;
        self.submit(caller, id, Command::DeleteImage { image })
            .await?;
        self.collect_garbage().await;
        Ok(Response::new(DeleteImageResponse {}))
    }
}

impl Api {
    /// Removes blobs that no image names. A failure is for the journal: the next start tries
    /// again.
    async fn collect_garbage(&self) {
        let named = || digests(&self.ledger.snapshot().fabric);
        if let Err(error) = self.library.collect(named).await {
            tracing::warn!(%error, "blobs that no image names stay for now");
        }
    }

    fn header(&self, wire: &ImportImageHeader) -> Result<Header, Status> {
        let refused = |violation: Violation| status::bad_fields(&[violation]);
        let arch = match wire.arch {
            0 => Arch::X86_64,
            stated => convert::known::<common::Arch, _>(stated, "arch").map_err(refused)?,
        };
        Ok(Header {
            name: parsed("name", &wire.name)?,
            format: convert::known::<common::DiskFormat, _>(wire.format, "format")
                .map_err(refused)?,
            size: Bytes(wire.size_bytes),
            expected: match wire.expected_digest.as_str() {
                "" => None,
                text => Some(parsed("expected_digest", text)?),
            },
            arch,
            request_id: request_id(&wire.request_id, &*self.env)?,
        })
    }

    /// Says at once what could be said only after all bytes came: the name has other content.
    fn not_taken(&self, header: &Header) -> Result<(), Status> {
        let fabric = &self.ledger.snapshot().fabric;
        let present = fabric
            .image_names
            .get(&header.name)
            .and_then(|id| fabric.images.get(id));
        let other = present.is_some_and(|present| {
            present.format != header.format
                || present.size != header.size
                || header
                    .expected
                    .is_some_and(|expected| expected != present.digest)
        });
        if !other {
            return Ok(());
        }
        let but = " with other content; choose another name";
        let name = header.name.to_string();
        Err(status::denied(&Denied::Exists {
            kind: "image",
            name,
            but,
        }))
    }

    /// The next part, within a bound: nobody holds an import's place by saying nothing.
    async fn next_part(
        &self,
        parts: &mut Streaming<ImportImageRequest>,
    ) -> Result<Option<Part>, Status> {
        let next = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Self::stopping()),
            next = tokio::time::timeout(PIECE_TIMEOUT, parts.message()) => next,
        };
        let Ok(message) = next else {
            let message = format!("no piece came for {} s", PIECE_TIMEOUT.as_secs());
            return Err(status::status(
                Code::DeadlineExceeded,
                "IMPORT_IDLE",
                &message,
                &[],
            ));
        };
        match message.map_err(status::too_large)? {
            Some(ImportImageRequest { part: Some(part) }) => Ok(Some(part)),
            Some(_) => Err(status::bad_field("part", "must be stated: header or data")),
            None => Ok(None),
        }
    }
}

/// Every blob that an image names.
pub(crate) fn digests(fabric: &Fabric) -> std::collections::BTreeSet<Digest> {
    fabric.images.values().map(|image| image.digest).collect()
}

fn piece(part: Part) -> Result<Piece, Status> {
    match part {
        Part::Header(_) => Err(status::bad_field(
            "header",
            "comes once, as the first message",
        )),
        Part::Data(data) if data.len() > MAX_PIECE_BYTES => Err(status::bad_field(
            "data",
            format!(
                "has {} bytes in one message; at most {MAX_PIECE_BYTES} are allowed",
                data.len()
            ),
        )),
        Part::Data(data) => Ok(data),
    }
}
