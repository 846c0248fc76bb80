//! Handles by which another process opens memory of the VMM API or of a pool.

use std::fmt;
use std::os::fd::OwnedFd;

use super::api::PointerBytes;

/// What opens an allocation in another process of the machine: [`PhysicalMemory`](super::PhysicalMemory) and
/// [`PoolMemory`](super::PoolMemory) give it.
#[non_exhaustive]
pub enum ShareableHandle {
    /// A file descriptor of a physical allocation.
    Descriptor(OwnedFd),
    /// A fabric handle of a physical allocation.
    Fabric([u8; 64]),
    /// A file descriptor of a pool, and what names the memory in it.
    OfPool(OwnedFd, [u8; 64]),
}

const DESCRIPTOR: u8 = 1;
const FABRIC: u8 = 2;
const OF_POOL: u8 = 3;

impl ShareableHandle {
    /// What is to be sent: a descriptor if there is one, and 65 bytes at most.
    #[must_use]
    pub fn into_parts(self) -> (Option<OwnedFd>, Box<[u8]>) {
        let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat().into();
        match self {
            Self::Descriptor(descriptor) => (Some(descriptor), with(DESCRIPTOR, &[])),
            Self::Fabric(bytes) => (None, with(FABRIC, &bytes)),
            Self::OfPool(pool, bytes) => (Some(pool), with(OF_POOL, &bytes)),
        }
    }

    /// The handle that was sent so. `None` for anything else.
    #[must_use]
    pub fn from_parts(descriptor: Option<OwnedFd>, bytes: &[u8]) -> Option<Self> {
        let (kind, bytes) = bytes.split_first()?;
        let all = PointerBytes::try_from(bytes).ok();
        match (*kind, descriptor, all) {
            (DESCRIPTOR, Some(descriptor), None) if bytes.is_empty() => {
                Some(Self::Descriptor(descriptor))
            }
            (FABRIC, None, Some(bytes)) => Some(Self::Fabric(bytes)),
            (OF_POOL, Some(pool), Some(bytes)) => Some(Self::OfPool(pool, bytes)),
            _ => None,
        }
    }
}

/// Shows nothing that opens the memory.
impl fmt::Debug for ShareableHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor(_) => "Descriptor(..)",
            Self::Fabric(_) => "Fabric(..)",
            Self::OfPool(..) => "OfPool(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn handles_are_sent_in_parts_and_other_parts_are_none() {
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        for handle in [
            ShareableHandle::Descriptor(file()),
            ShareableHandle::Fabric([3; 64]),
            ShareableHandle::OfPool(file(), [4; 64]),
        ] {
            let shown = format!("{handle:?}");
            let (descriptor, bytes) = handle.into_parts();
            assert_eq!(ShareableHandle::from_parts(None, &bytes).is_none(), descriptor.is_some());
            let longer = [&*bytes, &[0]].concat();
            assert!(
                ShareableHandle::from_parts(descriptor.is_some().then(file), &longer).is_none()
            );
            let handle = ShareableHandle::from_parts(descriptor, &bytes).unwrap();
            assert_eq!(format!("{handle:?}"), shown);
        }
        assert!(ShareableHandle::from_parts(Some(file()), &[9; 65]).is_none());
    }
}
