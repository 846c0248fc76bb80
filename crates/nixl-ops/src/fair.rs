//! Turns of tasks whose operations end at once.
//!
//! A task that never waits keeps its thread: its neighbours would starve for as long as it has something to begin.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::Clock;

/// How long a thread begins operations before it lets other tasks have their turn.
const SLICE: Duration = Duration::from_micros(30);

thread_local! {
    /// When a task last had to wait for its turn on this thread.
    static SINCE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The task that is polled now has been waiting: whoever wanted the thread has had it.
pub(crate) fn resumed(now: Duration) {
    SINCE.set(now);
}

/// Yields once if the thread has begun operations for a slice without a wait.
pub(crate) async fn give_way(clock: &dyn Clock) {
    let now = clock.now();
    // A clock that goes back is another one.
    if now.checked_sub(SINCE.get()).is_some_and(|passed| passed <= SLICE) {
        return;
    }
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    resumed(clock.now());
}
