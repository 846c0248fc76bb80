//! Copies by the host between regions and slices.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::Region;
use crate::access::AccessError;
use crate::descriptor::Descriptor;
use crate::extent::Extent;
use crate::lease::LeaseMode;
use crate::leased::LeaseUse;
use crate::memory::Memory;
use crate::range_locks::{Conflict, CopyGuard, LeaseCheck, RangeAccess};
use crate::registration::RegionSpan;

impl Region {
    /// Copies bytes from `offset` on into `target`, all of it.
    ///
    /// Waits for another thread's copy into the same bytes, if one is under way. What a peer writes meanwhile without a
    /// lease, because it was offered the memory, may be seen in part. Panics: never.
    ///
    /// # Errors
    /// [`AccessError::NotHost`], [`AccessError::OutOfBounds`], or [`AccessError::Leased`] if an operation in flight
    /// writes some of the bytes.
    pub fn copy_to_slice(&self, offset: usize, target: &mut [u8]) -> Result<(), AccessError> {
        let Some(from) = self.memory().readable(offset, target.len())? else {
            return Ok(());
        };
        let _guard = self.range_locks().begin_copy(&[reads(from)])?;
        // SAFETY: `readable` checked `from`; `target` is exclusive and as long; the guard keeps writers away.
        unsafe { self.memory().read(from, target.as_mut_ptr()) };
        Ok(())
    }

    /// Copies all of `source` into the region from `offset` on.
    ///
    /// Waits for another thread's copy of the same bytes, if one is under way. Panics: never.
    ///
    /// # Errors
    /// [`AccessError::NotHost`], [`AccessError::OutOfBounds`], [`AccessError::ReadOnly`], or [`AccessError::Leased`] if
    /// an operation in flight reads or writes some of the bytes.
    pub fn copy_from_slice(&self, offset: usize, source: &[u8]) -> Result<(), AccessError> {
        let Some(to) = self.memory().writable(offset, source.len())? else {
            return Ok(());
        };
        let _guard = self.range_locks().begin_copy(&[writes(to)])?;
        // SAFETY: `writable` checked `to`; `source` is as long; the guard keeps readers and writers away.
        unsafe { self.memory().write(source.as_ptr(), to) };
        Ok(())
    }

    /// A copy of the whole region. Panics: never.
    ///
    /// # Errors
    /// As [`copy_to_slice`](Self::copy_to_slice), and [`AccessError::OutOfMemory`].
    pub fn to_vec(&self) -> Result<Vec<u8>, AccessError> {
        let len = self.len();
        let Some(from) = self.memory().readable(0, len)? else {
            return Ok(Vec::new());
        };
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| AccessError::OutOfMemory { len })?;
        let _guard = self.range_locks().begin_copy(&[reads(from)])?;
        // SAFETY: `readable` checked `from`; the vector has room for `len` bytes; the guard keeps writers away.
        unsafe { self.memory().read(from, bytes.as_mut_ptr()) };
        // SAFETY: the first `len` bytes were just written.
        unsafe { bytes.set_len(len) };
        Ok(bytes)
    }
}

/// Copies all of `source` to `target`, on behalf of no operation; see [`copy_range`].
///
/// # Errors
/// [`AccessError::LengthMismatch`], [`AccessError::NotHost`], [`AccessError::ReadOnly`], or [`AccessError::Leased`] if an
/// operation in flight uses some of the bytes.
pub fn copy(source: &Descriptor, target: &Descriptor) -> Result<(), AccessError> {
    if source.len() != target.len() {
        return Err(AccessError::LengthMismatch { src: source.len(), dst: target.len() });
    }
    copy_range(source, 0, target, 0, source.len(), &[])
}

/// Copies `len` bytes between two descriptors in host memory, from `source_offset` bytes into the one to `target_offset`
/// bytes into the other.
///
/// An operation that copies memory it has leased passes the use of its leases as `held`. Bytes that none of them covers,
/// or covers for reading where they are written, are copied only if no operation's lease is in the way.
///
/// The ranges may overlap, also within one region. Waits for other threads' copies of the same bytes that are under way,
/// and cannot deadlock with them. Blocks for as long as the copy takes: pass large ones in pieces. Panics: never.
///
/// # Errors
/// [`AccessError::OutOfBounds`] (of the descriptor), [`AccessError::NotHost`], [`AccessError::ReadOnly`], or
/// [`AccessError::Leased`] if a lease that is not among `held` conflicts.
pub fn copy_range(
    source: &Descriptor,
    source_offset: usize,
    target: &Descriptor,
    target_offset: usize,
    len: usize,
    held: &[&LeaseUse],
) -> Result<(), AccessError> {
    let leasing = |descriptor: &Descriptor, offset: usize, mode: LeaseMode| {
        let extent = Extent { start: offset, end: offset + len };
        match held.iter().any(|held| held.allows(descriptor.region(), extent, mode)) {
            true => LeaseCheck::Ignore,
            false => LeaseCheck::Respect,
        }
    };
    let source_offset = inside(source, source_offset, len)?;
    let target_offset = inside(target, target_offset, len)?;
    let from = Place {
        memory: source.region().memory(),
        offset: source_offset,
        leasing: leasing(source, source_offset, LeaseMode::Read),
    };
    let to = Place {
        memory: target.region().memory(),
        offset: target_offset,
        leasing: leasing(target, target_offset, LeaseMode::Write),
    };
    copy_memories(&from, &to, len)
}

