//! Lines that tell what happens, each with the time since the start.

use std::time::{Duration, Instant};

/// Tells a person what happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// One line about what has happened or begins now.
    pub(crate) fn say(&self, text: &str) {
        println!("[{:>7}] {text}", human(self.start.elapsed()));
    }
}

/// A time as people read it: `3.2 s`, `2 m 05 s`.
pub(crate) fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        return format!("{:.1} s", time.as_secs_f32());
    }
    format!("{} m {:02} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(human(Duration::from_millis(3249)), "3.2 s");
        assert_eq!(human(Duration::from_secs(125)), "2 m 05 s");
    }
}
