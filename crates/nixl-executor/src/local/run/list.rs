//! Copies of a descriptor list's ranges.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::Dependency;
use nixl_ops::{Execution, PathReport, TransportError};

use super::execution::{CopyWorkers, InlineCopy, PlanExecution};
use super::host_list::HostList;
use crate::local::gpu::gpu_backend::GpuBackend;
use crate::local::plan::block_copy::{BlockCopy, CopyOp};
use crate::local::plan::boundaries::AllocationBoundaries;
use crate::local::plan::copy_plan::Plan;
use crate::local::plan::costs::Costs;
use crate::local::{BlockError, MemoryKind, StrategyPolicy};

/// The context of list copies: the GPU back end, copy workers, costs and the waker.
#[derive(Clone)]
pub(crate) struct CopyContext {
    pub(crate) gpus: Arc<dyn GpuBackend>,
    pub(crate) threads: CopyWorkers,
    pub(crate) costs: Costs,
    pub(crate) waker: Waker,
}

/// Copies of any lengths between two kinds of memory: of the host as one list, otherwise grouped by length. Made for memory that meets the
/// contract of [`PlanExecution`].
pub(crate) struct ListCopy {
    left: Left,
    report: PathReport,
    expected: Option<Duration>,
    steps: u64,
}

/// The copies that have not ended.
enum Left {
    Inline(Option<InlineCopy>),
    Host(HostList),
    Planned(VecDeque<PlanExecution>),
}

impl ListCopy {
    /// Prepares to copy `ops`, at least one, whose targets do not overlap. `copier` is the copying GPU, if it is neither the
    /// source's nor else the destination's. The copies begin after `pending`. Their allocations begin at the `boundaries`.
    pub(crate) fn new(
        (ops, boundaries): (&[CopyOp], &AllocationBoundaries),
        kinds: (MemoryKind, MemoryKind),
        policy: &StrategyPolicy,
        copier: Option<u32>,
        pending: &[Arc<dyn Dependency>],
        context: &CopyContext,
    ) -> Result<Self, BlockError> {
        if let Some(copy) = InlineCopy::of(ops, kinds, policy, pending) {
            let (report, expected) = (copy.report(), Some(copy.estimate(&context.costs)));
            return Ok(Self { left: Left::Inline(Some(copy)), report, expected, steps: 0 });
        }
        let mut ops = merged(ops, boundaries);
        // Stable: those of one length stay in their order.
        ops.sort_by_key(|op| op.len);
        let is_host = kinds.0.is_host() && kinds.1.is_host();
        let mut left = VecDeque::new();
        let mut expected = Duration::ZERO;
        for group in ops.chunk_by(|a, b| a.len == b.len) {
            let can = context.gpus.capabilities();
            let blocks = BlockCopy::of_ops(group, boundaries);
            let mut plan = Plan::of(blocks, kinds, can, &context.costs, policy)?;
            plan.copier = copier;
            expected += plan.estimate;
            if is_host && !left.is_empty() {
                // One says the strategy, and the list is copied as a whole.
                continue;
            }
            let (gpus, threads) = (Arc::clone(&context.gpus), context.threads.clone());
            let waker = context.waker.clone();
            let execution = PlanExecution::new(plan, gpus, threads, waker, None, None);
            left.push_back(execution.pending(pending));
        }
        let report = left.front().map_or_else(
            || PathReport::new(nixl_ops::PathKind::Local("none"), "none", 0, 0),
            PlanExecution::report,
        );
        let report = report.of_copies(ops.iter().map(|op| op.len).sum(), ops.len());
        let left = match is_host {
            true => {
                let (threads, waker) = (context.threads.clone(), context.waker.clone());
                Left::Host(HostList::new(ops, threads, waker, pending))
            }
            false => Left::Planned(left),
        };
        Ok(Self { left, report, expected: Some(expected), steps: 0 })
    }
}

impl Execution for ListCopy {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let left = match &mut self.left {
            Left::Inline(copy) => {
                if let Some(copy) = copy.take() {
                    copy.copy();
                    self.steps = 1;
                }
                return Poll::Ready(Ok(()));
            }
            Left::Host(copies) => {
                let copied = copies.poll();
                self.steps = copied.is_ready().into();
                return copied;
            }
            Left::Planned(left) => left,
        };
        while let Some(first) = left.front_mut() {
            match first.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    left.clear();
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(())) => {
                    left.pop_front();
                    self.steps += 1;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        match &mut self.left {
            Left::Inline(_) => true,
            Left::Host(copies) => copies.abandon(),
            Left::Planned(left) => {
                // Only the first has begun.
                left.truncate(1);
                left.front_mut().is_none_or(PlanExecution::abandon)
            }
        }
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }

