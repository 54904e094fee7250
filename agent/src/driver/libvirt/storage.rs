//! Root disks and images as volumes of one pool: the [`Storage`] seam.
//!
//! Disks' formats are always stated from the record, never read from bytes (FAULTS 9, 10). What
//! libvirt's probing says is used for one thing only: which image an overlay stands on, so that
//! the image isn't removed under it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kapok_libvirt::{
    Connection, Kind,
    storage::{Pool, Volume},
    xml::storage::{BackingConfig, VolumeConfig},
};
use kapok_types::{
    Bytes, Digest, IncarnationId,
    instance::{DiskFormat, RootDisk},
};
use sha2::{Digest as _, Sha256};

use super::{
    Inner, Libvirt, error,
    lanes::{Call, LaneName},
    lock, names,
    pool::{self, backing_of, find, refresh, refresh_if_free},
};
use crate::driver::{Error, FoundDisk, FoundImage, Room, Storage};

/// A transfer slower than this counts as stuck, in bytes a second.
const SLOWEST: u64 = 1024 * 1024;
/// What a transfer may take beside its bytes.
const TRANSFER_MARGIN: Duration = Duration::from_mins(2);

impl Inner {
    /// By the file system: libvirt's own numbers are as old as its last look.
    fn room(&self, connection: &Connection) -> Result<Room, Error> {
        if connection.is_test() {
            return Err(Error::Lacking { capability: "room" });
        }
        let (_, path) = self.pool_at(connection)?;
        let stat = nix::sys::statvfs::statvfs(path.as_str()).map_err(|errno| Error::Failed {
            call: "asking the pool for its room",
            reason: errno.to_string(),
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Ok(Room {
            size_bytes: bytes(stat.blocks()),
            available_bytes: bytes(stat.blocks_available()),
        })
    }

    fn create_root(
        &self,
        connection: &Connection,
        incarnation: IncarnationId,
        root: &RootDisk,
    ) -> Result<(), Error> {
        // Between here and the overlay's existence nobody may remove the image.
        let _layout = lock(&self.layout);
        let pool = self.pool(connection)?;
        let base_name = names::base_volume(root.image, root.image_format);
        let base = find(&pool, &base_name)?.ok_or_else(|| Error::Absent {
            what: format!("the image {}", root.image),
        })?;
        let base_path = base.path().map_err(pool::from)?;
        self.note_folder_of(&base_path);
        let config = VolumeConfig {
            name: names::root_volume(incarnation),
            format: DiskFormat::Qcow2,
            capacity: root.size,
            backing: Some(BackingConfig {
                path: base_path.clone(),
                format: root.image_format,
            }),
        };
        let failure = match pool.create_volume(&config) {
            Ok(_) => return Ok(()),
            Err(failure) if failure.is(Kind::AlreadyExists) => failure,
            Err(failure) => return Err(pool::from(failure)),
        };
        // Not in libvirt's list, if it was made behind libvirt's back, or another node of a shared
        // pool made it.
        let present = if let Some(present) = find(&pool, &config.name)? {
            present
        } else {
            refresh(&pool)?;
            find(&pool, &config.name)?.ok_or_else(|| pool::from(failure))?
        };
        if stands(connection, incarnation, &present, &base_path)? {
            return Ok(());
        }
        pool.create_volume(&config).map(drop).map_err(pool::from)
    }

    fn remove_root(
        &self,
        connection: &Connection,
        incarnation: IncarnationId,
    ) -> Result<(), Error> {
        unused(connection, incarnation)?;
        let pool = self.pool(connection)?;
        let name = names::root_volume(incarnation);
        if let Some(volume) = find(&pool, &name)? {
            return pool::delete(&volume);
        }
        // Absent is only believed after a look at the disk itself: no orphans.
        refresh(&pool)?;
        match find(&pool, &name)? {
            Some(volume) => pool::delete(&volume),
            None => Ok(()),
        }
    }

    fn store_image(
        &self,
        connection: &Connection,
        digest: Digest,
        format: DiskFormat,
        mut file: File,
        bytes: u64,
    ) -> Result<Digest, Error> {
        transfers(connection)?;
        let pool = self.pool(connection)?;
        let name = names::base_volume(digest, format);
        // What an earlier attempt left can't be whole, else nobody would store again.
        self.remove_base(&pool, digest)?;
        let made = pool.create_volume(&VolumeConfig {
            name: name.clone(),
            // The file's own bytes are stored as they are; nothing is to be made in them.
            format: DiskFormat::Raw,
            capacity: Bytes(bytes),
            backing: None,
        });
        let volume = match made {
            Ok(volume) => volume,
            // Another node of a shared pool was faster. What it stored, or is storing, is what
            // there is now.
            Err(failure) if failure.is(Kind::AlreadyExists) => {
                refresh_if_free(&pool)?;
                let present = find(&pool, &name)?.ok_or_else(|| pool::from(failure))?;
                return hash(&present);
            }
            Err(failure) => return Err(pool::from(failure)),
        };
        let mut reader = Hashing::new(&mut file);
        let outcome = volume.upload(0, bytes, &mut reader);
        match outcome {
            Ok(_) => Ok(reader.digest()),
            Err(failure) => {
                if let Err(error) = volume.delete() {
                    tracing::warn!(%digest, %error, "a half-stored image stays; it is checked before use");
                }
                Err(error::from_transfer(failure))
            }
        }
    }

    /// Removes the image's volumes unless an overlay stands on them.
    fn remove_base(&self, pool: &Pool, digest: Digest) -> Result<(), Error> {
        let _layout = lock(&self.layout);
        let mut bases = Vec::new();
        for name in names::base_volumes(digest) {
            bases.extend(find(pool, &name)?);
        }
        if bases.is_empty() {
            return Ok(());
        }
        refresh(pool)?;
        let mut overlays = 0;
        for volume in pool.volumes().map_err(pool::from)? {
            // Any volume counts, not only Kapok's: a copied domain's disk may stand on it too.
            if backing_of(&volume)?.is_some_and(|path| names::base_at(&path) == Some(digest)) {
                overlays += 1;
            }
        }
        if overlays > 0 {
            return Err(Error::InUse { overlays });
        }
        for base in bases {
            pool::delete(&base)?;
        }
        Ok(())
    }

    fn disks(&self, connection: &Connection) -> Result<Vec<FoundDisk>, Error> {
        let pool = self.pool(connection)?;
        // Other nodes of a shared pool, and people, make and remove volumes too.
        refresh_if_free(&pool)?;
        let mut found = Vec::new();
        for volume in pool.volumes().map_err(pool::from)? {
            let Some(incarnation) = names::root_owner(volume.name()) else {
                continue;
            };
            found.push(FoundDisk {
                incarnation,
                image: backing_of(&volume)?.and_then(|path| names::base_at(&path)),
            });
        }
        found.sort_by_key(|disk| disk.incarnation);
        Ok(found)
    }

    fn images(&self, connection: &Connection) -> Result<Vec<FoundImage>, Error> {
        let pool = self.pool(connection)?;
        // As for the disks: an image that another node stored isn't absent. On a pool of its own
        // libvirt knows what is there, and a refresh reads every volume at every create.
        if self.options.pool_shared {
            refresh_if_free(&pool)?;
        }
        let mut found = Vec::new();
        for volume in pool.volumes().map_err(pool::from)? {
            let Some((digest, format)) = names::base_content(volume.name()) else {
                continue;
            };
            match volume.view() {
                Ok(view) => found.push(FoundImage {
                    digest,
                    format,
                    bytes: view.allocation.unwrap_or(view.capacity).get(),
                    modified_ns: view.modified_ns,
                }),
                Err(failure) if failure.is_no_volume() => {}
                Err(failure) => return Err(pool::from(failure)),
            }
        }
        found.sort_by_key(|image| image.digest);
        Ok(found)
    }
}

impl Libvirt {
    async fn store<T: Send + 'static>(
        &self,
        call: Call,
        job: impl FnOnce(&Inner, &Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        self.lanes
            .run(call, move |connection| job(&inner, connection))
            .await
    }
}

#[async_trait]
impl Storage for Libvirt {
    fn shared(&self) -> bool {
        self.inner.options.pool_shared
    }

    async fn room(&self) -> Result<Room, Error> {
        let call = Call::on(LaneName::Storage).named("room");
        self.store(call, Inner::room).await
    }

    async fn disks(&self) -> Result<Vec<FoundDisk>, Error> {
        self.store(Call::on(LaneName::Storage), Inner::disks).await
    }

    async fn create_root(&self, incarnation: IncarnationId, root: &RootDisk) -> Result<(), Error> {
        let root = root.clone();
        self.store(
            Call::of(LaneName::Storage, incarnation.0).named("create_root"),
            move |inner, connection| inner.create_root(connection, incarnation, &root),
        )
        .await
    }

    async fn remove_root(&self, incarnation: IncarnationId) -> Result<(), Error> {
        self.store(
            Call::of(LaneName::Storage, incarnation.0).named("remove_root"),
            move |inner, connection| inner.remove_root(connection, incarnation),
        )
        .await
    }

    async fn images(&self) -> Result<Vec<FoundImage>, Error> {
        self.store(Call::on(LaneName::Storage), Inner::images).await
    }

    async fn store_image(
        &self,
        digest: Digest,
        format: DiskFormat,
        file: &Path,
    ) -> Result<Digest, Error> {
        let unreadable = |error: io::Error| Error::Failed {
            call: "reading the file",
            reason: error.to_string(),
        };
        let file = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let bytes = file.metadata().await.map_err(unreadable)?.len();
        let file = file.into_std().await;
        let call = Call::on(LaneName::Transfer)
            .patient(patience(bytes))
            .named("store_image");
        self.store(call, move |inner, connection| {
            inner.store_image(connection, digest, format, file, bytes)
        })
        .await
    }

    async fn hash_image(&self, digest: Digest, format: DiskFormat) -> Result<Digest, Error> {
        let name = names::base_volume(digest, format);
        // Its size isn't known before the call; nothing waits for a transfer but other transfers.
        let call = Call::on(LaneName::Transfer).patient(patience(u64::from(u32::MAX)));
        self.store(call, move |inner, connection| {
            transfers(connection)?;
            let pool = inner.pool(connection)?;
            let volume = find(&pool, &name)?.ok_or_else(|| Error::Absent {
                what: format!("the image {digest}"),
            })?;
            hash(&volume)
        })
        .await
    }

    async fn remove_image(&self, digest: Digest) -> Result<(), Error> {
        self.store(Call::on(LaneName::Storage), move |inner, connection| {
            let pool = inner.pool(connection)?;
            inner.remove_base(&pool, digest)
        })
        .await
    }
}

/// libvirt's test driver keeps no bytes.
fn transfers(connection: &Connection) -> Result<(), Error> {
    if connection.is_test() {
        return Err(Error::Lacking {
            capability: "image-bytes",
        });
    }
    Ok(())
}

/// Whether a root disk that is there already stands on the image. One that stands on nothing
/// is what a libvirtd that was killed while making it left, and is removed; no guest of Kapok
/// has used it, because roots are made before the first start only.
fn stands(
    connection: &Connection,
    incarnation: IncarnationId,
    present: &Volume,
    base_path: &str,
) -> Result<bool, Error> {
    match backing_of(present)? {
        Some(path) if path == base_path => Ok(true),
        Some(path) => Err(Error::Failed {
            call: "making the root disk",
            reason: format!(
                "the volume {} is there, but stands on {path}",
                present.name()
            ),
        }),
        None => {
            unused(connection, incarnation)?;
            tracing::warn!(%incarnation, "a root disk that was never finished is made anew");
            pool::delete(present)?;
            Ok(false)
        }
    }
}

/// Refuses what would take the disk from a domain that is on, whoever's that is by now.
fn unused(connection: &Connection, incarnation: IncarnationId) -> Result<(), Error> {
    let active = match connection.domain(incarnation.0) {
        Ok(domain) => domain.is_active(),
        Err(failure) => Err(failure),
    };
    match active {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::Failed {
            call: "removing the root disk",
            reason: format!("the domain {incarnation} is on"),
        }),
        Err(failure) if failure.is(Kind::NotFound) => Ok(()),
        Err(failure) => Err(error::from(failure)),
    }
}

/// Reads a volume back.
fn hash(volume: &Volume) -> Result<Digest, Error> {
    let mut sink = Hashing::new(io::sink());
    volume
        .download(0, 0, &mut sink)
        .map_err(error::from_transfer)?;
    Ok(sink.digest())
}

fn patience(bytes: u64) -> Duration {
    TRANSFER_MARGIN + Duration::from_secs(bytes / SLOWEST)
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    fn digest(self) -> Digest {
        Digest(self.hash.finalize().into())
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(buffer.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
