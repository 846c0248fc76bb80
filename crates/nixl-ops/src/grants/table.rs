//! The grants of one export.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use nixl_descriptor::layout::{BlockGrant, BlockGrantError, BlockGrants, Layout};
use nixl_descriptor::{LeaseMode, LeaseSet};

use super::claims::{Claims, Revoked};
use super::error::GrantError;
use super::expiry::Expiries;
use super::terms::{GrantTableOptions, GrantTerms, Granted};
use super::tokens::{Tokens, same};
use super::waiters::{FreeBlocks, Waiters};
use super::words::GrantWords;
use crate::clock::Clock;
use crate::wakes;

/// The grants of one export, which end without an answer from their users. Safe to use from several threads.
///
/// Dropping it ends all grants, as [`close`](Self::close). What is still in quarantine then stays granted, and its memory
/// allocated, until the process ends; that is counted in [`leaked`](nixl_descriptor::leaked).
pub struct GrantTable {
    clock: Arc<dyn Clock>,
    words: GrantWords,
    /// `None` if blocks are granted for reading only.
    claims: Option<Claims>,
    layouts: Vec<BlockGrants>,
    state: Mutex<State>,
}

struct State {
    /// As long as slots were ever used.
    slots: Vec<Option<Grant>>,
    free: Vec<u32>,
    /// The last value that a word has had.
    value: u64,
    tokens: Tokens,
    expiries: Expiries,
    waiters: Waiters,
    alive: usize,
    quarantined: usize,
    quarantined_blocks: usize,
    closed: bool,
}

struct Grant {
    generation: u64,
    token: [u8; 16],
    layout: u16,
    blocks: BlockGrant,
    phase: Phase,
    /// Layers that are ready.
    layers: u64,
    time_to_live: Option<Duration>,
    expires: Option<Duration>,
    readers: usize,
    /// Of those, the ones that are done.
    done: HashSet<[u8; 16]>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Its word is not published yet.
    Reserved,
    Published,
    /// Ended, and claimed by a writer.
    Quarantined,
}

/// What ending a grant came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum GrantEnd {
    /// It has ended now: what is done to the blocks from here on is not taken for granted bytes by a reader that checks.
    Ended,
    /// It is not valid any more, but a writer has claimed it: its blocks stay granted until the writer's confirmation or proof.
    Quarantined,
    /// It had ended before, or there was none.
    Over,
}

/// The outcome of a reader's or writer's message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DoneOutcome {
    /// It was the last: the grant has ended.
    Ended,
    /// So many more readers are expected.
    Waiting {
        /// How many.
        readers: usize,
    },
    /// The grant had ended before.
    Over,
}

/// What a table holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct GrantStats {
    /// Grants that have not ended.
    pub alive: usize,
    /// Blocks that a grant covers, those in quarantine included.
    pub blocks: usize,
    /// Grants that have ended and were claimed by a writer that is not known to be quiet.
    pub quarantined: usize,
    /// Their blocks.
    pub quarantined_blocks: usize,
    /// Tasks that wait for blocks to be free.
    pub waiting: usize,
}

impl GrantTable {
    /// The most layouts.
    const LAYOUTS: usize = 1 << 16;

