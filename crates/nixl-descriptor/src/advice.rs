//! Advice on the errors of memory, leases and layouts: retry, ask again or give up.

use nixl_device::Advice;

use crate::file::{FileError, FileLayoutError};
use crate::layout::{
    BlockAccessError, BlockGrantError, BlockLeaseError, ChunkPairError, GeometryError,
    GeometryMismatch, LayoutError, SelectionError,
};
#[cfg(feature = "safetensors")]
use crate::tensor::safetensors::SafetensorsError;
use crate::tensor::{ParseDTypeError, TensorError};
use crate::{
    AccessError, DependencyError, DescriptorError, LeaseError, PairError, Reclaim, ReclaimError,
    RegionError, RegisterError, SharedMemoryError, Unprovable,
};

impl RegionError {
    /// The remedy: [`Advice::Retry`] where memory has run out, else [`Advice::GiveUp`].
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::OutOfMemory { .. } => Advice::Retry,
            Self::Empty | Self::AddressOverflow { .. } | Self::NoHugePages { .. } => Advice::GiveUp,
        }
    }
}

impl FileError {
    /// The remedy: [`Advice::Retry`] where an operation in flight or a lack of room passes, else [`Advice::GiveUp`].
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::InUse { .. } | Self::NoSpace { .. } => Advice::Retry,
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::Symlink { .. }
            | Self::Outside { .. }
            | Self::NotRegular { .. }
            | Self::ForeignOwner { .. }
            | Self::Denied { .. }
            | Self::NoPreallocation { .. }
            | Self::NoDirectIo { .. }
            | Self::Descriptor { .. }
            | Self::System { .. }
            | Self::Replaced { .. }
            | Self::OutOfBounds { .. }
            | Self::Empty { .. }
            | Self::Overlap { .. }
            | Self::ReadOnly { .. } => Advice::GiveUp,
        }
    }
}

impl FileLayoutError {
    /// The remedy: [`Advice::GiveUp`], since the blocks and the file are as they are.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Layout(error) => error.advice(),
            Self::Misaligned { .. } => Advice::GiveUp,
        }
    }
}

impl AccessError {
    /// The remedy. The lease of an operation ends with it; a grant lasts until its owner ends it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Leased { .. } | Self::OutOfMemory { .. } => Advice::Retry,
            Self::OutOfBounds { .. }
            | Self::LengthMismatch { .. }
            | Self::Granted { .. }
            | Self::NotHost { .. }
            | Self::ReadOnly => Advice::GiveUp,
        }
    }
}

impl DescriptorError {
    /// The remedy: [`Advice::GiveUp`], since the memory has no such ranges.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::ZeroLength { .. }
            | Self::OutOfBounds { .. }
            | Self::EmptyList
            | Self::TotalOverflow => Advice::GiveUp,
        }
    }
}

impl TensorError {
    /// The remedy: that of the memory, or [`Advice::GiveUp`], since the tensor is as it is.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Region(error) => error.advice(),
            Self::Descriptor(error) => error.advice(),
            Self::Access(error) => error.advice(),
            Self::Lease(error) => error.advice(),
            Self::Empty { .. }
            | Self::TooManyDimensions { .. }
            | Self::Overflow { .. }
            | Self::WrongSize { .. }
            | Self::OutOfBounds { .. }
            | Self::Misaligned { .. }
            | Self::SubByte { .. }
            | Self::StrideCount { .. }
            | Self::NegativeStride { .. }
            | Self::Overlap { .. }
            | Self::NotContiguous { .. }
            | Self::Reshape { .. }
            | Self::NoSuchAxis { .. }
            | Self::NotAPermutation { .. }
            | Self::BadRange { .. }
            | Self::BadIndex { .. }
            | Self::WrongType { .. }
            | Self::TooManyRuns { .. } => Advice::GiveUp,
        }
    }
}

