//! The permit of a transfer in flight.

use std::sync::{Arc, Weak};

use nixl_device::LeakInChild;

use super::Admission;
use super::fair_queue::Charge;

/// The charge of a transfer, returned on drop.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    admission: LeakInChild<Weak<Admission>>,
    /// None once it is taken back.
    charge: Option<Charge>,
}

impl Permit {
    pub(super) fn new(admission: &Arc<Admission>, charge: Charge) -> Self {
        let admission = LeakInChild::new(Arc::downgrade(admission));
        Self { admission, charge: Some(charge) }
    }

    /// Takes the charge, so the drop returns nothing.
    pub(super) fn into_charge(mut self) -> Option<Charge> {
        self.charge.take()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.admission.is_inherited() {
            return;
        }
        if let (Some(admission), Some(charge)) = (self.admission.upgrade(), &self.charge) {
            admission.release(charge);
        }
    }
}
