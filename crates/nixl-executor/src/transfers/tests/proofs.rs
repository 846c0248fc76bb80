//! Proofs of quiet that the test gives.
#![allow(unsafe_code, reason = "the traits are trusted with memory")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nixl_descriptor::{Descriptor, SharedName};
use nixl_ops::{Claimant, QuietProof, QuietWatch};

/// Says of every peer what the test says.
#[derive(Clone, Debug)]
pub(super) struct Proofs(pub(super) Arc<AtomicBool>);

// SAFETY: nothing moves in these tests unless the test moves it, and none does once it has said that peers are quiet.
unsafe impl QuietProof for Proofs {
    fn watch(&self, _: &Claimant, _: &[Descriptor], _: Duration) -> Box<dyn QuietWatch> {
        Box::new(self.clone())
    }

    fn holders(&self, _: &[SharedName], _: bool) -> Box<dyn QuietWatch> {
        Box::new(self.clone())
    }

    fn reads(&self, _: Duration) -> Box<dyn QuietWatch> {
        Box::new(self.clone())
    }
}

// SAFETY: as above.
unsafe impl QuietWatch for Proofs {
    fn is_quiet(&mut self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