    /// A table for blocks of these layouts, which it keeps in memory.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoMemory`], [`GrantError::TooManyLayouts`] or [`GrantError::NoRandomness`].
    pub fn new(
        layouts: &[Layout],
        options: GrantTableOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GrantError> {
        if layouts.len() > Self::LAYOUTS {
            let (layouts, most) = (layouts.len(), Self::LAYOUTS);
            return Err(GrantError::TooManyLayouts { layouts, most });
        }
        let slots = options.slots.get();
        let words = GrantWords::new(slots)?;
        let claims = options.writable.then(|| Claims::new(slots)).transpose()?;
        let mut tokens = Tokens::default();
        let state = State {
            slots: Vec::new(),
            free: Vec::new(),
            value: base(&mut tokens)?,
            tokens,
            expiries: Expiries::default(),
            waiters: Waiters::default(),
            alive: 0,
            quarantined: 0,
            quarantined_blocks: 0,
            closed: false,
        };
        let layouts = layouts.iter().map(Layout::grantable).collect();
        Ok(Self { clock, words, claims, layouts, state: Mutex::new(state) })
    }

    /// Grants blocks, or none. The grant is valid once it is [published](Self::publish).
    ///
    /// May wait for a host copy of the same bytes that is under way; not for other operations. Panics: never.
    ///
    /// # Errors
    ///
    /// [`GrantError`]; [`Blocks`](GrantError::Blocks) says which block cannot be granted.
    pub fn grant(&self, terms: &GrantTerms, blocks: &[u32]) -> Result<Granted, GrantError> {
        let layout = self.layout(terms.layout)?;
        if terms.mode == LeaseMode::Write && self.claims.is_none() {
            return Err(GrantError::NotWritable);
        }
        // A copy is waited for without the lock.
        let taken = layout.grant(blocks.into(), terms.mode);
        let mut state = self.lock();
        let refused = match taken {
            Err(refused) => refused.into(),
            Ok(taken) => match self.reserve(&mut state, terms, taken) {
                Ok(granted) => return Ok(granted),
                Err(refused) => refused,
            },
        };
        // A waiter may have seen the blocks granted meanwhile.
        let wakers = state.waiters.freed(terms.layout, blocks, self.held(terms.layout));
        drop(state);
        wakers.into_iter().for_each(wakes::wake);
        Err(refused)
    }

    /// Makes a grant valid: from now on readers of a ticket with this digest find it so. `layers` of its blocks are ready, or
    /// [more](Self::ready_through).
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::Published`].
    pub fn publish(
        &self,
        slot: u32,
        generation: u64,
        digest: u64,
        layers: u64,
    ) -> Result<(), GrantError> {
        let mut state = self.lock();
        let grant = self.alive(&mut state, slot, generation)?;
        if grant.phase != Phase::Reserved {
            return Err(GrantError::Published);
        }
        grant.phase = Phase::Published;
        grant.layers = grant.layers.max(layers);
        if let (LeaseMode::Write, Some(claims)) = (grant.blocks.mode(), &self.claims) {
            claims.arm(slot, generation);
        }
        self.words.publish(slot, generation, digest, grant.layers);
        Ok(())
    }

    /// Says that `layers` of the blocks are ready, as their readers see. A smaller number than before changes nothing.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`].
    pub fn ready_through(&self, slot: u32, generation: u64, layers: u64) -> Result<(), GrantError> {
        let mut state = self.lock();
        let grant = self.alive(&mut state, slot, generation)?;
        if layers > grant.layers {
            grant.layers = layers;
            if grant.phase == Phase::Published {
                self.words.ready(slot, layers);
            }
        }
        Ok(())
    }

    /// Ends a grant, also while readers use it. A claimed grant to write goes into quarantine.
    ///
    /// It orders what the caller does to the blocks afterwards; not what it has queued before, on a GPU's stream for instance.
    pub fn end(&self, slot: u32, generation: u64) -> GrantEnd {
        self.change(|changes| match changes.has(slot, generation) {
            true => changes.end(slot),
            false => GrantEnd::Over,
        })
    }

    /// Ends a grant to write, claimed or not, for which the caller has proof that its writer is quiet: nothing of it is on its
    /// way to the blocks.
    pub fn end_quiet(&self, slot: u32, generation: u64) -> GrantEnd {
        self.change(|changes| {
            if !changes.has(slot, generation) {
                return GrantEnd::Over;
            }
            changes.settle(slot);
            GrantEnd::Ended
        })
    }

    /// A reader, or the writer, is done with the grant. A reader that says so again counts once.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::WrongToken`].
    pub fn done(
        &self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
        reader: [u8; 16],
    ) -> Result<DoneOutcome, GrantError> {
        self.check_slot(slot)?;
        let now = self.clock.now();
        self.change(|changes| {
            let grant = changes.state.grant(slot);
            let Some(grant) = grant.filter(|grant| grant.generation == generation) else {
                return Ok(DoneOutcome::Over);
            };
            if !same(&grant.token, token) {
                return Err(GrantError::WrongToken { slot });
            }
            if grant.blocks.mode() == LeaseMode::Write {
                changes.settle(slot);
                return Ok(DoneOutcome::Ended);
            }
            if grant.expires.is_some_and(|at| at <= now) {
                changes.end(slot);
                return Ok(DoneOutcome::Over);
            }
            if grant.readers > 1 {
                grant.done.insert(reader);
                let readers = grant.readers - grant.done.len();
                if readers > 0 {
                    return Ok(DoneOutcome::Waiting { readers });
                }
            }
            changes.end(slot);
            Ok(DoneOutcome::Ended)
        })
    }