impl ParseDTypeError {
    /// The remedy: [`Advice::GiveUp`], since the text names no element type.
    #[must_use]
    pub fn advice(&self) -> Advice {
        Advice::GiveUp
    }
}

#[cfg(feature = "safetensors")]
impl SafetensorsError {
    /// The remedy: that of the memory, or [`Advice::GiveUp`], since the file is as it is.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Tensor { error, .. } => error.advice(),
            Self::Region(error) => error.advice(),
            Self::Access(error) => error.advice(),
            Self::Truncated { .. }
            | Self::HeaderTooLarge { .. }
            | Self::BadHeader { .. }
            | Self::DuplicateName { .. }
            | Self::ReservedName { .. }
            | Self::UnknownType { .. }
            | Self::BadShape { .. }
            | Self::WrongSize { .. }
            | Self::BadOffsets { .. }
            | Self::Overlap { .. }
            | Self::Gap { .. }
            | Self::DataTruncated { .. }
            | Self::NoSuchTensor { .. }
            | Self::MemorySize { .. }
            | Self::Io { .. } => Advice::GiveUp,
        }
    }
}

impl PairError {
    /// The remedy: [`Advice::GiveUp`], since the two lists differ.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Count { .. } | Self::Length { .. } => Advice::GiveUp,
        }
    }
}

impl LeaseError {
    /// The remedy. The lease of an operation ends with it; a grant lasts until its owner ends it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Conflict { .. } | Self::InUse => Advice::Retry,
            Self::Empty | Self::Overlap { .. } | Self::Granted { .. } | Self::ReadOnly { .. } => {
                Advice::GiveUp
            }
        }
    }
}

impl DependencyError {
    /// The remedy: [`Advice::GiveUp`], since the memory may hold anything until its program has filled it again.
    #[must_use]
    pub fn advice(&self) -> Advice {
        Advice::GiveUp
    }
}

impl RegisterError {
    /// The remedy: [`Advice::Retry`] where a resource has run out, else [`Advice::GiveUp`].
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::OutOfResources { .. } => Advice::Retry,
            Self::Unsupported { .. } | Self::ReadOnlyPages { .. } | Self::Engine { .. } => {
                Advice::GiveUp
            }
        }
    }
}

impl Reclaim {
    /// The remedy, by its [reason](Self::reason).
    #[must_use]
    pub fn advice(&self) -> Advice {
        self.reason.advice()
    }
}

impl ReclaimError {
    /// The remedy: [`Advice::Retry`] while other handles or registrations exist. Memory that an engine failed to deregister
    /// never comes back.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Shared | Self::Registered => Advice::Retry,
            Self::WrongType { .. } | Self::Withheld | Self::Deregister(_) => Advice::GiveUp,
        }
    }
}

impl SharedMemoryError {
    /// The remedy: [`Advice::AskAgain`] for memory that its owner has released.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Exhausted { .. } | Self::Unanswered => Advice::Retry,
            Self::Gone => Advice::AskAgain,
            Self::Refused { .. } | Self::MayShrink | Self::MayBeWritten => Advice::GiveUp,
        }
    }
}

impl Unprovable {
    /// The remedy: [`Advice::GiveUp`] if rights or mounts are missing, [`Advice::Retry`] for a process that is not met just now.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotAllowed { .. } | Self::Hidden | Self::NoProc => Advice::GiveUp,
            // The owner's process ends, or its offers do.
            Self::NotMet => Advice::Retry,
        }
    }
}

impl GeometryError {
    /// The remedy: [`Advice::GiveUp`], since no layout has such sizes.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Zero { .. }
            | Self::Outer { .. }
            | Self::ElementWidth { .. }
            | Self::Overflow { .. } => Advice::GiveUp,
        }
    }
}

impl GeometryMismatch {
    /// The remedy: [`Advice::GiveUp`], since the two layouts differ.
    #[must_use]
    pub fn advice(&self) -> Advice {
        Advice::GiveUp
    }
}

