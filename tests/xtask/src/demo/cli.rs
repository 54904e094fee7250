//! `kapok`, used as a person would, by a demo that a person may interrupt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kapok_lab::fabric::Kapok;
use serde_json::Value;

use crate::interrupt::Interrupt;

/// Lists until `good` holds for all and there are `count`.
pub(super) fn wait_for(
    kapok: &Kapok,
    what: &str,
    arguments: &[&str],
    count: usize,
    good: impl Fn(&Value) -> bool,
    (bound, interrupt): (Duration, &Interrupt),
) -> Result<Vec<Value>> {
    let end = Instant::now() + bound;
    loop {
        interrupt.check()?;
        // The controller may be starting still; what it says in the end is the error.
        let found = kapok.list(arguments);
        if let Ok(items) = &found
            && items.len() >= count
            && items.iter().all(&good)
        {
            return found;
        }
        if Instant::now() > end {
            let last = found.with_context(|| format!("waited in vain for {what}"))?;
            bail!(
                "waited in vain for {what}; last seen:\n{}",
                Value::Array(last)
            );
        }
        interrupt.pause(Duration::from_millis(250));
    }
}
