//! Filling and checking the memory that is moved.

use anyhow::{Context as _, Result};
use nixl_descriptor::{Descriptor, DescriptorList, Region};

use nixl_benches::Piece;

use crate::pattern::{CHUNK, Pattern};

/// Which of the two sides this process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Initiator,
    Target,
}

/// One side's memory, which both engines use.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    side: Side,
    region: Region,
}

impl Memory {
    /// Allocates it and touches every page.
    pub(crate) fn new(side: Side, bytes: usize) -> Result<Self> {
        let region = Region::zeroed(bytes).context("cannot allocate the memory to move")?;
        touch(&region)?;
        Ok(Self { side, region })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Writes the pattern. Its addresses are the target's, on either side.
    pub(crate) fn fill(&self, pieces: &[Piece], pattern: Pattern) -> Result<()> {
        let mut chunk = [0; CHUNK];
        for (offset, address, len) in self.chunks(pieces) {
            pattern.fill(address, &mut chunk[..len]);
            self.region.copy_from_slice(offset, &chunk[..len])?;
        }
        Ok(())
    }

    /// Whether all bytes are the pattern's.
    pub(crate) fn matches(&self, pieces: &[Piece], pattern: Pattern) -> Result<bool> {
        let mut chunk = [0; CHUNK];
        for (offset, address, len) in self.chunks(pieces) {
            self.region.copy_to_slice(offset, &mut chunk[..len])?;
            if !pattern.matches(address, &chunk[..len]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the connector moves.
    pub(crate) fn descriptors(&self, pieces: &[Piece]) -> Result<DescriptorList> {
        let descriptors: Vec<Descriptor> = pieces
            .iter()
            .map(|piece| {
                let offset = self.offset(piece);
                self.region.descriptor(offset..offset + piece.len)
            })
            .collect::<Result<_, _>>()?;
        Ok(DescriptorList::try_from(descriptors)?)
    }

    fn offset(&self, piece: &Piece) -> usize {
        match self.side {
            Side::Initiator => piece.local,
            Side::Target => piece.remote,
        }
    }

    /// Offset here, address in the pattern, length.
    fn chunks(&self, pieces: &[Piece]) -> impl Iterator<Item = (usize, usize, usize)> {
        pieces.iter().flat_map(|piece| {
            let offset = self.offset(piece);
            (0..piece.len)
                .step_by(CHUNK)
                .map(move |at| (offset + at, piece.remote + at, CHUNK.min(piece.len - at)))
        })
    }
}

/// Makes the system provide every page of a region.
pub(crate) fn touch(region: &Region) -> Result<()> {
    let zeros = [0; CHUNK];
    for offset in (0..region.len()).step_by(CHUNK) {
        region.copy_from_slice(offset, &zeros[..CHUNK.min(region.len() - offset)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nixl_benches::Layout;

    use super::*;

    #[test]
    fn both_sides_hold_the_same_bytes_at_their_own_offsets() {
        let layout = Layout::Scattered { pieces: 8, bytes: 4096 };
        let pieces = layout.pieces();
        let [here, there] =
            [Side::Initiator, Side::Target].map(|side| Memory::new(side, layout.span()).unwrap());
        let pattern = Pattern::new(5);
        for side in [&here, &there] {
            side.fill(&pieces, pattern).unwrap();
            assert!(side.matches(&pieces, pattern).unwrap());
            assert!(!side.matches(&pieces, Pattern::new(6)).unwrap());
        }
        for piece in &pieces {
            let (mut ours, mut theirs) = ([0; 4096], [0; 4096]);
            here.region().copy_to_slice(piece.local, &mut ours).unwrap();
            there.region().copy_to_slice(piece.remote, &mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn poison_matches_nowhere() {
        let pieces = Layout::Contiguous { bytes: 3 * CHUNK + 8 }.pieces();
        let memory = Memory::new(Side::Target, 4 * CHUNK).unwrap();
        memory.fill(&pieces, Pattern::new(1).poison()).unwrap();
        assert!(!memory.matches(&pieces, Pattern::new(1)).unwrap());
    }
}
