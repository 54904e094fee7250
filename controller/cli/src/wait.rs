//! Waiting for an operation's end.
//!
//! A broken connection is no end: the watch is taken up again until the time is over, because the
//! fabric goes on with the change whether or not anybody watches.

use std::time::Duration;

use kapok_proto::fabric::v1::{
    OperationState, WatchOperationRequest, operation_service_client::OperationServiceClient,
};
use tokio::{
    signal,
    time::{Instant, timeout_at},
};

use crate::{
    client::{Client, call_failed},
    error::{Doing, Error, is_transient},
    progress::Progress,
    view::operation::Operation,
};

/// Waits until `operation` has ended, showing its progress and telling `seen` of each change.
///
/// # Errors
///
/// The time is over, the person pressed Ctrl-C, or the controller refuses to tell. How the
/// operation ended is no error of this function.
pub(crate) async fn until_ended(
    client: &Client,
    operation: Operation,
    progress: &Progress,
    deadline: Instant,
    mut seen: impl FnMut(&Operation) -> Result<(), Error>,
) -> Result<Operation, Error> {
    let mut last = operation;
    if last.has_ended() {
        return Ok(last);
    }
    let stopped = {
        let follow = follow(client, &mut last, progress, &mut seen);
        tokio::select! {
            biased;
            outcome = timeout_at(deadline, follow) => match outcome {
                Ok(outcome) => return outcome.map(|()| last),
                Err(_) => "the time to wait is over",
            },
            _ = signal::ctrl_c() => "interrupted",
        }
    };
    Err(Error::StoppedWaiting {
        operation: Box::new(last),
        reason: stopped.to_owned(),
    })
}

/// An operation that ended other than well, as an error.
///
/// # Errors
///
/// It didn't succeed.
pub(crate) fn success(operation: &Operation) -> Result<(), Error> {
    if operation.wire_state == OperationState::Succeeded {
        Ok(())
    } else {
        Err(Error::Ended(Box::new(operation.clone())))
    }
}

async fn follow(
    client: &Client,
    last: &mut Operation,
    progress: &Progress,
    seen: &mut impl FnMut(&Operation) -> Result<(), Error>,
) -> Result<(), Error> {
    let doing = Doing::new(format!("watch operation {}", last.id_text()), "kapok op ls");
    let patience = || Client::backoff(Duration::from_millis(250), Duration::from_secs(5));
    let mut backoff = patience();
    progress.step(&last.headline(), last.progress_permille);
    loop {
        let request = WatchOperationRequest {
            operation: last.id_text(),
        };
        let mut watch = OperationServiceClient::new(client.channel());
        let ended = match watch.watch_operation(request).await {
            Ok(answer) => {
                let mut changes = answer.into_inner();
                loop {
                    match changes.message().await {
                        Ok(Some(change)) => {
                            *last = Operation::from(change);
                            backoff = patience();
                            progress.step(&last.headline(), last.progress_permille);
                            seen(last)?;
                            if last.has_ended() {
                                return Ok(());
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        match ended {
            Some(status) if !is_transient(&status) => {
                return Err(call_failed(&doing, status, None));
            }
            Some(_) => progress.step("the controller doesn't answer; trying again", None),
            None => {}
        }
        client.pause_and_turn(&mut backoff).await;
    }
}
