//! Random numbers for tickets, taken from the system in batches.

use std::io;

use nixl_device::fill_random;

/// Unused tokens. Each costs a sixteenth of a system call.
#[derive(Default)]
pub(super) struct Tokens {
    bytes: Vec<u8>,
}

impl Tokens {
    /// The system returns this many bytes in one call.
    const BYTES: usize = 256;

    pub(super) fn next(&mut self) -> io::Result<[u8; 16]> {
        if let Some(token) = self.take() {
            return Ok(token);
        }
        self.bytes.resize(Self::BYTES, 0);
        if let Err(error) = fill_random(&mut self.bytes) {
            self.bytes.clear();
            return Err(error);
        }
        self.take().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn take(&mut self) -> Option<[u8; 16]> {
        let token = *self.bytes.last_chunk()?;
        self.bytes.truncate(self.bytes.len() - token.len());
        Some(token)
    }
}

/// Whether both are equal, in constant time.
pub(super) fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b) == 0
}
