//! What the copy kernel is told: block ids where the addresses are regular, else the addresses themselves.

use super::host_copy::cut;
use super::plan::CopyOp;

/// The pieces of a kernel launch, all of the same length.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Table {
    /// Bytes of a piece.
    pub(crate) length: u64,
    /// How many there are.
    pub(crate) count: u64,
    pub(crate) form: Form,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// Piece `i` is at `base + ids[i] * stride`, on each side.
    Ids { src: Side, dst: Side },
    /// Address of the source and of the destination of each piece.
    Addresses(Vec<[u64; 2]>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Side {
    pub(crate) base: u64,
    pub(crate) stride: u64,
    pub(crate) ids: Vec<u32>,
}

impl Table {
    /// Cuts `ops` into pieces of `unit` bytes, which divides every length.
    pub(crate) fn new(ops: &[CopyOp], unit: u64) -> Self {
        if ops.iter().all(|op| op.len == unit) {
            return Self::of_pieces(ops, unit);
        }
        let pieces: Vec<_> = ops.iter().flat_map(|op| cut(*op, unit)).collect();
        Self::of_pieces(&pieces, unit)
    }

    fn of_pieces(pieces: &[CopyOp], length: u64) -> Self {
        let form = match (Side::of(pieces, |op| op.src), Side::of(pieces, |op| op.dst)) {
            (Some(src), Some(dst)) => Form::Ids { src, dst },
            _ => Form::Addresses(pieces.iter().map(|op| [op.src, op.dst]).collect()),
        };
        Self { length, count: pieces.len() as u64, form }
    }

    /// The widest access, up to 16 bytes, that every address allows.
    pub(crate) fn width(&self) -> u32 {
        let all = match &self.form {
            Form::Ids { src, dst } => {
                [src, dst].iter().fold(0, |all, side| all | side.base | side.stride)
            }
            Form::Addresses(addresses) => {
                addresses.iter().fold(0, |all, [src, dst]| all | src | dst)
            }
        };
        1 << all.trailing_zeros().min(4)
    }
}

impl Side {
    /// `None` if the distances are too irregular for 32-bit ids. The stride is the largest power of two that fits: found
    /// and applied without a division for each piece.
    fn of(pieces: &[CopyOp], address: impl Fn(&CopyOp) -> u64) -> Option<Self> {
        let base = pieces.iter().map(&address).min()?;
        let distances = || pieces.iter().map(|op| address(op) - base);
        let (all, furthest) =
            distances().fold((0, 0), |(all, furthest), d| (all | d, d.max(furthest)));
        let shift = if all == 0 { 0 } else { all.trailing_zeros() };
        if furthest >> shift > u64::from(u32::MAX) {
            return None;
        }
        let ids = distances().map(|distance| (distance >> shift) as u32).collect();
        let stride = if all == 0 { 0 } else { 1 << shift };
        Some(Self { base, stride, ids })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(table: &Table) -> Vec<[u64; 2]> {
        match &table.form {
            Form::Ids { src, dst } => src
                .ids
                .iter()
                .zip(&dst.ids)
                .map(|(s, d)| {
                    [src.base + u64::from(*s) * src.stride, dst.base + u64::from(*d) * dst.stride]
                })
                .collect(),
            Form::Addresses(addresses) => addresses.clone(),
        }
    }

    proptest! {
        #[test]
        fn the_kernel_sees_the_same_addresses(
            unit in 1u64..64,
            ops in proptest::collection::vec((any::<u32>(), any::<u64>(), 1u64..5), 1..40),
            far in any::<bool>(),
        ) {
            let ops: Vec<_> = ops
                .into_iter()
                .map(|(src, dst, pieces)| CopyOp {
                    src: u64::from(src) * unit,
                    dst: if far { dst >> 8 } else { dst % 10_000 },
                    len: pieces * unit,
                })
                .collect();
            let table = Table::new(&ops, unit);
            let expected: Vec<_> = ops
                .iter()
                .flat_map(|op| cut(*op, unit))
                .map(|op| [op.src, op.dst])
                .collect();
            prop_assert_eq!(table.count as usize, expected.len());
            let width = u64::from(table.width());
            prop_assert!(expected.iter().flatten().all(|a| a % width == 0));
            prop_assert_eq!(addresses(&table), expected);
        }
    }

    #[test]
    fn blocks_of_a_pool_need_ids_only() {
        let ops: Vec<_> =
            [5u64, 2, 9].map(|b| CopyOp { src: 4096 + b * 8192, dst: 1 << 40, len: 4096 }).to_vec();
        let table = Table::new(&ops[..2], 4096);
        assert!(matches!(table.form, Form::Ids { .. }));
        assert_eq!(table.width(), 16);
    }
}
