//! Block ids in ascending order, quickly: they are small numbers, and there may be tens of thousands.

/// Sorts pairs by their second number, each below `bound`; of pairs with the same second number one is kept.
pub(super) fn by_second(mut pairs: Vec<(usize, usize)>, bound: usize) -> Vec<(usize, usize)> {
    /// Fewer are sorted by comparing, and so are those that a table would hold too thinly.
    const FEW: usize = 256;
    const THIN: usize = 32;
    if pairs.is_sorted_by(|a, b| a.1 < b.1) {
        return pairs;
    }
    if pairs.len() < FEW || bound / THIN > pairs.len() {
        pairs.sort_unstable_by_key(|&(_, second)| second);
        pairs.dedup_by_key(|&mut (_, second)| second);
        return pairs;
    }
    let mut table = vec![usize::MAX; bound];
    for &(first, second) in &pairs {
        table[second] = first;
    }
    pairs.clear();
    let there = |(second, first): (usize, usize)| (first != usize::MAX).then_some((first, second));
    pairs.extend(table.into_iter().enumerate().filter_map(there));
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_if_sorted_by_comparing(
            seconds in proptest::collection::vec(0usize..3000, 0..900), spread in 1usize..200,
        ) {
            let pairs: Vec<_> = seconds.iter().map(|s| (s * 7, s * spread)).collect();
            let mut expected = pairs.clone();
            expected.sort_unstable_by_key(|pair| pair.1);
            expected.dedup();
            prop_assert_eq!(by_second(pairs, 3000 * spread), expected);
        }
    }
}
