//! `Console` over a simulated host: the guest gives back what it gets.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kapok_types::IncarnationId;
use tokio::sync::{broadcast, mpsc};

use super::{Call, Host};
use crate::driver::{self, ConsoleOutput, Error, Hint, OpenConsole};

/// Pieces that may wait in either direction.
const QUEUE: usize = 16;
/// What a guest says when its console is opened.
const GREETING: &[u8] = b"kapok simulated console\r\n";

pub(super) struct Console(pub(super) Arc<Host>);

#[async_trait]
impl driver::Console for Console {
    async fn open(&self, incarnation: IncarnationId, force: bool) -> Result<OpenConsole, Error> {
        let passage = self.0.enter(Call::OpenConsole, Some(incarnation)).await?;
        let session = {
            let mut inner = self.0.lock();
            let domain = inner
                .domains
                .get_mut(&incarnation)
                .ok_or_else(|| Error::Absent {
                    what: format!("the domain of {incarnation}"),
                })?;
            let refused = |reason: &str| Error::Failed {
                call: "opening the console",
                reason: reason.into(),
            };
            if !domain.is_on() {
                return Err(refused("the domain is off"));
            }
            if domain.console_open && !force {
                return Err(refused("somebody has it open"));
            }
            domain.console += 1;
            domain.console_open = true;
            domain.console
        };
        // Whoever had it is told through a hint to look whether it still has.
        self.0.hint(Hint::Incarnation(incarnation));
        passage.leave().await;
        let (input, inbox) = mpsc::channel(QUEUE);
        let (outbox, output) = mpsc::channel(QUEUE);
        let hints = self.0.hints.subscribe();
        tokio::spawn(echo(
            Arc::clone(&self.0),
            incarnation,
            session,
            hints,
            inbox,
            outbox,
        ));
        Ok(OpenConsole { input, output })
    }
}

async fn echo(
    host: Arc<Host>,
    incarnation: IncarnationId,
    session: u64,
    mut hints: broadcast::Receiver<Hint>,
    mut inbox: mpsc::Receiver<Bytes>,
    outbox: mpsc::Sender<ConsoleOutput>,
) {
    let mut next = Some(Bytes::from_static(GREETING));
    loop {
        if let Some(data) = &next {
            let written = u64::try_from(data.len()).unwrap_or(u64::MAX);
            host.console_bytes.add(written);
        }
        if let Some(data) = next.take()
            && outbox
                .send(ConsoleOutput { data, dropped: 0 })
                .await
                .is_err()
        {
            break;
        }
        tokio::select! {
            biased;
            hint = hints.recv() => {
                let mine = matches!(host.lock().domains.get(&incarnation),
                    Some(domain) if domain.console == session);
                if !mine || matches!(hint, Err(broadcast::error::RecvError::Closed)) {
                    return;
                }
            }
            () = outbox.closed() => break,
            input = inbox.recv() => match input {
                Some(input) => next = Some(input),
                None => break,
            },
        }
    }
    if let Some(domain) = host.lock().domains.get_mut(&incarnation)
        && domain.console == session
    {
        domain.console_open = false;
    }
}