/// Copies bytes of a descriptor in host memory, from `offset` bytes into it on, into all of `target`.
///
/// As with [`copy_range`], an operation that reads memory it has leased passes the use of its leases as `held`; bytes that
/// none of them covers are copied only if no operation's lease is in the way. Waits as that does. Panics: never.
///
/// # Errors
/// [`AccessError::OutOfBounds`] (of the descriptor), [`AccessError::NotHost`], or [`AccessError::Leased`] if a lease that is
/// not among `held` conflicts.
pub fn copy_range_to_slice(
    source: &Descriptor,
    offset: usize,
    target: &mut [u8],
    held: &[&LeaseUse],
) -> Result<(), AccessError> {
    let offset = inside(source, offset, target.len())?;
    let memory = source.region().memory();
    let Some(from) = memory.readable(offset, target.len())? else {
        return Ok(());
    };
    let leasing = match held.iter().any(|held| held.allows(source.region(), from, LeaseMode::Read))
    {
        true => LeaseCheck::Ignore,
        false => LeaseCheck::Respect,
    };
    let _guard = memory.range_locks().begin_copy(&[RangeAccess { leasing, ..reads(from) }])?;
    // SAFETY: `readable` checked `from`; `target` is exclusive and as long. The guard keeps other copies of this module away.
    // Copies by address are made by operations that hold a lease: if it is not among `held`, whose use is this copy's own, the
    // guard was refused.
    unsafe { memory.read(from, target.as_mut_ptr()) };
    Ok(())
}

/// Copies all bytes of descriptors in host memory, one after the other, into all of `target`, on behalf of no operation.
///
/// # Errors
/// As [`copy`].
pub(crate) fn gather(sources: &[Descriptor], target: &mut [u8]) -> Result<(), AccessError> {
    let (places, len) = places(sources, Memory::readable)?;
    if len != target.len() {
        return Err(AccessError::LengthMismatch { src: len, dst: target.len() });
    }
    let _guards = begin_all(&places, reads)?;
    let mut rest = target;
    for (memory, extent) in places {
        let Some((part, after)) = rest.split_at_mut_checked(extent.len()) else { break };
        // SAFETY: `readable` checked the extent; `part` is exclusive and as long; the guards keep writers away.
        unsafe { memory.read(extent, part.as_mut_ptr()) };
        rest = after;
    }
    Ok(())
}

/// Copies all of `source` to all bytes of descriptors in host memory, one after the other, on behalf of no operation. With an
/// error nothing is written.
///
/// # Errors
/// As [`copy`].
pub(crate) fn scatter(source: &[u8], targets: &[Descriptor]) -> Result<(), AccessError> {
    let (places, len) = places(targets, Memory::writable)?;
    if len != source.len() {
        return Err(AccessError::LengthMismatch { src: source.len(), dst: len });
    }
    let _guards = begin_all(&places, writes)?;
    let mut rest = source;
    for (memory, extent) in places {
        let Some((part, after)) = rest.split_at_checked(extent.len()) else { break };
        // SAFETY: `writable` checked the extent; `part` is as long; the guards keep readers and writers away.
        unsafe { memory.write(part.as_ptr(), extent) };
        rest = after;
    }
    Ok(())
}

/// Bytes of a memory.
type MemoryExtent<'a> = (&'a Arc<Memory>, Extent);

/// The bytes of descriptors in their memories, as `check` allows them, and their number.
fn places(
    descriptors: &[Descriptor],
    check: impl Fn(&Memory, usize, usize) -> Result<Option<Extent>, AccessError>,
) -> Result<(Vec<MemoryExtent<'_>>, usize), AccessError> {
    let mut places = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        let memory = descriptor.region().memory();
        let extent = check(memory, descriptor.offset(), descriptor.len())?;
        places.extend(extent.map(|extent| (memory, extent)));
    }
    let len = descriptors.iter().map(Descriptor::len).sum();
    Ok((places, len))
}

/// Begins a copy in each memory, in the order of their addresses, so that two copies cannot wait for each other.
fn begin_all<'a>(
    places: &[MemoryExtent<'a>],
    mode: impl Fn(Extent) -> RangeAccess,
) -> Result<Vec<CopyGuard<'a>>, AccessError> {
    let mut sorted = places.to_vec();
    sorted.sort_by_key(|(memory, _)| Arc::as_ptr(memory));
    let groups = sorted.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b));
    let guards = groups.map(|group| {
        let uses: Vec<_> = group.iter().map(|(_, extent)| mode(*extent)).collect();
        Ok(group[0].0.range_locks().begin_copy(&uses)?)
    });
    guards.collect()
}

