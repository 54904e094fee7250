//! Which of several is there: each is tried in order, and the next one beside it as soon as one
//! fails or takes long. So a controller that hangs costs a moment, not its whole deadline.

use std::{future::Future, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// How long the first one is left alone; then the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(300);

/// What the first try gives that comes to something; the others are dropped.
///
/// # Errors
///
/// None did: why each, in the order of `tries`.
pub(crate) async fn first<T, E, F>(tries: impl IntoIterator<Item = F>) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut waiting = tries.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut failed = Vec::new();
    loop {
        let next = waiting.next();
        let is_last = next.is_none();
        if let Some((place, attempt)) = next {
            running.spawn(async move { (place, attempt.await) });
        }
        let patience = sleep_until(Instant::now() + HEAD_START);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                biased;
                ended = running.join_next() => match ended {
                    Some(Ok((_, Ok(value)))) => return Ok(value),
                    Some(Ok((place, Err(error)))) => {
                        failed.push((place, error));
                        if !is_last {
                            break;
                        }
                    }
                    // None of them is aborted; one that panicked has said so.
                    Some(Err(_)) => {}
                    None if is_last => {
                        failed.sort_by_key(|(place, _)| *place);
                        return Err(failed.into_iter().map(|(_, error)| error).collect());
                    }
                    None => break,
                },
                () = &mut patience, if !is_last => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::*;

    type Try = Pin<Box<dyn Future<Output = Result<u8, &'static str>> + Send>>;

    fn hangs() -> Try {
        Box::pin(pending())
    }

    fn gives(outcome: Result<u8, &'static str>) -> Try {
        Box::pin(ready(outcome))
    }

    fn after(wait: Duration, outcome: Result<u8, &'static str>) -> Try {
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            outcome
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_there_is_it() {
        let asked = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&asked);
        let other: Try = Box::pin(async move {
            note.store(true, Ordering::Relaxed);
            Ok(2)
        });
        assert_eq!(first([gives(Ok(1)), other]).await, Ok(1));
        assert!(!asked.load(Ordering::Relaxed), "nobody else was asked");
        assert_eq!(first([gives(Err("dead")), gives(Ok(2))]).await, Ok(2));
        assert_eq!(first([hangs(), hangs(), gives(Ok(3))]).await, Ok(3));
        // One that is slow is still heard.
        let slow = after(HEAD_START * 3, Ok(1));
        assert_eq!(first([slow, gives(Err("dead")), hangs()]).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn when_none_is_there_each_says_why_in_order() {
        let slow = after(HEAD_START * 5, Err("slow"));
        let tries = [slow, gives(Err("dead")), gives(Err("refused"))];
        let why = first(tries).await.unwrap_err();
        assert_eq!(why, ["slow", "dead", "refused"]);
        let none: [Try; 0] = [];
        assert_eq!(first(none).await, Err(Vec::new()));
    }
}
