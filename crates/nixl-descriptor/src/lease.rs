//! Leases: what operations in flight may do to which bytes.

use std::fmt;
use std::mem;

use nixl_device::ForkGeneration;

use crate::block_selection::BlockSelection;
use crate::descriptor::Descriptor;
use crate::extent::{Extent, ExtentSet};
use crate::leaked;
use crate::range_locks::Conflict;
use crate::region::{Region, RegionId};

/// What an operation in flight does to memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum LeaseMode {
    /// It reads the bytes: others may read them too.
    Read,
    /// It writes the bytes: no other operation may read or write them.
    Write,
}

impl LeaseMode {
    /// Whether two uses of the same bytes get in each other's way.
    pub(crate) fn conflicts(self, other: Self) -> bool {
        self == Self::Write || other == Self::Write
    }
}

impl fmt::Display for LeaseMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// Why a lease was refused. Nothing was leased.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// There is nothing to lease.
    #[error("no descriptors to lease: give at least one")]
    Empty,
    /// Two destinations in the list share bytes, so the result would depend on the order of arrival.
    #[error("two destination descriptors of the list overlap in {region}: make them disjoint")]
    Overlap {
        /// Where they overlap.
        region: RegionId,
    },
    /// Another operation in flight uses some of the bytes.
    #[error(
        "an operation in flight holds a {held} lease on bytes of {region}: wait for it to complete"
    )]
    Conflict {
        /// The first byte that both have.
        region: RegionId,
        /// What the other operation may do.
        held: LeaseMode,
    },
    /// Peers may read one of the blocks, by a grant, and the lease is to write.
    #[error(
        "block {block} of an exported layout in {region} is granted to readers: end its grants first"
    )]
    Granted {
        /// Where the block is.
        region: RegionId,
        /// Which block of the layout.
        block: u32,
    },
    /// The region was made from memory that must not change.
    #[error("{region} is read-only and cannot be written: copy it to writable memory first")]
    ReadOnly {
        /// Which region.
        region: RegionId,
    },
    /// Another part of the operation that holds the lease writes the memory.
    #[error("the operation that leases this memory uses it already: wait for that use to end")]
    InUse,
}

/// The way to get a [`LeaseSet`] for descriptors; for blocks it is [`Layout::lease`](crate::layout::Layout::lease).
#[derive(Debug)]
#[non_exhaustive]
pub struct Leases;

impl Leases {
    /// Leases all the descriptors, or none.
    ///
    /// May wait for a host copy of the same bytes that is under way in another thread; not for other operations. Takes
    /// one uncontended lock per region. Panics: never.
    ///
    /// # Errors
    /// [`LeaseError`]: the list is empty; for [`LeaseMode::Write`], a region is read-only or two descriptors of the
    /// list share bytes; another operation's lease conflicts.
    pub fn acquire(descriptors: &[Descriptor], mode: LeaseMode) -> Result<LeaseSet, LeaseError> {
        let mut set = LeaseSet::empty(mode, 1);
        match descriptors {
            [] => return Err(LeaseError::Empty),
            [one] => set.add(one.region(), ExtentSet::One(one.extent()))?,
            many => {
                let mut sorted: Vec<(&Region, Extent)> =
                    many.iter().map(|d| (d.region(), d.extent())).collect();
                // By region, and within it by start.
                sorted.sort_unstable_by_key(|(region, extent)| (region.id(), *extent));
                for group in sorted.chunk_by(|(a, _), (b, _)| a.id() == b.id()) {
                    let (region, first) = group[0];
                    if mode == LeaseMode::Write
                        && group.windows(2).any(|pair| pair[0].1.overlaps(pair[1].1))
                    {
                        return Err(LeaseError::Overlap { region: region.id() });
                    }
                    let rest = group[1..].iter().map(|(_, extent)| *extent);
                    // On failure, dropping `set` releases the regions before this one.
                    set.add(region, ExtentSet::from_sorted(first, rest))?;
                }
            }
        }
        Ok(set)
    }
}

