//! Gauges of memory that is held for peers.

use metrics::{counter, gauge};

use crate::telemetry::GaugeShare;

/// An offer that is in the gauges until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "only their drop matters")]
pub(super) struct HeldGauges([GaugeShare; 2]);

impl HeldGauges {
    pub(super) fn quarantined(is_without_terms: bool, bytes: u64) -> Self {
        let why = if is_without_terms { "quarantined-without-terms" } else { "quarantined" };
        Self::hold(why, bytes)
    }

    pub(super) fn retained(bytes: u64) -> Self {
        Self::hold("retained", bytes)
    }

    fn hold(why: &'static str, bytes: u64) -> Self {
        let labels = [("why", why)];
        Self([
            GaugeShare::of(gauge!("nixl_held_offers", &labels), 1),
            GaugeShare::of(gauge!("nixl_held_bytes", &labels), bytes),
        ])
    }
}

pub(super) fn note_second_completion() {
    counter!("nixl_second_completions_total").increment(1);
}
