//! The state of a table under its lock.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use nixl_descriptor::LeaseSet;
use nixl_descriptor::layout::BlockGrant;

use super::super::error::GrantError;
use super::super::expiry::Expiries;
use super::super::layers::{Told, Watchers};
use super::super::metrics::LiveGauges;
use super::super::terms::TicketEnd;
use super::super::tokens::Tokens;
use super::super::waiters::Waiters;

pub(super) struct State {
    /// Indexed by slots ever used.
    pub(super) slots: Vec<Option<Grant>>,
    pub(super) free: Vec<u32>,
    /// The last value of a word.
    pub(super) value: u64,
    pub(super) tokens: Tokens,
    pub(super) expiries: Expiries,
    pub(super) waiters: Waiters,
    /// Grants whose readers may wait for layers.
    pub(super) unfilled: usize,
    pub(super) closed: bool,
}

pub(super) struct Grant {
    pub(super) generation: u64,
    pub(super) token: [u8; 16],
    pub(super) layout: u16,
    pub(super) blocks: BlockGrant,
    /// The digest of its ticket, once its word has its generation.
    pub(super) published: Option<u64>,
    /// Layers that are ready.
    pub(super) layers: u64,
    /// The end of its layers.
    pub(super) last: u64,
    pub(super) watchers: Watchers,
    pub(super) time_to_live: Option<Duration>,
    pub(super) expires: Option<Duration>,
    /// Of the ticket: that may be read beyond the grant's own end.
    pub(super) end: TicketEnd,
    pub(super) readers: usize,
    /// The readers that are done.
    pub(super) done: HashSet<[u8; 16]>,
    pub(super) live: LiveGauges,
}

/// Why a grant has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::grants) enum GrantEnd {
    /// Its readers are done.
    Done,
    /// Its time to live is over.
    Expired,
    /// Its owner ended it.
    Revoked,
    /// Its export was closed.
    Closed,
}

impl State {
    /// A grant that has not ended.
    pub(super) fn grant(&mut self, slot: u32, generation: u64) -> Option<&mut Grant> {
        let grant = self.slots.get_mut(slot as usize)?.as_mut();
        grant.filter(|grant| grant.generation == generation)
    }

    /// Number of grants that have not ended.
    pub(super) fn alive(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A value that no word has had before.
    pub(super) fn next_value(&mut self) -> u64 {
        // It begins below 2^63, so it does not wrap around.
        self.value = self.value.wrapping_add(1);
        self.value
    }
}

impl Grant {
    /// Whether no reader waits for a layer any more.
    pub(super) fn is_filled(&self) -> bool {
        self.published.is_some() && self.layers >= self.last
    }

    /// Leases some layers of its blocks, for the ticket of this digest.
    pub(super) fn lease(
        &self,
        slot: u32,
        digest: u64,
        layers: Range<usize>,
    ) -> Result<LeaseSet, GrantError> {
        match self.published {
            None => return Err(GrantError::Unpublished),
            Some(published) if published != digest => {
                return Err(GrantError::NotGranted { slot });
            }
            Some(_) => {}
        }
        let (ready, asked) = (self.layers, layers.end as u64);
        if ready < asked {
            return Err(GrantError::NotReady { ready, asked });
        }
        Ok(self.blocks.lease(layers)?)
    }

    /// The present notice for its readers.
    pub(super) fn told(&self) -> Vec<Told> {
        self.watchers.told(self.layers).collect()
    }
}

/// The end of a live grant by its time to live.
pub(super) fn deadline(slots: &[Option<Grant>]) -> impl Fn(u32, u64) -> Option<Duration> {
    move |slot, generation| {
        let grant = slots.get(slot as usize)?.as_ref()?;
        grant.expires.filter(|_| grant.generation == generation)
    }
}
