//! Memory to transfer: regions that a program owns, checked ranges of them, and their registration with transfer engines.
//!
//! A transfer engine (a NIC, a GPU's copy engine, NIXL) accesses memory outside the compiler's view, and a peer's write can
//! arrive long after this side has ended the operation. This crate makes that sound in safe Rust with four types:
//!
//! * A [`Region`] takes *ownership* of memory and never lends it: there is no `&[u8]` into a region, only copies in and
//!   out. The memory comes back ([`Region::try_into_inner`]) when nothing else refers to it.
//! * A [`Descriptor`] is a checked, non-empty range of a region and keeps the region alive. A [`DescriptorList`] is
//!   what a transfer moves.
//! * A [`LeaseSet`] marks descriptors that an operation in flight may read or write; Rust-side copies and other
//!   operations that conflict with it are refused until it is dropped. A [`Leased`] is the proof of it that an
//!   operation shares with the engine that carries it out.
//! * A [`Registration`] keeps memory known to one engine, and keeps the memory allocated until the engine has confirmed
//!   the deregistration. The [`RegistrationCache`] makes the second use of a region free.
//!
//! Above them, the [`layout`] module describes where the blocks of a KV cache lie in such memory, and pairs the bytes of
//! blocks in two layouts for a copy. Copies and leases treat blocks that peers read by grants ([`BlockGrants`](layout::BlockGrants))
//! as bytes that an operation reads; [`PublishedWords`] show those peers the end of a grant. With the
//! feature `dlpack`, tensors of other frameworks become regions. The [`tensor`] module gives memory an element type, a shape and
//! strides. The [`mod@file`] module has regions of files, which are no memory, and layouts of blocks in them.
//!
//! # Rules
//!
//! * **Zero length**: refused. A region and a descriptor have at least one byte, a list at least one descriptor.
//!   A *copy* of zero bytes is fine and does nothing.
//! * **Overflow**: refused. `address + len` fits into 64 bits for every region, so no range inside it can wrap; a list's
//!   total number of bytes fits into a `u64`.
//! * **Overlap**: descriptors may overlap; what matters is what operations do with them. Overlapping *sources* are fine,
//!   within one operation or between several. A *destination* must overlap nothing else that is leased, in its own list
//!   or in another operation's: [`Leases::acquire`] refuses it.
//! * **Bounds**: a range that is not inside its region is an error, never clamped.
//!
//! # What a registered region exposes
//!
//! An engine may give peers more than was offered: RDMA hardware protects whole registrations, and some engines cannot
//! register memory for reading only. [`RegionSpan::access`] has the intended access. Keep data that a peer must not see in
//! a region of its own. The same holds for memory that a peer maps ([`Region::shared_name`]).
//!
//! * Buffers of the [`BufferPool`], and so [`Region::shared`], are registered and mapped by slabs: a peer with an
//!   offer of one buffer can reach the others of its slab, those of other peers included.
//! * Memory that is read-only by contract (`bytes::Bytes` on the heap) can be written by a peer that misuses an offer to
//!   read it, where the engine has no finer rights; clones of the `Bytes` then see other bytes. On read-only *pages* the
//!   write would end the process, so such an engine does not register them ([`RegionSpan::has_writable_pages`]). A copy
//!   in a buffer exposes neither.
//!
//! # Late writes
//!
//! A one-sided write cannot be called back: it may arrive after the owner has released the memory. In a buffer of the [`BufferPool`] it
//! meets no memory of the program's other than such buffers, since the addresses stay the pool's for longer than an offer
//! can be used. In other memory (a `Vec`, an allocation of another library) it meets what the allocator has made of it.
//!
//! # Example
//!
//! ```
//! use nixl_descriptor::{DescriptorList, LeaseMode, Leases, Region};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let region = Region::try_from(vec![7u8; 4096])?;
//! let list = DescriptorList::try_from(vec![region.descriptor(..1024)?, region.descriptor(2048..)?])?;
//! assert_eq!(list.total_bytes(), 3072);
//!
//! // An operation writes into the memory: no other reads or writes it meanwhile.
//! let lease = Leases::acquire(list.as_slice(), LeaseMode::Write)?;
//! assert!(region.copy_to_slice(0, &mut [0; 16]).is_err());
//! drop(lease);
//!
//! // The operation is over and was the last user: the memory comes back.
//! drop(list);
//! let bytes: Vec<u8> = region.try_into_vec()?;
//! assert_eq!(bytes.len(), 4096);
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "dlpack")]
pub mod dlpack;
pub mod file;
pub mod layout;
pub mod tensor;

mod access;
mod advice;
mod block_selection;
mod block_set;
mod bounds;
mod cache;
mod coalesce;
mod contents;
mod copying;
mod dependency;
mod descriptor;
mod disposal;
mod extent;
mod gpu_allocation;
mod granted;
mod huge_pages;
mod leaked;
mod lease;
mod lease_map;
mod leased;
mod list;
mod memfd;
mod memory;
mod pages;
mod pool;
mod prefault;
mod published;
mod range_locks;
mod region;
mod registration;
mod rendezvous;
mod shared;
mod shortage;
mod strided;

pub use access::{Access, AccessError};
pub use cache::{CacheLimits, CacheStats, RegistrationCache};
pub use coalesce::{PairError, Span, coalesce_pairs};
pub use dependency::{Dependency, DependencyError, QueuedFunction, WorkQueue};
pub use descriptor::{Descriptor, DescriptorError};
pub use disposal::defer_disposal_on_this_thread;
pub use gpu_allocation::{AllocationKind, GpuAllocation};
pub use leaked::{Leaked, leaked};
pub use lease::{LeaseError, LeaseMode, LeaseSet, Leases};
pub use leased::{LeaseUse, Leased};
pub use list::DescriptorList;
pub use nixl_device::Advice;
pub use pool::{BufferPool, PoolStats};
pub use prefault::{populate, prefault};
pub use published::{PublishedWords, ReadOnlyWords};
pub use region::{
    Reclaim, ReclaimError, Region, RegionError, RegionId, copy, copy_range, copy_range_to_slice,
    copy_range_unchecked, copy_spans,
};
pub use registration::{
    RegionSpan, RegisterError, Registered, Registrar, RegistrarId, Registration, Retired,
};
pub use rendezvous::{
    ForeignProcess, MemoryPiece, MemoryPieces, PiecesError, PiecesHandle, Rendezvous,
    RendezvousError, RendezvousState, SharedPieces,
};
pub use shared::{Presence, SharedMemory, SharedMemoryError, SharedName, Unprovable};
