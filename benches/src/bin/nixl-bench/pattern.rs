//! The bytes of an iteration: each 64-bit number depends on its address and on the iteration.

/// Bytes that are generated, or checked, at a time.
pub(crate) const CHUNK: usize = 32 * 1024;

const WORD: usize = size_of::<u64>();

/// The contents of memory in one iteration of one engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pattern {
    seed: u64,
    /// All ones for the complement.
    flip: u64,
}

impl Pattern {
    /// The pattern of an iteration. Different seeds give unrelated patterns.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed: mix(seed), flip: 0 }
    }

    /// The pattern of which no byte is right: what a destination holds before the bytes arrive.
    pub(crate) fn poison(self) -> Self {
        Self { flip: !self.flip, ..self }
    }

    /// Fills `bytes`, the first of which is at `address`, a multiple of eight.
    pub(crate) fn fill(self, address: usize, bytes: &mut [u8]) {
        for (index, word) in bytes.chunks_mut(WORD).enumerate() {
            let value = self.word(address + index * WORD).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }

    /// Whether `bytes`, the first of which is at `address`, are all as [`fill`](Self::fill) made them.
    pub(crate) fn matches(self, address: usize, bytes: &[u8]) -> bool {
        let (words, rest) = bytes.as_chunks::<WORD>();
        // No early exit, so that the loop stays tight; a difference is the exception.
        let differing = words.iter().enumerate().fold(0, |seen, (index, word)| {
            seen | (u64::from_le_bytes(*word) ^ self.word(address + index * WORD))
        });
        let last = self.word(address + words.len() * WORD).to_le_bytes();
        differing == 0 && last.starts_with(rest)
    }

    fn word(self, address: usize) -> u64 {
        mix(self.seed.wrapping_add(address as u64)) ^ self.flip
    }
}

/// Spreads every bit of the input over the output, and back again: no two inputs meet.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(pattern: Pattern, address: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        pattern.fill(address, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn what_was_filled_matches(seed: u64, address in 0usize..1000, len in 0usize..500) {
            let pattern = Pattern::new(seed);
            prop_assert!(pattern.matches(address * 8, &filled(pattern, address * 8, len)));
        }

        #[test]
        fn any_changed_byte_is_found(seed: u64, len in 1usize..300, at: prop::sample::Index, change in 1u8..) {
            let pattern = Pattern::new(seed);
            let mut bytes = filled(pattern, 64, len);
            bytes[at.index(len)] ^= change;
            prop_assert!(!pattern.matches(64, &bytes));
        }

        #[test]
        fn parts_are_those_of_the_whole(seed: u64, cut in 0usize..32, len in 0usize..300) {
            let pattern = Pattern::new(seed);
            let len = len.max(cut * 8);
            let whole = filled(pattern, 0, len);
            prop_assert_eq!(&whole[cut * 8..], &filled(pattern, cut * 8, len - cut * 8)[..]);
        }

        #[test]
        fn poison_is_wrong_in_every_byte(seed: u64, len in 1usize..300) {
            let pattern = Pattern::new(seed);
            let (right, wrong) = (filled(pattern, 8, len), filled(pattern.poison(), 8, len));
            prop_assert!(right.iter().zip(&wrong).all(|(r, w)| r != w));
        }

        #[test]
        fn iterations_and_addresses_differ(seed in 0..u64::MAX, address in 0usize..1 << 40) {
            let here = filled(Pattern::new(seed), address * 8, 8);
            prop_assert_ne!(&here, &filled(Pattern::new(seed + 1), address * 8, 8));
            prop_assert_ne!(&here, &filled(Pattern::new(seed), (address + 1) * 8, 8));
        }
    }
}
