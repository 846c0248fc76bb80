//! Places of an operation's bytes on both sides.

use serde::{Deserialize, Serialize};

/// How an operation is laid out in the memory of its two sides.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "each measurement must handle each")]
pub enum Layout {
    /// One piece at the start of the memory.
    Contiguous {
        /// Its size.
        bytes: usize,
    },
    /// Equal pieces in an order of their own on each side, with gaps between them, so that no two can be merged.
    Scattered {
        /// How many.
        pieces: usize,
        /// Bytes of each.
        bytes: usize,
    },
}

/// One range of an operation: offsets into the memory of the two sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "it is these three numbers")]
pub struct Piece {
    /// Offset at the initiator.
    pub local: usize,
    /// Offset at the target.
    pub remote: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Layout {
    /// The pieces, in the order of the operation's descriptors.
    pub fn pieces(self) -> Vec<Piece> {
        match self {
            Self::Contiguous { bytes } => vec![Piece { local: 0, remote: 0, len: bytes }],
            Self::Scattered { pieces, bytes } => (0..pieces)
                .map(|index| Piece {
                    local: 2 * bytes * shuffled(index, 29, pieces),
                    remote: 2 * bytes * shuffled(index, 37, pieces),
                    len: bytes,
                })
                .collect(),
        }
    }

    /// How many descriptors it has.
    pub fn batch(self) -> usize {
        match self {
            Self::Contiguous { .. } => 1,
            Self::Scattered { pieces, .. } => pieces,
        }
    }

    /// Bytes of each descriptor.
    pub fn piece_bytes(self) -> usize {
        match self {
            Self::Contiguous { bytes } | Self::Scattered { bytes, .. } => bytes,
        }
    }

    /// How much memory each side needs for it.
    pub fn span(self) -> usize {
        match self {
            Self::Contiguous { bytes } => bytes,
            Self::Scattered { pieces, bytes } => 2 * pieces * bytes,
        }
    }
}

/// A permutation of `0..count`, since `step` is prime and larger than any of `count`'s factors that it could share.
fn shuffled(index: usize, step: usize, count: usize) -> usize {
    if count.is_multiple_of(step) { index } else { (index * step) % count }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn scattered_pieces_are_apart_and_inside_on_both_sides(pieces in 1usize..400, bytes in 1usize..5000) {
            let layout = Layout::Scattered { pieces, bytes };
            prop_assert_eq!(layout.pieces().len(), layout.batch());
            for side in [|p: &Piece| p.local, |p: &Piece| p.remote] {
                let mut starts: Vec<usize> = layout.pieces().iter().map(side).collect();
                starts.sort_unstable();
                prop_assert!(starts.windows(2).all(|pair| pair[0] + bytes < pair[1]));
                prop_assert!(starts.last().unwrap() + bytes <= layout.span());
            }
        }
    }
}
