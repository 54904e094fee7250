//! Label values from outside: names that people or guests chose.

use std::borrow::Cow;

/// Longest label value, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// Bytes of the mark behind a value that had to be changed: `~` and 16 hexadecimal digits.
const MARK_BYTES: usize = 17;

/// A label's value from any text: at most [`MAX_LABEL_BYTES`], in one line.
///
/// Quotes and backslashes stay, the encoder escapes them. Line ends of every kind and control
/// characters become blanks: some readers split lines at more than the newline. What was changed
/// carries a mark made of the whole text, so that two texts stay two values.
pub fn label(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_LABEL_BYTES && !text.chars().any(breaks) {
        return Cow::Borrowed(text);
    }
    let mut value = String::with_capacity(MAX_LABEL_BYTES);
    for character in text.chars() {
        let character = if breaks(character) { ' ' } else { character };
        if value.len() + character.len_utf8() > MAX_LABEL_BYTES - MARK_BYTES {
            break;
        }
        value.push(character);
    }
    Cow::Owned(format!("{value}~{:016x}", hash(text)))
}

/// Whether somebody could take this character for the end of a line, or for nothing.
fn breaks(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// FNV-1a. Source: the authors' page; no secret depends on it.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_and_long_text_is_cut() {
        assert_eq!(label("web-1"), "web-1");
        assert_eq!(label("中央 \"q\" \\"), "中央 \"q\" \\");
        let long = "中".repeat(1000);
        let cut = label(&long);
        assert!(cut.len() <= MAX_LABEL_BYTES, "{}", cut.len());
        assert_ne!(cut, label(&"中".repeat(1001)));
        assert_ne!(label("a\nb"), label("a\rb"));
        assert_ne!(label("a\nb"), "a b");
    }
}
