use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

const DAY_MS: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;

/// A point in time: milliseconds since 1970 in UTC, RFC 3339 in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-20T10:04:13.000Z")]
pub struct Time(u64);

/// Text that is not a point in time in the form that the API writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time like 2026-11-20T10:04:13.000Z")]
pub struct TimeError(String);

impl Time {
    /// The instant `milliseconds` after 1970-01-01T00:00:00Z, at most the end of year 9999.
    pub fn from_unix_ms(milliseconds: u64) -> Self {
        Self(milliseconds.min(LAST_MS))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_ms(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date_of_day(self.0 / DAY_MS);
        let rest = self.0 % DAY_MS;
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            rest / 3_600_000,
            rest / 60_000 % 60,
            rest / 1_000 % 60,
            rest % 1_000
        )
    }
}

impl FromStr for Time {
    type Err = TimeError;

    /// Reads what `Display` writes, with the milliseconds optional.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse(text).ok_or_else(|| TimeError(text.to_owned()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn parse(text: &str) -> Option<Time> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let (clock, millis) = match clock.split_once('.') {
        Some((clock, fraction)) => (clock, digits(fraction, 3)?),
        None => (clock, 0),
    };
    let mut date = date.splitn(3, '-');
    let year = digits(date.next()?, 4)?;
    let month = digits(date.next()?, 2)?;
    let day = digits(date.next()?, 2)?;
    let mut clock = clock.splitn(3, ':');
    let hour = digits(clock.next()?, 2)?;
    let minute = digits(clock.next()?, 2)?;
    let second = digits(clock.next()?, 2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = day_of_date(year, month, day)?;
    Some(Time(days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1_000 + millis))
}

fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

fn month_length(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn day_of_date(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    if day == 0 || day > month_length(year, month) {
        return None;
    }
    let before: u64 = (1..month).map(|month| month_length(year, month)).sum();
    Some(days_before_year(year) - days_before_year(1970) + before + day - 1)
}

fn date_of_day(day: u64) -> (u64, u64, u64) {
    let mut year = 1970 + day / 366;
    while days_before_year(year + 1) - days_before_year(1970) <= day {
        year += 1;
    }
    let mut left = day + days_before_year(1970) - days_before_year(year);
    let mut month = 1;
    while left >= month_length(year, month) {
        left -= month_length(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::{LAST_MS, Time};
    use proptest::prelude::*;

    #[test]
    fn known_instants_are_written_as_rfc_3339() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_169_053_123, "2026-11-20T10:04:13.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time::from_unix_ms(milliseconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Time::from_unix_ms(milliseconds)));
        }
    }

    #[test]
    fn the_milliseconds_may_be_left_out() {
        assert_eq!("2026-11-20T10:04:13Z".parse(), Ok(Time::from_unix_ms(1_795_169_053_000)));
    }

    #[test]
    fn text_that_is_no_date_is_refused() {
        for text in [
            "",
            "Z",
            "2026-11-20",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T10:04:13+01:00",
            "1969-12-31T23:59:59Z",
            "2026-11-20T10:04:13.1Z",
            "+026-11-20T10:04:13Z",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_reads_back_as_itself(milliseconds in 0..=LAST_MS) {
            let time = Time::from_unix_ms(milliseconds);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Time>();
        }
    }
}
