//! Number and order of the measured operations.

use crate::cases::Effort;

/// Rounds before the first that counts.
pub(crate) const WARM_UP: usize = 2;

/// Rounds of reads of so many blocks that count.
pub(crate) fn rounds(effort: Effort, blocks: usize) -> usize {
    match blocks {
        0..=1 => effort.pick(20, 150),
        2..=16 => effort.pick(8, 40),
        17..=64 => effort.pick(5, 15),
        _ => effort.pick(3, 7),
    }
}

/// The turns of a round: each engine once, another one first each time, so that a drift of the machine meets all alike.
pub(crate) fn turns<T: Copy>(all: &[T], round: usize) -> impl Iterator<Item = T> {
    (0..all.len()).map(move |turn| all[(round + turn) % all.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_first_in_turn() {
        let round = |round| turns(&[1, 2, 3], round).collect::<Vec<_>>();
        assert_eq!([round(0), round(1), round(5)], [vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2]]);
    }
}
