//! Fair yielding of tasks whose operations end at once.
//!
//! A task that never waits keeps its thread, and starves other tasks for as long as it begins operations.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::Clock;

/// The time for which a thread begins operations before it yields to other tasks.
const SLICE: Duration = Duration::from_micros(30);

/// A thread without a begin for this long did other work, so other tasks had their turn recently.
const GAP: Duration = Duration::from_micros(200);

thread_local! {
    static TURN: Cell<YieldBudget> = const { Cell::new(YieldBudget { since: Duration::ZERO, last: Duration::ZERO }) };
}

/// A sequence of operations on a thread.
#[derive(Clone, Copy)]
struct YieldBudget {
    /// The last yield of a task.
    since: Duration,
    /// The last begin of an operation.
    last: Duration,
}

impl YieldBudget {
    /// Records a begin. Returns whether to yield first.
    fn begin(&mut self, now: Duration) -> bool {
        // A clock that goes back is a different clock.
        if now.checked_sub(self.last).is_none_or(|passed| passed > GAP) {
            self.since = now;
        }
        self.last = now;
        now.saturating_sub(self.since) > SLICE
    }
}

/// A task waits for its operation: others have the thread, and the next begin starts a turn.
pub(crate) fn waited(now: Duration) {
    TURN.set(YieldBudget { since: now, last: now });
}

/// Yields once if the thread has begun operations for a slice without a wait.
pub(crate) async fn give_way(clock: &dyn Clock) {
    let mut turn = TURN.get();
    let is_over = turn.begin(clock.now());
    TURN.set(turn);
    if !is_over {
        return;
    }
    yield_once(clock).await;
}

/// Yields to the other tasks of this thread.
pub(crate) async fn yield_once(clock: &dyn Clock) {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    waited(clock.now());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yields(begun_at: &[u64]) -> Vec<bool> {
        let mut turn = YieldBudget { since: Duration::ZERO, last: Duration::ZERO };
        begun_at.iter().map(|at| turn.begin(Duration::from_micros(*at))).collect()
    }

    #[test]
    fn only_operations_one_after_another_use_up_a_turn() {
        assert_eq!(yields(&[1000, 1010, 1030, 1031]), [false, false, false, true]);
        assert_eq!(yields(&[1000, 1201, 1402]), [false; 3], "something else was done between");
        assert_eq!(yields(&[1000, 10, 20]), [false; 3], "of another clock");
    }
}
