//! Asks one source, over and over.
//!
//! **Invariants:**
//! - A source is never asked twice at a time. One that hangs keeps its thread, and is said to be
//!   unreadable at each of its rounds until the thread has come back; what it then brings is old,
//!   and isn't taken.
//! - Its thread is its own: it is none of the runtime's, and the agent's end doesn't wait for it.

use std::{io, sync::Arc, thread, time::Duration};

use kapok_health::{Failure, Host, Reading, Source};
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::TryRecvError},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Health;

/// Over how long the first questions are spread, at most.
const SPREAD: Duration = Duration::from_secs(2);
/// Stack of a source's thread.
const STACK_BYTES: usize = 512 * 1024;

type Outcome = Result<Vec<Reading>, Failure>;

/// Something that blocks, on a thread of its own.
pub(super) struct Away<T>(oneshot::Receiver<T>);

impl<T: Send + 'static> Away<T> {
    /// Runs `work` on a thread that ends with it. The work's future is dropped when the agent stops,
    /// but for what blocks in it.
    pub(super) fn start(
        name: &str,
        work: impl Future<Output = T> + Send + 'static,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let (reply, answer) = oneshot::channel();
        let runtime = Handle::current();
        let run = move || {
            let done = runtime.block_on(stop.run_until_cancelled(work));
            if let Some(done) = done {
                // Whoever asked may have gone.
                let _ = reply.send(done);
            }
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES);
        thread.spawn(run)?;
        Ok(Self(answer))
    }

    /// What came of it, if it comes in time; none if its thread broke.
    ///
    /// # Errors
    ///
    /// It is still away.
    pub(super) async fn within(mut self, deadline: Duration) -> Result<Option<T>, Self> {
        match timeout(deadline, &mut self.0).await {
            Ok(done) => Ok(done.ok()),
            Err(_) => Err(self),
        }
    }

    /// Whether it is still away.
    pub(super) fn is_away(&mut self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Empty))
    }
}

/// Asks `source` until `stop`.
pub(super) async fn keep(
    source: Arc<dyn Source>,
    host: Host,
    health: Health,
    stop: CancellationToken,
) {
    let env = Arc::clone(&health.inner.env);
    let name: Arc<str> = source.name().into();
    let spread = u64::try_from(SPREAD.min(source.cadence()).as_millis()).unwrap_or(u64::MAX);
    let first = Duration::from_millis(env.random() % spread.max(1));
    let mut late: Option<(Away<Outcome>, Duration)> = None;
    let ask = async {
        sleep(first).await;
        loop {
            let still = match late.take() {
                Some((mut away, since)) => away.is_away().then_some((away, since)),
                None => None,
            };
            let outcome = if let Some((away, since)) = still {
                late = Some((away, since));
                Err(hangs(env.monotonic().saturating_sub(since)))
            } else {
                let since = env.monotonic();
                let deadline = source.deadline();
                let (source, host) = (Arc::clone(&source), host.clone());
                let read = async move { source.read(&host).await };
                match Away::start(&name, read, stop.clone()) {
                    Ok(away) => match away.within(deadline).await {
                        Ok(Some(outcome)) => outcome,
                        Ok(None) => Err(Failure::Unreadable("its reader broke".into())),
                        Err(away) => {
                            late = Some((away, since));
                            Err(hangs(env.monotonic().saturating_sub(since)))
                        }
                    },
                    Err(error) => Err(Failure::Unreadable(format!("no thread: {error}"))),
                }
            };
            health.take(Arc::clone(&name), outcome).await;
            sleep(env.jittered(source.cadence())).await;
        }
    };
    stop.run_until_cancelled(ask).await;
}

fn hangs(time: Duration) -> Failure {
    Failure::Unreadable(format!("it has not answered for {} s", time.as_secs()))
}
