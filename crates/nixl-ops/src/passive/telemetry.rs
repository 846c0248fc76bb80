//! Gauges of memory that is held for peers, by the crate `metrics`.
//!
//! | metric | kind | labels | of |
//! |---|---|---|---|
//! | `nixl_held_offers`, `nixl_held_bytes` | gauge | `why`: `quarantined`, `quarantined-without-terms`, `retained` | offers that were given up and whose memory a peer may still use |
//! | `nixl_second_completions_total` | counter | | completions of offers that had ended |

use std::fmt;

use metrics::{Gauge, counter, gauge};

/// An offer that is in the gauges until it is dropped.
pub(super) struct HeldGauges {
    offers: Gauge,
    bytes: Gauge,
    held: f64,
}

impl HeldGauges {
    pub(super) fn quarantined(is_without_terms: bool, bytes: u64) -> Self {
        let why = if is_without_terms { "quarantined-without-terms" } else { "quarantined" };
        Self::hold(why, bytes)
    }

    pub(super) fn retained(bytes: u64) -> Self {
        Self::hold("retained", bytes)
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
    fn hold(why: &'static str, bytes: u64) -> Self {
        let labels = [("why", why)];
        let (offers, all) =
            (gauge!("nixl_held_offers", &labels), gauge!("nixl_held_bytes", &labels));
        let held = bytes as f64;
        offers.increment(1.0);
        all.increment(held);
        Self { offers, bytes: all, held }
    }
}

impl Drop for HeldGauges {
    fn drop(&mut self) {
        self.offers.decrement(1.0);
        self.bytes.decrement(self.held);
    }
}

impl fmt::Debug for HeldGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldGauges").field("bytes", &self.held).finish_non_exhaustive()
    }
}

pub(super) fn note_second_completion() {
    counter!("nixl_second_completions_total").increment(1);
}
