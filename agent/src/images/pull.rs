//! One pull, from "is it there already?" to "noted as whole".

use std::time::Duration;

use backon::BackoffBuilder as _;
use bytes::Bytes;
use futures::StreamExt as _;
use kapok_types::instance::MAX_DISK_BYTES;
use tokio::task::spawn_blocking;

use super::{
    Error, FetchError, Image, Inner, lock,
    spool::{self, Spool},
};
use crate::driver;

/// Rounds over all sources without a new byte before a pull gives up.
const FRUITLESS_ROUNDS: usize = 4;
/// First and longest pause between rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

impl Inner {
    pub(super) async fn bring(&self, image: Image, sources: &[String]) -> Result<(), Error> {
        if image.bytes > MAX_DISK_BYTES {
            return Err(Error::TooLarge {
                bytes: image.bytes,
                limit: MAX_DISK_BYTES,
            });
        }
        self.show(image.digest, 0, image.bytes);
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| Error::Interrupted)?;
        if !self.is_there(image).await? {
            self.tidy().await?;
            let spool = self.download(image, sources).await?;
            self.store(image, spool).await?;
        }
        self.show(image.digest, image.bytes, image.bytes);
        Ok(())
    }

    /// Whether the pool has the image whole. What is there but unknown is hashed first; what is
    /// damaged is removed.
    async fn is_there(&self, image: Image) -> Result<bool, Error> {
        let Self { storage, local, .. } = self;
        let found = storage.images().await?;
        let there = found
            .iter()
            .any(|found| found.digest == image.digest && found.format == image.format);
        let known = local.image(image.digest);
        if !there {
            if known.is_some() {
                // Somebody removed it behind our back.
                local.drop_image(image.digest).await?;
            }
            return Ok(false);
        }
        if known.is_some_and(|known| known.format == image.format) {
            return Ok(true);
        }
        let hashed = match storage.hash_image(image.digest, image.format).await {
            Err(driver::Error::Absent { .. }) => return Ok(false),
            hashed => hashed?,
        };
        if hashed == image.digest {
            local
                .set_image(image.digest, image.format, image.bytes)
                .await?;
            return Ok(true);
        }
        tracing::warn!(digest = %image.digest, found = %hashed, "an image on the pool is damaged");
        storage.remove_image(image.digest).await?;
        Ok(false)
    }

    async fn tidy(&self) -> Result<(), Error> {
        let used: Vec<_> = lock(&self.pulls).keys().copied().collect();
        let folder = self.spool.clone();
        Ok(spawn_blocking(move || spool::tidy(&folder, &used))
            .await
            .map_err(|_| Error::Interrupted)??)
    }

    /// Fills the spool file from the sources, and checks it.
    async fn download(&self, image: Image, sources: &[String]) -> Result<Spool, Error> {
        let folder = self.spool.clone();
        let open = move || Spool::open(&folder, image.digest, image.bytes);
        let mut spool = blocking(open).await?;
        let mut last = String::from("there is no source");
        let mut rounds = rounds();
        while spool.bytes() < image.bytes {
            let before = spool.bytes();
            for source in sources {
                let (back, outcome) = self.read(image, source, spool).await;
                spool = back?;
                match outcome {
                    Ok(()) if spool.bytes() == image.bytes => break,
                    Ok(()) => last = format!("{source}: it ended early"),
                    Err(error) => last = format!("{source}: {error}"),
                }
                tracing::debug!(digest = %image.digest, %last, "a source ended");
            }
            if spool.bytes() > before {
                rounds = self::rounds();
            }
            if spool.bytes() < image.bytes {
                let Some(pause) = rounds.next() else {
                    return Err(Error::NoSource {
                        digest: image.digest,
                        done_bytes: spool.bytes(),
                        last,
                    });
                };
                tokio::time::sleep(self.env.jittered(pause)).await;
            }
        }
        let (spool, found) = with(spool, Spool::finish).await?;
        if found != image.digest {
            blocking(move || spool.remove()).await?;
            return Err(Error::Mismatch {
                place: "what the sources sent",
                expected: image.digest,
                found,
            });
        }
        Ok(spool)
    }

    /// Reads what one source gives. The spool comes back unless its file failed.
    async fn read(
        &self,
        image: Image,
        source: &str,
        mut spool: Spool,
    ) -> (Result<Spool, Error>, Result<(), FetchError>) {
        self.show(image.digest, spool.bytes(), image.bytes);
        let fetch = &self.fetch;
        let mut pieces = match fetch.read(source, image.digest, spool.bytes()).await {
            Ok(pieces) => pieces,
            Err(FetchError::OutOfRange) => {
                // What we hold can't be its beginning.
                let cleared = with(spool, Spool::clear).await.map(|(spool, ())| spool);
                return (cleared, Err(FetchError::OutOfRange));
            }
            Err(error) => return (Ok(spool), Err(error)),
        };
        while let Some(piece) = pieces.next().await {
            let piece: Bytes = match piece {
                Ok(piece) => piece,
                Err(error) => return (Ok(spool), Err(error)),
            };
            let appended = with(spool, move |spool| spool.append(&piece)).await;
            let fits;
            (spool, fits) = match appended {
                Ok(appended) => appended,
                Err(error) => {
                    // A full disk must not stay full because of us.
                    spool::forget(&self.spool, image.digest);
                    return (Err(error), Ok(()));
                }
            };
            if !fits {
                spool::forget(&self.spool, image.digest);
                let error = Error::TooLong {
                    source_url: source.to_owned(),
                    announced: image.bytes,
                };
                return (Err(error), Ok(()));
            }
            self.show(image.digest, spool.bytes(), image.bytes);
        }
        (Ok(spool), Ok(()))
    }

    /// Puts the checked file on the pool and notes it as whole.
    async fn store(&self, image: Image, spool: Spool) -> Result<(), Error> {
        let Self { storage, local, .. } = self;
        self.show(image.digest, image.bytes, image.bytes);
        let stored = storage
            .store_image(image.digest, image.format, spool.path())
            .await?;
        if stored != image.digest {
            // The file changed after its check.
            let removed = storage.remove_image(image.digest).await;
            blocking(move || spool.remove()).await?;
            removed?;
            return Err(Error::Mismatch {
                place: "what was stored",
                expected: image.digest,
                found: stored,
            });
        }
        local
            .set_image(image.digest, image.format, image.bytes)
            .await?;
        blocking(move || spool.remove()).await
    }
}

fn rounds() -> backon::ExponentialBackoff {
    backon::ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_max_times(FRUITLESS_ROUNDS)
        .build()
}

/// Does blocking work on the spool and gives it back.
async fn with<T: Send + 'static>(
    mut spool: Spool,
    work: impl FnOnce(&mut Spool) -> std::io::Result<T> + Send + 'static,
) -> Result<(Spool, T), Error> {
    blocking(move || work(&mut spool).map(|done| (spool, done))).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    Ok(spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted)??)
}
