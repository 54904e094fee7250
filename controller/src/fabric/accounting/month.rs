//! Months, in UTC.

use std::{fmt, str::FromStr};

use kapok_types::Timestamp;
use serde::{Deserialize, Serialize};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A month of the Gregorian calendar in UTC, from 1970-01 on. Written "2026-11".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Month(
    /// Months since 1970-01.
    u32,
);

impl Month {
    /// The month that a moment is in.
    pub fn of(at: Timestamp) -> Self {
        // Howard Hinnant's civil_from_days, for days that aren't negative.
        let days = at.get() / DAY_MS + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        // From March of a year to January 1970.
        let months = (era * 400 + year_of_era) * 12 + from_march + 2;
        Self(u32::try_from(months - 1970 * 12).unwrap_or(u32::MAX))
    }

    /// Its first moment.
    pub fn begins(self) -> Timestamp {
        // days_from_civil of the first day.
        let from_march = u64::from(self.0) + 1970 * 12 - 2;
        let (year, month) = (from_march / 12, from_march % 12);
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_year = (153 * month + 2) / 5;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Timestamp((era * 146_097 + day_of_era - 719_468) * DAY_MS)
    }

    /// The one after it.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one so many before it; the first of all where there are fewer.
    pub const fn back(self, months: u32) -> Self {
        Self(self.0.saturating_sub(months))
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", 1970 + self.0 / 12, self.0 % 12 + 1)
    }
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no month; write it as 2026-11");
        let (year, month) = text.split_once('-').ok_or_else(refused)?;
        let digits = |text: &str, count| {
            let right = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
            right.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (year, month) = digits(year, 4).zip(digits(month, 2)).ok_or_else(refused)?;
        if year < 1970 || !(1..=12).contains(&month) {
            return Err(refused());
        }
        Ok(Self((year - 1970) * 12 + month - 1))
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.to_string()
    }
}

impl TryFrom<String> for Month {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The parts of an interval, month by month, in milliseconds.
pub fn split(from: Timestamp, to: Timestamp) -> impl Iterator<Item = (Month, u64)> {
    let mut at = from;
    std::iter::from_fn(move || {
        if at >= to {
            return None;
        }
        let month = Month::of(at);
        let until = month.next().begins().min(to);
        let part = until.millis_since(at);
        at = until;
        Some((month, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (seconds, month) in [
            (0, "1970-01"),
            (1_709_251_199, "2024-02"),
            (1_709_251_200, "2024-03"),
            (1_795_809_600, "2026-11"),
            (4_102_444_799, "2099-12"),
            (4_107_542_400, "2100-03"),
        ] {
            let at = Timestamp(seconds * 1000);
            assert_eq!(Month::of(at).to_string(), month, "{seconds}");
        }
        let mut month = Month::of(Timestamp(0));
        while month < "2400-01".parse().unwrap() {
            let begins = month.begins();
            assert_eq!(Month::of(begins), month);
            assert_eq!(month.to_string().parse(), Ok(month));
            month = month.next();
            assert_eq!(Month::of(Timestamp(month.begins().get() - 1)).next(), month);
        }
    }

    #[test]
    fn an_interval_is_the_sum_of_its_parts() {
        let month = |text: &str| text.parse::<Month>().unwrap();
        let hour = 3_600_000;
        let from = Timestamp(month("2026-01").begins().get() - hour);
        let to = Timestamp(month("2026-02").begins().get() + hour);
        let parts: Vec<_> = split(from, to).collect();
        assert_eq!(
            parts,
            [
                (month("2025-12"), hour),
                (month("2026-01"), 744 * hour),
                (month("2026-02"), hour)
            ]
        );
        assert_eq!(split(to, from).count(), 0);
    }

    #[test]
    fn what_is_no_month_is_refused() {
        for wrong in [
            "", "2026", "2026-13", "2026-00", "26-01", "2026-1", "1969-12", "+026-01",
        ] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }
}
