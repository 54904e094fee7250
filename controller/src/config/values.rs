//! Values as people write them: durations, sizes, ratios, addresses.

use std::time::Duration;

use kapok_types::{
    Bytes,
    quantity::{GIB, MIB},
};
use serde::{Deserialize, Deserializer, de};
use tonic::transport::Uri;

/// "1s", "10m", "30d".
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        de::Error::custom(format!(
            "{text:?} is no duration ({error}); write \"1s\", \"10m\" or \"30d\""
        ))
    })
}

/// A number of bytes with its unit: "64GiB".
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "B" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(MIB),
        "GiB" => Some(GIB),
        "TiB" => Some(1024 * GIB),
        _ => None,
    };
    let number = digits.trim_end().parse::<u64>().ok();
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Bytes)
        .ok_or_else(|| de::Error::custom(format!("{text:?} is no size; write \"64GiB\"")))
}

/// A ratio such as 4 or 1.5, kept in permille.
pub(super) fn permille<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if !(1.0..=64.0).contains(&ratio) {
        return Err(de::Error::custom(format!(
            "{ratio} is out of its limits: 1.0 to 64.0"
        )));
    }
    // Through text: there is no checked conversion of a fraction to a whole number.
    format!("{:.0}", ratio * 1000.0)
        .parse()
        .map_err(de::Error::custom)
}

/// The host of "HOST:PORT", if it has that form.
pub(super) fn host(address: &str) -> Option<&str> {
    let uri: Uri = format!("https://{address}").parse().ok()?;
    uri.port_u16().filter(|port| *port != 0)?;
    let (host, _) = address.rsplit_once(':')?;
    (uri.authority()?.as_str() == address && !host.is_empty() && !address.contains('@'))
        .then_some(host)
}
