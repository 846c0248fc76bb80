//! Bytes into memory of any kind, and out of it.
#![allow(unsafe_code, reason = "GPU memory is copied by address")]

use std::ops::Range;

use anyhow::{Result, ensure};
use nixl_descriptor::{LeaseMode, Leases, Region};
use nixl_device::cuda::{Context, Stream};

/// Copies bytes into a region, and waits for it.
///
/// # Errors
///
/// If the bytes go beyond the region, the memory is in use, or the driver fails.
pub fn write(region: &Region, offset: usize, bytes: &[u8]) -> Result<()> {
    if region.device().is_host() {
        return Ok(region.copy_from_slice(offset, bytes)?);
    }
    let range = offset..offset.saturating_add(bytes.len());
    let at = address(region, &range)?;
    let _lease = Leases::acquire(&[region.descriptor(range)?], LeaseMode::Write)?;
    let stream = Stream::new(&Context::primary(region.device().index())?)?;
    // SAFETY: the range lies inside the region, which no operation uses while it is leased; both memories are kept until the stream
    // has passed, which is waited for.
    unsafe { stream.copy_async(at, bytes.as_ptr() as u64, bytes.len()) }?;
    Ok(stream.synchronize()?)
}

/// The bytes of a range of a region.
///
/// # Errors
///
/// As [`write()`].
pub fn read(region: &Region, range: Range<usize>) -> Result<Vec<u8>> {
    let at = address(region, &range)?;
    let mut bytes = vec![0; range.len()];
    if region.device().is_host() {
        region.copy_to_slice(range.start, &mut bytes)?;
        return Ok(bytes);
    }
    let _lease = Leases::acquire(&[region.descriptor(range)?], LeaseMode::Read)?;
    let stream = Stream::new(&Context::primary(region.device().index())?)?;
    // SAFETY: as above.
    unsafe { stream.copy_async(bytes.as_mut_ptr() as u64, at, bytes.len()) }?;
    stream.synchronize()?;
    Ok(bytes)
}

fn address(region: &Region, range: &Range<usize>) -> Result<u64> {
    let len = region.len();
    let is_inside = range.start <= range.end && range.end <= len;
    ensure!(is_inside, "{range:?} goes beyond the {len} bytes of the region");
    Ok(region.address() + range.start as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    #[test]
    fn bytes_come_back_from_where_they_were_written() {
        for memory in [Memory::Host, Memory::Shared] {
            let region = memory.allocate(10).unwrap();
            write(&region, 3, b"abc").unwrap();
            assert_eq!(read(&region, 3..6).unwrap(), b"abc");
            assert!(write(&region, 8, b"abc").is_err() && read(&region, 8..11).is_err());
        }
    }
}
