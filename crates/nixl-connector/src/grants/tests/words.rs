//! Requests for words are shared by reads that had ended before, and by no others.

use nixl_metadata::Ticket;
use nixl_ops::DriverConfig;
use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::*;

/// More bytes than a request has: all of them move, and then it stands still.
const ALL: Fault = Fault::Stalls { after: u64::MAX };

/// Ends together with its blocks' grant.
type Reading = JoinHandle<Result<crate::Completion, BlockReadError>>;

struct Afar {
    world: World,
    import: RemoteExport,
}

impl Afar {
    async fn new() -> Self {
        Self::draining_for(Duration::from_secs(30)).await
    }

    async fn draining_for(drain: Duration) -> Self {
        let driver = DriverConfig::default().drain(drain);
        let world = World::with(|reader| reader.driver(driver), per_layer()).await;
        let [_, import] = world.imports().await;
        Self { world, import }
    }

    fn faults(&self) -> crate::simulated::Faults {
        self.world.fabric.faults_of(self.world.reader.name()).unwrap()
    }

    fn read(&self, ticket: &Ticket, local: &Layout, id: usize) -> Reading {
        self.read_within(Duration::from_secs(60), ticket, local, id)
    }

    fn read_within(&self, time: Duration, ticket: &Ticket, local: &Layout, id: usize) -> Reading {
        let (import, ticket, local) = (self.import.clone(), ticket.clone(), local.clone());
        let options = OperationOptions::new().timeout(time);
        let options = BlockTransferOptions::new().operation(options);
        tokio::spawn(async move { import.read_blocks_with(&ticket, &local, &[id], options).await })
    }

    /// Lets the others go on until the words are so.
    async fn until(&self, in_flight: bool, wanted: usize) {
        while self.import.words_in_flight() != (in_flight, wanted) {
            tokio::task::yield_now().await;
        }
    }

    /// A read whose bytes have arrived, and whose word has too, though its request has not ended.
    async fn stalled(&self, ticket: &Ticket, local: &Layout) -> Reading {
        // Of the bytes, and of the word.
        self.faults().next([]);
        self.faults().next([ALL]);
        let reading = self.read(ticket, local, 0);
        self.until(true, 0).await;
        reading
    }

    async fn released(&self, reading: Reading) -> Result<crate::Completion, BlockReadError> {
        while !reading.is_finished() {
            self.faults().release();
            tokio::task::yield_now().await;
        }
        reading.await.unwrap()
    }
}

/// These made it fail: a request that also serves those that join while it is in flight, its answer kept for the next read, and a
/// request that is posted beside the bytes.
#[tokio::test]
async fn a_word_that_was_read_before_a_read_ended_does_not_serve_it() {
    let afar = Afar::new().await;
    let (local, bytes) = contiguous();
    let grant = afar.world.export.grant(0, &[5], GrantOptions::new()).unwrap();
    let ticket = grant.ticket().clone();
    let first = afar.stalled(&ticket, &local).await;
    // Another word is here already, of a request that has not ended.
    assert!(grant.end());
    let len = geometry().layer_len();
    for region in &afar.world.cache {
        region.copy_from_slice(5 * len, &vec![0xff; len]).unwrap();
    }
    let second = afar.read(&ticket, &local, 1);
    afar.until(true, 1).await;
    afar.released(first).await.unwrap();
    let error = afar.released(second).await.unwrap_err();
    assert!(is_stale(error.cause()), "{error}");
    // What each of them brought.
    assert_eq!(read(&bytes, 0), block(5));
    assert_eq!(read(&bytes, 1), vec![0xff; geometry().block_len()]);
}

#[tokio::test]
async fn reads_that_ended_before_share_one_request() {
    let afar = Afar::new().await;
    let (local, bytes) = contiguous();
    let grants: Vec<_> = (0..BLOCKS as u32)
        .map(|id| afar.world.export.grant(0, &[id], GrantOptions::new()).unwrap())
        .collect();
    let first = afar.stalled(grants[0].ticket(), &local).await;
    let others: Vec<_> = (1..BLOCKS).map(|id| afar.read(grants[id].ticket(), &local, id)).collect();
    afar.until(true, BLOCKS - 1).await;
    // One of them ends with its error, and the rest do not.
    let mut grants = grants;
    assert!(grants.remove(3).end());
    let before = afar.import.word_requests();
    afar.released(first).await.unwrap();
    for (reading, id) in others.into_iter().zip(1..) {
        let result = afar.released(reading).await;
        assert_eq!(result.is_err_and(|error| is_stale(error.cause())), id == 3, "block {id}");
        assert_eq!(read(&bytes, id), block(id as u8));
    }
    assert_eq!(afar.import.word_requests(), before + 1);
    // Alone, each has its own.
    let (ticket, before) = (grants[0].ticket(), afar.import.word_requests());
    for _ in 0..3 {
        afar.import.read_blocks(ticket, &local, &[0]).await.unwrap();
    }
    assert_eq!(afar.import.word_requests(), before + 3);
}

