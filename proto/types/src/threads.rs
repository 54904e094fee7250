//! Sets of a host's processor threads, in the kernel's list form: "0-3,8".

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::Violation;

/// A set of host threads by the kernel's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadSet(BTreeSet<u16>);

impl ThreadSet {
    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this one is in it.
    pub fn contains(&self, thread: u16) -> bool {
        self.0.contains(&thread)
    }

    /// All of it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }

    /// Those of this set that aren't in the other one.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u16> for ThreadSet {
    fn from_iter<T: IntoIterator<Item = u16>>(threads: T) -> Self {
        Self(threads.into_iter().collect())
    }
}

impl fmt::Display for ThreadSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut threads = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = threads.next() {
            let mut last = first;
            while let Some(next) = threads.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            match last {
                _ if last == first => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for ThreadSet {
    type Err = Violation;

    /// Reads the kernel's list form; the empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, Violation> {
        let read = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u16>().ok();
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        };
        let mut threads = BTreeSet::new();
        for part in text.split(',').filter(|_| !text.trim().is_empty()) {
            threads.extend(read(part).ok_or_else(|| {
                let reason = format!("is {text:?}; must be a list of threads such as 4-15,20");
                Violation::new("threads", reason)
            })?);
        }
        Ok(Self(threads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_in_one_form() {
        for (text, written) in [
            ("", ""),
            ("7", "7"),
            ("0-3", "0-3"),
            (" 4 - 5,2,3, 9", "2-5,9"),
            ("65535,0-1,1-2", "0-2,65535"),
        ] {
            let threads: ThreadSet = text.parse().unwrap();
            assert_eq!(threads.to_string(), written);
            assert_eq!(written.parse(), Ok(threads));
        }
        for wrong in ["a", "3-1", "1,", "-1", "1-", "65536", "^2"] {
            assert!(wrong.parse::<ThreadSet>().is_err(), "{wrong}");
        }
    }
}
