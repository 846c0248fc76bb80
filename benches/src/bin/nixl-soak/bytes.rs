//! Choices and bytes that all processes make again from a seed.

use std::sync::OnceLock;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least `from`, below `to`, which is larger.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// A length up to `most`, as likely to be of one power of two as of another, and hardly ever one itself.
    pub(crate) fn length(&mut self, most: usize) -> usize {
        let bits = self.between(0, u64::from(most.max(1).ilog2()) + 1);
        let below = (2_u64 << bits).min(most as u64 + 1);
        usize::try_from(self.between(1, below)).unwrap_or(most)
    }
}

/// The longest pattern.
pub(crate) const LONGEST: usize = 8 << 20;
/// How many patterns there are.
const PATTERNS: usize = 1 << 16;

/// The bytes that belong to a seed, at most [`LONGEST`]. Those of two seeds differ nearly everywhere.
pub(crate) fn pattern(seed: u64, len: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut random = Random::new(1);
        let mut table = vec![0; LONGEST + PATTERNS];
        for word in table.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        table
    });
    let start = Random::new(seed).next() as usize % PATTERNS;
    &table[start..][..len]
}

/// How many bytes are not those that belong to the seed.
pub(crate) fn wrong(seed: u64, bytes: &[u8]) -> u64 {
    let right = pattern(seed, bytes.len());
    if right == bytes {
        return 0;
    }
    right.iter().zip(bytes).filter(|(right, found)| right != found).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_seen_wherever_it_is() {
        let mut bytes = pattern(5, 1000).to_vec();
        assert_eq!(wrong(5, &bytes), 0);
        bytes[999] ^= 1;
        assert_eq!(wrong(5, &bytes), 1);
        assert!(wrong(6, pattern(5, 1000)) > 900);
        assert_eq!(pattern(7, LONGEST).len(), LONGEST);
    }

    #[test]
    fn lengths_are_of_all_magnitudes_and_within_bounds() {
        let mut random = Random::new(3);
        let lengths: Vec<_> = (0..1000).map(|_| random.length(1 << 20)).collect();
        assert!(lengths.iter().all(|&len| (1..=1 << 20).contains(&len)));
        for decade in [100, 10_000, 1_000_000] {
            assert!(lengths.iter().any(|&len| len > decade / 10 && len < decade), "{decade}");
        }
        assert_eq!(Random::new(3).length(1), 1);
    }
}
