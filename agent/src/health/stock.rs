//! Reads the inventory: at the start, now and then, and when somebody asks.

use std::{sync::Arc, time::Duration};

use kapok_health::{Host, Inventory};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Health, runner::Away};

/// How often it is read.
const EVERY: Duration = Duration::from_mins(10);
/// How long that may take: it asks a tool about each port.
const DEADLINE: Duration = Duration::from_mins(1);

/// Reads until `stop`. One reading at a time: one that hangs is waited for, and what was read
/// before stays.
pub(super) async fn keep(
    host: Host,
    mut questions: mpsc::Receiver<oneshot::Sender<()>>,
    health: Health,
    stop: CancellationToken,
) {
    let env = Arc::clone(&health.inner.env);
    let mut late: Option<Away<Inventory>> = None;
    let mut asked: Option<oneshot::Sender<()>> = None;
    let keep = async {
        loop {
            let away = if let Some(away) = late.take() {
                Ok(away)
            } else {
                let host = host.clone();
                let read = async move { Inventory::read(&host).await };
                Away::start("inventory", read, stop.clone())
            };
            match away {
                Ok(away) => match away.within(DEADLINE).await {
                    Ok(Some(inventory)) => health.take_inventory(inventory).await,
                    Ok(None) => tracing::error!("the inventory's reader broke"),
                    Err(away) => {
                        tracing::warn!("the inventory can't be read: something hangs");
                        late = Some(away);
                    }
                },
                Err(error) => tracing::warn!(%error, "no thread for the inventory"),
            }
            if let Some(asked) = asked.take() {
                // Whoever asked may have gone.
                let _ = asked.send(());
            }
            tokio::select! {
                biased;
                question = questions.recv() => {
                    let Some(question) = question else { return };
                    asked = Some(question);
                }
                () = sleep(env.jittered(EVERY)) => {}
            }
        }
    };
    stop.run_until_cancelled(keep).await;
}
