//! Asks a helper.

use std::{path::Path, time::Duration};

use tokio::{net::UnixStream, time::timeout};

use crate::{
    Answer, Failure, Request,
    question::Subject,
    smart,
    wire::{self, Reply},
};

/// How much longer than its deadline a helper is waited for.
const GRACE: Duration = Duration::from_secs(3);
/// More than the answers to any question.
const MAX_ANSWERS: usize = 2 * smart::MAX_DISKS;

/// Asks the helper that listens at `socket`. Each answer is given to `take` as it comes, so that no
/// more than one is in memory.
///
/// # Errors
///
/// Nothing of the kind is on this server, or nothing of it could be read; or the helper can't be
/// reached, refuses, breaks off, doesn't end in time, or answers what wasn't asked. Answers that
/// were given before are good.
pub async fn ask(
    socket: &Path,
    request: Request,
    mut take: impl FnMut(Answer) + Send,
) -> Result<(), Failure> {
    let failed = |reason: String| Failure::Unreadable(format!("kapok-helper: {reason}"));
    let work = async {
        let unreachable = |error| {
            let shown = socket.display();
            failed(format!("{shown} can't be reached: {error}"))
        };
        let mut stream = UnixStream::connect(socket).await.map_err(unreachable)?;
        // One that refuses has closed already, and said why.
        let asked = wire::write(&mut stream, &request).await;
        for _ in 0..=MAX_ANSWERS {
            match wire::read_reply(&mut stream).await {
                Ok(Reply::Answer(answer)) if answer.of.is_of(request) => take(answer),
                Ok(Reply::Answer(_)) => {
                    return Err(failed("it answers what wasn't asked".to_owned()));
                }
                Ok(Reply::Done) => return Ok(()),
                Ok(Reply::Failed(failure)) => return Err(failure),
                Ok(Reply::Refused(reason)) => return Err(failed(reason)),
                Err(error) => {
                    let error = asked.err().map_or(error, wire::Error::Broken);
                    return Err(failed(error.to_string()));
                }
            }
        }
        Err(failed("it doesn't stop answering".to_owned()))
    };
    let patience = request.deadline() + GRACE;
    let late = || failed(format!("it didn't answer within {patience:?}"));
    timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(late()))
}

impl Subject {
    /// Whether an answer about this can be one to `request`.
    const fn is_of(&self, request: Request) -> bool {
        matches!(
            (self, request),
            (Self::Disk(_), Request::Smart)
                | (
                    Self::Ipmi(_),
                    Request::Ipmi | Request::Ipmitool | Request::Freeipmi
                )
        )
    }
}
