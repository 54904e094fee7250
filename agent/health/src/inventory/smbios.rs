//! The firmware's tables (SMBIOS), as far as the inventory needs them.
//!
//! Only root may read the kernel's copy; a unit can leave a copy of that copy for the agent.
//! Source: DMTF DSP0134, "System Management BIOS Reference Specification", 3.7.

use super::{bytes, tidy};
use crate::{Failure, Host};

/// Where the tables are: the kernel's own, then the copy that a unit has made for the agent.
const PLACES: [&str; 2] = ["/sys/firmware/dmi/tables/DMI", "/run/kapok/dmi/DMI"];
/// Most that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// The shortest structure: its header.
const HEADER: usize = 4;

/// All structures, in the firmware's order.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<Structure>);

/// One structure: its formatted area with the header, and its texts.
#[derive(Debug)]
pub(super) struct Structure {
    kind: u8,
    area: Vec<u8>,
    texts: Vec<String>,
}

impl Tables {
    /// The server's tables.
    ///
    /// # Errors
    ///
    /// Why they can't be read; absent where the server has none.
    pub(super) fn read(host: &Host) -> Result<Self, Failure> {
        let mut refused = None;
        for place in PLACES {
            match bytes(host, place, MAX_BYTES) {
                Ok(Some(bytes)) => return Ok(Self::parse(&bytes)),
                Ok(None) => {}
                Err(failure) => refused = refused.or(Some(failure)),
            }
        }
        Err(refused.unwrap_or_else(|| Failure::Absent("the firmware has no tables".into())))
    }

    /// Reads until the end's mark, or until it makes no sense.
    pub(super) fn parse(mut bytes: &[u8]) -> Self {
        const END: u8 = 127;
        let mut structures = Vec::new();
        while let [kind, length, ..] = *bytes {
            let length = usize::from(length);
            if length < HEADER || length > bytes.len() {
                break;
            }
            let (area, rest) = bytes.split_at(length);
            // Texts end with an empty one; without any there are two zeros.
            let Some(end) = rest.windows(2).position(|pair| pair == [0, 0]) else {
                break;
            };
            let texts = rest[..end].split(|byte| *byte == 0);
            structures.push(Structure {
                kind,
                area: area.to_vec(),
                texts: texts
                    .map(|text| tidy(&String::from_utf8_lossy(text)))
                    .collect(),
            });
            if kind == END {
                break;
            }
            bytes = &rest[end + 2..];
        }
        Self(structures)
    }

    /// Structures of a kind.
    pub(super) fn of(&self, kind: u8) -> impl Iterator<Item = &Structure> {
        self.0.iter().filter(move |it| it.kind == kind)
    }
}

impl Structure {
    /// The text whose number is at this offset; empty if there is none, or it says nothing.
    pub(super) fn text(&self, offset: usize) -> String {
        let number = self.area.get(offset).copied().unwrap_or(0);
        let text = usize::from(number)
            .checked_sub(1)
            .and_then(|it| self.texts.get(it));
        text.filter(|text| says_something(text))
            .cloned()
            .unwrap_or_default()
    }

    /// One byte; 0 beyond the end, as older firmware has shorter structures.
    pub(super) fn byte(&self, offset: usize) -> u8 {
        self.area.get(offset).copied().unwrap_or(0)
    }

    /// Two bytes; 0 beyond the end.
    pub(super) fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset + 1)])
    }

    /// Four bytes; 0 beyond the end.
    pub(super) fn double(&self, offset: usize) -> u32 {
        let [low, high] = [self.word(offset), self.word(offset + 2)];
        u32::from(high) << 16 | u32::from(low)
    }
}

/// Whether a maker wrote something, rather than what he should have replaced.
pub(super) fn says_something(text: &str) -> bool {
    const PLACEHOLDERS: [&str; 11] = [
        "default string",
        "n/a",
        "no dimm",
        "none",
        "not applicable",
        "not available",
        "not specified",
        "system serial number",
        "to be filled by o.e.m.",
        "undefined",
        "unknown",
    ];
    let text = text.trim().to_lowercase();
    text.chars().any(|c| !matches!(c, '0' | '-' | '.' | ' '))
        && !PLACEHOLDERS.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structures_and_their_texts() {
        let mut bytes = vec![17, 0x12, 1, 0];
        bytes.extend([0; 8]);
        bytes.extend([0x00, 0x80, 0, 0, 1, 2]);
        bytes.extend(b"DIMM_A1\0P0 CHANNEL A\0\0");
        bytes.extend([127, 4, 2, 0, 0, 0]);
        bytes.extend([17, 4, 3, 0, 0, 0]);
        let tables = Tables::parse(&bytes);
        let modules: Vec<_> = tables.of(17).collect();
        assert_eq!(modules.len(), 1, "nothing after the end's mark");
        assert_eq!(modules[0].text(0x10), "DIMM_A1");
        assert_eq!(modules[0].text(0x11), "P0 CHANNEL A");
        assert_eq!(modules[0].word(0x0c), 0x8000);
        assert_eq!(modules[0].text(0x18), "", "beyond its end");
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for structure in Tables::parse(&bytes).0 {
                structure.text(0x10);
                structure.double(0x1c);
            }
        }
    }
}
