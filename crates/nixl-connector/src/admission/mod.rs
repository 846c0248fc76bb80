//! Admission of transfers of blocks: two classes share a connection by bytes, within bounds on the bytes in flight.
//!
//! | part | where | rule |
//! |---|---|---|
//! | order | [`fair_queue`] | first come, first served within a class; between the classes start-time fair queuing, by bytes and weight |
//! | bounds | [`fair_queue`] | of bytes in flight for the connection, for each peer and for the bulk class; a larger transfer goes alone |
//! | permit | [`permit`] | held by the execution until its engine is quiet, also without a waiter |

mod admitted;
mod fair_queue;
mod permit;

use std::sync::{Arc, Mutex, MutexGuard};

use nixl_device::locks::lock;
use nixl_ops::{PeerId, TransportError, contained};
use tokio::sync::oneshot;

pub(crate) use self::admitted::Admitted;
use self::fair_queue::{Charge, FairQueue};
pub(crate) use self::permit::Permit;
use crate::ConnectorError;

/// Priority class of transfers of blocks.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum TransferClass {
    /// One piece, begun at once.
    #[default]
    Interactive,
    /// Pieces of 64 KiB, with at most 1 MiB in flight per connection, so the engine is soon free for interactive transfers.
    /// While both classes wait, interactive transfers get eight bytes for each byte of these.
    Bulk,
}

/// Bounds on one connector's transfers of blocks in flight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransferLimits {
    per_peer: u64,
    per_connection: u64,
    queued: usize,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl TransferLimits {
    /// 1 GiB for each peer, 4 GiB for the connection, and 4,096 waiting transfers.
    #[must_use]
    pub fn new() -> Self {
        Self { per_peer: 1 << 30, per_connection: 4 << 30, queued: 4096 }
    }

    /// Bytes in flight with one peer. A larger transfer begins when none is in flight with it.
    #[must_use]
    pub fn per_peer(mut self, bytes: u64) -> Self {
        self.per_peer = bytes;
        self
    }

    /// Bytes in flight with all peers. A larger transfer begins when none is in flight.
    #[must_use]
    pub fn per_connection(mut self, bytes: u64) -> Self {
        self.per_connection = bytes;
        self
    }

    /// Waiting transfers; a further one is refused with [`ConnectorError::WouldBlock`].
    #[must_use]
    pub fn queued(mut self, transfers: usize) -> Self {
        self.queued = transfers;
        self
    }
}

/// Admits the transfers of a connection.
#[derive(Debug)]
pub(crate) struct Admission {
    queue: Mutex<FairQueue<oneshot::Sender<Permit>>>,
    most_queued: usize,
}

impl Admission {
    pub(crate) fn new(limits: TransferLimits) -> Arc<Self> {
        let queue = FairQueue::new(limits.per_connection, limits.per_peer);
        Arc::new(Self { queue: Mutex::new(queue), most_queued: limits.queued })
    }

    /// Transfers that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Whether no transfer is in flight or waits.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Admits a transfer that has no wait ahead.
    pub(crate) fn try_admit(
        self: &Arc<Self>,
        class: TransferClass,
        peer: &PeerId,
        bytes: u64,
    ) -> Option<Permit> {
        let charge = Charge { class, peer: peer.clone(), bytes };
        let charge = self.lock().try_admit(charge).ok()?;
        Some(Permit::new(self, charge))
    }

