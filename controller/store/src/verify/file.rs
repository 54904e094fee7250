//! The check of an exported file.

use std::io::{self, BufRead};

use super::{Expected, Report, Verifier};
use crate::lines;

/// The longest line that is read: an entry has a bound, and its text not much more.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// Checks exported lines ([`lines::write`]), optionally against heads that were kept elsewhere.
///
/// # Errors
/// When the file can't be read. What is wrong with its content is in the report.
pub fn lines(
    reader: impl BufRead,
    expected: impl IntoIterator<Item = Expected>,
) -> io::Result<Report> {
    let (mut reader, mut verifier) = (reader, Verifier::new(expected));
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = io::Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            verifier.unreadable(1, format!("line {number} doesn't end"));
            break;
        };
        let entry = std::str::from_utf8(text)
            .map_err(|error| error.to_string())
            .and_then(|text| lines::read(text).map_err(|error| error.to_string()));
        match entry {
            Ok(entry) => verifier.entry(&entry),
            Err(reason) => {
                verifier.unreadable(1, format!("line {number} can't be read: {reason}"));
            }
        }
    }
    Ok(verifier.finish())
}
