//! Concurrent execution of a plan of several groups.

use std::borrow::Cow;
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_ops::{Execution, PathKind, PathReport, Rejected, TransportError};

use super::block_plan::BlockPlan;
use super::execution::PlanExecution;
use crate::local::plan::copy_plan::Plan;

/// The groups of one plan. All of them begin at the first poll, since a stream that they wait for may end after it.
pub(crate) struct Groups {
    running: Vec<PlanExecution>,
    /// The first error. The other groups are then stopped, and waited for.
    failure: Option<TransportError>,
    expected: Duration,
    report: PathReport,
}

impl Groups {
    /// Made for memory that meets the contract of each [`PlanExecution`].
    pub(crate) fn new(plan: BlockPlan, execution: impl FnMut(Plan) -> PlanExecution) -> Self {
        let (expected, report) = (plan.estimate(), report(&plan));
        let running = plan.into_groups().into_iter().map(execution).collect();
        Self { running, failure: None, expected, report }
    }

    fn stop(&mut self) {
        self.running.retain_mut(|group| !group.abandon());
    }
}

/// Named after the largest group.
fn report(plan: &BlockPlan) -> PathReport {
    let groups = plan.groups();
    let largest = groups.iter().max_by_key(|plan| plan.bytes);
    let kind = PathKind::Local(largest.map_or("none", |plan| plan.strategy.name()));
    let names: Vec<_> = groups.iter().map(|plan| plan.strategy.name()).collect();
    let rejected = groups.iter().flat_map(|plan| {
        plan.rejected.iter().map(|(strategy, reason)| {
            let reason = format!("{} to {}: {reason}", plan.src, plan.dst);
            Rejected::new(PathKind::Local(strategy.name()), Cow::Owned(reason))
        })
    });
    let copies = groups.iter().map(|plan| plan.copies).sum();
    PathReport::new(kind, names.join(" + "), plan.bytes(), copies)
        .rejecting(rejected.collect::<Vec<_>>())
}

impl Execution for Groups {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let failure = &mut self.failure;
        self.running.retain_mut(|group| match group.poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                failure.get_or_insert(error);
                false
            }
        });
        if self.failure.is_some() {
            self.stop();
        }
        match self.running.is_empty() {
            false => Poll::Pending,
            true => Poll::Ready(self.failure.take().map_or(Ok(()), Err)),
        }
    }

    fn expected(&self) -> Option<Duration> {
        Some(self.expected)
    }

    fn abandon(&mut self) -> bool {
        self.stop();
        self.running.is_empty()
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }
}