    fn expected(&self) -> Option<Duration> {
        self.expected
    }

    fn steps(&self) -> u64 {
        self.steps
    }
    fn posts_quickly(&self) -> bool {
        true
    }
}

/// Merges neighbours that are contiguous on both sides.
fn merged(ops: &[CopyOp], boundaries: &AllocationBoundaries) -> Vec<CopyOp> {
    let mut merged: Vec<CopyOp> = Vec::with_capacity(ops.len());
    ops.iter().for_each(|op| op.append(&mut merged, boundaries));
    merged
}

#[cfg(test)]
mod tests {
    use nixl_ops::SystemClock;

    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    fn context() -> CopyContext {
        let clock: Arc<dyn nixl_ops::Clock> = Arc::new(SystemClock::new());
        CopyContext {
            gpus: Arc::new(SimulatedGpus::new(GpuCapabilities::new(1)).unwrap()),
            threads: CopyWorkers::new(&clock).unwrap(),
            costs: Costs::default(),
            waker: Waker::noop().clone(),
        }
    }

    fn run(copy: &mut impl Execution) {
        let mut cx = Context::from_waker(Waker::noop());
        while copy.poll(&mut cx).map(Result::unwrap).is_pending() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_copy_without_a_plan_is_reported_as_one_with_a_plan() {
        let context = context();
        let kinds = (MemoryKind::Pageable, MemoryKind::Pinned);
        for (len, is_inline) in
            [(1, true), (4096, true), (256 << 10, true), ((256 << 10) + 1, false)]
        {
            let src: Vec<u8> = (0..len).map(|at| (at >> 3) as u8).collect();
            let mut dst = vec![0; len];
            let op =
                CopyOp { src: src.as_ptr() as u64, dst: dst.as_mut_ptr() as u64, len: len as u64 };
            let boundaries = AllocationBoundaries::default();
            let list = |policy: &StrategyPolicy| {
                ListCopy::new((&[op], &boundaries), kinds, policy, None, &[], &context).unwrap()
            };
            let mut copy = list(&StrategyPolicy::Auto);
            let mut planned = list(&StrategyPolicy::Forbid(Vec::new()));
            assert_eq!(matches!(copy.left, Left::Inline(_)), is_inline, "{len}");
            assert!(matches!(planned.left, Left::Host(_)));
            // Strategies that need a GPU are rejected by the plan alone; an operation's report names paths instead.
            let report = |copy: &ListCopy| copy.report().rejecting([]);
            assert_eq!(report(&copy), report(&planned));
            assert_eq!(copy.expected(), planned.expected());
            run(&mut copy);
            assert!(dst == src, "{len}");
            run(&mut planned);
            assert_eq!((copy.steps(), copy.abandon()), (planned.steps(), planned.abandon()));
            assert_eq!(report(&copy), report(&planned));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn a_list_of_many_lengths_is_not_copied_by_its_poller() {
        let context = context();
        let src: Vec<Vec<u8>> = (0..64).map(|at| vec![at; (100 << 10) + usize::from(at)]).collect();
        let mut dst: Vec<Vec<u8>> = src.iter().map(|src| vec![0; src.len()]).collect();
        let ops: Vec<CopyOp> = src
            .iter()
            .zip(&mut dst)
            .map(|(src, dst)| CopyOp {
                src: src.as_ptr() as u64,
                dst: dst.as_mut_ptr() as u64,
                len: src.len() as u64,
            })
            .collect();
        let (boundaries, kinds) =
            (AllocationBoundaries::default(), (MemoryKind::Pageable, MemoryKind::Pageable));
        let policy = StrategyPolicy::Auto;
        let mut copy =
            ListCopy::new((&ops, &boundaries), kinds, &policy, None, &[], &context).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(copy.poll(&mut cx).is_pending() && !copy.abandon());
        run(&mut copy);
        assert!(src == dst);
        assert!(copy.abandon());
    }

    #[test]
    fn neighbours_are_one_copy_unless_an_allocation_begins_between_them() {
        let op = |at: u64, len: u64| CopyOp { src: 1000 + at, dst: 5000 + at, len };
        let ops = [op(0, 10), op(10, 20), op(30, 5), op(40, 2), op(42, 3)];
        let lens = |boundaries: &[u64]| -> Vec<u64> {
            merged(&ops, &AllocationBoundaries::of(boundaries.iter().copied()))
                .iter()
                .map(|op| op.len)
                .collect()
        };
        assert_eq!(lens(&[]), [35, 5]);
        assert_eq!(lens(&[1000, 5000, 1040]), [35, 5]);
        assert_eq!(lens(&[1010]), [10, 25, 5]);
        assert_eq!(lens(&[5042, 5030]), [30, 5, 2, 3]);
    }
}
