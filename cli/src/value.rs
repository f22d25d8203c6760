//! Values that are typed in a form of their own.

use std::str::FromStr;
use std::time::Duration;

use epsilon_proto::api::Expiry;

/// No clock is sure to count further.
const LONGEST: Duration = Duration::from_hours(36_500 * 24);

/// Reads `500ms`, `10s`, `2m`, `24h`, `7d`; a bare number is seconds, and a
/// fraction is fine.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split =
        text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("unknown unit {unit:?}; use ms, s, m, h or d")),
    };
    let number: f64 = number.parse().map_err(|_| "use a number and a unit, such as 10s")?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration.is_zero() => Err("it has to be more than nothing".into()),
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("it is too long; a hundred years, 36500d, are the most".into()),
    }
}

/// `--expires`: a duration or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expires(pub(crate) Expiry);

impl FromStr for Expires {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(Expiry::Never));
        }
        match duration(text)?.as_secs() {
            0 => Err("it has to be a second at least".into()),
            seconds => Ok(Self(Expiry::InSeconds(seconds))),
        }
    }
}

/// `--label`: `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("a label has the form KEY=VALUE".into()),
        }
    }
}

/// `wait --for`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// This machine is a member and holds its addresses.
    Joined,
    /// So many peers are up.
    Peers(u32),
    /// The peer with this name, address or id is up.
    Peer(String),
}

impl FromStr for WaitFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("peers", number)) => number
                .parse()
                .map(Self::Peers)
                .map_err(|_| format!("{number:?} is not a number of peers")),
            Some(_) => Err("use joined, peers=N or the name of a peer".into()),
            None if text == "joined" => Ok(Self::Joined),
            None if text.is_empty() => Err("use joined, peers=N or the name of a peer".into()),
            None => Ok(Self::Peer(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("0.2", 200),
            ("10", 10_000),
            ("10s", 10_000),
            ("1.5m", 90_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "10x",
            "36501d",
            "110000000000000d",
            "-1s",
            "0",
            "1e400",
            "nan",
            "inf",
            "99999999999999999999d",
            "1.2.3s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wait_condition_is_a_state_a_number_or_a_name() {
        assert_eq!("joined".parse(), Ok(WaitFor::Joined));
        assert_eq!("peers=2".parse(), Ok(WaitFor::Peers(2)));
        assert_eq!("n2".parse(), Ok(WaitFor::Peer("n2".into())));
        for text in ["", "peers=", "peers=-1", "peers=two", "members=2"] {
            assert!(text.parse::<WaitFor>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_expiry_is_a_duration_or_never() {
        assert_eq!("never".parse(), Ok(Expires(Expiry::Never)));
        assert_eq!("1h".parse(), Ok(Expires(Expiry::InSeconds(3600))));
        assert!("1ms".parse::<Expires>().is_err());
    }
}
