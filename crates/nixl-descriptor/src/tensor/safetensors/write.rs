//! Files of safetensors from tensors.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::error::{SafetensorsError, excerpt};
use super::file::SafetensorsFile;
use super::header::SafetensorsHeader;
use crate::pool::BufferPool;
use crate::region::copy;
use crate::tensor::Tensor;

impl SafetensorsFile {
    /// Lays tensors out as a file in a buffer of the [pool](BufferPool), as the format's own crate does: by falling alignment, then
    /// by name, so that each is aligned. Their elements are copied by the host, in row-major order.
    ///
    /// # Errors
    /// [`SafetensorsError::DuplicateName`], [`SafetensorsError::ReservedName`], [`SafetensorsError::HeaderTooLarge`];
    /// [`SafetensorsError::Region`] without memory, [`SafetensorsError::Access`] if the host cannot read a tensor now.
    pub fn from_tensors<'a>(
        tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        metadata: &[(&str, &str)],
    ) -> Result<Self, SafetensorsError> {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by(|(a, one), (b, other)| {
            let by_alignment = other.dtype().alignment().cmp(&one.dtype().alignment());
            by_alignment.then_with(|| a.cmp(b))
        });
        let start = header(&tensors, metadata)?;
        let bytes = |tensor: &Tensor| tensor.layout().byte_len();
        let sum = tensors.iter().try_fold(start.len(), |sum, (_, t)| sum.checked_add(bytes(t)));
        let len = sum.unwrap_or(usize::MAX);
        let header = SafetensorsHeader::parse(&start, len as u64)?;
        let memory = BufferPool::global().buffer(len)?.whole();
        memory.region().copy_from_slice(memory.offset(), &start)?;
        let mut at = start.len();
        for (_, tensor) in tensors {
            for run in tensor.layout().runs() {
                let source = tensor.memory().part(run.start, run.len());
                copy(&source, &memory.part(at, run.len()))?;
                at += run.len();
            }
        }
        Self::with_header(header, memory)
    }

    /// Writes the bytes to a new file. Blocks while it writes; after an error, a part of the file may be there.
    ///
    /// # Errors
    /// [`SafetensorsError::Io`], also if there is a file of this name; [`SafetensorsError::Access`] if the host cannot read the
    /// memory now.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), SafetensorsError> {
        const PIECE: usize = 1 << 20;
        let mut file = File::create_new(path)?;
        let (region, mut at) = (self.memory().region(), self.memory().offset());
        let end = at + self.memory().len();
        let mut piece = vec![0; PIECE.min(end - at)];
        while at < end {
            let part = &mut piece[..PIECE.min(end - at)];
            region.copy_to_slice(at, part)?;
            file.write_all(part)?;
            at += part.len();
        }
        Ok(())
    }
}

/// The length of the header and the header, padded so that the elements behind it are aligned.
fn header(
    tensors: &[(&str, &Tensor)],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, SafetensorsError> {
    // Texts cannot fail.
    let text = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let pairs: Vec<_> = metadata.iter().map(|(k, v)| format!("{}:{}", text(k), text(v))).collect();
    let mut members = Vec::with_capacity(tensors.len() + 1);
    if !pairs.is_empty() {
        members.push(format!("\"{METADATA}\":{{{}}}", pairs.join(",")));
    }
    let mut at = 0u64;
    for (name, tensor) in tensors {
        if *name == METADATA {
            return Err(SafetensorsError::ReservedName { name: excerpt(name) });
        }
        let end = at.saturating_add(tensor.layout().byte_len() as u64);
        let (name, dtype, shape) = (text(name), tensor.dtype(), tensor.shape());
        members.push(format!(
            "{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        ));
        at = end;
    }
    let mut json = format!("{{{}}}", members.join(","));
    let padded = json.len().next_multiple_of(8);
    json.extend(std::iter::repeat_n(' ', padded - json.len()));
    let mut start = (json.len() as u64).to_le_bytes().to_vec();
    start.extend(json.as_bytes());
    Ok(start)
}

/// The member of a header that is no tensor.
pub(super) const METADATA: &str = "__metadata__";
