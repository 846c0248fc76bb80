//! The checksum of leased host memory, computed in turns.

use nixl_descriptor::{DescriptorList, LeaseUse, Leased, copy_range_to_slice};
use nixl_device::SharedError;
use nixl_metadata::Checksum;
use nixl_ops::TransportError;
use xxhash_rust::xxh3::Xxh3;

/// A running computation of a checksum. The memory stays leased until the drop.
pub(super) struct Sum {
    list: DescriptorList,
    held: LeaseUse,
    hasher: Xxh3,
    /// A copy of the bytes to hash next: peers' engines may change the memory itself at any time.
    piece: Vec<u8>,
    /// The current descriptor, and its bytes read so far.
    index: usize,
    offset: usize,
}

impl Sum {
    /// The bytes of one copy; the hash then reads them from the processor's cache.
    const PIECE: usize = 64 << 10;
    /// Pieces of one turn: about a millisecond.
    const TURN: usize = 128;
    /// The longest list that is summed in one turn on an async thread.
    const SHORT: usize = 64;

    /// The sum of leased host memory that no other part of the operation uses.
    pub(super) fn new(list: DescriptorList, leased: &Leased) -> Result<Self, TransportError> {
        let held = leased.begin_use().map_err(failed)?;
        let most = usize::try_from(list.total_bytes()).unwrap_or(usize::MAX);
        let piece = vec![0; most.min(Self::PIECE)];
        Ok(Self { list, held, hasher: Xxh3::new(), piece, index: 0, offset: 0 })
    }

    /// Whether the sum takes microseconds.
    pub(super) fn is_short(list: &DescriptorList) -> bool {
        list.total_bytes() <= Self::PIECE as u64 && list.len() <= Self::SHORT
    }

    /// Runs one turn. Returns the checksum after the last.
    pub(super) fn turn(&mut self) -> Result<Option<Checksum>, TransportError> {
        for _ in 0..Self::TURN {
            let Some(descriptor) = self.list.as_slice().get(self.index) else {
                return Ok(Some(Checksum::xxh3(self.hasher.digest())));
            };
            let len = self.piece.len().min(descriptor.len() - self.offset);
            let Some(piece) = self.piece.get_mut(..len) else { break };
            copy_range_to_slice(descriptor, self.offset, piece, &[&self.held]).map_err(failed)?;
            self.hasher.update(piece);
            self.offset += len;
            if self.offset == descriptor.len() {
                (self.index, self.offset) = (self.index + 1, 0);
            }
        }
        Ok(None)
    }

    /// Runs all remaining turns.
    pub(super) fn finish(mut self) -> Result<Checksum, TransportError> {
        loop {
            if let Some(checksum) = self.turn()? {
                return Ok(checksum);
            }
        }
    }
}

fn failed(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "checksum", call: "read memory", reason: error.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use nixl_descriptor::{Descriptor, LeaseMode, Leases, Region};
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn sum(list: &DescriptorList, mode: LeaseMode) -> Checksum {
        let leased = Leases::acquire_list(list.clone(), mode).unwrap();
        Sum::new(list.clone(), &leased).unwrap().finish().unwrap()
    }

    /// The bytes in one region for each cut, between bytes that do not count.
    fn list(bytes: &[u8], cuts: &[usize]) -> DescriptorList {
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut % bytes.len()).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        let mut descriptors: Vec<Descriptor> = Vec::new();
        for end in ends {
            if end > start {
                let padded = [&[0xee; 3], &bytes[start..end], &[0xee; 5]].concat();
                let region = Region::try_from(padded).unwrap();
                descriptors.push(region.descriptor(3..3 + end - start).unwrap());
                start = end;
            }
        }
        DescriptorList::try_from(descriptors).unwrap()
    }

    proptest! {
        #[test]
        fn a_list_has_the_checksum_of_its_bytes_wherever_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 1..3000),
            cuts in proptest::collection::vec(any::<usize>(), 0..200),
            others in proptest::collection::vec(any::<usize>(), 0..4),
        ) {
            let checksum = Checksum::xxh3(xxh3_64(&bytes));
            prop_assert_eq!(sum(&list(&bytes, &cuts), LeaseMode::Read), checksum);
            prop_assert_eq!(sum(&list(&bytes, &others), LeaseMode::Write), checksum);
        }
    }

    #[test]
    fn long_descriptors_are_summed_in_several_turns() {
        let bytes: Vec<_> = (0..Sum::PIECE * Sum::TURN + 12_345).map(|i| (i % 251) as u8).collect();
        let list = list(&bytes, &[7, Sum::PIECE, 3 * Sum::PIECE + 1]);
        assert!(!Sum::is_short(&list));
        let leased = Leases::acquire_list(list.clone(), LeaseMode::Write).unwrap();
        let mut sum = Sum::new(list, &leased).unwrap();
        assert_eq!(sum.turn(), Ok(None));
        assert_eq!(sum.turn(), Ok(Some(Checksum::xxh3(xxh3_64(&bytes)))));
    }

    #[test]
    fn memory_that_another_part_of_the_operation_writes_is_not_summed() {
        let list = list(&[1; 100], &[]);
        let leased = Leases::acquire_list(list.clone(), LeaseMode::Write).unwrap();
        let _writes = leased.begin_use().unwrap();
        assert!(Sum::new(list, &leased).is_err());
    }
}
