//! The memory of one side of a transfer.

use std::ops::Range;

use anyhow::{Context as _, Result};
use nixl_descriptor::{DescriptorList, Region};
use nixl_executor::MemoryKind;

use super::memory::{Memory, kind};
use super::messages::Offer;
use crate::contents::{Contents, Piece, windows};
use crate::gpus::Gpus;
use crate::pattern::{CHUNK, Pattern};

/// One allocation. What it holds at an offset depends on the offset and on the iteration.
pub(crate) struct Buffer {
    pub(crate) region: Region,
    pub(crate) memory: Memory,
}

impl Buffer {
    /// Allocates it, and writes every byte once.
    pub(crate) fn new(gpus: &Gpus, memory: Memory, bytes: usize) -> Result<Self> {
        let region = match memory {
            Memory::Shared => shared(gpus, bytes)
                .with_context(|| format!("cannot allocate {bytes} bytes of {memory}"))?,
            _ => memory.allocate(bytes)?,
        };
        let buffer = Self { region, memory };
        buffer.poison(gpus, bytes)?;
        Ok(buffer)
    }

    /// Writes the pattern into the first `bytes`.
    pub(crate) fn fill(&self, gpus: &Gpus, bytes: usize, pattern: Pattern) -> Result<()> {
        self.write(gpus, bytes, Some(pattern))
    }

    /// Makes the first `bytes` wrong.
    pub(crate) fn poison(&self, gpus: &Gpus, bytes: usize) -> Result<()> {
        match self.memory {
            Memory::Host | Memory::Shared => self.write(gpus, bytes, None),
            _ => self.contents(gpus).poison_by_gpu(0..bytes),
        }
    }

    /// Whether the first `bytes` are the pattern's.
    pub(crate) fn matches(&self, gpus: &Gpus, bytes: usize, pattern: Pattern) -> Result<bool> {
        let contents = self.contents(gpus);
        for window in windows(0..bytes) {
            if contents.first_wrong(&window, &pieces(&window, Some(pattern)))?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the operations of an offer move.
    pub(crate) fn lists(&self, offer: &Offer) -> Result<Vec<DescriptorList>> {
        let list = |range| anyhow::Ok(self.region.descriptor(range)?.into());
        offer.operations().into_iter().map(list).collect()
    }

    fn write(&self, gpus: &Gpus, bytes: usize, pattern: Option<Pattern>) -> Result<()> {
        let contents = self.contents(gpus);
        windows(0..bytes).try_for_each(|window| contents.fill(&window, &pieces(&window, pattern)))
    }

    fn contents<'a>(&'a self, gpus: &'a Gpus) -> Contents<'a> {
        Contents { gpus, kind: kind(self.memory), region: &self.region }
    }
}

/// Pinned where there are GPUs.
fn shared(gpus: &Gpus, bytes: usize) -> Result<Region> {
    Ok(match gpus.count() {
        0 => Region::shared(bytes)?,
        _ => Region::shared_pinned(&gpus.of(MemoryKind::Pinned)?.context, bytes)?,
    })
}

fn pieces(window: &Range<usize>, pattern: Option<Pattern>) -> Vec<Piece> {
    let piece = |start: usize| {
        let len = CHUNK.min(window.end - start);
        Piece { at: start - window.start, len, address: start, pattern }
    };
    window.clone().step_by(CHUNK).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gpus::WINDOW;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_wrong_byte_is_found(bytes in 1usize..200_000, at: prop::sample::Index, change in 1u8.., seed: u64) {
            let gpus = Gpus::open(0).unwrap();
            let buffer = Buffer::new(&gpus, Memory::Host, bytes + 1).unwrap();
            let pattern = Pattern::new(seed);
            buffer.fill(&gpus, bytes, pattern).unwrap();
            prop_assert!(buffer.matches(&gpus, bytes, pattern).unwrap());
            prop_assert!(!buffer.matches(&gpus, bytes, Pattern::new(seed ^ 1)).unwrap());
            let mut byte = [0];
            buffer.region.copy_to_slice(at.index(bytes), &mut byte).unwrap();
            byte[0] ^= change;
            buffer.region.copy_from_slice(at.index(bytes), &byte).unwrap();
            prop_assert!(!buffer.matches(&gpus, bytes, pattern).unwrap());
        }
    }

    #[test]
    fn poison_and_pattern_end_where_they_are_told() {
        let gpus = Gpus::open(0).unwrap();
        let bytes = WINDOW + CHUNK;
        let buffer = Buffer::new(&gpus, Memory::Host, bytes).unwrap();
        let pattern = Pattern::new(7);
        buffer.fill(&gpus, bytes, pattern).unwrap();
        assert!(buffer.matches(&gpus, bytes, pattern).unwrap());
        buffer.poison(&gpus, bytes - 1).unwrap();
        let mut last = [0; 2];
        buffer.region.copy_to_slice(bytes - 2, &mut last).unwrap();
        assert_eq!(last[0], crate::gpus::POISON);
        buffer.fill(&gpus, bytes - 1, pattern).unwrap();
        assert!(buffer.matches(&gpus, bytes, pattern).unwrap());
    }
}
