//! What a controller holds of trust before it has read the log.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kapok_trust::{Credentials, Material, files};
use kapok_types::Env;

use super::{Error, Vault, vault::blocking};

/// Below the directory of trust: the controller's own certificate and key.
const OWN: &str = "controller";

/// Credentials and keys, as they were opened. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Opened {
    credentials: Credentials,
    vault: Vault,
    dir: Option<PathBuf>,
}

impl Opened {
    /// Reads what [`init`](super::init) made below a directory.
    ///
    /// # Errors
    ///
    /// [`Error::NoFabric`] when nobody did, [`Error::NoOwn`] when part of it is lost,
    /// [`Error::Files`], [`Error::Vault`].
    pub async fn load(dir: &Path, env: Arc<dyn Env>) -> Result<Self, Error> {
        let dir = dir.to_owned();
        blocking(move || {
            let own = own(&dir);
            let material = match files::load(&own) {
                Err(files::Error::Absent { .. }) => return Err(nothing(&dir)?),
                material => material?,
            };
            Ok(Self {
                credentials: Credentials::new(material, env)?,
                vault: Vault::open(&dir)?,
                dir: Some(dir),
            })
        })
        .await
    }

    /// Credentials of a fabric that lives in memory only.
    pub fn memory(credentials: Credentials, vault: Vault) -> Self {
        Self {
            credentials,
            vault,
            dir: None,
        }
    }

    /// The controller's own credentials.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The authorities' keys.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// There are keys here, and the log knows nothing of them.
    pub(crate) fn no_log(&self) -> Error {
        Error::EmptyLog {
            fabric: self.credentials.certificate().identity.fabric.clone(),
            home: self.place(),
        }
    }

    pub(super) async fn store(&self, material: Material) -> Result<(), Error> {
        match self.dir.clone() {
            Some(dir) => {
                blocking(move || files::store(&own(&dir), &material).map_err(Error::from)).await
            }
            None => Ok(()),
        }
    }

    /// Where it lies, for people.
    pub(super) fn place(&self) -> String {
        self.dir
            .as_ref()
            .map_or_else(|| "memory".to_owned(), |dir| dir.display().to_string())
    }
}

/// What it means that the controller's own certificate isn't there.
fn nothing(dir: &Path) -> Result<Error, Error> {
    let home = dir.display().to_string();
    Ok(match Vault::open(dir)?.all().first() {
        Some(authority) => Error::NoOwn {
            fabric: authority.fabric().clone(),
            home,
        },
        None => Error::NoFabric { home },
    })
}

/// Where the controller's own certificate and key lie.
pub(super) fn own(dir: &Path) -> PathBuf {
    dir.join(OWN)
}
