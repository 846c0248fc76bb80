//! Persistent requests for the words of neighbouring slots, which are prepared once and posted again.

use nixl_ops::{PeerId, Transfer};

/// Slots of a window: those that have the same number divided by it.
pub(super) const WINDOW: u32 = 64;

/// The persistent requests of a room, each with a part of the room of its own.
#[derive(Default)]
pub(super) struct PersistentRequests {
    kept: Box<[Option<Kept>; Self::WINDOWS]>,
    /// The part that is used next for a window that none has.
    next: usize,
}

struct Kept {
    window: u32,
    peer: PeerId,
    transfer: Box<dyn Transfer>,
}

impl PersistentRequests {
    /// Windows that a room has parts for.
    pub(super) const WINDOWS: usize = 8;

    /// The part for a window of a peer's words, and the request if there is one.
    pub(super) fn take(
        &mut self,
        window: u32,
        peer: &PeerId,
    ) -> (usize, Option<Box<dyn Transfer>>) {
        let is_it = |kept: &Kept| kept.window == window && kept.peer == *peer;
        if let Some(part) = self.kept.iter().position(|kept| kept.as_ref().is_some_and(is_it)) {
            return (part, self.kept[part].take().map(|kept| kept.transfer));
        }
        let part = self.next;
        self.next = (part + 1) % Self::WINDOWS;
        self.kept[part] = None;
        (part, None)
    }

    /// Keeps a request that has ended, if it can be posted again.
    pub(super) fn keep(
        &mut self,
        (part, window): (usize, u32),
        peer: PeerId,
        mut transfer: Box<dyn Transfer>,
    ) {
        if transfer.repeat() {
            self.kept[part] = Some(Kept { window, peer, transfer });
        }
    }
}
