//! Local memory of the tests: a region for each descriptor, so that they are not neighbours.

use nixl_descriptor::{Descriptor, Region};
use nixl_tests::{crc32, pattern};

pub(crate) struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// Holds the pattern of the seed.
    pub(crate) fn source(sizes: &[usize], seed: u64) -> Self {
        Self::holding(sizes, &pattern(seed, sizes.iter().sum()))
    }

    /// Holds nothing that was ever sent.
    pub(crate) fn destination(sizes: &[usize]) -> Self {
        Self::holding(sizes, &vec![0xa5; sizes.iter().sum()])
    }

    fn holding(sizes: &[usize], mut bytes: &[u8]) -> Self {
        let mut regions = Vec::new();
        for &size in sizes {
            let (first, rest) = bytes.split_at(size);
            regions.push(Region::try_from(first.to_vec()).unwrap());
            bytes = rest;
        }
        Self { regions }
    }

    pub(crate) fn descriptors(&self) -> Vec<Descriptor> {
        self.regions.iter().map(Region::whole).collect()
    }

    /// The CRC-32 of the bytes, which must be those that a source of this seed holds.
    pub(crate) fn expect(&self, seed: u64) -> String {
        let copies: Vec<_> = self.regions.iter().map(|region| region.to_vec().unwrap()).collect();
        let (is, should) = (copies.concat(), pattern(seed, copies.iter().map(Vec::len).sum()));
        if is != should {
            let at = is.iter().zip(&should).position(|(is, should)| is != should);
            panic!("byte {at:?} of {} is wrong", is.len());
        }
        crc32(&is)
    }
}
