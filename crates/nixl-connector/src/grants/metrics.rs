//! Metrics of transfers of blocks, as their initiator counts them.

use metrics::{Counter, Unit, counter, describe_counter};
use nixl_metadata::OperationKind;
use nixl_ops::{ByLabels, Completion, PerRecorder, contained};

use crate::ConnectorError;

/// The metrics of the transfers of one import, each of which is counted once, with the outcome that its caller gets.
#[derive(Debug)]
pub(super) struct BlockMetrics(PerRecorder<Handles>);

#[derive(Default)]
struct Handles {
    /// By outcome.
    reads: ByLabels<&'static str, Counter>,
    writes: ByLabels<&'static str, Counter>,
}

impl BlockMetrics {
    pub(super) fn new() -> Self {
        Self(PerRecorder::new(describe))
    }

    /// Counts a transfer at its end, or as cancelled if this future is dropped before.
    pub(super) async fn counted(
        &self,
        kind: OperationKind,
        transfer: impl Future<Output = Result<Completion, ConnectorError>>,
    ) -> Result<Completion, ConnectorError> {
        let mut counted = Counted { metrics: self, kind, outcome: "cancelled" };
        let ended = transfer.await;
        counted.outcome = ended.as_ref().map_or_else(ConnectorError::cause, |_| "ok");
        ended
    }

    fn count(&self, kind: OperationKind, outcome: &'static str) {
        self.0.with(|handles| {
            let counter = match kind {
                OperationKind::Read => handles.reads.get(outcome, |outcome| {
                    let labels = [("outcome", outcome)];
                    counter!("nixl_block_reads_total", &labels)
                }),
                OperationKind::Write => handles.writes.get(outcome, |outcome| {
                    let labels = [("outcome", outcome)];
                    counter!("nixl_block_writes_total", &labels)
                }),
            };
            counter.increment(1);
        });
    }
}

struct Counted<'a> {
    metrics: &'a BlockMetrics,
    kind: OperationKind,
    outcome: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        // A recorder may panic.
        let _ = contained("metrics", || self.metrics.count(self.kind, self.outcome));
    }
}

/// Passes the units and descriptions of these metrics to the installed recorder.
fn describe() {
    use Unit::Count;
    describe_counter!("nixl_block_reads_total", Count, "Reads of blocks by ticket");
    describe_counter!("nixl_block_writes_total", Count, "Writes of blocks by ticket");
}
