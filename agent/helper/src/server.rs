//! Answers those who may ask.
//!
//! ```text
//!   accept ─▶ may they? ─▶ one request ─▶ its turn ─▶ tools ─▶ answers, as they come ─▶ end
//!                │ no         │ 5 s           ╰──────── one deadline, or the caller's end ───╯
//!                ╰─▶ refused  ╰─▶ refused
//! ```
//!
//! One task a connection, one request a connection. Disks are asked for one caller at a time, and so
//! is the management controller: a second caller waits for its turn, within its deadline.
//!
//! **Invariant:** of a caller who may not ask no byte is read.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use nix::unistd::Uid;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Failure, Request, Tools, question,
    wire::{self, Reply},
};

/// How long a request may take to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Callers that are answered or wait at a time.
const MAX_CALLERS: usize = 8;
/// Before another try, when accepting failed: descriptors may be used up.
const PAUSE: Duration = Duration::from_millis(100);

/// A server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    tools: Tools,
    allowed: Arc<BTreeSet<u32>>,
    callers: Arc<Semaphore>,
    disks: Arc<Mutex<()>>,
    controller: Arc<Mutex<()>>,
}

impl Server {
    /// One that reads with these tools, for these users.
    pub fn new(tools: Tools, allowed: impl IntoIterator<Item = Uid>) -> Self {
        Self {
            tools,
            allowed: Arc::new(allowed.into_iter().map(Uid::as_raw).collect()),
            callers: Arc::new(Semaphore::new(MAX_CALLERS)),
            disks: Arc::default(),
            controller: Arc::default(),
        }
    }

    /// Answers whoever connects.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it ends all connections, and kills the tools that run for them.
    pub async fn serve(&self, listener: &UnixListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let server = self.clone();
                        connections.spawn(async move { server.receive(stream).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection can't be accepted");
                        sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn receive(&self, mut stream: UnixStream) {
        let may = match stream.peer_cred() {
            Ok(caller) if self.allowed.contains(&caller.uid()) => Ok(()),
            Ok(caller) => Err(format!("uid {} may not ask", caller.uid())),
            Err(error) => Err(format!("nobody knows who asks: {error}")),
        };
        let permit = self.callers.try_acquire();
        let refusal = match (may, &permit) {
            (Err(reason), _) => reason,
            (Ok(()), Err(_)) => format!("{MAX_CALLERS} callers are answered already"),
            (Ok(()), Ok(_)) => {
                if let Err(error) = self.converse(&mut stream).await {
                    tracing::debug!(%error, "a caller is gone");
                }
                return;
            }
        };
        tracing::warn!(reason = refusal, "a caller was refused");
        // It has room for this; nobody is waited for.
        if let Ok(bytes) = wire::encode(&Reply::Refused(refusal)) {
            let _ = stream.try_write(&bytes);
        }
    }

    /// Takes one request from a caller who may ask, and answers it.
    ///
    /// # Errors
    ///
    /// The caller is gone.
    async fn converse(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(), wire::Error> {
        let refused = match timeout(REQUEST_DEADLINE, wire::read_request(stream)).await {
            Ok(Ok(request)) => return self.answer(request, stream).await,
            Ok(Err(wire::Error::Broken(error))) => return Err(error.into()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no request within {REQUEST_DEADLINE:?}"),
        };
        tracing::warn!(reason = refused, "a request was refused");
        Ok(wire::write(stream, &Reply::Refused(refused)).await?)
    }

    async fn answer(
        &self,
        request: Request,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(), wire::Error> {
        let (mut hears, mut says) = tokio::io::split(stream);
        let (sender, mut answers) = mpsc::channel(1);
        let asked = async move {
            let _turn = match request {
                Request::Smart => self.disks.lock(),
                Request::Ipmi | Request::Ipmitool | Request::Freeipmi => self.controller.lock(),
            }
            .await;
            // The sender ends with it, and so do the answers.
            Ok(question::ask(request, &self.tools, &sender).await)
        };
        let told = async {
            while let Some(answer) = answers.recv().await {
                wire::write(&mut says, &Reply::answer(answer)).await?;
            }
            Ok::<(), io::Error>(())
        };
        let deadline = request.deadline();
        let work = timeout(deadline, async { tokio::try_join!(asked, told) });
        let end = tokio::select! {
            done = work => if let Ok(done) = done {
                let (asked, ()) = done?;
                asked.map_or_else(Reply::Failed, |()| Reply::Done)
            } else {
                let late = format!("not all was answered within {deadline:?}");
                Reply::Failed(Failure::Unreadable(late))
            },
            // Nothing more is to come but the caller's end: then nobody waits for the tools.
            _ = hears.read_u8() => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        };
        // One that doesn't read holds this up no longer than a request may take.
        let told = timeout(REQUEST_DEADLINE, wire::write(&mut says, &end)).await;
        told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
