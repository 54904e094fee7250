//! Whether the pool holds an image whole.
//!
//! What the local store says is believed on two conditions. The image's bytes must have outlived a
//! boot of the host once, because libvirt doesn't write them through to the disk: after the first
//! boot since they were stored they are hashed again. And on a pool that other nodes use nobody may
//! have written them since: another node may have removed the image, and be storing it again.

use std::time::Duration;

use kapok_types::Digest;

use super::{Error, Image, Inner};
use crate::{
    driver::{self, FoundImage},
    local::KnownImage,
};

/// How long what doesn't hash well is left alone on a shared pool before it is looked at again:
/// longer than network file systems keep a file's times.
const FILLING: Duration = Duration::from_secs(5);
/// How often it is looked at again at most: for an hour.
const MOST_LOOKS: usize = 720;

impl Inner {
    /// Whether the pool has the image whole. What is there but not believed is hashed first; what
    /// is damaged, and not being written by another node, is removed.
    pub(super) async fn is_there(&self, image: Image) -> Result<bool, Error> {
        let Self { storage, local, .. } = self;
        let mut damaged: Option<(Option<u64>, Digest)> = None;
        let mut last = image.digest;
        for _ in 0..MOST_LOOKS {
            let known = local
                .image(image.digest)
                .filter(|known| known.format == image.format);
            let Some(found) = self.find(image).await? else {
                if known.is_some() {
                    // Somebody removed it behind our back.
                    local.drop_image(image.digest).await?;
                }
                return Ok(false);
            };
            if known.is_some_and(|known| self.is_believed(known, &found)) {
                return Ok(true);
            }
            let hashed = match storage.hash_image(image.digest, image.format).await {
                Err(driver::Error::Absent { .. }) => return Ok(false),
                hashed => hashed?,
            };
            let shared = storage.shared();
            let steady = !shared || self.find(image).await?.as_ref() == Some(&found);
            if steady && hashed == image.digest {
                self.note(image, known, found.modified_ns).await?;
                return Ok(true);
            }
            let seen = (found.modified_ns, hashed);
            if hashed != image.digest && (!shared || damaged == Some(seen)) {
                tracing::warn!(digest = %image.digest, found = %hashed, "an image on the pool is damaged");
                local.drop_image(image.digest).await?;
                storage.remove_image(image.digest).await?;
                return Ok(false);
            }
            (damaged, last) = (Some(seen), hashed);
            tokio::time::sleep(self.env.jittered(FILLING)).await;
        }
        Err(Error::Mismatch {
            place: "what another node keeps writing",
            expected: image.digest,
            found: last,
        })
    }

    async fn find(&self, image: Image) -> Result<Option<FoundImage>, Error> {
        let found = self.storage.images().await?;
        Ok(found
            .into_iter()
            .find(|found| found.digest == image.digest && found.format == image.format))
    }

    fn is_believed(&self, known: KnownImage, found: &FoundImage) -> bool {
        let outlived = known.written_in.is_none_or(|boot| boot == self.boot);
        let untouched = !self.storage.shared()
            || (found.modified_ns.is_some() && known.modified_ns == found.modified_ns);
        outlived && untouched
    }

    /// Notes an image that was just hashed, or hashed while it was stored (then `before` is none).
    pub(super) async fn note(
        &self,
        image: Image,
        before: Option<KnownImage>,
        modified_ns: Option<u64>,
    ) -> Result<(), Error> {
        let settled = before
            .filter(|before| !self.storage.shared() || before.modified_ns == modified_ns)
            .is_some_and(|before| before.written_in != Some(self.boot));
        let known = KnownImage {
            format: image.format,
            bytes: image.bytes,
            written_in: (!settled).then_some(self.boot),
            modified_ns,
        };
        Ok(self.local.set_image(image.digest, known).await?)
    }
}
