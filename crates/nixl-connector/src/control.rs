//! The control thread of a connection, for the engine's blocking calls.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::task::Poll;
use std::time::{Duration, Instant};

use nixl_device::{ForkGeneration, LeakInChild, named_thread};
use nixl_ops::{BlockingThread, TransportError, contained};
use tokio::sync::oneshot;

use crate::ConnectorError;

type Job = Box<dyn FnOnce() + Send>;

enum Turn {
    Next(Job),
    /// A job for a peer, queued behind this process's own.
    Spare(Job),
}

/// A thread that runs jobs in order. It ends with the last clone, after the queued jobs.
#[derive(Clone)]
pub struct ControlThread {
    turns: LeakInChild<Sender<Turn>>,
    counters: Arc<Counters>,
    name: &'static str,
}

#[derive(Debug, Default)]
struct Counters {
    waiting: AtomicUsize,
    /// Those of them for peers.
    for_peers: AtomicUsize,
    refused: AtomicU64,
    /// The longest job, in nanoseconds.
    longest: AtomicU64,
}

/// Finished and queued work of the thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ControlStats {
    pub(crate) waiting: usize,
    pub(crate) refused: u64,
    pub(crate) longest: Duration,
}

impl ControlThread {
    const THREAD: &str = "nixl-control";
    const JOB: &str = "a job of the connection's thread";
    /// The longest start of a thread that can run at all.
    const LONGEST: Duration = Duration::from_secs(10);
    /// The bound on queued jobs for peers.
    const FOR_PEERS: usize = 256;
    /// Other jobs that run before one for a peer.
    const BEFORE: usize = 16;

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Thread`] if the operating system refuses it, [`ConnectorError::ForkedAmidThreads`] if it does not
    /// start to run.
    pub fn spawn() -> Result<Self, ConnectorError> {
        Self::named(Self::THREAD)
    }

    /// Starts a thread for long work that does not block.
    pub(crate) fn for_work() -> Result<Self, ConnectorError> {
        Self::named("nixl-work")
    }

    fn named(name: &'static str) -> Result<Self, ConnectorError> {
        let (turns, queue) = channel::<Turn>();
        let counters = Arc::<Counters>::default();
        let of_thread = Arc::clone(&counters);
        let (began, begins) = channel();
        named_thread(name)
            .spawn(move || {
                let _ = began.send(());
                nixl_descriptor::defer_disposal_on_this_thread();
                run_all(&queue, &of_thread);
            })
            .map_err(|e| ConnectorError::Thread { error: e.into() })?;
        if ForkGeneration::current().is_forked() && begins.recv_timeout(Self::LONGEST).is_err() {
            return Err(ConnectorError::ForkedAmidThreads);
        }
        Ok(Self { turns: LeakInChild::new(turns), counters, name })
    }

    /// The error of a job that never ran.
    pub(crate) fn ended(&self) -> TransportError {
        match self.turns.is_inherited() {
            true => TransportError::Forked,
            false => TransportError::ThreadEnded { thread: self.name },
        }
    }

    /// The output of a future that waits for this thread, which a fork's child lacks.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forked`].
    pub(crate) async fn here<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        let mut future = pin!(future);
        let output = poll_fn(|cx| match self.turns.is_inherited() {
            true => Poll::Ready(Err(TransportError::Forked)),
            false => future.as_mut().poll(cx).map(Ok),
        });
        output.await
    }

    /// Queued jobs with the running one, and totals so far.
    pub(crate) fn stats(&self) -> ControlStats {
        let Counters { waiting, refused, longest, .. } = &*self.counters;
        ControlStats {
            waiting: waiting.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            longest: Duration::from_nanos(longest.load(Ordering::Relaxed)),
        }
    }

    /// Resets the durations of earlier jobs, such as the start of an engine.
    pub(crate) fn measure_from_here(&self) {
        let counters = Arc::clone(&self.counters);
        self.post(move || counters.longest.store(0, Ordering::Relaxed));
    }

    /// Queues a job without a waiter.
    pub fn post(&self, job: impl FnOnce() + Send + 'static) {
        self.queue(Turn::Next(Box::new(job)));
    }

    fn queue(&self, turn: Turn) {
        if self.turns.is_inherited() {
            // A fork's child lacks the thread, and must not drop the job's inherited state.
            mem::forget(turn);
            return;
        }
        // The thread lives as long as any sender. If it has ended nevertheless, the drop of the job here notifies the waiting
        // caller.
        self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        if self.turns.send(turn).is_err() {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Runs a job and waits for its result.
    ///
    /// Cancel safe: a queued job still runs to its end.
    ///
    /// # Errors
    ///
    /// [`TransportError::Panicked`] if the job panicked, [`TransportError::ThreadEnded`] if it could not run, and
    /// [`TransportError::Forked`] in a process that was forked from that of the thread.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TransportError> {
        let (reply, result) = oneshot::channel();
        self.post(move || {
            // The waiter may have been dropped.
            let _ = reply.send(contained(Self::JOB, job));
        });
        self.here(result).await?.unwrap_or_else(|_| Err(self.ended()))
    }
}

