//! The begin and the end of a table's export.

use std::mem;
use std::sync::Arc;

use super::super::words::GrantWords;
use super::GrantTable;
use super::state::GrantEnd;

/// The words of a table that is closed, for the next one: no value of theirs is used again.
#[derive(Debug)]
pub struct SpentWords {
    pub(super) words: Arc<GrantWords>,
    pub(super) value: u64,
}

impl SpentWords {
    /// Grants that they have room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.words.slots()
    }
}

impl GrantTable {
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
}
