//! Links that are worse than a cable on one machine: a process beside the cable takes
//! every frame in and lets it out as late, as often or as seldom as [`Link`] says. The
//! kernel may have no netem, so this needs none.
//!
//! ```text
//!  port site1 ──── near [line, there] far ──── wan of gw1
//!                       [line, back ]
//! ```
//!
//! What a line does to its frames is pure ([`line`]); the process around it only takes
//! frames, waits and sends ([`carry`]).

pub(super) mod carry;
mod line;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fleet::Cable;
use crate::value::duration;

/// How bad a cable is, in each direction alike and on its own: 40 ms of delay are 80 ms
/// of round trip. The default is a cable as good as any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Link {
    /// How long every frame takes.
    pub delay: Duration,
    /// Up to how much longer; frames stay in order.
    pub jitter: Duration,
    /// How many frames are lost.
    pub loss: Share,
    /// How many frames come up to 10 ms later still, behind those sent after them.
    pub reorder: Share,
    /// How many frames come twice.
    pub duplicate: Share,
    /// How many bits pass in a second. What waits for longer than a tenth of a second, or
    /// behind 20 full frames, is lost.
    pub rate: Option<u64>,
}

/// Links to be made, `site1+site2=delay=20ms,loss=1%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// Which.
    pub cables: Vec<Cable>,
    /// How bad each is.
    pub link: Link,
}

/// A share in millionths, at most all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(u32);

impl Share {
    const ALL: u32 = 1_000_000;
}

/// Above that it is no link.
const LONGEST: Duration = Duration::from_secs(10);
/// In bits per second.
const SLOWEST: u64 = 1_000;
const UNITS: [(&str, u64); 4] =
    [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

/// `1%`, `0.5%`.
impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no share; use 0% to 100%, such as 0.5%");
        let percent: f64 =
            text.strip_suffix('%').and_then(|it| it.parse().ok()).ok_or_else(wrong)?;
        let is_share = (0.0..=100.0).contains(&percent);
        // Within bounds, so nothing is lost but digits that nobody measures.
        #[allow(clippy::cast_sign_loss)]
        let share = Self((percent * 10_000.0).round() as u32);
        if is_share { Ok(share) } else { Err(wrong()) }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (name, time) in [("delay", self.delay), ("jitter", self.jitter)] {
            if !time.is_zero() {
                words.push(format!("{name}={}ms", time.as_secs_f64() * 1000.0));
            }
        }
        let shares =
            [("loss", self.loss), ("reorder", self.reorder), ("duplicate", self.duplicate)];
        for (name, share) in shares {
            if share != Share::default() {
                words.push(format!("{name}={share}"));
            }
        }
        if let Some(rate) = self.rate {
            let whole = UNITS.into_iter().find(|(_, unit)| rate.is_multiple_of(*unit));
            let (name, unit) = whole.unwrap_or(("bit", 1));
            words.push(format!("rate={}{name}", rate / unit));
        }
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(","))
    }
}

/// `delay=40ms,jitter=5ms,loss=1%,reorder=2%,duplicate=0.5%,rate=20mbit`, any of these;
/// or `none`.
impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut link = Self::default();
        if text == "none" {
            return Ok(link);
        }
        let time = |text: &str| match duration(text)? {
            time if time <= LONGEST => Ok(time),
            _ => Err(format!("{text} is too long; {} s are the most", LONGEST.as_secs())),
        };
        for word in text.split(',') {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "delay" => link.delay = time(value)?,
                "jitter" => link.jitter = time(value)?,
                "loss" => link.loss = value.parse()?,
                "reorder" => link.reorder = value.parse()?,
                "duplicate" => link.duplicate = value.parse()?,
                "rate" => link.rate = Some(rate(value)?),
                _ => {
                    return Err(format!(
                        "{word:?} is nothing of a link; use delay=40ms, jitter=5ms, loss=1%, \
                         reorder=2%, duplicate=0.5%, rate=20mbit, or none"
                    ));
                }
            }
        }
        Ok(link)
    }
}

fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no rate; use bit, kbit, mbit or gbit, such as 20mbit");
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(rate) if rate >= SLOWEST => Ok(rate),
        _ => Err(format!("{text:?} is no rate of a link; {SLOWEST} bit are the least")),
    }
}

impl TryFrom<String> for Link {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.to_string()
    }
}

impl FromStr for Links {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cables, link) =
            text.split_once('=').ok_or("say which link, such as site1=delay=40ms")?;
        let cables = cables.split('+').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { cables, link: link.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_they_are_shown() {
        for text in [
            "none",
            "delay=40ms",
            "delay=0.1ms,jitter=1.7ms",
            "loss=1%,reorder=0.5%,duplicate=100%",
            "delay=10000ms,jitter=5ms,loss=0.0001%,reorder=2%,duplicate=0.5%,rate=20mbit",
            "rate=1gbit",
            "rate=1500kbit",
            "rate=1234567bit",
        ] {
            let link: Link = text.parse().unwrap();
            assert_eq!(link.to_string(), text);
            let json = serde_json::to_string(&link).unwrap();
            assert_eq!(serde_json::from_str::<Link>(&json).unwrap(), link);
        }
        let same: Link = "rate=1000mbit,delay=0.04s,loss=0%".parse().unwrap();
        assert_eq!(same.to_string(), "delay=40ms,rate=1gbit");
    }

    #[test]
    fn what_is_no_link_is_refused_with_an_example() {
        for (text, example) in [
            ("", "delay=40ms"),
            ("delay", "such as 10s"),
            ("delay=40", "too long"),
            ("delay=11s", "10 s"),
            ("loss=1", "0.5%"),
            ("loss=101%", "0.5%"),
            ("loss=-1%", "0.5%"),
            ("loss=NaN%", "0.5%"),
            ("rate=20", "20mbit"),
            ("rate=-1mbit", "20mbit"),
            ("rate=999bit", "1000"),
            ("rate=99999999999999999999gbit", "20mbit"),
            ("rate=99999999999gbit", "1000"),
            ("delay=40ms,colour=red", "duplicate=0.5%"),
            ("delay=40ms,none", "none"),
        ] {
            let error = text.parse::<Link>().unwrap_err();
            assert!(error.contains(example), "{text}: {error}");
        }
    }

    #[test]
    fn several_links_are_read_at_once() {
        let links: Links = "site1+n3=delay=20ms,loss=1%".parse().unwrap();
        assert_eq!(links.cables, [Cable::Site(1), Cable::Host("n3".to_owned())]);
        assert_eq!(links.link.to_string(), "delay=20ms,loss=1%");
        for wrong in ["site1", "=delay=20ms", "site1+=delay=20ms", "site1=20ms"] {
            assert!(wrong.parse::<Links>().is_err(), "{wrong}");
        }
    }
}
