//! Target addresses of chunks in the peer's memory.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;

use nixl_device::Device;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::TransportError;

use super::chunking::Chunking;
use crate::messages::SlotGrant;
use crate::sessions::{failed, violated};

/// What is known of the peer's memory.
#[derive(Debug)]
pub(super) enum Targets {
    /// Every descriptor's place, from the metadata.
    Known(Vec<SerializedDescriptor>),
    /// What the peer has granted so far.
    Granted(Grants),
}

/// Slots and places that a peer has granted.
#[derive(Debug, Default)]
pub(super) struct Grants {
    slots: VecDeque<SlotGrant>,
    /// The last round in which each slot was granted.
    rounds: HashMap<u16, u32>,
    places: Vec<Option<NonZeroU64>>,
    /// So many of the first places are known.
    known: usize,
}

/// Where one chunk goes.
#[derive(Debug)]
pub(super) struct Target {
    /// For each piece of the chunk, in order.
    pub(super) remote: Vec<SerializedDescriptor>,
    /// Slot and round, if it is a slot.
    pub(super) slot: Option<(u16, u32)>,
}

impl Grants {
    /// The most slots that a peer may have granted and not seen filled.
    const MAX_SLOTS: usize = 1 << 12;

    pub(super) fn add_slots(
        &mut self,
        chunking: &Chunking,
        slots: Vec<SlotGrant>,
    ) -> Result<(), TransportError> {
        for grant in slots {
            if grant.len < chunking.longest() {
                let longest = chunking.longest();
                return Err(violated(format!(
                    "a slot of {} bytes for chunks of {longest}",
                    grant.len
                )));
            }
            SerializedDescriptor::new(Device::HOST, grant.address, grant.len)
                .map_err(|e| violated(format!("an impossible slot: {e}")))?;
            let last = self.rounds.entry(grant.slot).or_insert(0);
            if grant.round <= *last {
                return Err(violated(format!(
                    "slot {} granted for round {} after round {last}",
                    grant.slot, grant.round
                )));
            }
            *last = grant.round;
            self.slots.push_back(grant);
        }
        if self.slots.len() > Self::MAX_SLOTS {
            return Err(violated(format!("more than {} slots at a time", Self::MAX_SLOTS)));
        }
        Ok(())
    }

    pub(super) fn add_places(
        &mut self,
        chunking: &Chunking,
        first: u32,
        addresses: &[u64],
    ) -> Result<(), TransportError> {
        self.places.resize(chunking.descriptors(), None);
        for (index, address) in (first as usize..).zip(addresses) {
            let count = chunking.descriptors();
            let place = self
                .places
                .get_mut(index)
                .ok_or_else(|| violated(format!("a place for descriptor {index} of {count}")))?;
            let address = NonZeroU64::new(*address)
                .ok_or_else(|| violated(format!("no address for descriptor {index}")))?;
            if place.replace(address).is_some() {
                return Err(violated(format!("two places for descriptor {index}")));
            }
        }
        while self.places.get(self.known).is_some_and(Option::is_some) {
            self.known += 1;
        }
        Ok(())
    }
}

impl Targets {
    /// Whether it is known where the next chunk goes.
    pub(super) fn has(&self, chunking: &Chunking, chunk: u64) -> bool {
        match self {
            Self::Known(_) => true,
            Self::Granted(grants) => {
                !grants.slots.is_empty() || chunking.last_descriptor(chunk) < grants.known
            }
        }
    }

    /// Where the next chunk goes; the slot is used up.
    pub(super) fn take(
        &mut self,
        chunking: &Chunking,
        chunk: u64,
    ) -> Result<Target, TransportError> {
        let impossible = || violated(format!("an address for chunk {chunk} that wraps around"));
        if let Self::Granted(grants) = self
            && chunking.last_descriptor(chunk) >= grants.known
        {
            let grant =
                grants.slots.pop_front().ok_or_else(|| failed("take", "no slot is granted"))?;
            let mut at = grant.address;
            let mut remote = Vec::new();
            for piece in chunking.pieces(chunk) {
                // Inside the slot, whose end was checked.
                let part = SerializedDescriptor::new(Device::HOST, at, piece.len);
                remote.push(part.map_err(|_| impossible())?);
                at += piece.len;
            }
            return Ok(Target { remote, slot: Some((grant.slot, grant.round)) });
        }
        let place = |index: usize, offset: u64, len: u64| match &*self {
            Self::Known(all) => {
                let whole = all.get(index)?;
                let start = whole.ptr().checked_add(offset)?;
                SerializedDescriptor::new(whole.device(), start, len).ok()
            }
            Self::Granted(grants) => {
                let start = (*grants.places.get(index)?)?.get().checked_add(offset)?;
                SerializedDescriptor::new(Device::HOST, start, len).ok()
            }
        };
        let remote: Option<Vec<_>> =
            chunking.pieces(chunk).map(|p| place(p.index, p.offset, p.len)).collect();
        Ok(Target { remote: remote.ok_or_else(impossible)?, slot: None })
    }
}
