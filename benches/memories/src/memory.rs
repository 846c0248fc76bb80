//! Kinds of memory by their names.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, ensure};
use nixl_descriptor::{BufferPool, Region};
use nixl_device::cuda::{Context, DeviceMemory, PinnedMemory, probe};
use serde::{Deserialize, Serialize};

use crate::allocations::{self, DESCRIPTOR};

/// A kind of memory; of a GPU with its ordinal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[allow(clippy::exhaustive_enums, reason = "the benchmarks and examples are total over it")]
pub enum Memory {
    /// Host memory.
    Host,
    /// Host memory of the pool, in files that other processes can map.
    Shared,
    /// Host memory that the driver has allocated.
    Pinned,
    /// GPU memory of `cuMemAlloc`.
    Gpu(u32),
    /// GPU memory of the driver's pool, which no other process can open.
    Pool(u32),
    /// GPU memory of the VMM API without a handle, which no other process can open.
    Vmm(u32),
    /// GPU memory of the VMM API with file descriptors, by which other processes open it.
    VmmFd(u32),
    /// Managed memory on a GPU, which no other process can open.
    Managed(u32),
}

/// A name that is none of a [`Memory`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "a message for the command line")]
pub enum UnknownMemory {
    /// The kind is unknown.
    #[error(
        "{name:?} is none of host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N and managed:N, where N is a GPU's number"
    )]
    Kind {
        /// The name.
        name: String,
    },
    /// Memory of a GPU without the GPU.
    #[error("{kind:?} is memory of a GPU, whose number follows it, as in {kind}:0")]
    NoGpu {
        /// The kind.
        kind: String,
    },
    /// The GPU is no number.
    #[error("{number:?} after {kind}: is no number of a GPU, such as 0")]
    Number {
        /// The kind.
        kind: String,
        /// The text in place of a number.
        number: String,
    },
}

impl Memory {
    /// The ordinal of the GPU whose memory it is.
    #[must_use]
    pub fn gpu(self) -> Option<u32> {
        match self {
            Self::Host | Self::Shared | Self::Pinned => None,
            Self::Gpu(ordinal)
            | Self::Pool(ordinal)
            | Self::Vmm(ordinal)
            | Self::VmmFd(ordinal)
            | Self::Managed(ordinal) => Some(ordinal),
        }
    }

    /// Memory of this kind, of any content.
    ///
    /// # Errors
    ///
    /// If the machine has no such GPU, or not so much memory.
    pub fn allocate(self, len: usize) -> Result<Region> {
        self.region(len).with_context(|| format!("cannot allocate {len} bytes of {self}"))
    }

    fn region(self, len: usize) -> Result<Region> {
        Ok(match self {
            Self::Host => Region::zeroed(len)?,
            Self::Shared => BufferPool::global().buffer(len)?,
            Self::Pinned => PinnedMemory::new(&context(0)?, len)?.try_into()?,
            Self::Gpu(gpu) => DeviceMemory::new(&context(gpu)?, len)?.try_into()?,
            Self::Pool(gpu) => allocations::pool(&context(gpu)?, gpu, len)?,
            Self::Vmm(gpu) => allocations::vmm(&context(gpu)?, gpu, len, 0)?,
            Self::VmmFd(gpu) => allocations::vmm(&context(gpu)?, gpu, len, DESCRIPTOR)?,
            Self::Managed(gpu) => allocations::managed(&context(gpu)?, gpu, len)?,
        })
    }
}

/// The primary context of a GPU.
fn context(gpu: u32) -> Result<Context> {
    let driver = probe().as_ref().map_err(|reason| anyhow!("there is no GPU: {reason}"))?;
    let count = driver.device_count();
    ensure!(gpu < count, "there is no GPU {gpu}: the driver shows {count}, counted from 0");
    Ok(Context::primary(gpu)?)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Shared => f.write_str("shared"),
            Self::Pinned => f.write_str("pinned"),
            Self::Gpu(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Pool(ordinal) => write!(f, "pool:{ordinal}"),
            Self::Vmm(ordinal) => write!(f, "vmm:{ordinal}"),
            Self::VmmFd(ordinal) => write!(f, "vmmfd:{ordinal}"),
            Self::Managed(ordinal) => write!(f, "managed:{ordinal}"),
        }
    }
}

impl FromStr for Memory {
    type Err = UnknownMemory;

    fn from_str(name: &str) -> Result<Self, UnknownMemory> {
        let (kind, number) = match name.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (name, None),
        };
        let of_gpu: fn(u32) -> Self = match (kind, number) {
            ("host", None) => return Ok(Self::Host),
            ("shared", None) => return Ok(Self::Shared),
            ("pinned", None) => return Ok(Self::Pinned),
            ("cuda", _) => Self::Gpu,
            ("pool", _) => Self::Pool,
            ("vmm", _) => Self::Vmm,
            ("vmmfd", _) => Self::VmmFd,
            ("managed", _) => Self::Managed,
            _ => return Err(UnknownMemory::Kind { name: name.to_owned() }),
        };
        let kind = kind.to_owned();
        let Some(number) = number else { return Err(UnknownMemory::NoGpu { kind }) };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        match number.parse() {
            Ok(ordinal) if is_number => Ok(of_gpu(ordinal)),
            _ => Err(UnknownMemory::Number { kind, number: number.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_by_its_name() {
        let all = [
            Memory::Host,
            Memory::Shared,
            Memory::Pinned,
            Memory::Gpu(0),
            Memory::Pool(1),
            Memory::Vmm(2),
            Memory::VmmFd(13),
            Memory::Managed(7),
        ];
        for memory in all {
            assert_eq!(memory.to_string().parse(), Ok(memory));
            let number = memory.to_string().split_once(':').map(|(_, n)| n.parse().unwrap());
            assert_eq!(memory.gpu(), number);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_fault() {
        let refused = |name: &str| name.parse::<Memory>().unwrap_err().to_string();
        for name in ["", "gpu:0", "host:0", "pinned:", "Host", " host", ":0", "shared "] {
            assert!(refused(name).starts_with(&format!("{name:?} is none of host")), "{name}");
        }
        assert_eq!(
            refused("vmmfd"),
            "\"vmmfd\" is memory of a GPU, whose number follows it, as in vmmfd:0"
        );
        for number in ["", "x", "-1", "+1", "0:1", "4294967296", " 0"] {
            let expected = format!("{number:?} after pool: is no number of a GPU, such as 0");
            assert_eq!(refused(&format!("pool:{number}")), expected);
        }
    }

    #[test]
    fn memory_of_a_gpu_that_is_not_there_is_an_error_with_the_reason() {
        let error = Memory::VmmFd(u32::MAX).allocate(4096).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.starts_with("cannot allocate 4096 bytes of vmmfd:4294967295: there is no GPU")
        );
    }
}
