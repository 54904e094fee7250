//! People's images, and how one comes in.

use std::time::Duration;

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
use tokio::sync::oneshot;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument as _, info_span};

use super::{
    Api,
    caller::{Caller, absent, key, optional, parsed, request_id},
    pace::{MIN_RATE, Pace},
    page::{Page, place},
    status, view,
};
use crate::{
    authz::{Action, about},
    fabric::{Command, Denied, Fabric, Outcome},
    images, ledger,
};

/// Longest pause between two pieces of an import.
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);
/// Largest piece, in bytes.
const MAX_PIECE_BYTES: usize = 1024 * 1024;
/// Pause before the ledger is asked again what became of a registration.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What an import says of itself, checked.
struct Header {
    tenant: Name,
    name: Name,
    format: DiskFormat,
    size: Bytes,
    expected: Option<Digest>,
    arch: Arch,
    request_id: Option<String>,
}

#[tonic::async_trait]
impl ImageService for Api {
    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<Image>, Status> {
        let mut caller = self.caller(&request)?;
        let mut parts = request.into_inner();
        let header = match self.next_part(&mut parts, PIECE_TIMEOUT).await? {
            Some(Part::Header(header)) => checked(&header, &caller.home)?,
            _ => return Err(status::bad_field("header", "must be the first message")),
        };
        let tenant = about::tenant(&header.tenant);
        self.authorize(
            &caller,
            Action::ImageImport,
            &tenant,
            header.tenant.as_str(),
        )?;
        caller.reach(&header.tenant);
        self.not_taken(&header)?;
        let refused = |error| status::import(&error);
        let mut incoming = self
            .library
            .import(header.format, header.size)
            .await
            .map_err(refused)?;
        let mut pace = Pace::default();
        while let Some(piece) = self.next_piece(&mut parts, &mut pace).await? {
            incoming.feed(piece).await.map_err(refused)?;
        }
        let (answer, registered) = oneshot::channel();
        let span = info_span!("import", image = %header.name);
        let register = self.clone().register(caller, header, incoming, answer);
        self.tasks.spawn(register.instrument(span));
        let image = registered.await.map_err(|_| Self::stopping())??;
        Ok(Response::new(image))
    }

    async fn get_image(
        &self,
        request: Request<GetImageRequest>,
    ) -> Result<Response<Image>, Status> {
        let caller = self.caller(&request)?;
        let which = key("image", request.into_inner().image)?;
        let snapshot = self.ledger.snapshot();
        let image = snapshot.fabric.image(&which, &caller.home);
        let image = image.ok_or_else(|| absent("image", &which))?;
        self.authorize(&caller, Action::ImageGet, &about::image(image), &which)?;
        Ok(Response::new(view::image(image)))
    }

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListImagesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page = Page::new("images".into(), page_size, &page_token)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let after = page.after.as_deref();
        let names = &fabric.image_names;
        let places = self.places(fabric, &caller, Action::ImageList, None, names, after)?;
        let shown = places.filter_map(|(called, id)| {
            let image = fabric.images.get(id)?;
            let seen = self.may(&caller, Action::ImageGet, &about::image(image));
            seen.then(|| (place(called), view::image(image)))
        });
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
        let mut caller = self.caller(&request)?;
        let DeleteImageRequest {
            image,
            request_id: id,
        } = request.into_inner();
        let image = key("image", image)?;
        let id = request_id(&id)?;
        match self.ledger.snapshot().fabric.image(&image, &caller.home) {
            Some(found) => {
                self.authorize(&caller, Action::ImageDelete, &about::image(found), &image)?;
                caller.reach(&found.tenant);
            }
            None => {
                self.authorize_absent(&caller, Action::ImageDelete, about::some_image, &image)?;
            }
        }
        let (api, span) = (self.clone(), info_span!("delete", %image));
        let delete = async move {
            let command = Command::DeleteImage { image };
            api.submit(caller, id, command).await?;
            api.collect_garbage().await;
            Ok::<_, Status>(())
        };
        // A caller that leaves doesn't leave the blob behind.
        let deleted = self.tasks.spawn(delete.instrument(span));
        deleted.await.map_err(|_| Self::stopping())??;
        Ok(Response::new(DeleteImageResponse {}))
    }
}

impl Api {
    /// Removes blobs that no image names. A failure is for the journal: the next start tries
    /// again.
    async fn collect_garbage(&self) {
        if self.ledger.snapshot().fabric.adoption.is_some() {
            // What a restored record doesn't name may be what its nodes still start from.
            return;
        }
        let named = || digests(&self.ledger.snapshot().fabric);
        let collected = tokio::select! {
            biased;
            // A registration of unknown outcome ends then, and its blob may be an image's.
            () = self.stop.cancelled() => return,
            collected = self.library.collect(named) => collected,
        };
        if let Err(error) = collected {
            tracing::warn!(%error, "blobs that no image names stay for now");
        }
    }

