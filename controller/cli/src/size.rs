//! Sizes as people write them: `512MiB`, `2GiB`, `2G`. Always with a unit, always whole, checked.

use kapok_types::{
    Bytes, MemoryMib,
    instance::{MAX_DISK_BYTES, MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB},
    quantity::{GIB, MIB},
};

/// Highest limit and reservation of a quota, as the API states it.
const MAX_AMOUNT: u64 = i64::MAX.unsigned_abs();

/// Reads an amount of guest memory.
///
/// # Errors
///
/// In words: not a size, not whole MiB, or outside an instance's limits.
pub(crate) fn memory(text: &str) -> Result<MemoryMib, String> {
    let bytes = bytes(text)?.get();
    if !bytes.is_multiple_of(MIB) {
        return Err("must be whole MiB".to_owned());
    }
    let memory = bytes / MIB;
    if (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory) {
        Ok(MemoryMib(memory))
    } else {
        Err(format!(
            "must be {} to {}",
            Bytes(MIN_MEMORY_MIB * MIB),
            Bytes(MAX_MEMORY_MIB * MIB)
        ))
    }
}

/// Reads a disk's size.
///
/// # Errors
///
/// In words: not a size, or outside a disk's limits.
pub(crate) fn disk(text: &str) -> Result<Bytes, String> {
    let bytes = bytes(text)?;
    if (MIB..=MAX_DISK_BYTES).contains(&bytes.get()) {
        Ok(bytes)
    } else {
        Err(format!(
            "must be {} to {}",
            Bytes(MIB),
            Bytes(MAX_DISK_BYTES)
        ))
    }
}

/// Reads a ratio of 1 to 64 with at most three digits behind the point, in permille.
///
/// # Errors
///
/// In words: not such a number.
pub(crate) fn permille(text: &str) -> Result<u32, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fraction = Some(fraction).filter(|text| digits(text) && text.len() <= 3);
    let whole = Some(whole).filter(|text| digits(text));
    whole
        .zip(fraction)
        .and_then(|(whole, fraction)| {
            let whole: u32 = whole.parse().ok()?;
            let fraction: u32 = format!("{fraction:0<3}").parse().ok()?;
            whole.checked_mul(1000)?.checked_add(fraction)
        })
        .filter(|permille| (1000..=64_000).contains(permille))
        .ok_or_else(|| "must be a number of 1 to 64, such as 4 or 2.5".to_owned())
}

/// Reads a number of virtual CPUs.
///
/// # Errors
///
/// In words: not a whole number, or outside an instance's limits.
pub(crate) fn vcpus(text: &str) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|vcpus| (1..=MAX_VCPUS).contains(vcpus))
        .ok_or_else(|| format!("must be a whole number, 1 to {MAX_VCPUS}"))
}

/// Reads how many of something there may be: a number from 0 on.
///
/// # Errors
///
/// In words: not a whole number, or more than there can be.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    text.parse::<u64>()
        .ok()
        .filter(|count| *count <= MAX_AMOUNT)
        .ok_or_else(|| format!("must be a whole number, 0 to {MAX_AMOUNT}"))
}

/// Reads how much memory there may be, in MiB: `0`, or an amount with a unit.
///
/// # Errors
///
/// In words: not a size, or not whole MiB.
pub(crate) fn mib(text: &str) -> Result<u64, String> {
    let bytes = whole(text)?;
    if bytes.is_multiple_of(MIB) {
        Ok(bytes / MIB)
    } else {
        Err("must be whole MiB".to_owned())
    }
}

/// Reads how large something may be, in bytes: `0`, or an amount with a unit.
///
/// # Errors
///
/// In words: not a size, or more than there can be.
pub(crate) fn whole(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    let bytes = bytes(text)?.get();
    if bytes <= MAX_AMOUNT {
        Ok(bytes)
    } else {
        Err("is too large to be a size".to_owned())
    }
}

