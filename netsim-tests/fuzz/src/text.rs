//! Everything that people write.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use epsilon_proto::address::Ipv4Range;
use epsilon_proto::api::Time;
use epsilon_proto::id::{BootId, Digest, NodeId};
use epsilon_proto::name::{Domain, LabelKey, LabelValue, NetworkName, NodeName, Site, Tag};
use epsilon_proto::token::{HostPort, Token};
use epsilon_proto::trust::Roles;

use crate::{bounded, samples};

type Parser = (fn(&str), &'static str);

const PARSERS: &[Parser] = &[
    (reads_as_it_prints::<HostPort>, "vpn.example.org:7755"),
    (reads_as_it_prints::<HostPort>, "[2001:db8::7]:7755"),
    (reads_as_it_prints::<Ipv4Range>, "192.168.64.0/18"),
    (reads_as_it_prints::<Roles>, "member,worker, server"),
    (reads_as_it_prints::<NodeName>, "edge-01"),
    (reads_as_it_prints::<NetworkName>, "home"),
    (reads_as_it_prints::<Site>, "attic"),
    (reads_as_it_prints::<Tag>, "gpu"),
    (reads_as_it_prints::<Domain>, "epsilon.internal"),
    (reads_as_it_prints::<LabelKey>, "example.org/rack"),
    (reads_as_it_prints::<LabelValue>, "A-1_b.c"),
    (reads_as_it_prints::<NodeId>, "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq"),
    (reads_as_it_prints::<BootId>, "aaaqeayeaudaocajbifqydiob4"),
    (reads_as_it_prints::<Digest>, "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq"),
    (reads_as_it_prints::<Time>, "2026-11-20T11:02:43.500Z"),
    (hostname, "Web_01.example.org"),
    (token, "epsilon1_AAAA"),
];

fn reads_as_it_prints<T>(text: &str)
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match bounded::by_length(text.len(), || text.parse::<T>()) {
        Ok(value) => {
            let printed = value.to_string();
            match printed.parse::<T>() {
                Ok(again) => assert_eq!(again, value, "{printed}"),
                Err(error) => panic!("{value:?} prints as {printed}: {error}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn hostname(text: &str) {
    if let Some(name) = NodeName::from_hostname(text) {
        assert!(name.as_str().len() <= 56);
        assert!(name.with_suffix("k3x9").is_some());
    }
}

fn token(text: &str) {
    match text.parse::<Token>() {
        Ok(token) => drop(token.to_text()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Addresses, names, ranges, roles, ids, times, tokens.
pub fn text(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    (PARSERS[usize::from(*first) % PARSERS.len()].0)(text);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let token = samples::founding().token.to_text();
    let last = PARSERS.len() as u8 - 1;
    let examples = PARSERS.iter().enumerate();
    examples
        .map(|(index, (_, example))| [&[index as u8][..], example.as_bytes()].concat())
        .chain([[&[last][..], token.as_bytes()].concat()])
        .collect()
}
