//! One pull, from "is it there already?" to "noted as whole".

use std::time::Duration;

use backon::BackoffBuilder as _;
use bytes::Bytes;
use futures::StreamExt as _;
use kapok_types::instance::MAX_DISK_BYTES;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    Error, FetchError, Image, Inner, Source,
    spool::{self, Spool},
};

/// Rounds over all sources without a new byte before a pull gives up.
const FRUITLESS_ROUNDS: usize = 4;
/// First and longest pause between rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long a source's speed is looked at, and what it must give meanwhile: one that trickles must
/// not hold a place for ever. What it gave is kept, and the next source goes on.
const WINDOW: Duration = Duration::from_secs(30);
const LEAST_A_WINDOW: u64 = 30 * 64 * 1024;

impl Inner {
    pub(super) async fn bring(&self, image: Image, sources: &[Source]) -> Result<(), Error> {
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
            let spool = self.download(image, sources).await?;
            self.store(image, spool).await?;
        }
        self.show(image.digest, image.bytes, image.bytes);
        Ok(())
    }

    /// Fills the spool file from the sources, and checks it. When its bytes turn out wrong it is
    /// emptied, and another source goes first: one that lies must not keep the image from coming.
    async fn download(&self, image: Image, sources: &[Source]) -> Result<Spool, Error> {
        let mut spool = self.open_spool(image).await?;
        // What an earlier run left may itself be what is wrong.
        let attempts = sources.len().max(1) + usize::from(spool.bytes() > 0);
        let mut order = sources.to_vec();
        let mut spoiled = None;
        for _ in 0..attempts {
            let outcome;
            (spool, outcome) = self.fill(image, &order, spool).await?;
            let Err(error) = outcome else {
                return Ok(spool);
            };
            tracing::warn!(digest = %image.digest, %error, "an image is pulled again");
            spoiled = Some(error);
            (spool, ()) = with(spool, Spool::clear).await?;
            if !order.is_empty() {
                order.rotate_left(1);
            }
        }
        blocking(move || spool.remove()).await?;
        Err(spoiled.unwrap_or(Error::Interrupted))
    }

    /// Fills the spool once. The inner error is about the bytes it holds then.
    async fn fill(
        &self,
        image: Image,
        sources: &[Source],
        mut spool: Spool,
    ) -> Result<(Spool, Result<(), Error>), Error> {
        let mut last = String::from("there is no source");
        let mut rounds = rounds();
        while spool.bytes() < image.bytes {
            let before = spool.bytes();
            for source in sources {
                let (back, outcome) = self.read(image, source, spool).await;
                spool = back?;
                match outcome {
                    Ok(false) => {
                        let error = Error::TooLong {
                            from: source.to_string(),
                            announced: image.bytes,
                        };
                        return Ok((spool, Err(error)));
                    }
                    Ok(true) if spool.bytes() == image.bytes => break,
                    Ok(true) => last = format!("{source}: it ended early"),
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
        if found == image.digest {
            return Ok((spool, Ok(())));
        }
        let error = Error::Mismatch {
            place: "what the sources sent",
            expected: image.digest,
            found,
        };
        Ok((spool, Err(error)))
    }

    /// Reads what one source gives: false if it gave more than was announced. The spool comes back
    /// unless its file failed.
    async fn read(
        &self,
        image: Image,
        source: &Source,
        mut spool: Spool,
    ) -> (Result<Spool, Error>, Result<bool, FetchError>) {
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
        let mut window = (Instant::now(), spool.bytes());
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
                    return (Err(error), Ok(true));
                }
            };
            if !fits {
                return (Ok(spool), Ok(false));
            }
            self.show(image.digest, spool.bytes(), image.bytes);
            let (since, before) = window;
            if since.elapsed() >= WINDOW {
                if spool.bytes() - before < LEAST_A_WINDOW && spool.bytes() < image.bytes {
                    let reason = format!(
                        "it sent less than {LEAST_A_WINDOW} bytes in {} s",
                        WINDOW.as_secs()
                    );
                    return (Ok(spool), Err(FetchError::Broken { reason }));
                }
                window = (Instant::now(), spool.bytes());
            }
        }
        (Ok(spool), Ok(true))
    }

    /// Puts the checked file on the pool and notes it as whole.
    async fn store(&self, image: Image, spool: Spool) -> Result<(), Error> {
        let storage = &self.storage;
        self.show(image.digest, image.bytes, image.bytes);
        let stored = storage
            .store_image(image.digest, image.format, spool.path())
            .await?;
        if storage.shared() {
            // Another node may have stored, or removed, it under us. What counts is what lies there.
            if self.is_there(image).await? {
                return blocking(move || spool.remove()).await;
            }
            return Err(Error::Mismatch {
                place: "what the shared pool holds",
                expected: image.digest,
                found: stored,
            });
        }
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
        self.note(image, None, None).await?;
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

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    Ok(spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted)??)
}
