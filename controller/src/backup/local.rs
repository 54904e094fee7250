//! The socket over which a running controller gives its record to whoever makes a backup.
//!
//! It lies in the state directory, which only the controller's user enters, and answers that user and
//! root alone. Nothing is read from it: whoever connects is sent the record.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as Blocking},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kapok_store::{Archive, Store};
use kapok_types::{Env, Name};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::send::{self, Sender, send};
use crate::ledger;

const SOCKET: &str = "backup.sock";
/// Backups that are made at the same time.
const AT_ONCE: usize = 2;
/// How long one may take: whoever doesn't read holds nothing for ever.
const LONGEST: Duration = Duration::from_hours(1);

/// The socket, bound. Dropping it takes it away.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that stays is nobody's: the next controller removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the socket. The state directory belongs to this process.
///
/// # Errors
/// What the system says.
pub fn bind(state: &Path) -> io::Result<Socket> {
    let path = state.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(Socket { listener, path })
}

/// Reaches the controller that runs there.
///
/// # Errors
/// Nobody listens, or the caller may not.
pub fn connect(state: &Path) -> io::Result<Blocking> {
    Blocking::connect(state.join(SOCKET))
}

/// Sends the record to whoever connects, until stopped.
pub async fn serve<S: Store>(
    socket: Socket,
    archive: Archive<S>,
    ledger: ledger::Handle,
    fabric: Name,
    env: Arc<dyn Env>,
    stop: CancellationToken,
) {
    let mut sending = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = sending.join_next(), if !sending.is_empty() => continue,
            accepted = socket.listener.accept(), if sending.len() < AT_ONCE => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "nobody can make a backup at present");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if !may(&stream) {
            warn!("a backup was asked for by a user who may not have one");
            continue;
        }
        let sender = Sender {
            fabric: fabric.clone(),
            now: env.now(),
            epoch: ledger.snapshot().epoch,
        };
        let archive = archive.clone();
        sending.spawn(async move {
            let mut stream = stream;
            match timeout(LONGEST, send(&archive, &sender, &mut stream)).await {
                Ok(Ok(())) => info!("the record was given to a backup"),
                Ok(Err(error)) => {
                    warn!(error = %crate::controller::chain(&error), "a backup failed");
                }
                Err(_) => warn!("a backup took too long"),
            }
        });
    }
}

/// The controller's own user, or root: who reads its files anyway.
fn may(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Sends the record of a store that nobody leads to a reader in this process.
///
/// # Errors
/// The store failed. What the reader makes of it is its own answer.
pub async fn through<S: Store, T: Send + 'static>(
    archive: &Archive<S>,
    sender: &Sender,
    read: impl FnOnce(Blocking) -> T + Send + 'static,
) -> Result<T, send::Error> {
    let (near, far) = UnixStream::pair()?;
    let far = far.into_std()?;
    far.set_nonblocking(false)?;
    let reading = tokio::task::spawn_blocking(move || read(far));
    let sent = {
        let mut near = near;
        send(archive, sender, &mut near).await
    };
    let read = match reading.await {
        Ok(read) => read,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    match sent {
        // The reader had enough: its own answer says why.
        Ok(()) | Err(send::Error::Io(_)) => Ok(read),
        Err(error) => Err(error),
    }
}
