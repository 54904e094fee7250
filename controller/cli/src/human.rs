//! Words for people: ages, spans, and text that came from elsewhere.

use kapok_types::Timestamp;

/// An age in its two largest units: `42s`, `5m3s`, `4h12m`, `12d`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let (odd_seconds, odd_minutes) = (seconds % 60, minutes % 60);
    match () {
        () if seconds < 60 => format!("{seconds}s"),
        () if minutes < 10 && odd_seconds > 0 => format!("{minutes}m{odd_seconds}s"),
        () if hours < 1 => format!("{minutes}m"),
        () if hours < 10 && odd_minutes > 0 => format!("{hours}h{odd_minutes}m"),
        () if days < 2 => format!("{hours}h"),
        () => format!("{days}d"),
    }
}

/// The age of a point in time, or a dash when it isn't known.
pub(crate) fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or_else(dash, |time| span(now.millis_since(time)))
}

/// What stands where there is nothing to say.
pub(crate) fn dash() -> String {
    "-".to_owned()
}

/// The text, or a dash when it is empty; made safe for a terminal.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { dash() } else { plain(text) }
}

/// Text from elsewhere without control characters: what a guest or a host wrote must not steer
/// the terminal that shows it.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// As [`plain`], but line ends stay.
pub(crate) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_what_matters() {
        let cases = [
            (999, "0s"),
            (42_000, "42s"),
            (303_000, "5m3s"),
            (300_000, "5m"),
            (1_500_000, "25m"),
            (15_120_000, "4h12m"),
            (100_000_000, "27h"),
            (1_036_800_000, "12d"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(ms), text);
        }
    }

    /// A name, detail or event that carries escape sequences can't reach the terminal with them.
    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(
            plain("a\u{1b}[2Jb\u{7}\n城"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}城"
        );
        assert_eq!(plain_lines("a\nb\u{9b}c"), "a\nb\u{fffd}c");
    }
}
