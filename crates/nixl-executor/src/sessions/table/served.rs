//! The bounds on sessions that peers request.

use std::collections::HashMap;

use nixl_metadata::NotificationKey;

/// The number of sessions of each offer or grant of this side, and bytes of their initiator metadata.
#[derive(Default)]
pub(super) struct Served {
    by_offer: HashMap<NotificationKey, usize>,
    bytes: usize,
}

impl Served {
    /// Sessions that one offer or grant may have on this side.
    const MAX_OF_OFFER: usize = 256;
    /// Bytes of initiator metadata of all sessions that this side serves.
    const MAX_BYTES: usize = 64 << 20;

    /// Counts a session, if there is room.
    pub(super) fn add(&mut self, key: &NotificationKey, bytes: usize) -> bool {
        let sum = self.bytes.saturating_add(bytes);
        let count = self.by_offer.get(key).copied().unwrap_or(0);
        if sum > Self::MAX_BYTES || count >= Self::MAX_OF_OFFER {
            return false;
        }
        self.bytes = sum;
        self.by_offer.insert(key.clone(), count + 1);
        true
    }

    pub(super) fn remove(&mut self, key: &NotificationKey, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(count) = self.by_offer.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_offer.remove(key);
            }
        }
    }
}
