//! Metrics of grants, as their owner counts them.

use metrics::{Counter, Gauge, counter, gauge};

use super::table::GrantEnd;
use crate::contained;
use crate::telemetry::{ByLabels, GaugeShare, PerRecorder};

/// The metrics of the grants of one export. A recorder that panics costs no more than a count.
#[derive(Debug, Default)]
pub(super) struct GrantMetrics(PerRecorder<Handles>);

#[derive(Default)]
struct Handles {
    /// Grants and their blocks, by kind.
    live: ByLabels<&'static str, [Gauge; 2]>,
    /// By cause.
    ended: ByLabels<&'static str, Counter>,
}

/// A grant that is in the gauges until it is dropped.
#[derive(Debug, Default)]
pub(super) struct LiveGauges(Option<[GaugeShare; 2]>);

impl GrantMetrics {
    /// A grant for reading of so many blocks.
    pub(super) fn reading(&self, blocks: usize) -> LiveGauges {
        self.live("read", blocks)
    }

    /// A grant for writing of so many blocks.
    pub(super) fn writing(&self, blocks: usize) -> LiveGauges {
        self.live("write", blocks)
    }

    fn live(&self, kind: &'static str, blocks: usize) -> LiveGauges {
        let look_up = |kind| {
            let labels = [("kind", kind)];
            [gauge!("nixl_grants", &labels), gauge!("nixl_granted_blocks", &labels)]
        };
        let live = contained("metrics", || {
            let gauges = self.0.with(|handles| handles.live.get(kind, look_up).clone());
            let [grants, of_blocks] = gauges;
            [GaugeShare::of(grants, 1), GaugeShare::of(of_blocks, blocks as u64)]
        });
        LiveGauges(live.ok())
    }

    /// Counts grants for reading that have ended.
    pub(super) fn ended(&self, ended: Vec<(GrantEnd, LiveGauges)>) {
        for (why, live) in ended {
            let look_up = |why| {
                let labels = [("why", why)];
                counter!("nixl_grants_ended_total", &labels)
            };
            let count = |handles: &Handles| handles.ended.get(why.label(), look_up).increment(1);
            let _ = contained("metrics", || self.0.with(count));
            drop(live);
        }
    }
}

impl GrantEnd {
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Closed => "closed",
        }
    }
}

impl Drop for LiveGauges {
    fn drop(&mut self) {
        let live = self.0.take();
        let _ = contained("metrics", || drop(live));
    }
}
