//! `Storage` over a simulated host: it remembers names, not bytes.

use std::{collections::btree_map::Entry, path::Path, sync::Arc};

use async_trait::async_trait;
use kapok_types::{
    Digest, IncarnationId,
    instance::{DiskFormat, RootDisk},
};
use tokio::task::spawn_blocking;

use super::{Call, Host};
use crate::driver::{self, Error, FoundDisk, FoundImage};

pub(super) struct Storage(pub(super) Arc<Host>);

#[async_trait]
impl driver::Storage for Storage {
    fn shared(&self) -> bool {
        self.0.shape().pool_shared
    }

    async fn disks(&self) -> Result<Vec<FoundDisk>, Error> {
        let passage = self.0.enter(Call::Found, None).await?;
        let found = |(incarnation, image): (&IncarnationId, &Digest)| FoundDisk {
            incarnation: *incarnation,
            image: Some(*image),
        };
        let disks = self.0.lock().disks.iter().map(found).collect();
        passage.leave().await;
        Ok(disks)
    }

    async fn create_root(&self, incarnation: IncarnationId, root: &RootDisk) -> Result<(), Error> {
        let passage = self.0.enter(Call::CreateRoot, Some(incarnation)).await?;
        {
            let mut inner = self.0.lock();
            let held = self.0.shape().has_all_images
                || inner
                    .images
                    .get(&root.image)
                    .is_some_and(|(format, _)| *format == root.image_format);
            if let Entry::Vacant(place) = inner.disks.entry(incarnation) {
                if !held {
                    return Err(Error::Absent {
                        what: format!("the image {}", root.image),
                    });
                }
                place.insert(root.image);
            }
        }
        passage.leave().await;
        Ok(())
    }

    async fn remove_root(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let passage = self.0.enter(Call::RemoveRoot, Some(incarnation)).await?;
        self.0.lock().disks.remove(&incarnation);
        passage.leave().await;
        Ok(())
    }

    async fn images(&self) -> Result<Vec<FoundImage>, Error> {
        let passage = self.0.enter(Call::Found, None).await?;
        let images = self.0.images();
        passage.leave().await;
        Ok(images)
    }

    async fn store_image(
        &self,
        digest: Digest,
        format: DiskFormat,
        file: &Path,
    ) -> Result<Digest, Error> {
        let passage = self.0.enter(Call::StoreImage, None).await?;
        let path = file.to_owned();
        let failed = |reason: String| Error::Failed {
            call: "storing the image",
            reason,
        };
        let read = spawn_blocking(move || std::fs::read(path)).await;
        let bytes = read
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        let stored = Digest::of(&bytes);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.put_image(digest, format, size, stored != digest);
        passage.leave().await;
        Ok(stored)
    }

    async fn hash_image(&self, digest: Digest, format: DiskFormat) -> Result<Digest, Error> {
        let passage = self.0.enter(Call::HashImage, None).await?;
        let found = {
            let inner = self.0.lock();
            let held = inner
                .images
                .get(&digest)
                .is_some_and(|(held, _)| *held == format);
            held.then(|| inner.damaged_images.contains(&digest))
        };
        passage.leave().await;
        match found {
            Some(true) => Ok(Digest::of(b"damaged")),
            Some(false) => Ok(digest),
            None => Err(Error::Absent {
                what: format!("the image {digest}"),
            }),
        }
    }

    async fn remove_image(&self, digest: Digest) -> Result<(), Error> {
        let passage = self.0.enter(Call::RemoveImage, None).await?;
        {
            let mut inner = self.0.lock();
            let overlays = inner
                .disks
                .values()
                .filter(|image| **image == digest)
                .count();
            if overlays > 0 {
                return Err(Error::InUse { overlays });
            }
            inner.images.remove(&digest);
            inner.damaged_images.remove(&digest);
        }
        passage.leave().await;
        Ok(())
    }
}
