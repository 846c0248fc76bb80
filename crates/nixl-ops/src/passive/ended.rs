//! The keys of the latest offers that have ended.

use std::collections::{HashMap, VecDeque};

/// The keys of the latest offers that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedKeys {
    pub(super) by_key: HashMap<Box<[u8]>, Ended>,
    order: VecDeque<Box<[u8]>>,
    /// Completions of operations that had ended.
    pub(super) again: u64,
}

#[derive(Debug)]
pub(super) struct Ended {
    pub(super) token: Option<u64>,
    /// Claims that were answered after the end.
    pub(super) answered: u8,
}

impl EndedKeys {
    const KEPT: usize = 1 << 16;
    /// Claims of one ended offer that are answered.
    pub(super) const ANSWERED: u8 = 16;

    pub(super) fn add(&mut self, key: Box<[u8]>, token: Option<u64>) {
        if self.by_key.insert(key.clone(), Ended { token, answered: 0 }).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > Self::KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}
