//! Slots that a peer may still use although their session has ended.

use std::collections::HashMap;

use nixl_device::ProcessWatch;

use crate::messages::Message;
use crate::pinned_slots::Slot;

/// Slots by number, with their round.
pub(crate) type SlotsInUse = HashMap<u16, (Slot, u32)>;

/// Slots of a session that has ended, until the peer's message or end.
#[derive(Default)]
pub(crate) struct Quarantine {
    slots: SlotsInUse,
    use_by_peer: UseByPeer,
}

/// What the peer may still do.
#[derive(Default)]
enum UseByPeer {
    /// Its engine may write to the slots.
    #[default]
    Writes,
    /// Its GPU may read them, as long as this process lives. No fact about its engine proves more.
    Reads(ProcessWatch),
}

impl Quarantine {
    /// Slots that the peer was granted, and has not filled.
    pub(crate) fn of_granted(slots: SlotsInUse) -> Self {
        Self { slots, use_by_peer: UseByPeer::Writes }
    }

    /// Slots on a GPU out of which the peer, which is `process`, may copy.
    pub(crate) fn of_exported(slots: SlotsInUse, process: ProcessWatch) -> Self {
        let mut this = Self { slots, use_by_peer: UseByPeer::Reads(process) };
        this.release_if_gone();
        this
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the peer has failed to do what it should have done by now.
    pub(super) fn is_of_a_stalled_peer(&self) -> bool {
        matches!(self.use_by_peer, UseByPeer::Writes)
    }

    /// The message to the peer that leads to the release of the slots, if the peer missed an earlier one.
    pub(super) fn question(&self) -> Message {
        match self.use_by_peer {
            UseByPeer::Writes => Message::Stop { reason: "the transfer has ended".to_owned() },
            UseByPeer::Reads(_) => Message::Ping,
        }
    }

    /// The session does not wait for the slots any more.
    pub(super) fn begin(&mut self) {
        self.slots.values_mut().for_each(|(slot, _)| slot.quarantine());
    }

    /// Releases the slots that a late message names as done.
    pub(super) fn hear(&mut self, message: &Message) {
        match (&self.use_by_peer, message) {
            (UseByPeer::Writes, Message::Stopped { .. } | Message::GrantRefused(_))
            | (UseByPeer::Reads(_), Message::Stop { .. } | Message::Done) => self.release(),
            (UseByPeer::Writes, Message::Filled { slot: Some((slot, round)), .. })
            | (UseByPeer::Reads(_), Message::Taken { slot, round }) => {
                let is_it = self.slots.get(slot).is_some_and(|(_, current)| current == round);
                let slot = if is_it { self.slots.remove(slot) } else { None };
                slot.into_iter().for_each(|(slot, _)| slot.release());
            }
            _ => {}
        }
    }

    /// It is proven that the peer's engine writes to nothing any more.
    pub(super) fn peer_is_quiet(&mut self) {
        match &self.use_by_peer {
            UseByPeer::Writes => self.release(),
            UseByPeer::Reads(_) => self.release_if_gone(),
        }
    }

    /// Releases slots that were exported to a process that has ended.
    pub(super) fn release_if_gone(&mut self) {
        if let UseByPeer::Reads(process) = &self.use_by_peer
            && process.has_ended()
        {
            self.release();
        }
    }

    fn release(&mut self) {
        self.slots.drain().for_each(|(_, (slot, _))| slot.release());
    }
}
