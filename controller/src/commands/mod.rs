//! What the program does: make a fabric, join one, serve one, or move its log.

use std::{
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use kapok_controller::{
    backup::place,
    config::{
        Config,
        store::{self, Backend},
    },
};
use kapok_store::{AnyStore, Redb};

pub(crate) mod db;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod migrate;
pub(crate) mod serve;

/// Makes the state directory and takes it for this process, for as long as the file is open.
fn own(state: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("making {}; state_dir must be writable", state.display()))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(state.join("lock"))
        .with_context(|| format!("opening the lock in {}", state.display()))?;
    match lock.try_lock() {
        Ok(()) => {
            place::give(&state.join("lock"), state).context("giving the lock to its owner")?;
            // What a kill left of a restore.
            if let Some(replaced) = place::finish(state).context("finishing a restore")? {
                tracing::warn!(aside = %replaced.display(), "a restore was finished");
            }
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => bail!(
            "{} belongs to a controller that runs; stop it first",
            state.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context("locking the state directory"),
    }
}

/// Opens the log. The state directory is there.
async fn open(config: &Config, backend: Backend) -> anyhow::Result<AnyStore> {
    match (backend, &config.store.etcd) {
        (Backend::Redb, _) => {
            let path = config.state_dir.join("log.redb");
            let store = Redb::open(path).await.context("opening the log")?;
            Ok(AnyStore::Redb(store))
        }
        (Backend::Etcd, Some(etcd)) => open_etcd(etcd).await,
        (Backend::Etcd, None) => {
            bail!("store.etcd.endpoints is missing: name the members' addresses")
        }
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(etcd: &store::Etcd) -> anyhow::Result<AnyStore> {
    use kapok_store::{Etcd, EtcdOptions, EtcdTls, EtcdUser};

    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("reading {}, for etcd", path.display()))
    };
    let files = (&etcd.ca_file, &etcd.certificate_file, &etcd.key_file);
    let tls = match files {
        (Some(ca), Some(certificate), Some(key)) => Some(EtcdTls {
            ca: read(ca)?,
            certificate: read(certificate)?,
            key: read(key)?,
        }),
        _ => None,
    };
    let user = match (&etcd.user, &etcd.password_file) {
        (Some(name), Some(path)) => Some(EtcdUser {
            name: name.clone(),
            password: String::from_utf8(read(path)?)
                .with_context(|| format!("{} is no text", path.display()))?
                .trim_end()
                .to_owned(),
        }),
        _ => None,
    };
    let options = EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        prefix: etcd.prefix.clone(),
        tls,
        user,
        lease_ttl: etcd.lease,
        call_deadline: etcd.deadline,
    };
    let store = Etcd::open(options).await;
    Ok(AnyStore::Etcd(store.context("opening the log in etcd")?))
}

#[cfg(not(feature = "etcd"))]
async fn open_etcd(_etcd: &store::Etcd) -> anyhow::Result<AnyStore> {
    bail!("this program was built without etcd (cargo feature \"etcd\")")
}