/// Leases on descriptors or on blocks of a layout, held by an operation in flight; dropping it releases them.
///
/// While it lives, the regions live. `Send` and `Sync`.
#[derive(Debug)]
#[must_use = "dropping the set releases the leases"]
pub struct LeaseSet {
    mode: LeaseMode,
    /// Most sets are of one region, and need no more.
    first: Option<Part>,
    rest: Vec<Part>,
    generation: ForkGeneration,
}

#[derive(Debug)]
struct Part {
    region: Region,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Bytes(ExtentSet),
    /// The region's number for the lease.
    Blocks {
        lease: u64,
        used: BlockSelection,
    },
}

impl Held {
    fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(extents) => extents.bytes() as u64,
            Self::Blocks { used, .. } => used.bytes(),
        }
    }
}

impl LeaseSet {
    /// What the operation may do.
    #[must_use]
    pub fn mode(&self) -> LeaseMode {
        self.mode
    }

    /// Never releases the leases: the memory stays allocated and unreachable until the process ends. For an operation
    /// whose engine did not confirm that it is done. Counted in [`leaked`](crate::leaked()).
    pub fn leak(self) {
        self.count_leaked();
        mem::forget(self);
    }

    /// Counts the leases as never to be released.
    pub(crate) fn count_leaked(&self) {
        let bytes = self.parts().map(|part| part.held.bytes()).sum();
        leaked::count_lease(bytes);
    }

    /// Whether all these bytes of the region are leased.
    pub(crate) fn covers(&self, region: &Region, extent: Extent) -> bool {
        self.parts().any(|part| {
            part.region.id() == region.id()
                && match &part.held {
                    Held::Bytes(extents) => extents.contains(extent),
                    Held::Blocks { used, .. } => used.contains(extent),
                }
        })
    }

    /// No leases yet, with room for some.
    pub(crate) fn empty(mode: LeaseMode, regions: usize) -> Self {
        let rest = Vec::with_capacity(regions.saturating_sub(1));
        Self { mode, first: None, rest, generation: ForkGeneration::current() }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.first.iter().chain(&self.rest)
    }

    fn add(&mut self, region: &Region, extents: ExtentSet) -> Result<(), LeaseError> {
        self.hold(region, |mode| {
            region.range_locks().begin_lease(mode, &extents)?;
            Ok(Held::Bytes(extents))
        })
    }

    /// Adds blocks that lie in `region`.
    pub(crate) fn add_blocks(
        &mut self,
        region: &Region,
        used: BlockSelection,
    ) -> Result<(), LeaseError> {
        self.hold(region, |mode| {
            let lease = region.range_locks().begin_block_lease(mode, used.clone())?;
            Ok(Held::Blocks { lease, used })
        })
    }

    fn hold(
        &mut self,
        region: &Region,
        begin: impl FnOnce(LeaseMode) -> Result<Held, Conflict>,
    ) -> Result<(), LeaseError> {
        if self.mode == LeaseMode::Write && !region.is_writable() {
            return Err(LeaseError::ReadOnly { region: region.id() });
        }
        let held = begin(self.mode).map_err(|conflict| conflict.in_region(region.id()))?;
        let part = Part { region: region.clone(), held };
        match &mut self.first {
            None => self.first = Some(part),
            Some(_) => self.rest.push(part),
        }
        Ok(())
    }
}

impl Conflict {
    /// Why something in that region was not leased.
    pub(crate) fn in_region(self, region: RegionId) -> LeaseError {
        match self {
            Self::Lease(held) => LeaseError::Conflict { region, held },
            Self::Grant { block } => LeaseError::Granted { region, block },
        }
    }
}

impl Drop for LeaseSet {
    fn drop(&mut self) {
        // In a fork's child the operation never ends, and another thread may have held the lock.
        if !self.generation.is_current() {
            return;
        }
        for part in self.parts() {
            let range_locks = part.region.range_locks();
            match &part.held {
                Held::Bytes(extents) => range_locks.end_lease(self.mode, extents),
                Held::Blocks { lease, .. } => range_locks.end_block_lease(*lease),
            }
        }
    }
}
