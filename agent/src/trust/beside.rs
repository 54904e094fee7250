//! What happens beside the running agent: a join, and the end of the certificate.

use std::{path::Path, sync::Arc, time::Duration};

use kapok_trust::{Certificate, Credentials, files};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{Error, Keep, LOOK, Trust, Turn, read, unusable};

/// How often to say that the certificate ran out.
const NAG: Duration = Duration::from_hours(1);

impl Trust {
    /// Follows a join beside the running agent, and says once an hour that the certificate ran out.
    /// Until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The version that couldn't be used: said once, tried again at each look.
        let mut bad: Option<files::Version> = None;
        let mut nagged: Option<Duration> = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.look().await {
                Ok(()) => bad = None,
                Err(error) => {
                    let version = self.version().await;
                    if bad.is_none() || version != bad {
                        tracing::error!(%error, "what was joined beside this agent isn't used");
                    }
                    bad = version;
                }
            }
            let now = self.inner.env.monotonic();
            if !self.has_expired() {
                nagged = None;
            } else if nagged.is_none_or(|last| now.saturating_sub(last) >= NAG) {
                nagged = Some(now);
                self.nag();
            }
        }
    }

    /// Which version the folder holds; none without a folder.
    async fn version(&self) -> Option<files::Version> {
        let Keep::Folder(folder) = &self.inner.keep else {
            return None;
        };
        let folder = folder.clone();
        spawn_blocking(move || files::version(&folder)).await.ok()?
    }

    /// Takes what lies in the folder, if it is other than what is used.
    ///
    /// # Errors
    ///
    /// It can't be used; then nothing has changed.
    pub async fn look(&self) -> Result<(), Error> {
        let Keep::Folder(folder) = &self.inner.keep else {
            return Ok(());
        };
        let mut turn = Arc::clone(&self.inner.turn).lock_owned().await;
        let (this, from) = (self.clone(), folder.clone());
        let looked = spawn_blocking(move || this.look_in(&mut turn, &from)).await;
        looked.map_err(|error| unusable(folder, &error))?
    }

    /// As [`Trust::look`], for whoever has the turn. Blocks.
    pub(super) fn look_in(&self, turn: &mut Turn, folder: &Path) -> Result<(), Error> {
        let version = files::version(folder);
        if version.is_none() || version == turn.version {
            return Ok(());
        }
        let material = read(folder)?;
        let held = self.credentials().map(Credentials::material);
        if held.is_some_and(|held| *held == material) {
            turn.version = version;
            return Ok(());
        }
        let found = Certificate::parse_pem(&material.chain_pem)
            .map_err(|error| unusable(folder, &error))?;
        if found.identity != self.inner.identity {
            return Err(Error::Stranger {
                folder: folder.to_owned(),
                found: found.identity,
                here: self.inner.identity.subject.clone(),
            });
        }
        self.check(&material)
            .map_err(|error| unusable(folder, &error))?;
        self.take(material)?;
        turn.waiting = None;
        turn.version = version;
        tracing::info!(until = %found.not_after, "joined again: the new certificate is used");
        Ok(())
    }

    fn nag(&self) {
        let Some(certificate) = self.certificate() else {
            return;
        };
        tracing::error!(
            since = %certificate.not_after,
            "the certificate of this node ran out: no controller can reach it. Its guests run on. \
             On a controller, `kapok node token create NODE`; here, `kapok-agent join --controller \
             HOST:PORT --token-file FILE`. The node keeps its id and its instances. (Is the clock \
             right? It says {}.)",
            self.inner.env.now()
        );
    }
}
