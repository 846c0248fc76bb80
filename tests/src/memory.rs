//! Memory of the tests' operations.
#![allow(unsafe_code, reason = "the processor's copies refuse memory that stands for a GPU's")]

use std::fmt;
use std::str::FromStr;

use nixl_descriptor::{AllocationKind, LeaseMode, Leases, Region};
use nixl_executor::{MemoryKind, SimulatedGpus};

/// Whose memory an operation uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "tests are total over it")]
pub enum Memory {
    /// The host's.
    Host,
    /// The host's, in a file that other processes can map.
    Shared,
    /// That of the first simulated GPU.
    Cuda,
    /// That of its pool, which no other process can open.
    Pool,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Memory {
    /// A region that holds these bytes.
    ///
    /// # Errors
    ///
    /// If there is not so much memory.
    pub fn region(self, gpus: &SimulatedGpus, bytes: &[u8]) -> Result<Region> {
        match self {
            Self::Host => Ok(Region::try_from(bytes.to_vec())?),
            Self::Shared => {
                let region = Region::shared(bytes.len())?;
                region.copy_from_slice(0, bytes)?;
                Ok(region)
            }
            Self::Cuda | Self::Pool => {
                let region = match self {
                    Self::Pool => gpus.region_of(0, (AllocationKind::Pool, 0), bytes.len())?,
                    _ => gpus.region(MemoryKind::Gpu(0), bytes.len())?,
                };
                let target = region.address() as *mut u8;
                // SAFETY: memory of a simulated GPU is memory of this process, and no peer knows of it yet.
                unsafe { std::ptr::copy(bytes.as_ptr(), target, bytes.len()) };
                Ok(region)
            }
        }
    }
}

/// What a region that [`Memory::region`] made holds.
///
/// # Errors
///
/// If an operation in flight writes it.
pub fn bytes(region: &Region) -> Result<Vec<u8>> {
    if region.device().is_host() {
        return Ok(region.to_vec()?);
    }
    let _lease = Leases::acquire(&[region.whole()], LeaseMode::Read)?;
    // SAFETY: all such memory of these tests is that of simulated GPUs, which is memory of this process; it is not
    // written while it is leased.
    Ok(unsafe { std::slice::from_raw_parts(region.address() as *const u8, region.len()) }.to_vec())
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Shared => "shared",
            Self::Cuda => "cuda",
            Self::Pool => "pool",
        })
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let all = [Self::Host, Self::Shared, Self::Cuda, Self::Pool];
        let found = all.into_iter().find(|memory| memory.to_string() == name);
        found.ok_or_else(|| format!("no memory {name:?}"))
    }
}
