//! Names of nodes, networks and labels.

use std::fmt;
use std::str::FromStr;

use crate::wire::{Reader, Wire, WireError, Writer};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {rule}")]
pub struct NameError {
    text: String,
    what: &'static str,
    rule: &'static str,
}

/// Labels under the network's domain that mean something already.
pub const RESERVED: [&str; 5] = ["api", "dns", "localhost", "servers", "self"];

const LABEL_RULE: &str = "use 1 to 63 of a-z, 0-9 and -, not starting or ending with - (RFC 1123)";

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:expr, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { text: text.to_owned(), what: $what, rule: $rule })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl Wire for $name {
            fn write(&self, to: &mut Writer) {
                to.text(&self.0);
            }
            fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
                from.text()?.parse().map_err(|_| WireError::Invalid($what))
            }
        }
    };
}

name!(
    /// The name of a node within its network: one DNS label.
    NodeName, "node name", "use 1 to 63 of a-z, 0-9 and -, not starting or ending with - (RFC 1123), and none of api, dns, localhost, self, servers",
    |text| is_dns_label(text) && !RESERVED.contains(&text)
);
name!(
    /// The name of a network: one DNS label, also a directory's name.
    NetworkName, "network name", LABEL_RULE, is_dns_label
);
name!(
    /// The name of a site, for instance a building or a region.
    Site, "site name", LABEL_RULE, is_dns_label
);
name!(
    /// A tag that an invite gives to its members.
    Tag, "tag", LABEL_RULE, is_dns_label
);
name!(
    /// A DNS domain, without the trailing dot.
    Domain, "DNS domain", "use labels of a-z, 0-9 and - with dots between them, at most 190 characters",
    |text| text.len() <= 190 && text.split('.').all(is_dns_label)
);
name!(
    /// A label key: a DNS name prefix is allowed, as in Kubernetes.
    LabelKey, "label key", "use 1 to 63 of A-Z, a-z, 0-9, -, _, . and /, starting and ending with a letter or digit",
    |text| is_label_text(text, b"-_./") && !text.is_empty()
);
name!(
    /// A label value, as in Kubernetes.
    LabelValue, "label value", "use at most 63 of A-Z, a-z, 0-9, -, _ and ., starting and ending with a letter or digit",
    |text| is_label_text(text, b"-_.")
);

fn is_label_text(text: &str, between: &[u8]) -> bool {
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || between.contains(c))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

impl NodeName {
    /// The name that comes closest to a host's name: its first label in lower
    /// case, other characters as dashes; `None` when nothing is left.
    pub fn from_hostname(hostname: &str) -> Option<Self> {
        let label = hostname.split('.').next()?.to_ascii_lowercase();
        let label: String = label
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(56)
            .collect();
        label.trim_matches('-').parse().ok()
    }

    /// This name with a suffix that sets it apart from others like it.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Option<Self> {
        let room = 63usize.checked_sub(suffix.len() + 1)?;
        let stem: String = self.0.chars().take(room).collect();
        format!("{}-{suffix}", stem.trim_end_matches('-')).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "n1", "edge-01", &"a".repeat(63)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ä", "a b", "api", "self", &"a".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_names_text_and_rule() {
        let error = "A B".parse::<NodeName>().unwrap_err().to_string();
        assert!(error.contains("`A B`") && error.contains("RFC 1123"), "{error}");
    }

    #[test]
    fn a_hostname_becomes_a_name() {
        let name = |host| NodeName::from_hostname(host).map(|name| name.to_string());
        assert_eq!(name("Web_01.example.org").as_deref(), Some("web-01"));
        assert_eq!(name("---"), None);
        assert_eq!(name("localhost"), None);
        assert_eq!(name(&"x".repeat(200)).map(|name| name.len()), Some(56));
    }

    #[test]
    fn a_suffix_always_fits() {
        let long: NodeName = "a".repeat(63).parse().unwrap();
        assert_eq!(long.with_suffix("k3x9").unwrap().as_str().len(), 63);
    }

    fn reads_as_it_prints<T: FromStr<Err = NameError> + fmt::Display + PartialEq + fmt::Debug>(
        text: &str,
    ) {
        match text.parse::<T>() {
            Ok(name) => assert_eq!(name.to_string(), text),
            Err(error) => assert!(error.to_string().contains(text), "{error}"),
        }
    }

    proptest::proptest! {
        #[test]
        fn a_name_reads_as_it_prints_and_no_text_panics(text in "\\PC{0,70}|[a-zA-Z0-9._/-]{0,70}") {
            reads_as_it_prints::<NodeName>(&text);
            reads_as_it_prints::<NetworkName>(&text);
            reads_as_it_prints::<Domain>(&text);
            reads_as_it_prints::<LabelKey>(&text);
            reads_as_it_prints::<LabelValue>(&text);
        }

        #[test]
        fn any_hostname_gives_a_name_with_room_for_a_suffix_or_none(text in "\\PC{0,80}") {
            if let Some(name) = NodeName::from_hostname(&text) {
                proptest::prop_assert!(name.as_str().len() <= 56);
                proptest::prop_assert!(name.with_suffix("k3x9").is_some());
            }
        }
    }
}
