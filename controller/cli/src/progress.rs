//! Progress of long work, on standard error, for people who watch a terminal.
//!
//! Draws nothing when standard error isn't a terminal or people want quiet; then the one line at
//! the end is all there is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::human::plain;

/// A bar or spinner; gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For operations: a spinner, and a bar where the progress is known.
    pub(crate) fn steps(quiet: bool) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar }
    }

    /// For a known number of bytes.
    pub(crate) fn bytes(quiet: bool, total: u64, what: &str) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(total)
        };
        style(
            &bar,
            "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
        );
        bar.set_message(plain(what));
        Self { bar }
    }

    /// Shows where an operation stands.
    pub(crate) fn step(&self, what: &str, permille: Option<u32>) {
        if let Some(permille) = permille {
            self.bar.set_length(1000);
            self.bar.set_position(u64::from(permille.min(1000)));
            style(
                &self.bar,
                "{spinner} [{bar:20}] {percent:>3}% {msg} ({elapsed})",
            );
        } else {
            style(&self.bar, "{spinner} {msg} ({elapsed})");
        }
        self.bar.set_message(plain(what));
    }

    /// Shows how many bytes are done.
    pub(crate) fn set_bytes(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Takes it off the screen.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(bar: &ProgressBar, template: &str) {
    // The templates are fixed; a wrong one would only leave the default look.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}
