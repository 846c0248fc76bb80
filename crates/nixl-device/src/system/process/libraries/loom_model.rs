//! Models of threads at work in libraries, and of a fork beside them, run by `cargo xtask loom`.

use loom::sync::Arc;
use loom::thread;

use super::*;

const PARENT: ForkGeneration = ForkGeneration(1);
const CHILD: ForkGeneration = ForkGeneration(2);

impl UnderWay {
    fn of(state: u64) -> Arc<Self> {
        Arc::new(Self { state: AtomicU64::new(state).made() })
    }

    /// A thread's work from begin to end. Returns whether it began.
    fn pass(&self, process: ForkGeneration) -> bool {
        let begun = self.enter(process);
        if begun {
            assert_eq!(self.process_at_work(), Some(process));
            self.leave();
        }
        begun
    }

    /// The record in a child that a thread forks here.
    fn forked(&self) -> Arc<Self> {
        Self::of(self.state.load(Ordering::Relaxed))
    }
}

fn passing(of: &Arc<UnderWay>, process: ForkGeneration) -> thread::JoinHandle<bool> {
    let of = Arc::clone(of);
    thread::spawn(move || of.pass(process))
}

#[test]
fn loom_a_child_begins_nothing_if_a_thread_was_at_work_at_the_fork() {
    loom::model(|| {
        let parent = UnderWay::of(0);
        let others = [(); 2].map(|()| passing(&parent, PARENT));
        assert!(parent.enter(PARENT));
        let child = parent.forked();
        assert!(!child.pass(CHILD) && !child.pass(CHILD), "for good");
        parent.leave();
        others.into_iter().for_each(|other| assert!(other.join().unwrap()));
        assert_eq!(parent.process_at_work(), None);
    });
}

#[test]
fn loom_threads_of_a_child_take_the_record_over_from_an_idle_parent() {
    loom::model(|| {
        let parent = UnderWay::of(0);
        assert!(parent.pass(PARENT));
        let child = parent.forked();
        let other = passing(&child, CHILD);
        assert!(child.pass(CHILD) && other.join().unwrap());
        assert_eq!(child.process_at_work(), None);
    });
}