    /// Gives a grant its time to live anew. Returns when it ends now, on the clock of the table; `None` if it has no time to
    /// live.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`].
    pub fn renew(
        &self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
    ) -> Result<Option<Duration>, GrantError> {
        let now = self.clock.now();
        self.change(|changes| {
            let grant = changes.valid(slot, generation, token, now)?;
            // The entry of the earlier deadline finds the later one.
            grant.expires = grant.time_to_live.map(|time| now.saturating_add(time));
            Ok(grant.expires)
        })
    }

    /// Claims a grant for a writer that cannot reach the page of [claims](Self::claims).
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`], [`GrantError::ReadOnly`],
    /// [`GrantError::Claim`].
    pub fn claim(&self, slot: u32, generation: u64, token: &[u8; 16]) -> Result<(), GrantError> {
        let now = self.clock.now();
        self.change(|changes| {
            let grant = changes.valid(slot, generation, token, now)?;
            match (grant.blocks.mode(), grant.phase, &self.claims) {
                (LeaseMode::Write, Phase::Published, Some(claims)) => {
                    Ok(claims.claim(slot, generation)?)
                }
                (LeaseMode::Write, ..) => Err(GrantError::Over),
                _ => Err(GrantError::ReadOnly { slot }),
            }
        })
    }

    /// Leases some layers of the granted blocks, for a use of the ticket in this process: its reader needs no check.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`], [`GrantError::Lease`].
    pub fn lease(
        &self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
        layers: Range<usize>,
    ) -> Result<LeaseSet, GrantError> {
        let now = self.clock.now();
        self.change(|changes| {
            Ok(changes.valid(slot, generation, token, now)?.blocks.lease(layers)?)
        })
    }

    /// Ends the grants whose writers have said on the page of claims that they are done, and returns their slots and
    /// generations.
    pub fn take_done(&self) -> Vec<(u32, u64)> {
        let Some(claims) = &self.claims else { return Vec::new() };
        let slots = claims.take_done();
        if slots.is_empty() {
            return Vec::new();
        }
        self.change(|changes| {
            let mut ended = Vec::new();
            for slot in slots {
                let Some(grant) = changes.state.grant(slot) else { continue };
                let generation = grant.generation;
                if claims.is_done(slot, generation) {
                    changes.settle(slot);
                    ended.push((slot, generation));
                }
            }
            ended
        })
    }

    /// The grants in quarantine. Takes time in proportion to all grants.
    pub fn quarantined(&self) -> Vec<(u32, u64)> {
        let state = self.lock();
        let quarantined = |(slot, grant): (usize, &Option<Grant>)| {
            let grant = grant.as_ref().filter(|grant| grant.phase == Phase::Quarantined)?;
            Some((slot as u32, grant.generation))
        };
        state.slots.iter().enumerate().filter_map(quarantined).collect()
    }

    /// When the next grant ends by its time to live, on the clock of the table.
    pub fn next_expiry(&self) -> Option<Duration> {
        let State { slots, expiries, .. } = &mut *self.lock();
        expiries.next(deadline(slots))
    }

    /// Ends the grants whose time to live is over at `now`. Returns how many.
    pub fn expire(&self, now: Duration) -> usize {
        self.change(|changes| {
            let mut ended = 0;
            loop {
                let State { slots, expiries, .. } = &mut *changes.state;
                let Some(slot) = expiries.take_due(now, deadline(slots)) else { return ended };
                changes.end(slot);
                ended += 1;
            }
        })
    }

    /// Publishes the number of the export beside the words: a peer that reads it there knows that the export is open.
    pub fn open(&self, export: u64) {
        self.words.set_export(export);
    }

    /// Refuses grants from now on and ends all there are. Returns how many are in quarantine.
    pub fn close(&self) -> usize {
        self.words.set_export(0);
        self.change(|changes| {
            changes.state.closed = true;
            for slot in 0..changes.state.slots.len() {
                changes.end(slot as u32);
            }
            changes.state.quarantined
        })
    }

    /// Resolves when no grant of this table covers any of the blocks. Another task may have them granted by then.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoLayout`], [`GrantError::Blocks`] for a block that does not exist.
    pub fn free_blocks(
        self: &Arc<Self>,
        layout: u16,
        blocks: &[u32],
    ) -> Result<FreeBlocks, GrantError> {
        let count = self.layout(layout)?.layout().geometry().blocks();
        if let Some(&block) = blocks.iter().find(|block| **block as usize >= count) {
            return Err(BlockGrantError::OutOfRange { block, blocks: count }.into());
        }
        Ok(FreeBlocks::new(Arc::clone(self), layout, blocks.into()))
    }

    /// Whether a grant has not ended.
    pub(super) fn is_used(&self) -> bool {
        self.lock().alive > 0
    }

    /// What the table holds.
    pub fn stats(&self) -> GrantStats {
        let state = self.lock();
        GrantStats {
            alive: state.alive,
            blocks: self.layouts.iter().map(BlockGrants::granted).sum(),
            quarantined: state.quarantined,
            quarantined_blocks: state.quarantined_blocks,
            waiting: state.waiters.len(),
        }
    }

    /// The words that readers check.
    pub fn words(&self) -> &GrantWords {
        &self.words
    }

    /// The page on which writers of this host claim grants, if blocks can be granted for writing.
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// The layouts whose blocks are granted, by number.
    pub fn layouts(&self) -> impl ExactSizeIterator<Item = &Layout> {
        self.layouts.iter().map(BlockGrants::layout)
    }

    /// Whether a block of the layout is granted.
    pub(super) fn held(&self, layout: u16) -> impl Fn(u32) -> bool {
        let layout = self.layouts.get(usize::from(layout));
        move |block| layout.is_some_and(|layout| layout.held(block).is_some())
    }

    /// What `change` returns is dropped without the lock.
    pub(super) fn waiters<R>(&self, change: impl FnOnce(&mut Waiters) -> R) -> R {
        change(&mut self.lock().waiters)
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn expiries(&self) -> usize {
        self.lock().expiries.len()
    }

    /// Gives blocks that are granted a slot.
    fn reserve(
        &self,
        state: &mut State,
        terms: &GrantTerms,
        blocks: BlockGrant,
    ) -> Result<Granted, GrantError> {
        if state.closed {
            return Err(GrantError::Closed);
        }
        let slots = self.words.slots();
        if state.free.is_empty() && state.slots.len() >= slots as usize {
            return Err(GrantError::Full { slots });
        }
        let token = state.tokens.next().map_err(no_randomness)?;
        let generation = state.next_value();
        let expires = terms.time_to_live.map(|time| self.clock.now().saturating_add(time));
        let grant = Grant {
            generation,
            token,
            layout: terms.layout,
            blocks,
            phase: Phase::Reserved,
            layers: 0,
            time_to_live: terms.time_to_live,
            expires,
            readers: terms.readers.get() as usize,
            done: HashSet::new(),
        };
        // The slot that was used last is in the processor's caches.
        let slot = match state.free.pop() {
            Some(slot) => {
                state.slots[slot as usize] = Some(grant);
                slot
            }
            None => {
                state.slots.push(Some(grant));
                state.slots.len() as u32 - 1
            }
        };
        state.alive += 1;
        if let Some(at) = expires {
            state.expiries.add(at, slot, generation);
            let State { slots, expiries, alive, .. } = state;
            expiries.trim(*alive, deadline(slots));
        }
        Ok(Granted { slot, generation, token })
    }

    fn layout(&self, layout: u16) -> Result<&BlockGrants, GrantError> {
        let found = self.layouts.get(usize::from(layout));
        found.ok_or(GrantError::NoLayout { layout, layouts: self.layouts.len() })
    }

    fn check_slot(&self, slot: u32) -> Result<(), GrantError> {
        let slots = self.words.slots();
        if slot < slots { Ok(()) } else { Err(GrantError::NoSlot { slot, slots }) }
    }

    /// A grant that has not ended.
    fn alive<'a>(
        &self,
        state: &'a mut State,
        slot: u32,
        generation: u64,
    ) -> Result<&'a mut Grant, GrantError> {
        self.check_slot(slot)?;
        let alive = |grant: &&mut Grant| {
            grant.generation == generation && grant.phase != Phase::Quarantined
        };
        state.grant(slot).filter(alive).ok_or(GrantError::Over)
    }

    /// Changes the state, and then, without the lock, calls the wakers of waits that are over.
    fn change<R>(&self, work: impl FnOnce(&mut Changes<'_>) -> R) -> R {
        let mut changes = Changes { table: self, state: self.lock(), wakers: Vec::new() };
        let result = work(&mut changes);
        let Changes { state, wakers, .. } = changes;
        drop(state);
        wakers.into_iter().for_each(wakes::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn grant(&mut self, slot: u32) -> Option<&mut Grant> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// A value that no word has had.
    fn next_value(&mut self) -> u64 {
        // It begins below 2^63, so it does not come round.
        self.value = self.value.wrapping_add(1);
        self.value
    }
}

/// Changes under the lock, and the wakers to call after it.
struct Changes<'a> {
    table: &'a GrantTable,
    state: MutexGuard<'a, State>,
    wakers: Vec<Waker>,
}

impl Changes<'_> {
    /// Whether the slot has that grant, alive or in quarantine.
    fn has(&mut self, slot: u32, generation: u64) -> bool {
        self.state.grant(slot).is_some_and(|grant| grant.generation == generation)
    }

    /// The grant of a ticket, if it has not ended. One whose time to live is over ends now.
    fn valid(
        &mut self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
        now: Duration,
    ) -> Result<&mut Grant, GrantError> {
        let grant = self.table.alive(&mut self.state, slot, generation)?;
        if !same(&grant.token, token) {
            return Err(GrantError::WrongToken { slot });
        }
        if grant.expires.is_some_and(|at| at <= now) {
            self.end(slot);
            return Err(GrantError::Over);
        }
        self.table.alive(&mut self.state, slot, generation)
    }

    /// Ends the grant of a slot, if it has one.
    fn end(&mut self, slot: u32) -> GrantEnd {
        let Some(grant) = self.state.grant(slot) else { return GrantEnd::Over };
        let (generation, mode, phase) = (grant.generation, grant.blocks.mode(), grant.phase);
        if phase == Phase::Quarantined {
            return GrantEnd::Quarantined;
        }
        if let (LeaseMode::Write, Phase::Published, Some(claims)) =
            (mode, phase, &self.table.claims)
        {
            self.raise(slot);
            if claims.revoke(slot, generation) == Revoked::Claimed {
                self.quarantine(slot);
                return GrantEnd::Quarantined;
            }
        }
        self.finish(slot);
        GrantEnd::Ended
    }

    /// Ends the grant of a slot whose writer, if it has one, is quiet.
    fn settle(&mut self, slot: u32) {
        let Some(grant) = self.state.grant(slot) else { return };
        let (generation, published) = (grant.generation, grant.phase != Phase::Reserved);
        if let (true, Some(claims)) = (published, &self.table.claims) {
            claims.settle(slot, generation);
        }
        self.finish(slot);
    }

    fn quarantine(&mut self, slot: u32) {
        let Some(grant) = self.state.grant(slot) else { return };
        grant.phase = Phase::Quarantined;
        grant.expires = None;
        let blocks = grant.blocks.blocks().len();
        self.state.alive -= 1;
        self.state.quarantined += 1;
        self.state.quarantined_blocks += blocks;
    }

    /// Frees the slot and the blocks.
    fn finish(&mut self, slot: u32) {
        // First of all: what is done to the blocks comes after it.
        self.raise(slot);
        let grant = self.state.slots.get_mut(slot as usize).and_then(Option::take);
        let Some(Grant { layout, blocks, phase, .. }) = grant else { return };
        let blocks = blocks.end();
        match phase {
            Phase::Quarantined => {
                self.state.quarantined -= 1;
                self.state.quarantined_blocks -= blocks.len();
            }
            _ => self.state.alive -= 1,
        }
        self.state.free.push(slot);
        let held = self.table.held(layout);
        self.wakers.extend(self.state.waiters.freed(layout, &blocks, held));
    }

    fn raise(&mut self, slot: u32) {
        let value = self.state.next_value();
        self.table.words.raise(slot, value);
    }
}

impl Drop for GrantTable {
    fn drop(&mut self) {
        self.close();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.slots.drain(..).flatten().for_each(|grant| grant.blocks.leak());
    }
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTable").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// When a grant ends by its time to live, if it has not ended.
fn deadline(slots: &[Option<Grant>]) -> impl Fn(u32, u64) -> Option<Duration> {
    move |slot, generation| {
        let grant = slots.get(slot as usize)?.as_ref()?;
        grant.expires.filter(|_| grant.generation == generation)
    }
}

/// Where the values of words begin: at random, below 2^63. The first is one more, so it is not 0, which is what words are before
/// they are used.
fn base(tokens: &mut Tokens) -> Result<u64, GrantError> {
    let random = tokens.next().map_err(no_randomness)?;
    Ok(u128::from_ne_bytes(random) as u64 >> 1)
}

fn no_randomness(error: rustix::io::Errno) -> GrantError {
    GrantError::NoRandomness { message: error.to_string() }
}
