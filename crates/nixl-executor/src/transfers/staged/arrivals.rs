//! The chunks that have arrived, each of which comes once.

use nixl_ops::TransportError;

use crate::sessions::violated;

/// One bit for each chunk.
pub(super) struct Arrivals {
    of: u64,
    bits: Vec<u64>,
    count: u64,
}

impl Arrivals {
    /// None of so many.
    pub(super) fn new(of: u64) -> Self {
        let words = usize::try_from(of.div_ceil(64)).unwrap_or(0);
        Self { of, bits: vec![0; words], count: 0 }
    }

    /// Checks that a chunk may arrive.
    ///
    /// # Errors
    ///
    /// There is no such chunk, or it has arrived.
    pub(super) fn check(&self, chunk: u64) -> Result<(), TransportError> {
        let (word, bit) = place(chunk);
        match self.bits.get(word).filter(|_| chunk < self.of) {
            None => Err(violated(format!("chunk {chunk} of {}", self.of))),
            Some(bits) if bits & bit != 0 => Err(violated(format!("chunk {chunk} twice"))),
            Some(_) => Ok(()),
        }
    }

    /// A chunk that [may](Self::check) has arrived.
    pub(super) fn note(&mut self, chunk: u64) {
        let (word, bit) = place(chunk);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= bit;
            self.count += 1;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn are_all(&self) -> bool {
        self.count == self.of
    }
}

fn place(chunk: u64) -> (usize, u64) {
    (usize::try_from(chunk / 64).unwrap_or(usize::MAX), 1 << (chunk % 64))
}
