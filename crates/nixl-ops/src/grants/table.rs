//! The grants of one export.

use std::collections::HashSet;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use nixl_descriptor::LeaseSet;
use nixl_descriptor::layout::{BlockGrant, BlockGrantError, BlockGrants, Layout};

use super::error::GrantError;
use super::expiry::Expiries;
use super::layers::{ENDED, Told, Watcher, Watchers};
use super::message::GrantMessage;
use super::metrics::{GrantMetrics, LiveGauges};
use super::notifications::{NotificationInbox, NotificationReceiver, NotificationSender};
use super::outstanding::{OutstandingTickets, Unanswered};
use super::terms::{GrantTableOptions, GrantTerms, Granted, TicketEnd};
use super::tokens::{Tokens, same};
use super::waiters::{FreeBlocks, Waiters, WrittenBlocks};
use super::words::GrantWords;
use crate::clock::Clock;
use crate::wakes;

/// The grants of one export. They end without the readers' consent. Usable from several threads.
///
/// Dropping it ends all grants, as [`close`](Self::close).
pub struct GrantTable {
    clock: Arc<dyn Clock>,
    words: Arc<GrantWords>,
    layouts: Vec<BlockGrants>,
    state: Mutex<State>,
    notifications: Arc<NotificationInbox>,
    tickets: Arc<OutstandingTickets>,
    metrics: GrantMetrics,
}

struct State {
    /// Indexed by slots ever used.
    slots: Vec<Option<Grant>>,
    free: Vec<u32>,
    /// The last value of a word.
    value: u64,
    tokens: Tokens,
    expiries: Expiries,
    waiters: Waiters,
    /// Grants whose readers may wait for layers.
    unfilled: usize,
    closed: bool,
}

struct Grant {
    generation: u64,
    token: [u8; 16],
    layout: u16,
    blocks: BlockGrant,
    /// The digest of its ticket, once its word says that it is valid.
    published: Option<u64>,
    /// Layers that are ready.
    layers: u64,
    /// The end of its layers.
    last: u64,
    watchers: Watchers,
    time_to_live: Option<Duration>,
    expires: Option<Duration>,
    /// Of the ticket: that may be read beyond the grant's own end.
    end: TicketEnd,
    readers: usize,
    /// The readers that are done.
    done: HashSet<[u8; 16]>,
    live: LiveGauges,
}

/// Why a grant has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum GrantEnd {
    /// Its readers are done.
    Done,
    /// Its time to live is over.
    Expired,
    /// Its owner ended it.
    Revoked,
    /// Its export was closed.
    Closed,
}

/// The words of a table that is closed, for the next one: no value of theirs is used again.
#[derive(Debug)]
pub struct SpentWords {
    words: Arc<GrantWords>,
    value: u64,
}

impl SpentWords {
    /// Grants that they have room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.words.slots()
    }
}

/// What a reader's word came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DoneOutcome {
    /// The last reader: the grant has ended.
    Ended,
    /// More readers are expected.
    Waiting {
        /// Their number.
        readers: usize,
    },
    /// The grant had ended before.
    Over,
}

/// Counters of a table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GrantStats {
    pub(crate) alive: usize,
    pub(crate) blocks: usize,
    pub(crate) waiting: usize,
}