/// As [`copy_range`], without regard to leases.
///
/// # Errors
/// [`AccessError::OutOfBounds`] (of the descriptor), [`AccessError::NotHost`] or [`AccessError::ReadOnly`].
///
/// # Safety
/// Until this returns, no code of this process writes the source, or reads or writes the target, by address. That is so
/// if the caller works for the operation that holds a lease on each of them, the target's to write, and is the only part
/// of that operation that uses them.
pub unsafe fn copy_range_unchecked(
    source: &Descriptor,
    source_offset: usize,
    target: &Descriptor,
    target_offset: usize,
    len: usize,
) -> Result<(), AccessError> {
    let source_offset = inside(source, source_offset, len)?;
    let target_offset = inside(target, target_offset, len)?;
    let leasing = LeaseCheck::Ignore;
    let from = Place { memory: source.region().memory(), offset: source_offset, leasing };
    let to = Place { memory: target.region().memory(), offset: target_offset, leasing };
    copy_memories(&from, &to, len)
}

/// Copies `len` bytes between registered regions in host memory, from `source_offset` bytes into the one to
/// `target_offset` bytes into the other, without regard to leases.
///
/// For engines inside this process, which know memory by its registration: like a NIC, such an engine writes what a peer
/// names. Waits as [`copy_range`]. Panics: never.
///
/// # Errors
/// [`AccessError::OutOfBounds`], [`AccessError::NotHost`] or [`AccessError::ReadOnly`].
///
/// # Safety
/// Until this returns, no code of this process writes the source, or reads or writes the target, by address. That is so
/// if each of them is leased, the target to write, by an operation whose bytes this engine alone moves.
pub unsafe fn copy_spans(
    source: &RegionSpan,
    source_offset: usize,
    target: &RegionSpan,
    target_offset: usize,
    len: usize,
) -> Result<(), AccessError> {
    let leasing = LeaseCheck::Ignore;
    let from = Place { memory: source.memory(), offset: source_offset, leasing };
    let to = Place { memory: target.memory(), offset: target_offset, leasing };
    copy_memories(&from, &to, len)
}

/// Where a copy begins on one side.
struct Place<'a> {
    memory: &'a Arc<Memory>,
    offset: usize,
    leasing: LeaseCheck,
}

fn copy_memories(source: &Place<'_>, target: &Place<'_>, len: usize) -> Result<(), AccessError> {
    let from = source.memory.readable(source.offset, len)?;
    let to = target.memory.writable(target.offset, len)?;
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(());
    };

    let reading = RangeAccess { leasing: source.leasing, ..reads(from) };
    let writing = RangeAccess { leasing: target.leasing, ..writes(to) };
    let (source, target) = (source.memory, target.memory);
    let _guards = if Arc::ptr_eq(source, target) {
        (source.range_locks().begin_copy(&[reading, writing])?, None)
    } else if Arc::as_ptr(source) < Arc::as_ptr(target) {
        // In the order of addresses, so that two copies in opposite directions cannot wait for each other.
        let first = source.range_locks().begin_copy(&[reading])?;
        (first, Some(target.range_locks().begin_copy(&[writing])?))
    } else {
        let first = target.range_locks().begin_copy(&[writing])?;
        (first, Some(source.range_locks().begin_copy(&[reading])?))
    };
    // SAFETY: `readable` and `writable` checked the extents, both `len` long. The guards keep other copies of this module
    // away. Copies by address are made by operations that hold a lease: if it is not this copy's own, which has one use
    // at a time, the guard was refused; where leases are ignored unseen, the caller vouches that there are none.
    unsafe { Memory::copy(source, from, target, to) };
    Ok(())
}

/// The offset in the region of `offset` in the descriptor, if `len` bytes from there are inside the descriptor.
fn inside(descriptor: &Descriptor, offset: usize, len: usize) -> Result<usize, AccessError> {
    match offset.checked_add(len) {
        Some(end) if end <= descriptor.len() => Ok(descriptor.offset() + offset),
        _ => Err(AccessError::OutOfBounds { offset, len, size: descriptor.len() }),
    }
}

fn reads(extent: Extent) -> RangeAccess {
    RangeAccess { extent, mode: LeaseMode::Read, leasing: LeaseCheck::Respect }
}

fn writes(extent: Extent) -> RangeAccess {
    RangeAccess { extent, mode: LeaseMode::Write, leasing: LeaseCheck::Respect }
}

impl From<Conflict> for AccessError {
    fn from(conflict: Conflict) -> Self {
        match conflict {
            Conflict::Lease(mode) => Self::Leased { mode },
            Conflict::Grant { block } => Self::Granted { block },
        }
    }
}
