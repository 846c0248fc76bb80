//! Waiters for free blocks.
//!
//! A block is held by its grants to read, which the layout counts, and by those to write and by copies for readers, which are counted
//! here from their begin until nothing writes or copies it any more.
//!
//! A waiter watches one of its granted blocks. When that block is free it watches the next granted one, and wakes when there is
//! none: the end of a grant costs nothing for unwatched blocks.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nixl_device::LeakInChild;

use super::metrics::LiveGauges;
use super::table::GrantTable;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    last: u64,
    waiting: HashMap<u64, Waiter>,
    /// Layout, block, and the waiter that watches it.
    watched: BTreeSet<(u16, u32, u64)>,
    /// The number of grants to write and of copies for readers, by layout and block.
    written: HashMap<(u16, u32), u32>,
}

#[derive(Debug)]
struct Waiter {
    layout: u16,
    blocks: Arc<[u32]>,
    /// The place of the watched block.
    at: usize,
    waker: Waker,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn watched(&self) -> usize {
        self.watched.len()
    }

    /// Ready if none of the blocks is `held`; otherwise the waiter wakes when that is so. Returns the replaced waker: its drop
    /// may drop a task, and with it another wait of this table.
    fn poll(
        &mut self,
        id: &mut Option<u64>,
        (layout, blocks): (u16, &Arc<[u32]>),
        waker: &Waker,
        held: impl Fn(u32) -> bool,
    ) -> (Poll<()>, Option<Waker>) {
        let is_held = |&block: &u32| held(block) || self.written.contains_key(&(layout, block));
        let Some(at) = blocks.iter().position(is_held) else {
            return (Poll::Ready(()), id.take().and_then(|id| self.remove(id)));
        };
        if let Some(waiter) = id.and_then(|id| self.waiting.get_mut(&id)) {
            let before = mem::replace(&mut waiter.waker, waker.clone());
            return (Poll::Pending, Some(before));
        }
        self.last += 1;
        *id = Some(self.last);
        let (blocks, waker) = (Arc::clone(blocks), waker.clone());
        self.watched.insert((layout, blocks[at], self.last));
        self.waiting.insert(self.last, Waiter { layout, blocks, at, waker });
        (Poll::Pending, None)
    }

    /// The waiters to wake, since these blocks may be free.
    pub(super) fn freed(
        &mut self,
        layout: u16,
        blocks: &[u32],
        held: impl Fn(u32) -> bool,
    ) -> Vec<Waker> {
        let Self { waiting, watched, written, .. } = self;
        let mut wakers = Vec::new();
        if watched.is_empty() {
            return wakers;
        }
        let held = |block: u32| held(block) || written.contains_key(&(layout, block));
        for &block in blocks.iter().filter(|block| !held(**block)) {
            let first = (layout, block, 0);
            while let Some(&watch) = watched.range(first..=(layout, block, u64::MAX)).next() {
                watched.remove(&watch);
                let (_, _, id) = watch;
                let Some(waiter) = waiting.get_mut(&id) else { continue };
                let count = waiter.blocks.len();
                let next = (waiter.at + 1..count).chain(0..waiter.at);
                match { next }.find(|&at| held(waiter.blocks[at])) {
                    Some(at) => {
                        waiter.at = at;
                        watched.insert((layout, waiter.blocks[at], id));
                    }
                    None => wakers.extend(waiting.remove(&id).map(|waiter| waiter.waker)),
                }
            }
        }
        wakers
    }

    /// Counts a grant to write, or a copy for a reader.
    pub(super) fn write_begins(&mut self, layout: u16, blocks: &[u32]) {
        for &block in blocks {
            *self.written.entry((layout, block)).or_default() += 1;
        }
    }

    /// The reverse of [`write_begins`](Self::write_begins), before [`freed`](Self::freed).
    pub(super) fn write_ended(&mut self, layout: u16, blocks: &[u32]) {
        for &block in blocks {
            if let Entry::Occupied(mut count) = self.written.entry((layout, block)) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }

    fn remove(&mut self, id: u64) -> Option<Waker> {
        let waiter = self.waiting.remove(&id)?;
        self.watched.remove(&(waiter.layout, waiter.blocks[waiter.at], id));
        Some(waiter.waker)
    }
}

/// Resolves when no grant of the table covers any of the blocks; see [`GrantTable::free_blocks`]. Dropping it ends the wait.
///
/// In a forked child it resolves at once: the blocks are the parent's.
#[must_use = "a future does nothing until it is polled"]
pub struct FreeBlocks {
    table: LeakInChild<Arc<GrantTable>>,
    layout: u16,
    blocks: Arc<[u32]>,
    waiter: Option<u64>,
}

impl FreeBlocks {
    /// The blocks exist.
    pub(super) fn new(table: Arc<GrantTable>, layout: u16, blocks: Arc<[u32]>) -> Self {
        Self { table: LeakInChild::new(table), layout, blocks, waiter: None }
    }
}

impl Future for FreeBlocks {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { table, layout, blocks, waiter } = &mut *self;
        if table.is_inherited() {
            return Poll::Ready(());
        }
        let held = table.held(*layout);
        let waiting = (*layout, &*blocks);
        let (poll, _) = table.waiters(|all| all.poll(waiter, waiting, cx.waker(), held));
        poll
    }
}

impl Drop for FreeBlocks {
    fn drop(&mut self) {
        if let Some(id) = self.waiter
            && !self.table.is_inherited()
        {
            drop(self.table.waiters(|waiters| waiters.remove(id)));
        }
    }
}

/// Blocks that are granted for writing, or [copied](super::GrantedCopy) for a reader. [`FreeBlocks`] waits for them until this is
/// dropped.
///
/// In a forked child the drop changes nothing.
pub struct WrittenBlocks {
    table: LeakInChild<Arc<GrantTable>>,
    layout: u16,
    blocks: Box<[u32]>,
    #[expect(dead_code, reason = "only its drop matters")]
    live: LeakInChild<LiveGauges>,
}

impl WrittenBlocks {
    /// The blocks are counted.
    pub(super) fn new(
        table: Arc<GrantTable>,
        (layout, blocks): (u16, Box<[u32]>),
        live: LiveGauges,
    ) -> Self {
        Self { table: LeakInChild::new(table), layout, blocks, live: LeakInChild::new(live) }
    }
}

impl Drop for WrittenBlocks {
    fn drop(&mut self) {
        if !self.table.is_inherited() {
            self.table.write_ended(self.layout, &self.blocks);
        }
    }
}

impl fmt::Debug for WrittenBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrittenBlocks").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl fmt::Debug for FreeBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (layout, blocks) = (&self.layout, &self.blocks);
        f.debug_struct("FreeBlocks")
            .field("layout", layout)
            .field("blocks", blocks)
            .finish_non_exhaustive()
    }
}