impl LayoutError {
    /// The remedy: [`Advice::GiveUp`], since the parts do not hold the blocks.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Geometry(error) => error.advice(),
            Self::PartCount { .. }
            | Self::MixedDevices { .. }
            | Self::TooShort { .. }
            | Self::BlockStride { .. }
            | Self::Overflow { .. }
            | Self::PartsOverlap { .. }
            | Self::TooManyBlocks { .. }
            | Self::TooManyParts { .. } => Advice::GiveUp,
        }
    }
}

impl SelectionError {
    /// The remedy: [`Advice::GiveUp`], since the layout has no such blocks.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Block { .. }
            | Self::Layers { .. }
            | Self::Outer { .. }
            | Self::Tokens { .. }
            | Self::Pieces { .. }
            | Self::NoBlocks => Advice::GiveUp,
        }
    }
}

impl ChunkPairError {
    /// The remedy: [`Advice::GiveUp`], since the two sides do not pair.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Geometry(error) => error.advice(),
            Self::Source(error) | Self::Destination(error) => error.advice(),
            Self::Count { .. } | Self::Duplicate { .. } | Self::Overlap { .. } => Advice::GiveUp,
        }
    }
}

impl BlockLeaseError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Selection(error) => error.advice(),
            Self::Duplicate { .. } => Advice::GiveUp,
            Self::Lease(error) => error.advice(),
        }
    }
}

impl BlockAccessError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Selection(error) => error.advice(),
            Self::Access(error) => error.advice(),
        }
    }
}

impl BlockGrantError {
    /// The remedy: [`Advice::Retry`] where operations or other grants have to end first.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Leased { .. } | Self::TooMany { .. } => Advice::Retry,
            Self::NoBlocks | Self::OutOfRange { .. } | Self::Duplicate { .. } => Advice::GiveUp,
        }
    }
}

#[cfg(feature = "dlpack")]
impl crate::dlpack::DlpackError {
    /// The remedy: [`Advice::GiveUp`], since the tensor stays as it is.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Version { .. }
            | Self::Device { .. }
            | Self::Invalid { .. }
            | Self::Element { .. }
            | Self::Padded { .. }
            | Self::NotContiguous { .. }
            | Self::NotExported { .. }
            | Self::ElementType { .. } => Advice::GiveUp,
            Self::Region(error) => error.advice(),
            Self::Tensor(error) => error.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Debug;
    use std::io;
    use std::mem::discriminant;

    use Advice::{AskAgain, GiveUp, Retry};
    use nixl_device::{Device, SharedError};

    use super::*;
    use crate::layout::Dimension;
    use crate::{LeaseMode, Region, RegionId};

    /// Checks a table that has each variant once.
    fn check<E: Debug>(table: &[(E, Advice)], advice: impl Fn(&E) -> Advice) {
        for (error, expected) in table {
            assert_eq!(advice(error), *expected, "{error:?}");
        }
        let variants: HashSet<_> = table.iter().map(|(error, _)| discriminant(error)).collect();
        assert_eq!(variants.len(), table.len(), "a variant is there twice");
    }

    fn region() -> RegionId {
        Region::zeroed(1).unwrap().id()
    }

    fn system() -> SharedError {
        io::Error::from_raw_os_error(1).into()
    }

    fn mismatch() -> GeometryMismatch {
        GeometryMismatch { dimension: Dimension::Layers, src: 1, dst: 2 }
    }

    const DEVICE: Device = Device::cuda(0);

