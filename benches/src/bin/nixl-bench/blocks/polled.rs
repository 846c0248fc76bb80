//! Time for which the polls of a future hold the thread.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::clock;
use crate::samples::Samples;

/// What the polls of some futures took.
#[derive(Default)]
pub(crate) struct Holds {
    pub(crate) first: Samples,
    /// The longest of each future.
    pub(crate) longest: Samples,
    /// CPU time of the longest: without what other threads took meanwhile.
    pub(crate) longest_cpu: Samples,
}

/// A future whose polls are timed.
pub(crate) struct Polled<'a, F> {
    future: Pin<Box<F>>,
    holds: &'a mut Holds,
    /// Of the longest poll until now; none before the first.
    longest: Option<(u64, u64)>,
}

impl<'a, F: Future> Polled<'a, F> {
    pub(crate) fn new(future: F, holds: &'a mut Holds) -> Self {
        Self { future: Box::pin(future), holds, longest: None }
    }
}

impl<F: Future> Future for Polled<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (cpu, wall) = (clock::thread_cpu_time(), clock::now());
        let polled = self.future.as_mut().poll(cx);
        let took = (clock::now() - wall, clock::thread_cpu_time() - cpu);
        let longest = match self.longest {
            None => {
                self.holds.first.push(took.0);
                took
            }
            Some(longest) => (longest.0.max(took.0), longest.1.max(took.1)),
        };
        self.longest = Some(longest);
        if polled.is_ready() {
            self.holds.longest.push(longest.0);
            self.holds.longest_cpu.push(longest.1);
        }
        polled
    }
}
