//! Which peer an inner address belongs to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use epsilon_proto::prefix::{Prefix, mask_v4, mask_v6};

/// One family: for each length in use, longest first, the owners by the first
/// address. A mesh has few lengths, mostly one, so that a lookup is one
/// search in a tree.
struct Family<A, T>(Vec<(u8, BTreeMap<A, T>)>);

impl<A: Ord + Copy, T: Copy + Eq> Family<A, T> {
    fn owner(&self, masked: impl Fn(u8) -> A) -> Option<T> {
        self.0.iter().find_map(|(length, owners)| owners.get(&masked(*length)).copied())
    }

    fn set(&mut self, first: A, length: u8, owner: T) {
        let at = self.0.partition_point(|(other, _)| *other > length);
        if self.0.get(at).is_none_or(|(other, _)| *other != length) {
            self.0.insert(at, (length, BTreeMap::new()));
        }
        if let Some((_, owners)) = self.0.get_mut(at) {
            owners.insert(first, owner);
        }
    }

    fn remove_all_of(&mut self, owner: T) {
        for (_, owners) in &mut self.0 {
            owners.retain(|_, other| *other != owner);
        }
        self.0.retain(|(_, owners)| !owners.is_empty());
    }
}

/// Owners of prefixes, found by longest match.
pub(super) struct Routes<T> {
    v4: Family<u32, T>,
    v6: Family<u128, T>,
}

impl<T: Copy + Eq> Routes<T> {
    pub(super) fn new() -> Self {
        Self { v4: Family(Vec::new()), v6: Family(Vec::new()) }
    }

    /// The owner of the longest prefix around an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.v4.owner(|length| address.to_bits() & mask_v4(length)),
            IpAddr::V6(address) => self.v6.owner(|length| address.to_bits() & mask_v6(length)),
        }
    }

    /// Gives an owner a prefix, taking it from whoever had it.
    pub(super) fn set(&mut self, prefix: Prefix, owner: T) {
        match prefix.address() {
            IpAddr::V4(address) => self.v4.set(address.to_bits(), prefix.length(), owner),
            IpAddr::V6(address) => self.v6.set(address.to_bits(), prefix.length(), owner),
        }
    }

    /// Takes every prefix of an owner away.
    pub(super) fn remove_all_of(&mut self, owner: T) {
        self.v4.remove_all_of(owner);
        self.v6.remove_all_of(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_in_both_families() {
        let mut routes = Routes::new();
        for (text, owner) in
            [("10.0.0.0/8", 1), ("10.77.0.0/16", 2), ("10.77.3.4/32", 3), ("fd00::/8", 4)]
        {
            routes.set(prefix(text), owner);
        }
        routes.set(Prefix::host("fd00::7".parse::<IpAddr>().unwrap()), 5);
        for (address, owner) in [
            ("10.1.1.1", Some(1)),
            ("10.77.3.5", Some(2)),
            ("10.77.3.4", Some(3)),
            ("11.0.0.1", None),
            ("fd12::1", Some(4)),
            ("fd00::7", Some(5)),
            ("fe80::7", None),
        ] {
            assert_eq!(routes.owner(address.parse().unwrap()), owner, "{address}");
        }
    }

    #[test]
    fn a_prefix_given_to_another_is_not_taken_away_with_its_former_owner() {
        let mut routes = Routes::new();
        routes.set(prefix("10.77.3.4/32"), 1);
        routes.set(prefix("10.77.3.4/32"), 2);
        routes.remove_all_of(1);
        assert_eq!(routes.owner("10.77.3.4".parse().unwrap()), Some(2));
        routes.remove_all_of(2);
        assert_eq!(routes.owner("10.77.3.4".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_a_search_through_all_finds(
            given in proptest::collection::vec((any::<IpAddr>(), any::<u8>()), 0..24),
            near in 0usize..24,
            address: IpAddr,
        ) {
            let mut routes = Routes::new();
            let mut all = BTreeMap::new();
            for (owner, (address, length)) in given.iter().enumerate() {
                let prefix = Prefix::new(*address, *length);
                routes.set(prefix, owner);
                all.insert(prefix, owner);
            }
            let near = given.get(near).map(|(address, _)| *address);
            for address in near.into_iter().chain([address]) {
                let longest = all
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(address))
                    .max_by_key(|(prefix, _)| prefix.length())
                    .map(|(_, owner)| *owner);
                prop_assert_eq!(routes.owner(address), longest);
            }
        }
    }
}
