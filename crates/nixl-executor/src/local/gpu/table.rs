//! Parameters of the copy kernel; see `kernels/README.md`.

use crate::local::plan::block_copy::{BlockCopy, BlockSide, Piece};

/// The kernel's parameter: laid out as C does, every field eight bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Parameter {
    pub(crate) length: u64,
    pub(crate) blocks: u64,
    pub(crate) pieces: u64,
    pub(crate) source: ParameterSide,
    pub(crate) destination: ParameterSide,
    pub(crate) offsets: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ParameterSide {
    pub(crate) base: u64,
    pub(crate) stride: u64,
    pub(crate) ids: u64,
}

/// Bytes of the table.
pub(crate) fn table_len(copy: &BlockCopy) -> usize {
    let ids = [&copy.src, &copy.dst].into_iter().filter_map(|side| side.ids.as_ref());
    size_of_val(offsets(copy)) + ids.map(|ids| size_of_val(&**ids)).sum::<usize>()
}

/// Writes the table into `bytes`, which are [`table_len`] and will be at `address`, a multiple of 16, for the kernel.
pub(crate) fn write_table(copy: &BlockCopy, bytes: &mut [u8], address: u64) -> Parameter {
    let offsets = offsets(copy);
    let (head, mut rest) = bytes.split_at_mut(size_of_val(offsets).min(bytes.len()));
    write_words(
        head,
        offsets.iter().flat_map(|piece| [piece.src, piece.dst]).map(u64::to_ne_bytes),
    );
    let mut at = address + head.len() as u64;
    let mut side = |side: &BlockSide| {
        let Some(ids) = &side.ids else {
            return ParameterSide { base: side.base, stride: side.stride, ids: 0 };
        };
        let (here, after) = std::mem::take(&mut rest).split_at_mut(size_of_val(&**ids));
        write_words(here, ids.iter().map(|id| id.to_ne_bytes()));
        rest = after;
        let written = ParameterSide { base: side.base, stride: side.stride, ids: at };
        at += here.len() as u64;
        written
    };
    Parameter {
        length: copy.len,
        blocks: copy.blocks as u64,
        pieces: copy.pieces.len() as u64,
        source: side(&copy.src),
        destination: side(&copy.dst),
        offsets: if offsets.is_empty() { 0 } else { address },
    }
}

/// The widest access, up to 16 bytes, for which every address is aligned and a chunk has room.
pub(crate) fn width(copy: &BlockCopy) -> u32 {
    let offsets = copy.pieces.iter().fold(0, |all, piece| all | piece.src | piece.dst);
    let side = |side: &BlockSide| match copy.blocks {
        1 => side.block(0),
        _ => side.base | side.stride,
    };
    let all = offsets | side(&copy.src) | side(&copy.dst);
    1 << all.trailing_zeros().min(copy.len.max(1).ilog2()).min(4)
}

/// The kernel's parameter for the chunks: null if a block is one chunk at its start.
fn offsets(copy: &BlockCopy) -> &[Piece] {
    match &copy.pieces[..] {
        [Piece { src: 0, dst: 0 }] => &[],
        pieces => pieces,
    }
}

fn write_words<const N: usize>(bytes: &mut [u8], words: impl Iterator<Item = [u8; N]>) {
    for (slot, word) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(words) {
        *slot = word;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local::plan::block_copy::tests::{copies, places};
    use crate::local::plan::boundaries::AllocationBoundaries;

    /// What the kernel would copy, piece by piece.
    fn walk(parameter: &Parameter, table: &[u8], address: u64) -> Vec<(u64, u64)> {
        fn read<const N: usize>(table: &[u8], at: u64) -> [u8; N] {
            table[at as usize..][..N].try_into().unwrap()
        }
        let begin = |side: &ParameterSide, block: u64| {
            let id = match side.ids {
                0 => block,
                ids => u32::from_ne_bytes(read(table, ids - address + 4 * block)).into(),
            };
            side.base + id * side.stride
        };
        let mut places = Vec::new();
        for index in 0..parameter.blocks * parameter.pieces {
            let (block, piece) = (index / parameter.pieces, index % parameter.pieces);
            let offset = |field: u64| match parameter.offsets {
                0 => 0,
                all => u64::from_ne_bytes(read(table, all - address + 16 * piece + field)),
            };
            places.push((
                begin(&parameter.source, block).wrapping_add(offset(0)),
                begin(&parameter.destination, block).wrapping_add(offset(8)),
            ));
        }
        places
    }

    proptest! {
        #[test]
        fn the_kernel_sees_the_same_addresses(copy in copies(), shift in 0..5u32) {
            let scaled = |n: u64| n << shift;
            let mut copy = copy;
            copy.len = scaled(copy.len);
            for side in [&mut copy.src, &mut copy.dst] {
                (side.base, side.stride) = (scaled(side.base), scaled(side.stride));
            }
            for piece in &mut copy.pieces {
                (piece.src, piece.dst) = (scaled(piece.src), scaled(piece.dst));
            }
            let address = 1 << 47;
            let mut table = vec![0xEE; table_len(&copy)];
            let parameter = write_table(&copy, &mut table, address);
            let expected = places(&copy, false);
            let width = u64::from(width(&copy));
            prop_assert!(width >= 1 << shift.min(4) && width <= copy.len);
            prop_assert!(expected.iter().all(|(src, dst)| src % width == 0 && dst % width == 0));
            prop_assert_eq!(walk(&parameter, &table, address), expected);
            prop_assert_eq!((parameter.length, parameter.offsets % 16), (copy.len, 0));
        }
    }

    #[test]
    fn blocks_of_one_piece_need_ids_only() {
        let side = |base| BlockSide { base, stride: 8192, ids: Some([5, 2, 9].into()) };
        let copy = BlockCopy {
            blocks: 3,
            src: side(4096),
            dst: side(1 << 40),
            pieces: vec![Piece { src: 0, dst: 0 }],
            len: 4096,
            boundaries: AllocationBoundaries::default(),
        };
        assert_eq!((table_len(&copy), width(&copy)), (24, 16));
    }
}
