//! GPU memory that this process shares with others piece by piece: allocations of the VMM API, and of pools with a type of handle.

use std::sync::{Arc, Mutex};

use nixl_descriptor::{MemoryPiece, MemoryPieces, PiecesHandle, SharedPieces};
use nixl_device::SharedError;
use nixl_device::cuda::{
    Context, ImportedPoolMemory, MappedMemory, MemoryError, PhysicalMemory, PoolMemory,
    ShareableHandle,
};
use nixl_device::locks::lock;

use super::gpu_backend::TransferBuffer;
use crate::local::GpuError;

/// What is shared of one GPU. Regions that are made anew over the same memory share it under the name that peers have it open by.
#[derive(Debug, Default)]
pub(super) struct PieceTable {
    shared: Mutex<Vec<Shared>>,
}

#[derive(Debug)]
struct Shared {
    pieces: Arc<Pieces>,
    shared: Arc<SharedPieces>,
}

/// Allocations that follow each other, as this process has them.
#[derive(Debug)]
struct Pieces(Vec<Piece>);

#[derive(Debug, PartialEq)]
enum Piece {
    Physical(PhysicalMemory),
    /// It is alone.
    OfPool(PoolMemory),
}

impl PieceTable {
    /// What is kept though no region uses it.
    const IDLE: usize = 64;

    /// Shares the allocations under a range, and returns where the first begins.
    pub(super) fn share(
        &self,
        context: &Context,
        address: u64,
        len: u64,
    ) -> Result<(u64, Arc<SharedPieces>), GpuError> {
        let pieces = Pieces::under(context, address, len)?;
        let mut all = lock(&self.shared);
        if let Some(known) = all.iter().find(|known| known.pieces.contain(&pieces)) {
            return Ok((known.pieces.base(), Arc::clone(&known.shared)));
        }
        // What was freed since is withdrawn: peers would keep it from the system.
        let is_used = |known: &Shared| Arc::strong_count(&known.shared) > 1;
        all.retain(|known| is_used(known) || known.pieces.are_there());
        let idle = all.iter().filter(|known| !is_used(known)).count();
        if idle >= Self::IDLE
            && let Some(oldest) = all.iter().position(|known| !is_used(known))
        {
            all.remove(oldest);
        }
        let (base, pieces) = (pieces.base(), Arc::new(pieces));
        let given = Arc::clone(&pieces) as Arc<dyn MemoryPieces>;
        let shared = SharedPieces::new(pieces.len(), given);
        let shared = shared.map_err(|error| GpuError::Unsupported { reason: error.into() })?;
        let shared = Arc::new(shared);
        all.push(Shared { pieces, shared: Arc::clone(&shared) });
        Ok((base, shared))
    }
}

impl Piece {
    fn at(context: &Context, address: u64) -> Result<Self, SharedError> {
        if let Some(found) = PhysicalMemory::at(context, address)? {
            return match found.is_shareable() {
                true => Ok(Self::Physical(found)),
                false => Err(MemoryError::NotShareable.into()),
            };
        }
        let found = PoolMemory::at(context, address)?.ok_or(MemoryError::NotShareable)?;
        // Whether its pool has descriptors shows only so.
        drop(found.export()?);
        Ok(Self::OfPool(found))
    }

    fn base(&self) -> u64 {
        match self {
            Self::Physical(piece) => piece.base(),
            Self::OfPool(piece) => piece.base(),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Physical(piece) => piece.len(),
            Self::OfPool(piece) => piece.len(),
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Physical(piece) => piece.is_there(),
            Self::OfPool(piece) => piece.is_there(),
        }
    }

    fn export(&self) -> Result<ShareableHandle, MemoryError> {
        match self {
            Self::Physical(piece) => piece.export(),
            Self::OfPool(piece) => piece.export(),
        }
    }
}

impl Pieces {
    /// 32 GiB of the smallest.
    const MOST: usize = 16_384;

    fn under(context: &Context, address: u64, len: u64) -> Result<Self, GpuError> {
        let refused = |reason| GpuError::Unsupported { reason };
        let end = address.saturating_add(len);
        let (mut pieces, mut at) = (Vec::new(), address);
        while at < end {
            let piece = Piece::at(context, at).map_err(refused)?;
            at = piece.base().saturating_add(piece.len());
            if pieces.len() == Self::MOST {
                let most = format!("more than {} allocations", Self::MOST);
                return Err(refused(SharedError::text(most)));
            }
            pieces.push(piece);
            if matches!(pieces[..], [.., Piece::OfPool(_)]) && (pieces.len() > 1 || at < end) {
                return Err(refused(SharedError::text("memory of several allocations of a pool")));
            }
        }
        Ok(Self(pieces))
    }

    fn base(&self) -> u64 {
        self.0.first().map_or(0, Piece::base)
    }

    fn len(&self) -> u64 {
        self.0.iter().map(Piece::len).sum()
    }

    /// The place of the allocation that begins at an address.
    fn at(&self, base: u64) -> Option<usize> {
        self.0.binary_search_by_key(&base, Piece::base).ok()
    }

    /// Whether the others are some of these: the same allocations at the same addresses.
    fn contain(&self, others: &Self) -> bool {
        let first = self.at(others.base());
        let range = first.and_then(|first| self.0.get(first..first + others.0.len()));
        range.is_some_and(|range| *range == *others.0)
    }

    fn are_there(&self) -> bool {
        self.0.iter().all(Piece::is_there)
    }
}

impl MemoryPieces for Pieces {
    fn piece(&self, offset: u64) -> Result<MemoryPiece, SharedError> {
        let place = self.base().checked_add(offset).and_then(|address| self.at(address));
        let piece = place.and_then(|place| self.0.get(place));
        let piece = piece.ok_or_else(|| SharedError::text("no allocation begins there"))?;
        let handle = piece.export().inspect_err(|error| {
            tracing::debug!(%error, "a peer gets no handle of an allocation");
        });
        let (descriptor, content) = handle?.into_parts();
        Ok(MemoryPiece::new(piece.len(), descriptor, content))
    }
}

/// Opens memory that another process shares piece by piece.
pub(super) fn open(
    context: &Context,
    shared: &PiecesHandle,
) -> Result<Box<dyn TransferBuffer>, MemoryError> {
    let len = usize::try_from(shared.len()).unwrap_or(usize::MAX);
    let piece = |offset| {
        let (len, descriptor, content) = shared.piece(offset)?.into_parts();
        let handle = ShareableHandle::from_parts(descriptor, &content);
        let unknown = || SharedError::text("the process sent no handle that is known here");
        Ok((handle.ok_or_else(unknown)?, len))
    };
    let first = piece(0).map_err(|error| MemoryError::Piece { offset: 0, error })?;
    if let (handle @ ShareableHandle::OfPool(..), _) = first {
        return Ok(Box::new(ImportedPoolMemory::open(context, handle, len)?));
    }
    let mut first = Some(first);
    let next = |offset| first.take().map_or_else(|| piece(offset), Ok);
    Ok(Box::new(MappedMemory::map(context, len, next)?))
}
