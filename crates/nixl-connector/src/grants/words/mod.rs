//! Reads of the words of grants through the engine: one request for all reads that had ended before it was posted.
//!
//! A read *joins* once the completion of its bytes was seen. If no request is in flight, the first that is polled posts one for
//! all that have joined; otherwise they wait for its end, and the next request is theirs: what one in flight brings may be older
//! than their bytes. A request that is in flight belongs to the driver, which sees it through and
//! answers each of its reads, whether or not the read that has posted it was dropped; one that was not posted by then leaves its
//! reads to the next. Its room is used again once the engine has answered.

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

    /// The first two words of a slot, after everything that has arrived: `read` has ended.
    ///
    /// Cancel safe.
    pub(super) async fn after(
        &self,
        _read: &ReadUnderWay<'_>,
        (slot, peer): (u32, &PeerId),
        options: OperationOptions,
    ) -> Result<[u64; 2], ConnectorError> {
        let driver = self.connector.connection().driver();
        let entry = self.queue.join(slot);
        if self.reads.load(Ordering::Relaxed) > 1 {
            // Others may end in their turn, and share the request.
            driver.yield_now().await;
        } else if let Poll::Ready(Next::Post(batch, room)) = self.queue.poll_next(&entry, None) {
            // Most engines of one host end it where it is posted: then it needs no driver.
            let mut request = self.request(peer, (batch, room));
            if request.poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                let (list, request) = (DescriptorList::from(request.memory()), Box::new(request));
                let posted = ReadOperation::resume(driver, request, list, OperationOptions::new())?;
                return driver.with_timeout(options, self.wait(&entry, posted, peer)).await?.0;
            }
            if let Some(answer) = entry.answered() {
                return Ok(answer?);
            }
        }
        driver.with_timeout(options, self.answer(&entry, peer)).await?.0
    }

    /// Waits for a request that this read has posted.
    async fn wait(
        &self,
        entry: &Arc<Entry>,
        mut posted: ReadOperation,
        peer: &PeerId,
    ) -> Result<[u64; 2], ConnectorError> {
        posted.wait_for_completion().await?;
        self.answer(entry, peer).await
    }

    fn request(&self, peer: &PeerId, batch: (Batch, Room)) -> WordRequest {
        let parts = (&self.queue, self.connector.connection().transport());
        WordRequest::new(parts, (self.at.address, peer), batch)
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> (bool, usize) {
        self.queue.state()
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> usize {
        self.queue.requests()
    }

    async fn answer(&self, entry: &Arc<Entry>, peer: &PeerId) -> Result<[u64; 2], ConnectorError> {
        loop {
            match self.queue.next(entry).await {
                Next::Answered(answer) => return Ok(answer?),
                Next::NoRoom => self.queue.add(Room::new(&self.connector).await?),
                Next::Post(batch, room) => {
                    let request = self.request(peer, (batch, room));
                    let list = DescriptorList::from(request.memory());
                    let (request, options) = (Box::new(request), OperationOptions::new());
                    let driver = self.connector.connection().driver();
                    // Its own time is not that of this read: it serves others, too.
                    let mut posted = ReadOperation::begin(driver, request, list, options)?;
                    if let Err(error) = posted.wait_for_completion().await {
                        // The others have joined the next request.
                        return Err(error.into());
                    }
                }
            }
        }
    }
}