    /// Waits for the turn of a transfer. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::WouldBlock`] if the queue is full.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        class: TransferClass,
        peer: &PeerId,
        bytes: u64,
    ) -> Result<Permit, ConnectorError> {
        let charge = Charge { class, peer: peer.clone(), bytes };
        let turn = {
            let mut queue = self.lock();
            let charge = match queue.try_admit(charge) {
                Ok(charge) => return Ok(Permit::new(self, charge)),
                Err(charge) => charge,
            };
            if queue.len() >= self.most_queued {
                // Dropped waiters make room.
                queue.retain(|waiting| !waiting.is_closed());
            }
            let queued = queue.len();
            if queued >= self.most_queued {
                return Err(ConnectorError::WouldBlock { queued });
            }
            let (tell, told) = oneshot::channel();
            queue.push(charge, tell);
            Turn { admission: self, told: Some(told) }
        };
        turn.wait().await
    }

    /// Returns a transfer's charge.
    fn release(self: &Arc<Self>, charge: &Charge) {
        let next = self.lock().release(charge);
        self.admit_in_turn(next);
    }

    /// Takes out what is not awaited any more where it may hold up others. Elsewhere it is passed over in its turn.
    fn forget_unwanted(self: &Arc<Self>) {
        let next = {
            let mut queue = self.lock();
            if !queue.is_blocked() {
                return;
            }
            queue.retain(|waiting| !waiting.is_closed());
            queue.next()
        };
        self.admit_in_turn(next);
    }

    fn admit_in_turn(self: &Arc<Self>, mut next: Option<(Charge, oneshot::Sender<Permit>)>) {
        while let Some((charge, tell)) = next {
            // One that is not awaited any more takes nothing, and the next has its turn here. A waker that panics keeps no other from it.
            let permit = Permit::new(self, charge);
            let told = contained("the waker of a transfer that waits", || tell.send(permit));
            let unwanted = told.ok().and_then(Result::err);
            next = match unwanted.and_then(Permit::into_charge) {
                Some(charge) => self.lock().release(&charge),
                None => self.lock().next(),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<oneshot::Sender<Permit>>> {
        // No panic here leaves the queue half changed.
        lock(&self.queue)
    }
}

/// A transfer in the queue. Dropped before its turn, it holds up no other.
struct Turn<'a> {
    admission: &'a Arc<Admission>,
    /// `None` once it has come.
    told: Option<oneshot::Receiver<Permit>>,
}

impl Turn<'_> {
    async fn wait(mut self) -> Result<Permit, ConnectorError> {
        let Some(told) = &mut self.told else { return Err(TransportError::Closed.into()) };
        let permit = told.await;
        self.told = None;
        Ok(permit.map_err(|_| TransportError::Closed)?)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A permit that came meanwhile is given back with the receiver.
        if let Some(told) = self.told.take() {
            drop(told);
            self.admission.forget_unwanted();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    const CLASS: TransferClass = TransferClass::Interactive;

    #[tokio::test]
    async fn a_transfer_waits_for_its_turn_and_is_refused_beyond_the_depth_of_the_queue() {
        let limits = TransferLimits::new().per_connection(10).queued(1);
        let (admission, peer) = (Admission::new(limits), PeerId::new("peer"));
        let first = admission.admit(CLASS, &peer, 8).await.unwrap();
        assert!(admission.try_admit(CLASS, &peer, 8).is_none());
        let second = tokio::spawn({
            let (admission, peer) = (Arc::clone(&admission), peer.clone());
            async move { admission.admit(CLASS, &peer, 8).await }
        });
        while admission.lock().len() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = admission.admit(CLASS, &peer, 1).await.unwrap_err();
        assert_eq!(refused, ConnectorError::WouldBlock { queued: 1 });
        drop(first);
        drop(second.await.unwrap().unwrap());
        drop(admission.admit(CLASS, &peer, 1000).await.unwrap());
        assert!(admission.lock().is_idle());
    }

    #[tokio::test]
    async fn a_waker_that_panics_keeps_no_other_from_its_turn() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("on purpose");
            }
        }
        let limits = TransferLimits::new().per_connection(10);
        let (admission, peer) = (Admission::new(limits), PeerId::new("peer"));
        let running = admission.admit(CLASS, &peer, 10).await.unwrap();
        let mut first = Box::pin(admission.admit(CLASS, &peer, 4));
        let waker = Waker::from(Arc::new(Panics));
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let mut second = Box::pin(admission.admit(CLASS, &peer, 4));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(running);
        let admitted = |waiting: Pin<&mut dyn Future<Output = _>>| {
            waiting
                .poll(&mut Context::from_waker(Waker::noop()))
                .map(|permit: Result<Permit, ConnectorError>| permit.is_ok())
        };
        assert_eq!(admitted(second.as_mut()), Poll::Ready(true));
        assert_eq!(admitted(first.as_mut()), Poll::Ready(true), "it has its turn all the same");
    }

    #[tokio::test]
    async fn one_that_is_not_awaited_any_more_takes_neither_room_nor_a_turn() {
        let limits = TransferLimits::new().per_peer(10).queued(1);
        let (admission, peer) = (Admission::new(limits), PeerId::new("peer"));
        let first = admission.admit(CLASS, &peer, 8).await.unwrap();
        for _ in 0..3 {
            let waiting = admission.admit(CLASS, &peer, 8);
            let mut waiting = Box::pin(waiting);
            let polled =
                std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
            assert!(polled.await, "it waits");
        }
        drop(first);
        assert!(admission.lock().is_idle());
    }

    #[tokio::test]
    async fn one_that_waited_for_the_connection_holds_up_no_other_once_it_is_not_awaited() {
        let limits = TransferLimits::new().per_connection(10);
        let (admission, stuck) = (Admission::new(limits), PeerId::new("stuck"));
        let _standing = admission.admit(CLASS, &stuck, 1).await.unwrap();
        let healthy = PeerId::new("healthy");
        let mut cx = Context::from_waker(Waker::noop());
        let mut large = Box::pin(admission.admit(CLASS, &healthy, 10));
        assert!(large.as_mut().poll(&mut cx).is_pending());
        let mut small = Box::pin(admission.admit(CLASS, &healthy, 1));
        assert!(small.as_mut().poll(&mut cx).is_pending(), "it does not overtake");
        drop(large);
        assert!(small.as_mut().poll(&mut cx).is_ready(), "it has its turn");
        assert!(admission.try_admit(CLASS, &healthy, 1).is_some());
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test]
    async fn thousands_that_are_not_awaited_any_more_are_passed_over() {
        let limits = TransferLimits::new().per_peer(10).queued(100_000);
        let (admission, peer) = (Admission::new(limits), PeerId::new("peer"));
        let first = admission.admit(CLASS, &peer, 8).await.unwrap();
        let mut waiting: Vec<_> =
            (0..50_000).map(|_| Box::pin(admission.admit(CLASS, &peer, 8))).collect();
        for turn in &mut waiting {
            let poll = std::future::poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx)));
            assert!(poll.await.is_pending(), "it waits");
        }
        let last = waiting.pop();
        drop(waiting);
        drop(first);
        drop(last.unwrap().await.unwrap());
        assert!(admission.lock().is_idle());
    }
}