fn bytes(text: &str) -> Result<Bytes, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("must not be negative".to_owned());
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("must be a whole number with a unit, such as 512MiB or 2GiB".to_owned());
    }
    if unit.starts_with(['.', ',']) {
        return Err("must be a whole number: write 1536MiB, not 1.5GiB".to_owned());
    }
    let factor = match unit.trim_start() {
        "" => return Err(format!("needs a unit: {number}MiB or {number}GiB?")),
        "K" | "KiB" => 1024,
        "M" | "MiB" => MIB,
        "G" | "GiB" => GIB,
        "T" | "TiB" => 1024 * GIB,
        other => {
            return Err(format!(
                "has the unknown unit {other:?}; known: KiB, MiB, GiB, TiB"
            ));
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(Bytes)
        .ok_or_else(|| "is too large to be a size".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_exact() {
        for (text, value) in [("1", 1000), ("4.0", 4000), ("2.5", 2500), ("1.025", 1025)] {
            assert_eq!(permille(text), Ok(value));
        }
        assert_eq!(permille("64"), Ok(64_000));
        for bad in [
            "", "0.9", "64.001", "-1", "1.", ".5", "1e3", "1.0001", "4294968", "+4",
        ] {
            assert!(permille(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, mib) in [
            ("512MiB", 512),
            ("512M", 512),
            ("2GiB", 2048),
            ("2G", 2048),
            ("16777216 MiB", 16 << 20),
        ] {
            assert_eq!(memory(text), Ok(MemoryMib(mib)), "{text}");
        }
        assert_eq!(disk("20GiB"), Ok(Bytes(20 * GIB)));
        assert_eq!(disk("64TiB"), Ok(Bytes(MAX_DISK_BYTES)));
        assert_eq!(vcpus("512"), Ok(512));
    }

    /// FAULTS 28: what no quota can be is refused; zero is one.
    #[test]
    fn amounts_of_quotas_are_read_with_their_limits() {
        assert_eq!((count("0"), count("64")), (Ok(0), Ok(64)));
        assert_eq!((mib("0"), mib("256GiB")), (Ok(0), Ok(256 << 10)));
        assert_eq!(whole("4TiB"), Ok(4 << 40));
        for (refused, reason) in [
            (count("-1"), "0 to 9223372036854775807"),
            (count("18446744073709551615"), "0 to 9223372036854775807"),
            (count("1.5"), "whole number"),
            (mib("1KiB"), "whole MiB"),
            (mib("64"), "needs a unit"),
            (mib("-1GiB"), "must not be negative"),
            (whole("9007199254740992GiB"), "too large"),
        ] {
            assert!(refused.clone().unwrap_err().contains(reason), "{refused:?}");
        }
    }

    /// FAULTS 28: zero, negative, overflowing and unit-less sizes are refused with the reason.
    #[test]
    fn bad_sizes_are_refused_with_the_reason() {
        for (text, reason) in [
            ("0GiB", "must be 16 MiB to 16 TiB"),
            ("15MiB", "must be 16 MiB to 16 TiB"),
            ("17TiB", "must be 16 MiB to 16 TiB"),
            ("16385KiB", "must be whole MiB"),
            ("-1GiB", "must not be negative"),
            ("512", "needs a unit"),
            ("", "must be a whole number with a unit"),
            ("MiB", "must be a whole number with a unit"),
            ("1.5GiB", "must be a whole number"),
            ("2GB", "unknown unit \"GB\""),
            ("2GiB2", "unknown unit"),
            ("0x10MiB", "unknown unit"),
            // 2^44 GiB is 2^74 bytes; wrapped to 64 bits it would be a harmless zero, and
            // 2^34 + 2 GiB would be 2 GiB.
            ("17592186044416GiB", "is too large"),
            ("17179869186GiB", "is too large"),
            ("18446744073709551616MiB", "is too large"),
        ] {
            let refused = memory(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        for (text, reason) in [
            ("0G", "must be 1 MiB to 64 TiB"),
            ("1023KiB", "must be 1 MiB"),
            ("65TiB", "64 TiB"),
        ] {
            let refused = disk(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        for text in ["0", "-1", "513", "4294967297", "", "1.5"] {
            assert!(vcpus(text).unwrap_err().contains("1 to 512"), "{text}");
        }
    }
}
