//! The proof that memory is leased, for an operation to own and to share with its engine.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::descriptor::Descriptor;
use crate::extent::Extent;
use crate::lease::{LeaseError, LeaseMode, LeaseSet, Leases};
use crate::list::DescriptorList;
use crate::region::Region;

/// The proof that memory is leased: as long as a clone of it lives, the lease is held and the memory allocated.
///
/// Only the lease table makes one: [`Leases::acquire_list`] for descriptors, and `From<LeaseSet>` for blocks of a
/// [`Layout`](crate::layout::Layout). Code that is trusted with the memory of an operation (a transfer of an engine, an
/// execution) owns a clone, so memory that an engine may still touch is leased even if the operation is gone. Cheap to
/// clone: one reference count.
///
/// A lease keeps *other* operations and copies by the host away. The parts of its own operation, which may hold clones on
/// several threads, are kept apart by [`begin_use`](Self::begin_use).
#[derive(Clone)]
pub struct Leased(Arc<Inner>);

struct Inner {
    leases: LeaseSet,
    list: Option<DescriptorList>,
    /// A part of the operation writes the memory.
    in_use: AtomicBool,
    leaked: AtomicBool,
}

impl Leases {
    /// Leases all the descriptors of the list, or none, and keeps the list with the lease.
    ///
    /// Waits and costs as [`acquire`](Self::acquire). Panics: never.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_list(list: DescriptorList, mode: LeaseMode) -> Result<Leased, LeaseError> {
        let leases = Self::acquire(list.as_slice(), mode)?;
        Ok(Leased::new(leases, Some(list)))
    }
}

/// A proof without a list, as for blocks of a layout.
impl From<LeaseSet> for Leased {
    fn from(leases: LeaseSet) -> Self {
        Self::new(leases, None)
    }
}

impl Leased {
    fn new(leases: LeaseSet, list: Option<DescriptorList>) -> Self {
        let (in_use, leaked) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner { leases, list, in_use, leaked }))
    }

    /// What the operation may do with the memory.
    #[must_use]
    pub fn mode(&self) -> LeaseMode {
        self.0.leases.mode()
    }

    /// The list that was leased; `None` for blocks of a layout.
    #[must_use]
    pub fn descriptors(&self) -> Option<&DescriptorList> {
        self.0.list.as_ref()
    }

    /// Whether every byte of the descriptor is leased by this, whichever descriptors of the list it is made of.
    #[must_use]
    pub fn covers(&self, descriptor: &Descriptor) -> bool {
        self.0.leases.covers(descriptor.region(), descriptor.extent())
    }

    /// The right to read the leased bytes, or to write them if that is the lease's mode, by address or by
    /// [`copy_range`](crate::copy_range).
    ///
    /// Two parts of one operation, such as an attempt and the next one, never write the same bytes at the same time: of a
    /// lease to write there is one use at a time. Of a lease to read there may be many.
    ///
    /// # Errors
    /// [`LeaseError::InUse`].
    pub fn begin_use(&self) -> Result<LeaseUse, LeaseError> {
        // Acquire: what the use before this one did to the bytes comes first.
        if self.mode() == LeaseMode::Write && self.0.in_use.swap(true, Ordering::Acquire) {
            return Err(LeaseError::InUse);
        }
        Ok(LeaseUse(self.clone()))
    }

    /// Never releases the leases, whichever clones are dropped: the memory stays allocated and leased until the process
    /// ends. For an operation whose engine did not confirm that it is done. Counted once in
    /// [`leaked`](crate::leaked()), however many clones are leaked.
    pub fn leak(self) {
        if !self.0.leaked.swap(true, Ordering::Relaxed) {
            self.0.leases.count_leaked();
        }
        // One reference that is never given up.
        mem::forget(self);
    }

    /// Whether a clone was [leaked](Self::leak).
    #[must_use]
    pub fn is_leaked(&self) -> bool {
        self.0.leaked.load(Ordering::Relaxed)
    }

    /// Whether both are the same lease.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Shows which memory is leased, never what is in it.
impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased")
            .field("mode", &self.mode())
            .field("descriptors", &self.descriptors().map(DescriptorList::as_slice))
            .field("leaked", &self.is_leaked())
            .finish_non_exhaustive()
    }
}

/// The right of one part of an operation to touch its leased memory; see [`Leased::begin_use`]. Dropping it ends the use:
/// code that may still touch the memory keeps it, or leaks it.
#[derive(Debug)]
#[must_use = "dropping it ends the use"]
pub struct LeaseUse(Leased);

impl LeaseUse {
    /// The lease.
    #[must_use]
    pub fn leased(&self) -> &Leased {
        &self.0
    }

    /// Whether these bytes may be used so.
    pub(crate) fn allows(&self, region: &Region, extent: Extent, mode: LeaseMode) -> bool {
        (mode == LeaseMode::Read || self.0.mode() == LeaseMode::Write)
            && self.0.0.leases.covers(region, extent)
    }
}

impl Drop for LeaseUse {
    fn drop(&mut self) {
        if self.0.mode() == LeaseMode::Write {
            self.0.0.in_use.store(false, Ordering::Release);
        }
    }
}
