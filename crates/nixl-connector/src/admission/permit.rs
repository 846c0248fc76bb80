//! The permit of a transfer in flight.

use std::sync::{Arc, Weak};

use super::Admission;
use super::fair_queue::Charge;

/// What a transfer is charged, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    admission: Weak<Admission>,
    /// None once it is taken back.
    charge: Option<Charge>,
}

impl Permit {
    pub(super) fn new(admission: &Arc<Admission>, charge: Charge) -> Self {
        Self { admission: Arc::downgrade(admission), charge: Some(charge) }
    }

    /// Takes it back: nothing is given back when it is dropped.
    pub(super) fn into_charge(mut self) -> Option<Charge> {
        self.charge.take()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let (Some(admission), Some(charge)) = (self.admission.upgrade(), &self.charge) {
            admission.release(charge);
        }
    }
}