    /// Says at once what could be said only after all bytes came: the name has other content.
    fn not_taken(&self, header: &Header) -> Result<(), Status> {
        let fabric = &self.ledger.snapshot().fabric;
        let present = fabric
            .image_names
            .get(&(header.tenant.clone(), header.name.clone()))
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

    /// The next bytes, within the bounds of a sender that uses its place.
    async fn next_piece(
        &self,
        parts: &mut Streaming<ImportImageRequest>,
        pace: &mut Pace,
    ) -> Result<Option<Piece>, Status> {
        let asked = self.env.monotonic();
        let Some(part) = self.next_part(parts, pace.left()).await? else {
            return Ok(None);
        };
        let piece = piece(part)?;
        pace.count(piece.len(), self.env.monotonic().saturating_sub(asked));
        Ok(Some(piece))
    }

    /// The next part, within a bound: nobody holds an import's place by saying nothing.
    async fn next_part(
        &self,
        parts: &mut Streaming<ImportImageRequest>,
        left: Duration,
    ) -> Result<Option<Part>, Status> {
        let late = || {
            let (reason, message) = if left < PIECE_TIMEOUT {
                let rate = MIN_RATE / 1024;
                let message = format!(
                    "the image came at less than {rate} KiB/s on average; import it over a faster \
                     connection"
                );
                ("IMPORT_SLOW", message)
            } else {
                let message = format!(
                    "no piece came for {} s; import it again",
                    PIECE_TIMEOUT.as_secs()
                );
                ("IMPORT_IDLE", message)
            };
            status::status(Code::DeadlineExceeded, reason, &message, &[])
        };
        let message = self.within(left.min(PIECE_TIMEOUT), late, parts.message());
        match message.await?.map_err(status::too_large)? {
            Some(ImportImageRequest { part: Some(part) }) => Ok(Some(part)),
            Some(_) => Err(status::bad_field("part", "must be stated: header or data")),
            None => Ok(None),
        }
    }

    /// Stores and registers what came in, in one go: a caller that leaves can't come in between.
    async fn register(
        self,
        caller: Caller,
        header: Header,
        incoming: images::Incoming,
        answer: oneshot::Sender<Result<Image, Status>>,
    ) {
        let stored = match incoming.finish(header.expected).await {
            Ok(stored) => stored,
            Err(error) => {
                let _ = answer.send(Err(status::import(&error)));
                return;
            }
        };
        let command = Command::RegisterImage {
            tenant: Some(header.tenant),
            name: header.name,
            digest: stored.digest,
            format: header.format,
            size: header.size,
            virtual_size: stored.virtual_size,
            arch: header.arch,
        };
        let mut answer = Some(answer);
        let registered = loop {
            let id = header.request_id.clone();
            match self
                .ledger
                .submit(caller.origin(), id, command.clone())
                .await
            {
                Err(ledger::Error::Busy) if answer.is_none() => {}
                Err(error @ ledger::Error::Unavailable { .. }) => {
                    // The caller needn't wait. The blob does: nobody knows whether it is an
                    // image's by now. Registering the same again has one effect.
                    if let Some(answer) = answer.take() {
                        let _ = answer.send(Err(status::ledger(&error)));
                    }
                }
                known => break known,
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        };
        // From here on it is an image's blob, or garbage.
        drop(stored);
        let registered = registered
            .map_err(|error| self.not_done(&caller, &command, &error))
            .and_then(|done| of(&done));
        if registered.is_err() {
            self.collect_garbage().await;
        }
        if let Some(answer) = answer {
            let _ = answer.send(registered);
        }
    }
}

/// The image that a registration came to.
fn of(done: &ledger::Done) -> Result<Image, Status> {
    let image = match done.outcome {
        Outcome::Image(id) => done.snapshot.fabric.images.get(&id),
        _ => None,
    };
    image.map(view::image).ok_or_else(|| {
        let message =
            "the image of this request was removed since; import it with a new request id";
        status::status(Code::NotFound, "NOT_FOUND", message, &[])
    })
}

/// Every blob that an image names.
pub(crate) fn digests(fabric: &Fabric) -> std::collections::BTreeSet<Digest> {
    fabric.images.values().map(|image| image.digest).collect()
}

fn checked(wire: &ImportImageHeader, home: &Name) -> Result<Header, Status> {
    let refused = |violation: Violation| status::bad_fields(&[violation]);
    let arch = match wire.arch {
        0 => Arch::X86_64,
        stated => convert::known::<common::Arch, _>(stated, "arch").map_err(refused)?,
    };
    Ok(Header {
        tenant: optional("tenant", &wire.tenant)?.unwrap_or_else(|| home.clone()),
        name: parsed("name", &wire.name)?,
        format: convert::known::<common::DiskFormat, _>(wire.format, "format").map_err(refused)?,
        size: Bytes(wire.size_bytes),
        expected: match wire.expected_digest.as_str() {
            "" => None,
            text => Some(parsed("expected_digest", text)?),
        },
        arch,
        request_id: request_id(&wire.request_id)?,
    })
}

fn piece(part: Part) -> Result<Piece, Status> {
    match part {
        Part::Header(_) => Err(status::bad_field(
            "header",
            "comes once, as the first message",
        )),
        Part::Data(data) if data.is_empty() => Err(status::bad_field(
            "data",
            "is empty; must have at least one byte",
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
