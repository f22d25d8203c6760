//! Numbers as people read them.

use std::time::Duration;

use epsilon_proto::api::{NodeRef, Path, PathKind, PeerState, Role, Time};

/// `250 ms`, `12 s`, `5 min`, `3 h`, `2 d`: one unit, rounded down.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long before `now` something was: `now`, `12 s ago`.
pub(crate) fn ago(then: Time, now: Time) -> String {
    match now.unix_ms().saturating_sub(then.unix_ms()) {
        0..2_000 => "now".into(),
        elapsed => format!("{} ago", duration(Duration::from_millis(elapsed))),
    }
}

/// `in 3 h`, or `3 h ago` once it is over.
pub(crate) fn until(then: Time, now: Time) -> String {
    match then.unix_ms().checked_sub(now.unix_ms()) {
        Some(left) => format!("in {}", duration(Duration::from_millis(left))),
        None => ago(then, now),
    }
}

/// `2026-11-20 10:04:13`, UTC.
pub(crate) fn moment(time: Time) -> String {
    let text = time.to_string();
    text.split('.').next().unwrap_or(&text).replace('T', " ")
}

/// `0.25 ms`, `12.3 ms`, `250 ms`.
pub(crate) fn round_trip(microseconds: u64) -> String {
    let whole = microseconds / 1_000;
    match microseconds {
        0..10_000 => format!("{whole}.{:02} ms", microseconds % 1_000 / 10),
        10_000..100_000 => format!("{whole}.{} ms", microseconds % 1_000 / 100),
        _ => format!("{whole} ms"),
    }
}

/// `512 B`, `1.4 KiB`, `20 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1_024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1_024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
    } else {
        format!("{} {}", tenths / 10, units[unit])
    }
}

/// `direct 192.0.2.1:7755`, `tls 192.0.2.1:443`, `relayed by n3`, `-`.
pub(crate) fn path(path: &Path) -> String {
    match (path.kind, &path.relay, path.endpoint) {
        (PathKind::Direct, _, Some(endpoint)) => format!("direct {endpoint}"),
        (PathKind::Direct, _, None) => "direct".into(),
        (PathKind::Tls, _, Some(endpoint)) => format!("tls {endpoint}"),
        (PathKind::Tls, _, None) => "tls".into(),
        (PathKind::Relayed, Some(relay), _) => format!("relayed by {}", node(relay)),
        (PathKind::Relayed, None, Some(endpoint)) => format!("relayed by {endpoint}"),
        (PathKind::Relayed, None, None) => "relayed".into(),
        (PathKind::None, ..) => "-".into(),
    }
}

/// The word for a state.
pub(crate) fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Up => "up",
        PeerState::Connecting => "connecting",
        PeerState::Down => "down",
    }
}

/// The name of a node, or the beginning of its id.
pub(crate) fn node(node: &NodeRef) -> String {
    name(node.name.as_deref(), &node.id)
}

/// `name`, or the beginning of `id` where there is none.
pub(crate) fn name(name: Option<&str>, id: &str) -> String {
    match name {
        Some(name) => name.to_owned(),
        None => short(id),
    }
}

/// The beginning of an id or a key, enough to tell it from the others.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(10).collect()
}

/// `member,worker`, or `-`.
pub(crate) fn roles(roles: &[Role]) -> String {
    list(roles.iter().map(|role| role.as_str()))
}

/// Comma-separated, or `-` for nothing.
pub(crate) fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    or_dash(text)
}

/// One per line.
pub(crate) fn lines<T: ToString>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items {
        text.push_str(&item.to_string());
        text.push('\n');
    }
    text
}

/// `text`, or `-` for nothing.
pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// `text` without the characters that would move a terminal's cursor or
/// change its colours: names and messages come from other machines.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_cannot_drive_the_terminal() {
        assert_eq!(clean("n2\u{1b}[31m\r\n\u{9b}x"), "n2\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}x");
    }

    #[test]
    fn times_and_sizes_have_one_unit() {
        for (milliseconds, text) in [
            (250, "250 ms"),
            (1_999, "1 s"),
            (119_000, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 d"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
        for (microseconds, text) in
            [(5, "0.00 ms"), (251, "0.25 ms"), (12_345, "12.3 ms"), (250_999, "250 ms")]
        {
            assert_eq!(round_trip(microseconds), text);
        }
        for (count, text) in [
            (1_023, "1023 B"),
            (1_434, "1.4 KiB"),
            (20 << 20, "20 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_time_that_is_not_over_is_in_the_future() {
        let now = Time::from_unix_ms(10_000_000);
        assert_eq!(until(Time::from_unix_ms(20_800_000), now), "in 3 h");
        assert_eq!(until(Time::from_unix_ms(4_000), now), "2 h ago");
        assert_eq!(ago(Time::from_unix_ms(20_000_000), now), "now");
    }
}