    #[test]
    fn every_error_of_regions_is_decided() {
        let out_of_memory =
            || RegionError::OutOfMemory { len: 1, message: String::new(), source: None };
        let table = [
            (RegionError::Empty, GiveUp),
            (RegionError::AddressOverflow { address: 1, len: 1 }, GiveUp),
            (out_of_memory(), Retry),
            (RegionError::NoHugePages { setting: String::new() }, GiveUp),
        ];
        check(&table, RegionError::advice);
        let table = [
            (AccessError::OutOfBounds { offset: 1, len: 1, size: 1 }, GiveUp),
            (AccessError::LengthMismatch { src: 1, dst: 2 }, GiveUp),
            (AccessError::Leased { mode: LeaseMode::Read }, Retry),
            (AccessError::Granted { block: 0 }, GiveUp),
            (AccessError::NotHost { device: DEVICE }, GiveUp),
            (AccessError::ReadOnly, GiveUp),
            (AccessError::OutOfMemory { len: 1 }, Retry),
        ];
        check(&table, AccessError::advice);
        let table = [
            (DescriptorError::ZeroLength { start: 0, end: 0 }, GiveUp),
            (DescriptorError::OutOfBounds { start: 0, end: 2, len: 1 }, GiveUp),
            (DescriptorError::EmptyList, GiveUp),
            (DescriptorError::TotalOverflow, GiveUp),
        ];
        check(&table, DescriptorError::advice);
        let table = [
            (PairError::Count { local: 1, remote: 2 }, GiveUp),
            (PairError::Length { index: 0, local: 1, remote: 2 }, GiveUp),
        ];
        check(&table, PairError::advice);
        assert_eq!(DependencyError::new("the kernel faulted").advice(), GiveUp);
        #[cfg(feature = "dlpack")]
        {
            use crate::dlpack::DlpackError as E;
            let table = [
                (E::Version { major: 2 }, GiveUp),
                (E::Device { device_type: 9, device_id: 0 }, GiveUp),
                (E::Invalid { field: "shape" }, GiveUp),
                (E::Element { bits: 4, lanes: 1 }, GiveUp),
                (E::Padded { bits: 4 }, GiveUp),
                (E::NotContiguous { dimension: 0, stride: 1, expected: 2 }, GiveUp),
                (E::Region(out_of_memory()), Retry),
            ];
            check(&table, E::advice);
        }
    }

    #[test]
    fn every_error_of_leases_and_registrations_is_decided() {
        let table = [
            (LeaseError::Empty, GiveUp),
            (LeaseError::Overlap { region: region() }, GiveUp),
            (LeaseError::Conflict { region: region(), held: LeaseMode::Write }, Retry),
            (LeaseError::Granted { region: region(), block: 0 }, GiveUp),
            (LeaseError::ReadOnly { region: region() }, GiveUp),
            (LeaseError::InUse, Retry),
        ];
        check(&table, LeaseError::advice);
        let text = String::new;
        let unsupported = || RegisterError::Unsupported { device: DEVICE };
        let table = [
            (unsupported(), GiveUp),
            (RegisterError::ReadOnlyPages { len: 1 }, GiveUp),
            (RegisterError::OutOfResources { what: text(), hint: text() }, Retry),
            (RegisterError::Engine { engine: "", error: SharedError::text("") }, GiveUp),
        ];
        check(&table, RegisterError::advice);
        let table = [
            (ReclaimError::WrongType { wanted: "Vec" }, GiveUp),
            (ReclaimError::Shared, Retry),
            (ReclaimError::Registered, Retry),
            (ReclaimError::Withheld, GiveUp),
            (ReclaimError::Deregister(unsupported()), GiveUp),
        ];
        check(&table, ReclaimError::advice);
        let region = Region::try_from(vec![1_u8]).unwrap();
        let _clone = region.clone();
        assert_eq!(region.try_into_vec().unwrap_err().advice(), Retry);
    }

    #[test]
    fn every_error_of_shared_memory_is_decided() {
        use SharedMemoryError as E;
        let (call, message) = ("open", String::new());
        let table = [
            (E::Refused { call, error: system() }, GiveUp),
            (E::Exhausted { call, message, error: system() }, Retry),
            (E::Gone, AskAgain),
            (E::MayShrink, GiveUp),
            (E::MayBeWritten, GiveUp),
        ];
        check(&table, E::advice);
        let table = [
            (Unprovable::NotAllowed { error: system() }, GiveUp),
            (Unprovable::Hidden, GiveUp),
            (Unprovable::NoProc, GiveUp),
            (Unprovable::NotMet, Retry),
        ];
        check(&table, Unprovable::advice);
    }