impl GrantStats {
    /// Grants that have not ended.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// Blocks that a grant covers.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Tasks that wait for free blocks.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }
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
        let words = Arc::new(GrantWords::new(options.slots.get())?);
        let value = base(&mut Tokens::default())?;
        Self::with_words(layouts, SpentWords { words, value }, clock)
    }

    /// As [`new`](Self::new), with the words of a table that is closed, and room for as many grants.
    ///
    /// # Errors
    ///
    /// [`GrantError::TooManyLayouts`].
    pub fn with_words(
        layouts: &[Layout],
        SpentWords { words, value }: SpentWords,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GrantError> {
        Self::check_layouts(layouts.len())?;
        let state = State {
            slots: Vec::new(),
            free: Vec::new(),
            value,
            tokens: Tokens::default(),
            expiries: Expiries::default(),
            waiters: Waiters::default(),
            unfilled: 0,
            closed: false,
        };
        let layouts = layouts.iter().map(Layout::grantable).collect();
        let notifications = NotificationInbox::new();
        let tickets = Arc::new(OutstandingTickets::new());
        let (state, metrics) = (Mutex::new(state), GrantMetrics::default());
        Ok(Self { clock, words, layouts, state, notifications, tickets, metrics })
    }

    /// Refuses more layouts than a table has.
    ///
    /// # Errors
    ///
    /// [`GrantError::TooManyLayouts`].
    pub fn check_layouts(layouts: usize) -> Result<(), GrantError> {
        let most = Self::LAYOUTS;
        if layouts > most { Err(GrantError::TooManyLayouts { layouts, most }) } else { Ok(()) }
    }

    /// Grants blocks, or none. The grant is valid once it is [published](Self::publish).
    ///
    /// May wait for a running host copy of the same bytes, not for other operations. Never panics.
    ///
    /// # Errors
    ///
    /// [`GrantError`]; [`Blocks`](GrantError::Blocks) names the block.
    pub fn grant(&self, terms: &GrantTerms, blocks: &[u32]) -> Result<Granted, GrantError> {
        let layout = self.layout(terms.layout)?;
        // The wait for a copy is outside the lock.
        let taken = layout.grant(blocks.into());
        let mut live = self.metrics.reading(blocks.len());
        let mut state = self.lock();
        let refused = match taken {
            Err(refused) => refused.into(),
            Ok(taken) => match self.reserve(&mut state, terms, (taken, &mut live)) {
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

    /// Makes a grant valid for readers of a ticket with this digest. `layers` of its blocks are ready, or
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
        self.change(|changes| {
            let grant = self.alive(&mut changes.state, slot, generation)?;
            if grant.published.is_some() {
                return Err(GrantError::Published);
            }
            grant.published = Some(digest);
            grant.layers = grant.layers.max(layers);
            self.words.publish(slot, generation, digest, grant.layers);
            let (told, is_filled) = (grant.told(), grant.is_filled());
            changes.told.extend(told);
            changes.state.unfilled -= usize::from(is_filled);
            Ok(())
        })
    }

    /// Publishes the number of ready layers for readers. A smaller number than before changes nothing.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`].
    pub fn ready_through(&self, slot: u32, generation: u64, layers: u64) -> Result<(), GrantError> {
        self.change(|changes| {
            let grant = self.alive(&mut changes.state, slot, generation)?;
            if layers > grant.layers {
                let was_filled = grant.is_filled();
                grant.layers = layers;
                if grant.published.is_some() {
                    self.words.ready(slot, layers);
                    let told = grant.told();
                    let is_filled = grant.is_filled();
                    changes.told.extend(told);
                    changes.state.unfilled -= usize::from(is_filled && !was_filled);
                }
            }
            Ok(())
        })
    }

    /// Tells a reader of the layers of a grant, now and from now on, and of its end. Returns `false` for one of more agents than
    /// the grant has readers.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`].
    pub(super) fn watch(
        &self,
        message: &GrantMessage,
        watcher: Arc<Watcher>,
    ) -> Result<bool, GrantError> {
        let (slot, generation, token) = message.grant();
        let now = self.clock.now();
        self.change(|changes| {
            let grant = changes.valid(slot, generation, token, now)?;
            let layers = grant.published.map_or(0, |_| grant.layers);
            let is_added = grant.watchers.add(Arc::clone(&watcher), grant.readers);
            changes.told.extend((is_added && layers > 0).then_some((watcher, layers)));
            Ok(is_added)
        })
    }

    /// Ends a grant, also during reads: readers with the check reject bytes written to the blocks from here on. Returns whether
    /// it had not ended before.
    ///
    /// It orders the caller's later accesses to the blocks, not work queued before, such as on a GPU's stream.
    pub fn end(&self, slot: u32, generation: u64) -> bool {
        self.change(|changes| {
            let alive = changes.state.grant(slot, generation).is_some();
            if alive {
                changes.end(slot, GrantEnd::Revoked);
            }
            alive
        })
    }

    /// Records that a reader is done with the grant: it has no read under way by its ticket, and begins none. A repetition counts
    /// once.
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
            let Some(grant) = changes.state.grant(slot, generation) else {
                self.tickets.done(generation, token, reader);
                return Ok(DoneOutcome::Over);
            };
            if !same(&grant.token, token) {
                return Err(GrantError::WrongToken { slot });
            }
            if grant.expires.is_some_and(|at| at <= now) {
                changes.end(slot, GrantEnd::Expired);
                self.tickets.done(generation, token, reader);
                return Ok(DoneOutcome::Over);
            }
            if grant.readers > 1 {
                grant.done.insert(reader);
                let readers = grant.readers - grant.done.len();
                if readers > 0 {
                    return Ok(DoneOutcome::Waiting { readers });
                }
            }
            changes.end(slot, GrantEnd::Done);
            Ok(DoneOutcome::Ended)
        })
    }

    /// Restarts a grant's time to live, and publishes it in the words. Returns the new end, on the clock of the table; `None`
    /// if it has no time to live.
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
            // The entry of the earlier deadline leads to the later one.
            grant.expires = grant.time_to_live.map(|time| now.saturating_add(time));
            let (expires, time_to_live) = (grant.expires, grant.time_to_live);
            if time_to_live.is_some() {
                let end = TicketEnd::after(time_to_live, &*self.clock);
                grant.end = self.tickets.renew(grant.end, end);
                self.words.renew(slot, end.unix_millis);
            }
            Ok(expires)
        })
    }

    /// The tickets by which readers may read.
    pub fn tickets(&self) -> &Arc<OutstandingTickets> {
        &self.tickets
    }

    /// Leases some layers of the granted blocks, for a use in this process of the ticket that has this digest: its reader needs no
    /// check.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`], [`GrantError::Unpublished`],
    /// [`GrantError::NotGranted`], [`GrantError::NotReady`], [`GrantError::Lease`].
    pub fn lease(
        &self,
        (slot, generation): (u32, u64),
        token: &[u8; 16],
        digest: u64,
        layers: Range<usize>,
    ) -> Result<LeaseSet, GrantError> {
        let now = self.clock.now();
        self.change(|changes| {
            let grant = changes.valid(slot, generation, token, now)?;
            match grant.published {
                None => return Err(GrantError::Unpublished),
                Some(published) if published != digest => {
                    return Err(GrantError::NotGranted { slot });
                }
                Some(_) => {}
            }
            let (ready, asked) = (grant.layers, layers.end as u64);
            if ready < asked {
                return Err(GrantError::NotReady { ready, asked });
            }
            Ok(grant.blocks.lease(layers)?)
        })
    }

    /// The next end of a grant by its time to live, on the clock of the table.
    pub fn next_expiry(&self) -> Option<Duration> {
        let State { slots, expiries, .. } = &mut *self.lock();
        expiries.next(deadline(slots))
    }

    /// Ends the grants whose time to live is over at `now`. Returns their number.
    pub fn expire(&self, now: Duration) -> usize {
        self.change(|changes| {
            let mut ended = 0;
            loop {
                let State { slots, expiries, .. } = &mut *changes.state;
                let Some(slot) = expiries.take_due(now, deadline(slots)) else { return ended };
                changes.end(slot, GrantEnd::Expired);
                ended += 1;
            }
        })
    }

    /// Publishes the number of the export next to the words, which marks it as open.
    pub fn open(&self, export: u64) {
        self.words.set_export(export);
    }

    /// Refuses grants from now on and ends all there are. Returns the words, for the next table; `None` if it was closed before.
    pub fn close(&self) -> Option<SpentWords> {
        let spent = self.change(|changes| {
            if mem::replace(&mut changes.state.closed, true) {
                return None;
            }
            self.words.set_export(0);
            for slot in 0..changes.state.slots.len() {
                changes.end(slot as u32, GrantEnd::Closed);
            }
            Some(SpentWords { words: Arc::clone(&self.words), value: changes.state.value })
        });
        self.notifications.close();
        spent
    }

    /// Has [`free_blocks`](Self::free_blocks) wait for blocks that are granted for writing, until the result is dropped.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write_begins(
        self: &Arc<Self>,
        layout: u16,
        blocks: &[u32],
    ) -> Result<WrittenBlocks, GrantError> {
        self.check_blocks(layout, blocks)?;
        self.lock().waiters.write_begins(layout, blocks);
        let live = self.metrics.writing(blocks.len());
        Ok(WrittenBlocks::new(Arc::clone(self), (layout, blocks.into()), live))
    }

    pub(super) fn write_ended(&self, layout: u16, blocks: &[u32]) {
        self.change(|changes| {
            let waiters = &mut changes.state.waiters;
            waiters.write_ended(layout, blocks);
            changes.wakers.extend(waiters.freed(layout, blocks, self.held(layout)));
        });
    }

    /// Resolves when no grant of this table covers any of the blocks, and none to write either
    /// ([`write_begins`](Self::write_begins)). Another task may have granted them by then.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoLayout`], [`GrantError::Blocks`] for a block that does not exist.
    pub fn free_blocks(
        self: &Arc<Self>,
        layout: u16,
        blocks: &[u32],
    ) -> Result<FreeBlocks, GrantError> {
        self.check_blocks(layout, blocks)?;
        Ok(FreeBlocks::new(Arc::clone(self), layout, blocks.into()))
    }

    fn check_blocks(&self, layout: u16, blocks: &[u32]) -> Result<(), GrantError> {
        let count = self.layout(layout)?.layout().geometry().blocks();
        match blocks.iter().find(|block| **block as usize >= count) {
            Some(&block) => Err(BlockGrantError::OutOfRange { block, blocks: count }.into()),
            None => Ok(()),
        }
    }

    /// Whether a grant has not ended.
    pub(super) fn is_used(&self) -> bool {
        self.lock().alive() > 0
    }

    /// Whether a task waits for free blocks or for a notification, or a reader may ask for layers that are not ready.
    pub(super) fn is_awaited(&self) -> bool {
        let state = self.lock();
        let is_it = state.waiters.len() > 0 || state.unfilled > 0;
        drop(state);
        is_it || self.notifications.is_awaited()
    }

    /// A receiver of importers' notifications; `None` while there is another. Without a receiver they are dropped.
    pub fn subscribe(&self) -> Option<NotificationReceiver> {
        self.notifications.subscribe()
    }

    /// A notification of an import of this process.
    pub fn notify(&self, sender: NotificationSender, sequence: u64, payload: &[u8]) {
        self.notifications.deliver(sender, sequence, payload);
    }

    /// The counters.
    pub fn stats(&self) -> GrantStats {
        let state = self.lock();
        GrantStats {
            alive: state.alive(),
            blocks: self.layouts.iter().map(BlockGrants::granted).sum(),
            waiting: state.waiters.len(),
        }
    }

    /// The words that readers check.
    pub fn words(&self) -> &GrantWords {
        &self.words
    }

    /// The layouts whose blocks are granted, by number.
    pub fn layouts(&self) -> impl ExactSizeIterator<Item = &Layout> {
        self.layouts.iter().map(BlockGrants::layout)
    }

    /// Whether a block of the layout is granted.
    pub(super) fn held(&self, layout: u16) -> impl Fn(u32) -> bool {
        let layout = self.layouts.get(usize::from(layout));
        move |block| layout.is_some_and(|layout| layout.is_granted(block))
    }

    /// The result of `change` is dropped without the lock.
    pub(super) fn waiters<R>(&self, change: impl FnOnce(&mut Waiters) -> R) -> R {
        change(&mut self.lock().waiters)
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn expiries(&self) -> usize {
        self.lock().expiries.len()
    }

    /// Assigns a slot to granted blocks.
    fn reserve(
        &self,
        state: &mut State,
        terms: &GrantTerms,
        (blocks, live): (BlockGrant, &mut LiveGauges),
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
        let end = TicketEnd::after(terms.time_to_live, &*self.clock);
        let expires = terms.time_to_live.map(|_| end.time);
        self.tickets.issue(end);
        let grant = Grant {
            generation,
            token,
            layout: terms.layout,
            blocks,
            published: None,
            layers: 0,
            last: terms.layers,
            watchers: Watchers::default(),
            time_to_live: terms.time_to_live,
            expires,
            end,
            readers: terms.readers.get() as usize,
            done: HashSet::new(),
            live: mem::take(live),
        };
        state.unfilled += 1;
        // The slot used last is in the processor's caches.
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
        if let Some(at) = expires {
            state.expiries.add(at, slot, generation);
            let alive = state.alive();
            let State { slots, expiries, .. } = state;
            expiries.trim(alive, deadline(slots));
        }
        Ok(Granted { slot, generation, token, end })
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
        state.grant(slot, generation).ok_or(GrantError::Over)
    }

    /// Changes the state, then calls the wakers of ended waits, tells readers and counts ended grants, all without the lock.
    fn change<R>(&self, work: impl FnOnce(&mut Changes<'_>) -> R) -> R {
        let (wakers, told, ended) = (Vec::new(), Vec::new(), Vec::new());
        let mut changes = Changes { table: self, state: self.lock(), wakers, told, ended };
        let result = work(&mut changes);
        let Changes { state, wakers, told, ended, .. } = changes;
        drop(state);
        wakers.into_iter().for_each(wakes::wake);
        told.into_iter().for_each(|(watcher, layers)| watcher.tell(layers));
        self.metrics.ended(ended);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic here leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A grant that has not ended.
    fn grant(&mut self, slot: u32, generation: u64) -> Option<&mut Grant> {
        let grant = self.slots.get_mut(slot as usize)?.as_mut();
        grant.filter(|grant| grant.generation == generation)
    }

    /// Number of grants that have not ended.
    fn alive(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A value that no word has had before.
    fn next_value(&mut self) -> u64 {
        // It begins below 2^63, so it does not wrap around.
        self.value = self.value.wrapping_add(1);
        self.value
    }
}

/// Changes under the lock, and what is called after it: wakers, readers and the recorder of metrics.
struct Changes<'a> {
    table: &'a GrantTable,
    state: MutexGuard<'a, State>,
    wakers: Vec<Waker>,
    told: Vec<Told>,
    ended: Vec<(GrantEnd, LiveGauges)>,
}

impl Grant {
    /// Whether no reader waits for a layer any more.
    fn is_filled(&self) -> bool {
        self.published.is_some() && self.layers >= self.last
    }

    /// What its readers are told now.
    fn told(&self) -> Vec<Told> {
        self.watchers.told(self.layers).collect()
    }
}

impl Changes<'_> {
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
            self.end(slot, GrantEnd::Expired);
            return Err(GrantError::Over);
        }
        self.table.alive(&mut self.state, slot, generation)
    }

    /// Ends the grant of a slot, if it has one.
    fn end(&mut self, slot: u32, why: GrantEnd) {
        let Self { table, state, wakers, told, ended } = self;
        let grant = state.slots.get_mut(slot as usize).and_then(Option::take);
        let Some(grant) = grant else { return };
        state.unfilled -= usize::from(!grant.is_filled());
        let Grant { layout, blocks, watchers, generation, token, readers, done, end, live, .. } =
            grant;
        ended.push((why, live));
        match why {
            GrantEnd::Done => table.tickets.answered(end),
            GrantEnd::Expired | GrantEnd::Revoked | GrantEnd::Closed => {
                table.tickets.ended(generation, Unanswered { token, readers, done, end });
            }
        }
        // Before the blocks are free, so later writes to them come after it.
        let value = state.next_value();
        table.words.raise(slot, value);
        let blocks = blocks.end();
        state.free.push(slot);
        told.extend(watchers.told(ENDED));
        wakers.extend(state.waiters.freed(layout, &blocks, table.held(layout)));
    }
}

impl Drop for GrantTable {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTable").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// The end of a live grant by its time to live.
fn deadline(slots: &[Option<Grant>]) -> impl Fn(u32, u64) -> Option<Duration> {
    move |slot, generation| {
        let grant = slots.get(slot as usize)?.as_ref()?;
        grant.expires.filter(|_| grant.generation == generation)
    }
}

/// The start of the values of words: random, below 2^63. The first value is one more, so never 0, the value of unused words.
fn base(tokens: &mut Tokens) -> Result<u64, GrantError> {
    let random = tokens.next().map_err(no_randomness)?;
    Ok(u128::from_ne_bytes(random) as u64 >> 1)
}

fn no_randomness(error: rustix::io::Errno) -> GrantError {
    GrantError::NoRandomness { error: std::io::Error::from(error).into() }
}
