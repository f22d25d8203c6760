//! Which counters were seen (RFC 6479).

const WORD: u64 = 64;
const WORDS: usize = 256;

/// How far behind the newest a packet may come: 16 320 packets, as far as a
/// link of 10 Gbit/s gets in 20 ms. (Linux takes 8 128, boringtun 1 024.)
pub(super) const DEPTH: u64 = WORD * (WORDS as u64 - 1);

/// The counters of the newest [`DEPTH`] packets that were seen.
pub(super) struct Window {
    /// One more than the highest counter that was seen.
    next: u64,
    words: [u64; WORDS],
}

impl Window {
    pub(super) fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    fn place(counter: u64) -> (usize, u64) {
        ((counter / WORD) as usize % WORDS, 1 << (counter % WORD))
    }

    /// Whether a packet with this counter would be taken: it is not too old,
    /// and was not seen.
    pub(super) fn admits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let (word, bit) = Self::place(counter);
        self.next - counter <= DEPTH && self.words[word] & bit == 0
    }

    /// Notes a counter, which [`Self::admits`] has admitted and whose packet is
    /// authentic.
    pub(super) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            // The words between the newest and this one are of older counters.
            let newest = self.next.saturating_sub(1) / WORD;
            let skipped = (counter / WORD - newest).min(WORDS as u64);
            for word in 1..=skipped {
                self.words[(newest + word) as usize % WORDS] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = Self::place(counter);
        self.words[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn take(window: &mut Window, counter: u64) -> bool {
        let admitted = window.admits(counter);
        if admitted {
            window.mark(counter);
        }
        admitted
    }

    #[test]
    fn packets_that_others_overtook_by_sixteen_thousand_are_not_lost() {
        let mut window = Window::new();
        let overtaken = 8_000_u64;
        for block in 0..20 {
            let first = block * 2 * overtaken;
            for counter in
                (first + overtaken..first + 2 * overtaken).chain(first..first + overtaken)
            {
                assert!(take(&mut window, counter), "{counter}");
            }
            for counter in first..first + 2 * overtaken {
                assert!(!take(&mut window, counter), "{counter} again");
            }
        }
    }

    #[test]
    fn the_ends_of_the_window_are_exact() {
        for newest in [DEPTH, DEPTH + 17, 1 << 40, u64::MAX - 5] {
            let mut window = Window::new();
            assert!(take(&mut window, newest));
            assert!(!window.admits(newest));
            assert!(window.admits(newest + 1 - DEPTH));
            assert!(!window.admits(newest - DEPTH));
        }
    }

    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            8 => -70_i64..70,
            4 => -20_000_i64..20_000,
            1 => Just(0),
            1 => 0_i64..1 << 50,
        ];
        proptest::collection::vec(step, 0..400).prop_map(|steps| {
            let mut at = 0_u64;
            steps
                .into_iter()
                .map(|step| {
                    at = at.saturating_add_signed(step);
                    at
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn it_takes_each_counter_once_unless_it_is_too_old(counters in counters()) {
            let (mut window, mut seen, mut next) = (Window::new(), BTreeSet::new(), 0);
            for counter in counters {
                let fresh = counter >= next || next - counter <= DEPTH;
                let expected = fresh && seen.insert(counter);
                prop_assert_eq!(take(&mut window, counter), expected, "{}", counter);
                next = next.max(if expected { counter + 1 } else { 0 });
            }
        }
    }
}