#[tokio::test]
async fn a_read_that_is_dropped_leaves_the_request_to_the_others() {
    let afar = Afar::new().await;
    let (local, bytes) = contiguous();
    let grant = afar.world.export.grant(0, &[5], GrantOptions::new()).unwrap();
    let ticket = grant.ticket();
    let first = afar.stalled(ticket, &local).await;
    let others = [1, 2, 3].map(|id| afar.read(ticket, &local, id));
    afar.until(true, 3).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // Its request goes on, so nothing else uses the room.
    assert_eq!(afar.import.words_in_flight(), (true, 3));
    let [second, third, fourth] = others;
    third.abort();
    assert!(third.await.unwrap_err().is_cancelled());
    afar.released(second).await.unwrap();
    afar.released(fourth).await.unwrap();
    assert_eq!(read(&bytes, 1), block(5));
    assert_eq!(read(&bytes, 3), block(5));
    assert_eq!(afar.import.words_in_flight(), (false, 0));
    // The last one is dropped with the import.
    let last = afar.stalled(ticket, &local).await;
    last.abort();
    assert!(last.await.unwrap_err().is_cancelled());
    let Afar { world, import } = afar;
    drop(import);
    world.fabric.faults_of(world.reader.name()).unwrap().release();
    while world.reader.stats().active() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_word_that_cannot_be_read_is_an_error() {
    let afar = Afar::new().await;
    let (local, _bytes) = contiguous();
    let grant = afar.world.export.grant(0, &[5], GrantOptions::new()).unwrap();
    for fault in [Fault::Fails { after: 8 }, Fault::PostFails] {
        afar.faults().next([]);
        afar.faults().next([fault]);
        let error = cause(afar.import.read_blocks(grant.ticket(), &local, &[0]).await);
        assert!(!is_stale(&error), "{error}");
        afar.import.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
    }
    // In flight when the read's time is over.
    afar.faults().next([]);
    afar.faults().next([ALL]);
    let options = OperationOptions::new().timeout(Duration::from_millis(20));
    let options = BlockTransferOptions::new().operation(options);
    let read = afar.import.read_blocks_with(grant.ticket(), &local, &[0], options);
    let error = cause(read.await);
    assert!(matches!(error, ConnectorError::Operation(_)), "{error}");
    let next = afar.read(grant.ticket(), &local, 1);
    afar.released(next).await.unwrap();
}

/// What becomes of a read that shares a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Waits,
    Dropped,
    OutOfTime,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![Just(Fate::Waits), Just(Fate::Dropped), Just(Fate::OutOfTime)];
    // One block is that of the read before, and one waits.
    proptest::collection::vec(fate, 1..BLOCKS - 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Reads that give up leave the request that they share as it is, whichever of them has posted it: it is posted once, is
    /// not given up, and answers the others.
    #[test]
    fn a_shared_request_outlives_the_reads_that_give_up(
        fates in fates(),
        waiting in any::<proptest::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut fates = fates;
        fates.insert(waiting.index(fates.len() + 1), Fate::Waits);
        runtime.block_on(shared_by(&fates));
    }
}

async fn shared_by(fates: &[Fate]) {
    const DRAIN: Duration = Duration::from_millis(1);
    const TIME: Duration = Duration::from_millis(25);
    let afar = Afar::draining_for(DRAIN).await;
    let (local, bytes) = contiguous();
    let grant = afar.world.export.grant(0, &[5], GrantOptions::new()).unwrap();
    let ticket = grant.ticket();
    let first = afar.stalled(ticket, &local).await;
    let (before, faults) = (afar.import.word_requests(), afar.faults());
    let mut readings = Vec::new();
    for (fate, id) in fates.iter().zip(1..) {
        let (_, waiting) = afar.import.words_in_flight();
        let reading = match fate {
            Fate::OutOfTime => afar.read_within(TIME, ticket, &local, id),
            _ => afar.read(ticket, &local, id),
        };
        // On a slow machine it is out of time before it waits.
        while afar.import.words_in_flight() == (true, waiting) && !reading.is_finished() {
            tokio::task::yield_now().await;
        }
        readings.push(reading);
    }
    // The next one, which they share, stands still.
    faults.next([ALL]);
    faults.release();
    first.await.unwrap().unwrap();
    while afar.import.word_requests() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(afar.import.words_in_flight(), (true, 0));
    let mut waiting = Vec::new();
    for ((reading, fate), id) in readings.into_iter().zip(fates).zip(1..) {
        match fate {
            Fate::Waits => waiting.push((id, reading)),
            Fate::Dropped => {
                reading.abort();
                assert!(reading.await.unwrap_err().is_cancelled());
            }
            Fate::OutOfTime => {
                let error = cause(reading.await.unwrap());
                assert!(matches!(error, ConnectorError::Operation(_)), "{error}");
            }
        }
    }
    tokio::time::sleep(10 * DRAIN).await;
    let overdue = afar.world.reader.stats().overdue().operations();
    assert_eq!(overdue, 0, "the request was given up");
    faults.release();
    for (id, reading) in waiting {
        reading.await.unwrap().unwrap();
        assert_eq!(read(&bytes, id), block(5));
    }
    assert_eq!(afar.import.word_requests(), before + 1);
}
