//! Waiting for a condition with a bound: the only place of the harness that pauses.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long [`until`] pauses between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` gives a value, for at most `bound`.
///
/// # Errors
///
/// When the bound has passed (the error names `what`), or when `look` itself fails.
pub fn until<T>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s for {what}, in vain", bound.as_secs_f32());
        }
        pause(PAUSE);
    }
}

/// Lets `time` pass on this thread.
pub fn pause(time: Duration) {
    // A channel that nobody sends on: it can't be woken early, unlike a parked thread.
    let (_sender, receiver) = mpsc::channel::<()>();
    let _timeout = receiver.recv_timeout(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_or_names_what_it_waited_for() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
        let error = until::<()>("a unicorn", Duration::from_millis(50), || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("a unicorn"), "{error}");
    }
}
