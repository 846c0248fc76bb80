//! Futures that run their long work on the control thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use nixl_device::locks::lock;
use nixl_ops::{TransportError, contained};
use tokio::sync::oneshot;

use crate::control::ControlThread;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The result of a poll: the output, or the pending future.
type Polled<T> = Result<Result<T, Work<T>>, TransportError>;

/// A future polled on a worker thread, which is free while the future waits.
///
/// As cancel safe as the future: it is dropped with this, or on the thread after the running poll.
///
/// Its output is an error if the future panics ([`TransportError::Panicked`]), or the thread has ended
/// ([`TransportError::ThreadEnded`]).
pub(crate) struct Offloaded<T> {
    thread: ControlThread,
    stage: Stage<T>,
    woken: Arc<Woken>,
}

enum Stage<T> {
    Here(Work<T>),
    There(oneshot::Receiver<Polled<T>>),
    Over,
}

impl<T: Send + 'static> Offloaded<T> {
    pub(crate) fn new(
        thread: &ControlThread,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let woken = Arc::new(Woken {
            is_due: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self { thread: thread.clone(), stage: Stage::Here(Box::pin(work)), woken }
    }

    fn polled_there(&self, mut work: Work<T>) -> oneshot::Receiver<Polled<T>> {
        let (reply, polled) = oneshot::channel();
        let waker = Waker::from(Arc::clone(&self.woken));
        self.thread.post(move || {
            let poll = move || match work.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => Ok(output),
                Poll::Pending => Err(work),
            };
            // Without a receiver the value is dropped here.
            let _ = reply.send(contained("the preparation of an operation", poll));
        });
        polled
    }
}

impl<T: Send + 'static> Future for Offloaded<T> {
    type Output = Result<T, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.woken.set_task(cx.waker());
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Here(work) if self.woken.is_due.swap(false, Ordering::AcqRel) => {
                    self.stage = Stage::There(self.polled_there(work));
                }
                Stage::Here(work) => {
                    self.stage = Stage::Here(work);
                    return Poll::Pending;
                }
                Stage::There(mut polled) => match Pin::new(&mut polled).poll(cx) {
                    Poll::Pending => {
                        self.stage = Stage::There(polled);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Ok(Ok(output)))) => return Poll::Ready(Ok(output)),
                    Poll::Ready(Ok(Ok(Err(work)))) => self.stage = Stage::Here(work),
                    Poll::Ready(Ok(Err(panicked))) => return Poll::Ready(Err(panicked)),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(self.thread.ended())),
                },
                // Polled again after its end.
                Stage::Over => return Poll::Ready(Err(TransportError::Closed)),
            }
        }
    }
}

/// Wakes the task that awaits the future, and marks the future for a poll.
struct Woken {
    is_due: AtomicBool,
    task: Mutex<Waker>,
}

impl Woken {
    fn set_task(&self, waker: &Waker) {
        // Dropped without the lock: that is an executor's code, which may come back here.
        let _replaced = {
            let mut task = lock(&self.task);
            (!task.will_wake(waker)).then(|| std::mem::replace(&mut *task, waker.clone()))
        };
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_due.store(true, Ordering::Release);
        let task = lock(&self.task).clone();
        task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A waker whose drop wakes the future.
    struct Wakes(Arc<Woken>);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Wakes {
        fn drop(&mut self) {
            // A second lock of a thread would wait for ever.
            assert!(self.0.task.try_lock().is_ok());
            self.0.wake_by_ref();
        }
    }

    #[test]
    fn a_replaced_waker_is_dropped_without_the_lock() {
        let task = Mutex::new(Waker::noop().clone());
        let woken = Arc::new(Woken { is_due: AtomicBool::new(false), task });
        woken.set_task(&Waker::from(Arc::new(Wakes(Arc::clone(&woken)))));
        woken.set_task(Waker::noop());
        assert!(woken.is_due.load(Ordering::Acquire), "it was dropped");
    }

    #[tokio::test]
    async fn each_poll_is_on_the_thread_and_waits_do_not_keep_it() {
        let control = ControlThread::spawn().unwrap();
        let on = control.run(|| thread::current().id()).await.unwrap();
        let (resume, resumed) = oneshot::channel::<u32>();
        let waits = Offloaded::new(&control, async move {
            let before = thread::current().id();
            let value = resumed.await.unwrap();
            (before, value, thread::current().id())
        });
        let waits = tokio::spawn(waits);
        let quick = Offloaded::new(&control, async { thread::current().id() });
        assert_eq!(quick.await, Ok(on), "the other waits");
        resume.send(7).unwrap();
        assert_eq!(waits.await.unwrap(), Ok((on, 7, on)));
    }

    #[tokio::test]
    async fn a_future_that_wakes_itself_is_polled_until_it_is_ready() {
        let control = ControlThread::spawn().unwrap();
        let mut left = 1000;
        let work = std::future::poll_fn(move |cx| {
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready("done") } else { Poll::Pending }
        });
        assert_eq!(Offloaded::new(&control, work).await, Ok("done"));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let control = ControlThread::spawn().unwrap();
        let work = async { panic!("of the work") };
        let outcome: Result<(), _> = Offloaded::new(&control, work).await;
        assert!(matches!(outcome, Err(TransportError::Panicked { .. })), "{outcome:?}");
    }
}
