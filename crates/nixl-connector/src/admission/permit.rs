//! The permit of a transfer in flight.

use std::sync::{Arc, Weak};

use super::Admission;
use super::fair_queue::Charge;

/// What a transfer is charged, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    admission: Weak<Admission>,
    charge: Charge,
}

impl Permit {
    pub(super) fn new(admission: &Arc<Admission>, charge: Charge) -> Self {
        Self { admission: Arc::downgrade(admission), charge }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.upgrade() {
            admission.release(&self.charge);
        }
    }
}
