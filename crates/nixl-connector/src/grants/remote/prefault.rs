//! Pages of an export that are mapped while it is imported.

use nixl_ops::{Driver, OperationError, OperationOptions, Prefault};

use crate::ConnectorError;
use crate::control::ControlThread;

/// What an import spends on mapping pages, and what it has mapped.
#[derive(Debug)]
pub(super) struct Prefaulting {
    /// Bytes that may still be looked at.
    left: u64,
    mapped: u64,
    /// The time that is left.
    options: OperationOptions,
}

impl Prefaulting {
    pub(super) fn new(at_most: u64, options: OperationOptions) -> Self {
        Self { left: at_most, mapped: 0, options }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Takes steps until there are no more, the bytes are spent or the time is over. The import goes on in each case.
    ///
    /// Cancel safe: the step that is under way is the last.
    pub(super) async fn run(
        &mut self,
        driver: &Driver,
        work: &ControlThread,
        steps: Prefault,
    ) -> Result<(), ConnectorError> {
        let options = self.options;
        match driver.with_timeout(options, self.take(work, steps)).await {
            Ok((taken, options)) => {
                self.options = options;
                taken
            }
            Err(OperationError::TimedOut { .. }) => {
                tracing::debug!(mapped = self.mapped, "no time is left to map pages ahead");
                self.left = 0;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn take(
        &mut self,
        work: &ControlThread,
        mut steps: Prefault,
    ) -> Result<(), ConnectorError> {
        while self.left > 0 {
            let (step, rest) = work.run(move || (steps.next(), steps)).await?;
            let Some(step) = step else { break };
            self.left = self.left.saturating_sub(step.examined);
            self.mapped += step.mapped;
            steps = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Poll;
    use std::time::Duration;

    use nixl_ops::{PrefaultStep, SystemClock};

    use super::*;
    use crate::Connector;
    use crate::simulated::Fabric;

    const STEP: PrefaultStep = PrefaultStep { examined: 10, mapped: 4 };

    /// Steps without end that count themselves, each of which says that it has begun and waits for leave to end.
    struct World {
        connector: Connector,
        work: ControlThread,
        taken: Arc<AtomicU64>,
        begun: Receiver<()>,
        leave: Sender<()>,
    }

    impl World {
        async fn new() -> (Self, Prefault) {
            let fabric = Fabric::new(Arc::new(SystemClock::new()));
            let connector = Connector::builder().transport(fabric.transport("reader"));
            let connector = connector.build().await.unwrap();
            let work = ControlThread::for_work().unwrap();
            let taken = Arc::new(AtomicU64::new(0));
            let ((begins, begun), (leave, leaves)) = (channel(), channel());
            let counter = Arc::clone(&taken);
            let steps = iter::from_fn(move || {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = begins.send(());
                let _ = leaves.recv();
                Some(STEP)
            });
            (Self { connector, work, taken, begun, leave }, Box::new(steps))
        }

        fn driver(&self) -> &Driver {
            self.connector.connection().driver()
        }

        /// The number of steps that were taken, once the step under way has ended.
        async fn taken(self) -> u64 {
            let Self { work, taken, leave, .. } = self;
            drop(leave);
            // The queue is empty: what was queued has run.
            work.run(|| ()).await.unwrap();
            taken.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn no_step_is_taken_once_the_bytes_are_spent() {
        let (world, steps) = World::new().await;
        let mut prefaulting = Prefaulting::new(25, OperationOptions::new());
        (0..3).for_each(|_| world.leave.send(()).unwrap());
        let run = prefaulting.run(world.driver(), &world.work, steps);
        let run = tokio::time::timeout(Duration::from_secs(60), run).await;
        run.expect("it takes three steps").unwrap();
        assert_eq!((prefaulting.left(), prefaulting.mapped()), (0, 12));
        assert_eq!(world.taken().await, 3);
    }

    #[tokio::test]
    async fn the_time_ends_it_and_no_step_follows() {
        let (world, steps) = World::new().await;
        let options = OperationOptions::new().timeout(Duration::from_millis(1));
        let mut prefaulting = Prefaulting::new(u64::MAX, options);
        // The first step does not end before the time does.
        let run = prefaulting.run(world.driver(), &world.work, steps);
        let run = tokio::time::timeout(Duration::from_secs(60), run).await;
        run.expect("it ends with its time").unwrap();
        assert_eq!(prefaulting.left(), 0, "other layouts are left");
        assert_eq!(world.taken().await, 1);
    }

    #[tokio::test]
    async fn no_step_follows_a_dropped_import() {
        let (world, steps) = World::new().await;
        let mut prefaulting = Prefaulting::new(u64::MAX, OperationOptions::new());
        let mut run = Box::pin(prefaulting.run(world.driver(), &world.work, steps));
        let first = std::future::poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        world.begun.recv().unwrap();
        drop(run);
        assert_eq!(world.taken().await, 1);
    }
}
