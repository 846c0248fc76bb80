//! Grants from their begin: leases of blocks, their validity, their layers, and uses in this process.

use std::collections::HashSet;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use nixl_descriptor::LeaseSet;
use nixl_descriptor::layout::BlockGrant;

use super::super::error::GrantError;
use super::super::layers::{Watcher, Watchers};
use super::super::message::GrantMessage;
use super::super::metrics::LiveGauges;
use super::super::terms::{GrantTerms, Granted, TicketEnd};
use super::state::{Grant, State, deadline};
use super::{GrantTable, no_randomness};
use crate::wakes;

impl GrantTable {
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

    /// Notifies a reader of the layers of a grant, now and from now on, and of its end. Returns `false` for one of more agents than
    /// the grant has readers.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`].
    pub(in crate::grants) fn watch(
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
            changes.valid(slot, generation, token, now)?.lease(slot, digest, layers)
        })
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
        let slots = self.slots;
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
}