impl BlockingThread for ControlThread {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.post(job);
    }

    fn run_for_peer(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        let Counters { for_peers, refused, .. } = &*self.counters;
        if for_peers.fetch_add(1, Ordering::Relaxed) >= Self::FOR_PEERS {
            for_peers.fetch_sub(1, Ordering::Relaxed);
            refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.queue(Turn::Spare(job));
        true
    }
}

/// Runs queued jobs until no sender is left.
fn run_all(queue: &Receiver<Turn>, counters: &Counters) {
    let run = |job: Job| {
        let began = Instant::now();
        // A panic of a job affects no other. `run` reports it to the waiting caller.
        let _ = contained(ControlThread::JOB, job);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        counters.longest.fetch_max(took, Ordering::Relaxed);
        counters.waiting.fetch_sub(1, Ordering::Relaxed);
    };
    let mut spare = VecDeque::new();
    let mut before = 0;
    loop {
        let turn = match spare.is_empty() {
            true => queue.recv().map_err(|_| TryRecvError::Disconnected),
            false if before < ControlThread::BEFORE => queue.try_recv(),
            false => Err(TryRecvError::Empty),
        };
        match turn {
            Ok(Turn::Next(job)) => {
                before += usize::from(!spare.is_empty());
                run(job);
            }
            Ok(Turn::Spare(job)) => spare.push_back(job),
            Err(end) => match spare.pop_front() {
                Some(job) => {
                    before = 0;
                    counters.for_peers.fetch_sub(1, Ordering::Relaxed);
                    run(job);
                }
                None if end == TryRecvError::Disconnected => return,
                None => {}
            },
        }
    }
}

impl fmt::Debug for ControlThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, stats) = (self.name, self.stats());
        f.debug_struct("ControlThread").field("name", &name).field("stats", &stats).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_to_its_caller_and_the_next_one_runs() {
        let control = ControlThread::spawn().unwrap();
        control.post(|| panic!("of a job without a waiter"));
        let outcome = control.run(|| -> u32 { panic!("of a job") }).await;
        let Err(TransportError::Panicked { reason, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, "of a job");
        assert_eq!(control.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_an_error_at_once() {
        let (turns, queue) = channel();
        drop(queue);
        let turns = LeakInChild::new(turns);
        let (counters, name) = (Arc::default(), ControlThread::THREAD);
        let outcome = ControlThread { turns, counters, name }.run(|| 7).await;
        assert_eq!(outcome, Err(TransportError::ThreadEnded { thread: "nixl-control" }));
    }

    #[tokio::test]
    async fn what_peers_ask_for_waits_for_what_this_process_does_and_is_bounded() {
        let control = ControlThread::spawn().unwrap();
        let ((go, gate), (begin, begun)) = (channel::<()>(), channel());
        control.post(move || {
            begin.send(()).unwrap();
            gate.recv().unwrap();
        });
        begun.recv().unwrap();
        let ran = Arc::new(Mutex::new(Vec::new()));
        let note = |what: usize| {
            let ran = Arc::clone(&ran);
            move || ran.lock().unwrap().push(what)
        };
        for job in 0..ControlThread::FOR_PEERS {
            assert!(control.run_for_peer(Box::new(note(1000 + job))));
        }
        assert!(!control.run_for_peer(Box::new(note(0))));
        for job in 0..2 * ControlThread::BEFORE {
            control.post(note(job));
        }
        assert_eq!(control.stats().refused, 1);
        let pause = Duration::from_millis(2);
        thread::sleep(pause);
        go.send(()).unwrap();
        // The last of them all.
        let (last, all) = channel();
        while !control.run_for_peer(Box::new({
            let last = last.clone();
            move || last.send(()).unwrap()
        })) {
            thread::yield_now();
        }
        all.recv().unwrap();
        let ran = ran.lock().unwrap();
        let own: Vec<_> = ran.iter().filter(|job| **job < 1000).copied().collect();
        assert_eq!(own, (0..2 * ControlThread::BEFORE).collect::<Vec<_>>());
        assert_eq!(ran.len(), own.len() + ControlThread::FOR_PEERS);
        // One for a peer, after so many of this process's.
        assert_eq!(ran[ControlThread::BEFORE], 1000);
        assert!(ran[..ControlThread::BEFORE].iter().all(|job| *job < 1000));
        let stats = control.stats();
        assert!(stats.longest >= pause, "{stats:?}");
    }
}
