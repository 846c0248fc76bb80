//! A session's claim to slots of a pool.

use std::fmt;
use std::sync::Arc;

use nixl_ops::TransportError;

use super::failure::{EXHAUSTED, failed};
use super::pool::SlotPool;
use super::slot::{Slab, Slot};

/// A session's claim to slots of a pool.
pub(crate) struct Member {
    pool: Arc<SlotPool>,
    /// The memory as long as this lasts. None if there is none yet.
    pub(super) slab: Option<Slab>,
    id: u64,
}

impl Member {
    pub(super) fn new(pool: &Arc<SlotPool>, slab: Option<Slab>) -> Self {
        let id = pool.lock().join();
        Self { pool: Arc::clone(pool), slab, id }
    }

    /// A slot, if one is free and it is this session's turn.
    ///
    /// # Errors
    ///
    /// If there will never be one.
    pub(crate) fn take(&self) -> Result<Option<Slot>, TransportError> {
        let Some(slab) = &self.slab else {
            return Err(failed("no slots were allocated"));
        };
        let taken = self.pool.lock().take(self.id).map_err(|_| failed(EXHAUSTED))?;
        Ok(taken.map(|index| Slot::new(&self.pool, self.id, index, slab)))
    }

    /// Withdraws the request for further slots, which would keep other members waiting.
    pub(crate) fn settle(&self) {
        self.pool.lock().settle(self.id);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pool.lock().leave(self.id);
    }
}
