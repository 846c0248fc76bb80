//! Sizes of blocks.

/// Blocks of one size, and how many bytes a slab of them has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Class {
    /// Bytes of a block: whole pages.
    pub(super) block: usize,
    /// Bytes of a slab: whole blocks.
    pub(super) slab: usize,
}

impl Class {
    /// Blocks of no more than this share a slab: a file, a mapping, and a registration.
    const SHARED: usize = 1 << 20;
    /// Bytes of a slab of blocks up to 64 KiB, and of longer ones that share it.
    const SLABS: [usize; 2] = [4 << 20, 16 << 20];

    /// The smallest class for `len` bytes. `None` if no memory is as long.
    pub(super) fn of(len: usize) -> Option<Self> {
        let page = rustix::param::page_size();
        if len <= Self::SHARED {
            let block = len.max(page).next_power_of_two();
            let slab = Self::SLABS[usize::from(block > 64 << 10)];
            return Some(Self { block, slab: slab.max(block) });
        }
        // Four sizes for each power of two. What is not used of a block has no pages, unless an engine pins them.
        let step = (len.checked_next_power_of_two()? / 8).max(page);
        let block = len.checked_next_multiple_of(step).filter(|&block| block <= MAX)?;
        Some(Self { block, slab: block })
    }

    /// Number of blocks in a slab.
    pub(super) fn blocks(self) -> usize {
        self.slab / self.block
    }
}

/// What an allocation has at most.
const MAX: usize = isize::MAX.unsigned_abs();

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_what_is_asked_for_and_little_more() {
        let page = rustix::param::page_size();
        let mut lens = vec![1, 2, page - 1, page, page + 1, 3 * page, Class::SHARED];
        lens.extend((0..40).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1, 5 << bit]));
        for len in lens.into_iter().filter(|&len| len > 0) {
            let class = Class::of(len).unwrap();
            assert!(class.block >= len && class.block.is_multiple_of(page), "{len}: {class:?}");
            assert_eq!(class.slab, class.blocks() * class.block, "{len}: {class:?}");
            let most = if len <= Class::SHARED { 2 * len.max(page) } else { len + len / 4 + page };
            assert!(class.block <= most, "{len}: {class:?}");
        }
    }

    #[test]
    fn what_no_allocation_can_have_has_no_class() {
        for len in [usize::MAX, usize::MAX / 2 + 1, MAX] {
            assert_eq!(Class::of(len), None, "{len}");
        }
    }
}
