//! Offers of this process that executors may serve, and the claim for a copy.

use std::sync::Arc;

use nixl_descriptor::{DescriptorList, Leased};
use nixl_metadata::{NotificationKey, OperationKind};

use crate::EndedOffer;
use crate::passive::PassiveEntry;

/// A passive operation of this process that an executor may serve directly.
#[derive(Clone, Debug)]
pub struct Offer {
    entry: Arc<PassiveEntry>,
    descriptors: Arc<DescriptorList>,
}

impl Offer {
    pub(crate) fn new(entry: Arc<PassiveEntry>, descriptors: Arc<DescriptorList>) -> Self {
        Self { entry, descriptors }
    }

    /// What the other side may do with it.
    pub fn kind(&self) -> OperationKind {
        self.entry.kind()
    }

    /// The key in its metadata.
    pub fn key(&self) -> &NotificationKey {
        self.entry.key()
    }

    /// The secret that messages about it carry, if its metadata has terms.
    pub fn token(&self) -> Option<u64> {
        self.entry.token()
    }

    /// Whether the engine may be connected to an agent that holds it. False beyond the number of its readers and eight.
    pub fn may_introduce(&self, agent: &str) -> bool {
        self.entry.may_introduce(agent)
    }

    /// The memory. Leased for as long as the operation has not ended; an executor that still copies holds
    /// this list, so the memory itself stays.
    pub fn descriptors(&self) -> &DescriptorList {
        &self.descriptors
    }

    /// Takes the offer for a copy with which this process itself uses it, at both ends; while the claim lives, cancelling the
    /// operation does not give its memory back, and no initiator elsewhere writes to it.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be used.
    pub fn claim_for_copy(&self) -> Result<Claim, EndedOffer> {
        Ok(self.claimed(self.entry.claim_for_copy()?))
    }

    /// Takes the offer for one copy that serves an initiator. `None` if the operation has ended or another copy holds it; while
    /// the claim lives, cancelling the operation does not give its memory back.
    pub fn claim(&self) -> Option<Claim> {
        self.entry.claim().map(|leased| self.claimed(leased))
    }

    fn claimed(&self, leased: Leased) -> Claim {
        let (entry, descriptors) = (Arc::clone(&self.entry), Arc::clone(&self.descriptors));
        Claim { leased, descriptors, entry, over: false }
    }
}

/// The right to copy to or from an [`Offer`]'s memory.
#[derive(Debug)]
pub struct Claim {
    leased: Leased,
    descriptors: Arc<DescriptorList>,
    entry: Arc<PassiveEntry>,
    /// Complete or leaked.
    over: bool,
}

impl Claim {
    /// The memory.
    pub fn descriptors(&self) -> &DescriptorList {
        &self.descriptors
    }

    /// The proof that the memory is leased.
    pub fn leased(&self) -> &Leased {
        &self.leased
    }

    /// A GPU or an engine may still use the memory, for good: it stays leased until the process ends.
    pub fn leak(mut self) {
        self.leased.clone().leak();
        // The offer stays claimed.
        self.over = true;
        self.entry.claim_leaked();
    }

    /// The copy is complete: ends the passive operation and wakes its waiter, which finds its memory free.
    pub fn complete(mut self) {
        self.over = true;
        let entry = Arc::clone(&self.entry);
        // The claim holds the memory too.
        drop(self);
        entry.complete();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lease of an offer that was given up ends only with the claim's own.
        if !self.over {
            self.entry.unclaim();
        }
    }
}
