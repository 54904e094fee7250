//! Images in the node's cache: pull with progress, list, remove.

use kapok_proto::{agent::v1 as wire, common::v1 as common, convert};
use kapok_types::{
    Digest, Violation,
    instance::{DiskFormat, MAX_DISK_BYTES},
};
use tonic::Status;

use super::{
    Answers, Services,
    node::{epoch, sources},
    status,
};
use crate::{
    driver::FoundImage,
    images::{Cached, Image},
};

impl Services {
    pub(super) async fn start_pull(
        &self,
        mut request: wire::PullImageRequest,
    ) -> Result<Answers<wire::PullImageResponse>, Status> {
        let bad = |wrong: Violation| status::bad(&[wrong]);
        let digest: Digest = convert::id(&request.digest, "digest").map_err(bad)?;
        let format: DiskFormat =
            convert::known::<common::DiskFormat, _>(request.format, "format").map_err(bad)?;
        let bytes = request.size_bytes;
        if !(1..=MAX_DISK_BYTES).contains(&bytes) {
            let reason = format!("is {bytes}; must be 1 to {MAX_DISK_BYTES}");
            return Err(bad(Violation::new("size_bytes", reason)));
        }
        let sources = sources(std::mem::take(&mut request.sources), "sources")?;
        let entered = self.changes.enter(epoch(request.epoch)?).await;
        entered.map_err(status::refused)?;
        let whole = wire::PullImageResponse {
            done_bytes: bytes,
            total_bytes: bytes,
            cached: true,
        };
        let Some(cache) = self.images.clone() else {
            return Ok(Box::pin(futures::stream::iter([Ok(whole)])));
        };
        let image = Image {
            digest,
            format,
            bytes,
        };
        let stream = async_stream::stream! {
            let mut progress = cache.progress(digest);
            let pull = cache.ensure_image(image, &sources);
            tokio::pin!(pull);
            let mut shows = true;
            loop {
                tokio::select! {
                    biased;
                    ended = &mut pull => {
                        yield ended.map(|()| whole).map_err(|error| status::image(&error));
                        return;
                    }
                    changed = progress.changed(), if shows => {
                        shows = changed.is_ok();
                        let now = *progress.borrow_and_update();
                        yield Ok(wire::PullImageResponse {
                            done_bytes: now.done,
                            total_bytes: bytes,
                            cached: false,
                        });
                    }
                }
            }
        };
        Ok(self.until_stop(stream))
    }

    pub(super) async fn cached_images(&self) -> Result<wire::ListImagesResponse, Status> {
        let cached = match &self.images {
            Some(cache) => cache.list().await.map_err(|error| status::image(&error))?,
            None => self.held_images().await?,
        };
        let images = cached.into_iter().map(|cached| wire::CachedImage {
            digest: cached.image.digest.to_string(),
            format: common::DiskFormat::from(cached.image.format).into(),
            size_bytes: cached.image.bytes,
            overlays: u32::try_from(cached.overlays).unwrap_or(u32::MAX),
        });
        Ok(wire::ListImagesResponse {
            images: images.collect(),
        })
    }

    /// What a pool without a cache over it holds.
    async fn held_images(&self) -> Result<Vec<Cached>, Status> {
        let storage = &self.driver.storage;
        let failed = |error| status::driver(&error);
        let disks = storage.disks().await.map_err(failed)?;
        let cached = |found: FoundImage| Cached {
            image: Image {
                digest: found.digest,
                format: found.format,
                bytes: found.bytes,
            },
            overlays: disks
                .iter()
                .filter(|disk| disk.image == Some(found.digest))
                .count(),
        };
        let images = storage.images().await.map_err(failed)?;
        Ok(images.into_iter().map(cached).collect())
    }

    pub(super) async fn drop_image(
        &self,
        request: wire::RemoveImageRequest,
    ) -> Result<wire::RemoveImageResponse, Status> {
        let digest: Digest =
            convert::id(&request.digest, "digest").map_err(|wrong| status::bad(&[wrong]))?;
        let entered = self.changes.enter(epoch(request.epoch)?).await;
        entered.map_err(status::refused)?;
        match &self.images {
            Some(cache) => cache
                .remove(digest)
                .await
                .map_err(|error| status::image(&error))?,
            None => self
                .driver
                .storage
                .remove_image(digest)
                .await
                .map_err(|error| status::driver(&error))?,
        }
        Ok(wire::RemoveImageResponse {})
    }
}
