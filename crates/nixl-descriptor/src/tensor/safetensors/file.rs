//! The bytes of a file in memory of a region.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::error::{SafetensorsError, excerpt};
use super::header::{SafetensorsHeader, TensorEntry};
use crate::descriptor::Descriptor;
use crate::pool::BufferPool;
use crate::region::copy;
use crate::tensor::{Tensor, TensorError, TensorLayout};

/// A whole file of safetensors in memory, and its header. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SafetensorsFile {
    header: Arc<SafetensorsHeader>,
    memory: Descriptor,
}

impl SafetensorsFile {
    /// Reads a file into a buffer of the [pool](BufferPool), which peers on the host map. Blocks while it reads.
    ///
    /// # Errors
    /// [`SafetensorsError`]
    pub fn read(path: impl AsRef<Path>) -> Result<Self, SafetensorsError> {
        let mut file = File::open(path)?;
        let file_len = file.metadata()?.len();
        let given = usize::try_from(file_len).unwrap_or(usize::MAX);
        // The header is checked before memory for the file is taken.
        let (header, start) = read_header(&mut file, file_len)?;
        let memory = BufferPool::global().buffer(given)?.into();
        Self::fill(&mut file, header, &start, memory)
    }

    /// Reads a file into the first bytes of memory that the caller has, such as pinned memory. Blocks while it reads.
    ///
    /// # Errors
    /// [`SafetensorsError`], among them [`MemorySize`](SafetensorsError::MemorySize) if the memory is shorter than the file.
    pub fn read_into(
        path: impl AsRef<Path>,
        memory: impl Into<Descriptor>,
    ) -> Result<Self, SafetensorsError> {
        let (mut file, memory) = (File::open(path)?, memory.into());
        let (needed, given) = (file.metadata()?.len(), memory.len());
        let len = usize::try_from(needed).ok().filter(|len| *len <= given);
        let too_short = SafetensorsError::MemorySize { needed, given: given as u64 };
        let len = len.ok_or(too_short)?;
        let (header, start) = read_header(&mut file, needed)?;
        Self::fill(&mut file, header, &start, memory.part(0, len))
    }

    /// Takes memory of the host that holds the bytes of a file, no more and no less.
    ///
    /// # Errors
    /// [`SafetensorsError`]
    pub fn from_memory(memory: impl Into<Descriptor>) -> Result<Self, SafetensorsError> {
        let memory = memory.into();
        let (region, offset, given) = (memory.region(), memory.offset(), memory.len() as u64);
        let mut prefix = [0; SafetensorsHeader::PREFIX_BYTES];
        let truncated = |needed| SafetensorsError::Truncated { needed, given };
        if memory.len() < prefix.len() {
            return Err(truncated(prefix.len() as u64));
        }
        region.copy_to_slice(offset, &mut prefix)?;
        let end = SafetensorsHeader::end(prefix)?;
        if end > given {
            return Err(truncated(end));
        }
        // At most 100 MB, and no more than there are.
        let mut start = vec![0; end as usize];
        region.copy_to_slice(offset, &mut start)?;
        let header = SafetensorsHeader::parse(&start, given)?;
        Self::with_header(header, memory)
    }

    /// Takes memory of any device that holds, or will hold, the bytes of the file with this header.
    ///
    /// # Errors
    /// [`SafetensorsError::MemorySize`]
    pub fn with_header(
        header: SafetensorsHeader,
        memory: impl Into<Descriptor>,
    ) -> Result<Self, SafetensorsError> {
        let memory = memory.into();
        let (needed, given) = (header.file_len(), memory.len() as u64);
        match needed == given {
            true => Ok(Self { header: Arc::new(header), memory }),
            false => Err(SafetensorsError::MemorySize { needed, given }),
        }
    }

    fn fill(
        file: &mut File,
        header: SafetensorsHeader,
        start: &[u8],
        memory: Descriptor,
    ) -> Result<Self, SafetensorsError> {
        const PIECE: usize = 1 << 20;
        let (region, mut at) = (memory.region(), memory.offset());
        let end = at + memory.len();
        region.copy_from_slice(at, start)?;
        at += start.len();
        let mut piece = vec![0; PIECE];
        while at < end {
            let part = &mut piece[..PIECE.min(end - at)];
            file.read_exact(part)?;
            region.copy_from_slice(at, part)?;
            at += part.len();
        }
        Self::with_header(header, memory)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &SafetensorsHeader {
        &self.header
    }

    /// The bytes of the whole file, to offer or to read them.
    #[must_use]
    pub fn memory(&self) -> &Descriptor {
        &self.memory
    }

    /// A tensor of the file, where it is.
    ///
    /// # Errors
    /// [`SafetensorsError::NoSuchTensor`], or [`SafetensorsError::Tensor`] for one without elements, and for one that the file
    /// does not align ([`TensorError::Misaligned`]): [`load`](Self::load) copies such a one.
    pub fn tensor(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        let (entry, layout) = self.entry(name)?;
        Tensor::with_layout(self.bytes(entry), layout).map_err(|error| in_tensor(name, error))
    }

    /// A copy of a tensor in a buffer of the [pool](BufferPool), by the host.
    ///
    /// # Errors
    /// [`SafetensorsError::NoSuchTensor`]; [`SafetensorsError::Tensor`] for one without elements;
    /// [`SafetensorsError::Region`] without memory, [`SafetensorsError::Access`] if the host cannot read the file's memory now.
    pub fn load(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        let (entry, layout) = self.entry(name)?;
        let memory = BufferPool::global().buffer(layout.byte_len())?.whole();
        copy(&self.bytes(entry), &memory)?;
        Tensor::with_layout(memory, layout).map_err(|error| in_tensor(name, error))
    }

    fn entry(&self, name: &str) -> Result<(&TensorEntry, TensorLayout), SafetensorsError> {
        let missing = || SafetensorsError::NoSuchTensor { name: excerpt(name) };
        let entry = self.header.get(name).ok_or_else(missing)?;
        let layout = TensorLayout::new(entry.dtype(), entry.shape());
        Ok((entry, layout.map_err(|error| in_tensor(name, error))?))
    }

    /// The bytes of a tensor with elements, which are inside the file.
    fn bytes(&self, entry: &TensorEntry) -> Descriptor {
        let range = entry.bytes();
        self.memory.part(range.start as usize, (range.end - range.start) as usize)
    }
}

fn in_tensor(name: &str, error: TensorError) -> SafetensorsError {
    SafetensorsError::Tensor { name: excerpt(name), error }
}

/// The header, and the bytes of the file up to its end.
fn read_header(
    file: &mut File,
    given: u64,
) -> Result<(SafetensorsHeader, Vec<u8>), SafetensorsError> {
    let truncated = |needed| SafetensorsError::Truncated { needed, given };
    if given < SafetensorsHeader::PREFIX_BYTES as u64 {
        return Err(truncated(SafetensorsHeader::PREFIX_BYTES as u64));
    }
    let mut prefix = [0; SafetensorsHeader::PREFIX_BYTES];
    file.read_exact(&mut prefix)?;
    let end = SafetensorsHeader::end(prefix)?;
    if end > given {
        return Err(truncated(end));
    }
    // At most 100 MB, and no more than there are.
    let mut start = vec![0; end as usize];
    let (before, rest) = start.split_at_mut(prefix.len());
    before.copy_from_slice(&prefix);
    file.read_exact(rest)?;
    Ok((SafetensorsHeader::parse(&start, given)?, start))
}
