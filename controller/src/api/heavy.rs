//! Questions that take long: off the runtime's threads, and few at a time.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tonic::Status;

use super::{Api, status};

/// Answered at a time.
const MOST: usize = 2;
/// Longest wait for another one's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to ask one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heavy(Arc<Semaphore>);

impl Default for Heavy {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Api {
    /// Answers a question on a thread of its own. What it works on is its own, too: a snapshot.
    ///
    /// # Errors
    ///
    /// As many questions of the kind are being answered as may be, or the controller stops.
    pub(super) async fn ponder<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let busy = || {
            let message = format!("{MOST} questions of the kind are being answered already");
            status::unavailable("BUSY", &message)
        };
        let permit = self.heavy.0.clone().acquire_owned();
        let permit = self.within(PATIENCE, busy, permit).await?;
        let permit = permit.map_err(|_| Self::stopping())?;
        let answer = tokio::task::spawn_blocking(move || {
            let answer = work();
            drop(permit);
            answer
        });
        answer.await.map_err(|_| Self::stopping())
    }
}
