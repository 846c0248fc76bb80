//! Reads of the words of grants through the engine: one request for all reads that had ended before it was posted.
//!
//! A read *joins* once the completion of its bytes was seen. If no request is in flight, the first that is polled posts one for
//! all that have joined; otherwise they wait for its end, and the next request is theirs: words of a request in flight may be older
//! than their bytes. The queue owns a request: it goes on if the read that posted it is dropped or times out, and completes the
//! other reads. Its buffer is used again after the engine's answer.
//!
//! If all its slots lie in one window, the request is one that was prepared before and is posted again, which spares the engine
//! most of what a short read costs.

mod persistent_requests;
mod queue;
mod request;
mod room;
mod runs;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use nixl_descriptor::DescriptorList;
use nixl_metadata::WordsLocation;
use nixl_ops::{Execution as _, OperationOptions, PeerId, ReadOperation};

use self::queue::{Batch, Entry, Next, Queue};
use self::request::WordRequest;
use self::room::Room;
use crate::{Connector, ConnectorError};

/// The words of one export, as an import reads them through the engine.
pub(super) struct WordReads {
    connector: Connector,
    at: WordsLocation,
    queue: Arc<Queue>,
    /// Reads of the import, of whichever stage.
    reads: AtomicUsize,
}

/// A read of the import, from its begin to its end.
pub(super) struct ReadUnderWay<'a>(&'a WordReads);

impl Drop for ReadUnderWay<'_> {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WordReads {
    /// With a room, so that the first read need not register one.
    pub(super) async fn new(
        connector: &Connector,
        at: WordsLocation,
    ) -> Result<Self, ConnectorError> {
        let queue = Arc::<Queue>::default();
        queue.add(Room::new(connector).await?);
        Ok(Self { connector: connector.clone(), at, queue, reads: AtomicUsize::new(0) })
    }

    /// A read begins.
    pub(super) fn begin(&self) -> ReadUnderWay<'_> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        ReadUnderWay(self)
    }

    /// The first three words of a slot, after everything that has arrived: `read` has ended.
    ///
    /// Cancel safe.
    pub(super) async fn after(
        &self,
        _read: &ReadUnderWay<'_>,
        (slot, peer): (u32, &PeerId),
        options: OperationOptions,
    ) -> Result<[u64; 3], ConnectorError> {
        let driver = self.connector.connection().driver();
        let entry = self.queue.join(slot);
        if self.reads.load(Ordering::Relaxed) > 1 {
            // Others may end in their turn, and share the request.
            driver.yield_now().await;
        }
        let mut posted = None;
        if let Poll::Ready(Next::Post(batch, room)) = self.queue.poll_next(&entry, None) {
            posted = self.post(peer, (batch, room))?;
        }
        if posted.is_none()
            && let Some(answer) = entry.answered()
        {
            return Ok(answer?);
        }
        driver.with_timeout(options, self.answer(&entry, peer, posted)).await?.0
    }

    /// Posts a request. `None` if it has ended, as it does at once on most engines of one host.
    fn post(
        &self,
        peer: &PeerId,
        batch: (Batch, Room),
    ) -> Result<Option<Posted<'_>>, ConnectorError> {
        let mut request = self.request(peer, batch);
        if request.poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return Ok(None);
        }
        let (list, request) = (DescriptorList::from(request.memory()), Box::new(request));
        let driver = self.connector.connection().driver();
        // Its own time is not that of a read: it serves others, too.
        let options = OperationOptions::new().unmetered();
        let posted = ReadOperation::resume(driver, request, list, options)?;
        Ok(Some(Posted { queue: &self.queue, operation: Some(posted) }))
    }

    fn request(&self, peer: &PeerId, batch: (Batch, Room)) -> WordRequest {
        let parts = (&self.queue, self.connector.connection().transport());
        WordRequest::new(parts, (&self.at, peer), batch)
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> (bool, usize) {
        self.queue.state()
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> usize {
        self.queue.requests()
    }

    async fn answer(
        &self,
        entry: &Arc<Entry>,
        peer: &PeerId,
        mut posted: Option<Posted<'_>>,
    ) -> Result<[u64; 3], ConnectorError> {
        loop {
            if let Some(mut posted) = posted.take() {
                posted.ended().await?;
            }
            match self.queue.next(entry).await {
                Next::Answered(answer) => return Ok(answer?),
                Next::NoRoom => self.queue.add(Room::new(&self.connector).await?),
                Next::Post(batch, room) => posted = self.post(peer, (batch, room))?,
            }
        }
    }
}

impl Drop for WordReads {
    fn drop(&mut self) {
        // No read is left that it serves.
        self.queue.give_up();
    }
}

/// A request that a read has posted and waits for. If the read is dropped, the queue has it.
struct Posted<'a> {
    queue: &'a Queue,
    operation: Option<ReadOperation>,
}

impl Posted<'_> {
    async fn ended(&mut self) -> Result<(), ConnectorError> {
        if let Some(operation) = &mut self.operation {
            operation.wait_for_completion().await?;
        }
        self.operation = None;
        Ok(())
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        self.operation.take().into_iter().for_each(|operation| self.queue.hold(operation));
    }
}