    #[test]
    fn every_error_of_layouts_is_decided() {
        let table = [
            (GeometryError::Zero { dimension: Dimension::Layers }, GiveUp),
            (GeometryError::Outer { outer: 3 }, GiveUp),
            (GeometryError::ElementWidth { width: 3 }, GiveUp),
            (GeometryError::Overflow { blocks: 1 }, GiveUp),
        ];
        check(&table, GeometryError::advice);
        assert_eq!(mismatch().advice(), GiveUp);
        let table = [
            (LayoutError::Geometry(GeometryError::Outer { outer: 3 }), GiveUp),
            (LayoutError::PartCount { parts: 1, needed: 2 }, GiveUp),
            (LayoutError::MixedDevices { part: 1, device: DEVICE, first: Device::HOST }, GiveUp),
            (LayoutError::TooShort { part: 0, len: 1, needed: 2 }, GiveUp),
            (LayoutError::BlockStride { stride: 1, least: 2 }, GiveUp),
            (LayoutError::Overflow { part: 0 }, GiveUp),
            (LayoutError::PartsOverlap { first: 0, second: 1 }, GiveUp),
            (LayoutError::TooManyBlocks { blocks: 1 }, GiveUp),
            (LayoutError::TooManyParts { parts: 2, most: 1 }, GiveUp),
        ];
        check(&table, LayoutError::advice);
        let none = || SelectionError::NoBlocks;
        let table = [
            (SelectionError::Block { block: 1, blocks: 1 }, GiveUp),
            (SelectionError::Layers { start: 0, end: 0, layers: 1 }, GiveUp),
            (SelectionError::Outer { outer: 1, count: 1 }, GiveUp),
            (SelectionError::Tokens { start: 1, end: 1, page_size: 1 }, GiveUp),
            (none(), GiveUp),
        ];
        check(&table, SelectionError::advice);
        let table = [
            (ChunkPairError::Geometry(mismatch()), GiveUp),
            (ChunkPairError::Count { src: 1, dst: 2 }, GiveUp),
            (ChunkPairError::Source(none()), GiveUp),
            (ChunkPairError::Destination(none()), GiveUp),
            (ChunkPairError::Duplicate { block: 0 }, GiveUp),
            (ChunkPairError::Overlap { src: 0, dst: 1 }, GiveUp),
        ];
        check(&table, ChunkPairError::advice);
    }

    #[test]
    fn every_error_of_leases_and_grants_of_blocks_is_decided() {
        let table = [
            (BlockLeaseError::Selection(SelectionError::NoBlocks), GiveUp),
            (BlockLeaseError::Duplicate { block: 0 }, GiveUp),
            (BlockLeaseError::Lease(LeaseError::InUse), Retry),
        ];
        check(&table, BlockLeaseError::advice);
        let table = [
            (BlockAccessError::Selection(SelectionError::NoBlocks), GiveUp),
            (BlockAccessError::Access(AccessError::ReadOnly), GiveUp),
        ];
        check(&table, BlockAccessError::advice);
        let leased = AccessError::Leased { mode: LeaseMode::Write };
        assert_eq!(BlockAccessError::Access(leased).advice(), Retry);
        let table = [
            (BlockGrantError::NoBlocks, GiveUp),
            (BlockGrantError::OutOfRange { block: 1, blocks: 1 }, GiveUp),
            (BlockGrantError::Duplicate { block: 0 }, GiveUp),
            (BlockGrantError::TooMany { block: 0 }, Retry),
            (BlockGrantError::Leased { region: region() }, Retry),
        ];
        check(&table, BlockGrantError::advice);
    }
}
