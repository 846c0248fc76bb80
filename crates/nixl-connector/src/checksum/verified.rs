//! A read verified against the checksum of its offer.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Leased};
use nixl_metadata::Checksum;
use nixl_ops::{CompletionMode, Execution, PathReport, PeerMemory, TransportError};

use super::first_not_of_host;
use super::sum::Sum;
use super::summing::Summing;
use crate::ConnectorError;
use crate::connection::Connection;
use crate::control::ControlThread;
use crate::moved::Moved;

/// The inputs of a read's verification.
pub(crate) struct Verification {
    checksum: Checksum,
    list: DescriptorList,
    leased: Leased,
    /// The thread for long lists, and the driver to wake at the end.
    thread: Option<(ControlThread, Waker)>,
}

impl Verification {
    /// The verification of a read into leased memory.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::ChecksumIntoDevice`]; [`ConnectorError::Thread`] if the operating system refuses one.
    pub(crate) fn new(
        checksum: Checksum,
        (list, leased): (&DescriptorList, &Leased),
        connection: &Connection,
    ) -> Result<Box<Self>, ConnectorError> {
        if let Some((index, device)) = first_not_of_host(list) {
            return Err(ConnectorError::ChecksumIntoDevice { index, device });
        }
        let thread = match Sum::is_short(list) {
            true => None,
            false => Some((connection.work()?.clone(), connection.driver().waker())),
        };
        let (list, leased) = (list.clone(), leased.clone());
        Ok(Box::new(Self { checksum, list, leased, thread }))
    }

    /// The execution, with verification before its end if the offer has a checksum.
    pub(crate) fn after(
        execution: Box<dyn Execution>,
        verification: Option<Box<Self>>,
    ) -> Box<dyn Execution> {
        match verification {
            Some(verification) => Box::new(Verified(Stage::Moving(execution, verification))),
            None => execution,
        }
    }

    /// Verifies the bytes now, or returns the running sum.
    fn begin(self) -> Result<Option<Comparison>, TransportError> {
        let (checksum, bytes) = (self.checksum, self.list.total_bytes());
        let sum = Sum::new(self.list, &self.leased)?;
        match self.thread {
            None => compare(checksum, sum.finish()?, bytes).map(|()| None),
            Some((thread, waker)) => {
                let summing = Summing::start(sum, &thread);
                Ok(Some(Comparison { summing, waker, checksum, bytes }))
            }
        }
    }
}

/// A sum with its expected value.
struct Comparison {
    summing: Summing,
    waker: Waker,
    checksum: Checksum,
    bytes: u64,
}

impl Comparison {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        let summing = Pin::new(&mut self.summing);
        let found = ready!(summing.poll(&mut Context::from_waker(&self.waker)));
        Poll::Ready(found.and_then(|found| compare(self.checksum, found, self.bytes)))
    }
}

fn compare(offered: Checksum, found: Checksum, bytes: u64) -> Result<(), TransportError> {
    match offered == found {
        true => Ok(()),
        false => Err(TransportError::Corrupted { bytes }),
    }
}

/// An execution with verification of its bytes at the end.
struct Verified(Stage);

enum Stage {
    Moving(Box<dyn Execution>, Box<Verification>),
    Summing(Moved, Comparison),
    Over(Moved),
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for Verified {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if let Stage::Moving(execution, _) = &mut self.0 {
            ready!(execution.poll(cx))?;
            let moved = Moved::by(&**execution);
            let moving = mem::replace(&mut self.0, Stage::Over(moved.clone()));
            if let Stage::Moving(execution, verification) = moving {
                // The execution may hold the use of the lease.
                drop(execution);
                self.0 = match verification.begin()? {
                    Some(comparison) => Stage::Summing(moved, comparison),
                    None => Stage::Over(moved.verified()),
                };
            }
        }
        match &mut self.0 {
            Stage::Summing(moved, comparison) => {
                let compared = ready!(comparison.poll());
                if compared.is_ok() {
                    self.0 = Stage::Over(moved.clone().verified());
                }
                Poll::Ready(compared)
            }
            Stage::Moving(..) | Stage::Over(_) => Poll::Ready(Ok(())),
        }
    }

    fn expected(&self) -> Option<Duration> {
        match &self.0 {
            Stage::Moving(execution, verification) if verification.thread.is_none() => {
                execution.expected()
            }
            // The sum adds to the path's expected time.
            _ => None,
        }
    }

    fn completion_mode(&self) -> CompletionMode {
        match &self.0 {
            Stage::Moving(execution, _) => execution.completion_mode(),
            Stage::Summing(..) | Stage::Over(_) => CompletionMode::Polled,
        }
    }

    fn awaits_notification(&self) -> bool {
        matches!(&self.0, Stage::Moving(execution, _) if execution.awaits_notification())
    }

    fn abandon(&mut self) -> bool {
        match &mut self.0 {
            Stage::Moving(execution, _) => execution.abandon(),
            Stage::Summing(_, comparison) => {
                comparison.summing.give_up();
                false
            }
            Stage::Over(_) => true,
        }
    }

    fn report(&self) -> PathReport {
        match &self.0 {
            Stage::Moving(execution, _) => execution.report(),
            Stage::Summing(moved, _) | Stage::Over(moved) => moved.report.clone(),
        }
    }

    fn posts_quickly(&self) -> bool {
        matches!(&self.0, Stage::Moving(execution, _) if execution.posts_quickly())
    }

    fn takes_turns(&self) -> bool {
        matches!(&self.0, Stage::Moving(execution, _) if execution.takes_turns())
    }

    fn steps(&self) -> u64 {
        match &self.0 {
            Stage::Moving(execution, _) => execution.steps(),
            Stage::Summing(moved, _) | Stage::Over(moved) => moved.steps + 1,
        }
    }

    fn target_told(&self) -> bool {
        match &self.0 {
            Stage::Moving(execution, _) => execution.target_told(),
            Stage::Summing(..) | Stage::Over(_) => true,
        }
    }

    fn peer_memory(&self) -> PeerMemory {
        match &self.0 {
            Stage::Moving(execution, _) => execution.peer_memory(),
            Stage::Summing(moved, _) | Stage::Over(moved) => moved.memory,
        }
    }
}
