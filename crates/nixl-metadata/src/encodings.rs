//! The record of the encodings of an offer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an offer was encoded in a form that carries no terms. Shared by all clones of the offer, and no part of its value: two
/// offers are equal regardless of their encoding.
#[derive(Clone, Default)]
pub(crate) struct Encodings {
    without_terms: Arc<AtomicBool>,
}

impl Encodings {
    pub(crate) fn note_without_terms(&self) {
        self.without_terms.store(true, Ordering::Release);
    }

    pub(crate) fn without_terms(&self) -> bool {
        self.without_terms.load(Ordering::Acquire)
    }
}

impl PartialEq for Encodings {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Encodings {}
