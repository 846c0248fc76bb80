//! Fair yielding of tasks whose operations end at once.
//!
//! A task that never waits keeps its thread: its neighbours would starve for as long as it has something to begin.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::Clock;

/// How long a thread begins operations before it lets other tasks have their turn.
const SLICE: Duration = Duration::from_micros(30);

/// A thread that has begun nothing for this long did something else: then its task had its turn not long ago.
const GAP: Duration = Duration::from_micros(200);

thread_local! {
    static TURN: Cell<YieldBudget> = const { Cell::new(YieldBudget { since: Duration::ZERO, last: Duration::ZERO }) };
}

/// One operation after another on a thread.
#[derive(Clone, Copy)]
struct YieldBudget {
    /// When a task last had to wait for its turn.
    since: Duration,
    /// When an operation was begun last.
    last: Duration,
}

impl YieldBudget {
    /// Notes that an operation is begun. Returns whether others shall have their turn first.
    fn begin(&mut self, now: Duration) -> bool {
        // A clock that goes back is another one.
        if now.checked_sub(self.last).is_none_or(|passed| passed > GAP) {
            self.since = now;
        }
        self.last = now;
        now.saturating_sub(self.since) > SLICE
    }
}

/// A task has waited for its operation, or begins to: others have the thread, and what is begun next on it begins a turn.
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

/// Lets the other tasks of this thread have their turn.
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
