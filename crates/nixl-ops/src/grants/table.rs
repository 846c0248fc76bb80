//! The grants of one export.

mod blocks;
mod changes;
mod closing;
mod copies;
mod ending;
mod granting;
mod state;
mod stats;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use nixl_descriptor::layout::{BlockGrants, Layout};
use nixl_device::locks::lock;

use self::changes::Changes;
pub use self::closing::SpentWords;
pub use self::copies::GrantedCopy;
pub use self::ending::DoneOutcome;
pub(super) use self::state::GrantEnd;
use self::state::{Grant, State};
pub use self::stats::GrantStats;
use super::error::GrantError;
use super::expiry::Expiries;
use super::metrics::GrantMetrics;
use super::notifications::{NotificationInbox, NotificationReceiver, NotificationSender};
use super::outstanding::OutstandingTickets;
use super::terms::GrantTableOptions;
use super::tokens::Tokens;
use super::waiters::Waiters;
use super::words::GrantWords;
use crate::clock::Clock;
use crate::wakes;

/// The grants of one export. They end without the readers' consent. Usable from several threads.
///
/// Dropping it ends all grants, as [`close`](Self::close).
pub struct GrantTable {
    clock: Arc<dyn Clock>,
    words: Arc<GrantWords>,
    /// The most grants at one time; the words may have room for more.
    slots: u32,
    layouts: Vec<BlockGrants>,
    state: Mutex<State>,
    notifications: Arc<NotificationInbox>,
    tickets: Arc<OutstandingTickets>,
    metrics: GrantMetrics,
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
        let slots = options.slots.get();
        // Few sizes, so that the words of one table serve others.
        let rounded = slots.checked_next_power_of_two().unwrap_or(slots);
        let words = Arc::new(GrantWords::new(rounded)?);
        let value = base(&mut Tokens::default())?;
        Self::with_words(layouts, SpentWords { words, value }, options, clock)
    }

    /// As [`new`](Self::new), with the words of a table that is closed. It has no more grants than they have room for.
    ///
    /// # Errors
    ///
    /// [`GrantError::TooManyLayouts`].
    pub fn with_words(
        layouts: &[Layout],
        SpentWords { words, value }: SpentWords,
        options: GrantTableOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GrantError> {
        Self::check_layouts(layouts.len())?;
        let slots = options.slots.get().min(words.slots());
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
        Ok(Self { clock, words, slots, layouts, state, notifications, tickets, metrics })
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

    /// The tickets by which readers may read.
    pub fn tickets(&self) -> &Arc<OutstandingTickets> {
        &self.tickets
    }

    /// Whether a grant has not ended.
    pub fn is_used(&self) -> bool {
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

    /// The words that readers check.
    pub fn words(&self) -> &GrantWords {
        &self.words
    }

    /// The layouts whose blocks are granted, by number.
    pub fn layouts(&self) -> impl ExactSizeIterator<Item = &Layout> {
        self.layouts.iter().map(BlockGrants::layout)
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn expiries(&self) -> usize {
        self.lock().expiries.len()
    }

    fn layout(&self, layout: u16) -> Result<&BlockGrants, GrantError> {
        let found = self.layouts.get(usize::from(layout));
        found.ok_or(GrantError::NoLayout { layout, layouts: self.layouts.len() })
    }

    fn check_slot(&self, slot: u32) -> Result<(), GrantError> {
        let slots = self.slots;
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

    /// Changes the state, then calls the wakers of ended waits, notifies readers and counts ended grants, all without the lock.
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
        lock(&self.state)
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

/// The start of the values of words: random, below 2^63. The first value is one more, so never 0, the value of unused words.
fn base(tokens: &mut Tokens) -> Result<u64, GrantError> {
    let random = tokens.next().map_err(no_randomness)?;
    Ok(u128::from_ne_bytes(random) as u64 >> 1)
}

fn no_randomness(error: std::io::Error) -> GrantError {
    GrantError::NoRandomness { error: error.into() }
}
