//! Memory that stands for a GPU's, as the tests look at it.
#![allow(unsafe_code, reason = "the processor's copies refuse such memory")]

use nixl_descriptor::{LeaseError, LeaseMode, Leases, Region};

/// The bytes of memory that `SimulatedGpus` made.
///
/// # Errors
///
/// If an operation in flight writes it.
///
/// # Safety
///
/// The region is one of `SimulatedGpus::region`.
pub unsafe fn download(region: &Region) -> Result<Vec<u8>, LeaseError> {
    let _lease = Leases::acquire(&[region.whole()], LeaseMode::Read)?;
    // SAFETY: it is a vector of this process, of this length, that nobody writes while it is leased.
    Ok(unsafe { std::slice::from_raw_parts(region.address() as *const u8, region.len()) }.to_vec())
}

/// Fills memory that `SimulatedGpus` made with `bytes`, as far as both go.
///
/// # Errors
///
/// If an operation in flight uses it.
///
/// # Safety
///
/// As for [`download`].
pub unsafe fn upload(region: &Region, bytes: &[u8]) -> Result<(), LeaseError> {
    let _lease = Leases::acquire(&[region.whole()], LeaseMode::Write)?;
    let len = bytes.len().min(region.len());
    // SAFETY: it is a vector of this process, of at least this length, that nobody uses while it is leased.
    unsafe { std::ptr::copy(bytes.as_ptr(), region.address() as *mut u8, len) };
    Ok(())
}
