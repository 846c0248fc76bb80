//! Metrics of offers, and of memory held for peers.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use nixl_metadata::OperationKind;

use crate::contained::contained;
use crate::telemetry::{ByLabels, GaugeShare, PerRecorder, micros};

/// The metrics of the offers of one connection.
#[derive(Debug, Default)]
pub(super) struct OfferMetrics(PerRecorder<Handles>);

#[derive(Default)]
struct Handles {
    live: OnceLock<Gauge>,
    /// Offers and bytes, by why they are held.
    held: ByLabels<&'static str, [Gauge; 2]>,
    /// By kind and outcome.
    ended: ByLabels<(&'static str, &'static str), Counter>,
    /// Bytes and duration, by kind.
    completed: ByLabels<&'static str, (Counter, Histogram)>,
}

/// An offer that is in the gauges until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "only their drop matters")]
pub(super) struct HeldGauges([GaugeShare; 2]);

impl OfferMetrics {
    /// An offer that a peer may use.
    pub(super) fn live(&self) -> GaugeShare {
        let gauge = |handles: &Handles| handles.live.get_or_init(|| gauge!("nixl_offers")).clone();
        GaugeShare::of(self.0.with(gauge), 1)
    }

    pub(super) fn quarantined(&self, is_without_terms: bool, bytes: u64) -> HeldGauges {
        let why = if is_without_terms { "quarantined-without-terms" } else { "quarantined" };
        self.hold(why, bytes)
    }

    pub(super) fn retained(&self, bytes: u64) -> HeldGauges {
        self.hold("retained", bytes)
    }

    fn hold(&self, why: &'static str, bytes: u64) -> HeldGauges {
        let look_up = |why| {
            let labels = [("why", why)];
            [gauge!("nixl_held_offers", &labels), gauge!("nixl_held_bytes", &labels)]
        };
        let [offers, of_bytes] = self.0.with(|handles| handles.held.get(why, look_up).clone());
        HeldGauges([GaugeShare::of(offers, 1), GaugeShare::of(of_bytes, bytes)])
    }

    /// Counts an offer that has ended, with an event of `tracing` at `DEBUG`. `failure` is the cause if it has not completed. A recorder or
    /// subscriber that panics costs no more than this.
    pub(super) fn ended(
        &self,
        kind: OperationKind,
        bytes: u64,
        duration: Duration,
        failure: Option<&'static str>,
    ) {
        let kind = match kind {
            OperationKind::Read => "read",
            OperationKind::Write => "write",
        };
        let outcome = failure.unwrap_or("ok");
        let _ = contained("metrics", || {
            self.0.with(|handles| {
                let ended = handles.ended.get((kind, outcome), |_| {
                    let labels = [("kind", kind), ("outcome", outcome)];
                    counter!("nixl_offers_ended_total", &labels)
                });
                ended.increment(1);
                if failure.is_none() {
                    let (all_bytes, durations) = handles.completed.get(kind, |_| {
                        let labels = [("kind", kind)];
                        let bytes = counter!("nixl_offer_bytes_total", &labels);
                        (bytes, histogram!("nixl_offer_duration_seconds", &labels))
                    });
                    all_bytes.increment(bytes);
                    durations.record(duration.as_secs_f64());
                }
            });
            tracing::debug!(kind, outcome, bytes, elapsed_us = micros(duration), "offer ended");
        });
    }
}

pub(super) fn note_second_completion() {
    counter!("nixl_second_completions_total").increment(1);
}
