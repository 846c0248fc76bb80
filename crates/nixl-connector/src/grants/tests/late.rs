//! Expired tickets: no post after the expiry, and none in flight for longer than the owner waits.

use super::*;
use crate::TransferLimits;
use crate::grants::tests::turns::large;

const ALL: Fault = Fault::Stalls { after: u64::MAX };
const TIME: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(3600);

struct Timed {
    clock: Arc<ManualClock>,
    world: World,
}

impl Timed {
    async fn new(limits: TransferLimits, of: (Layout, Vec<Region>)) -> Self {
        let clock = Arc::new(ManualClock::new());
        let reader = |reader: ConnectorBuilder| reader.transfer_limits(limits);
        let world = World::at(Arc::<ManualClock>::clone(&clock), reader, of).await;
        Self { clock, world }
    }

    fn faults(&self) -> crate::simulated::Faults {
        self.world.fabric.faults_of(self.world.reader.name()).unwrap()
    }

    /// Lets what stalls go on, and time pass for the driver, which sleeps between its polls.
    async fn release_until_finished<T>(&self, reading: &tokio::task::JoinHandle<T>) {
        while !reading.is_finished() {
            self.faults().release();
            self.clock.advance(Duration::from_micros(100));
            tokio::task::yield_now().await;
        }
    }

    fn grant(&self, blocks: &[u32], time: Duration) -> crate::Grant {
        self.world.export.grant(0, blocks, GrantOptions::new().time_to_live(time)).unwrap()
    }
}

type Reading = tokio::task::JoinHandle<Result<crate::Completion, BlockReadError>>;

fn begin(
    import: &RemoteExport,
    (ticket, local): (&Ticket, &Layout),
    ids: &[usize],
    options: BlockTransferOptions,
) -> Reading {
    let (import, ticket, local) = (import.clone(), ticket.clone(), local.clone());
    let ids = ids.to_vec();
    tokio::spawn(async move { import.read_blocks_with(&ticket, &local, &ids, options).await })
}

#[tokio::test]
async fn a_read_whose_time_is_over_when_its_turn_comes_posts_nothing() {
    let timed = Timed::new(TransferLimits::new().per_peer(1), per_layer()).await;
    let [here, _] = timed.world.imports().await;
    let (local, _bytes) = contiguous();
    let (long, short) = (timed.grant(&[5], LONG), timed.grant(&[6], TIME));
    let faults = timed.faults();
    faults.next([ALL]);
    let first = begin(&here, (long.ticket(), &local), &[0], BlockTransferOptions::new());
    while faults.left() > 0 {
        tokio::task::yield_now().await;
    }
    let second = begin(&here, (short.ticket(), &local), &[1], BlockTransferOptions::new());
    while timed.world.reader.connection().admission().waiting() == 0 {
        tokio::task::yield_now().await;
    }
    timed.clock.advance(TIME);
    // It would strike the second.
    faults.next([Fault::PostFails]);
    timed.release_until_finished(&first).await;
    first.await.unwrap().unwrap();
    timed.release_until_finished(&second).await;
    assert_eq!(cause(second.await.unwrap()), TicketError::Expired.into());
    assert_eq!(faults.left(), 1);
}

/// What ends the right to the pieces that are left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Time,
    Owner,
}

#[tokio::test]
async fn no_piece_is_posted_once_the_grant_has_ended() {
    const AT_ONCE: usize = 4;
    for end in [End::Time, End::Owner] {
        let timed = Timed::new(TransferLimits::new(), large()).await;
        let [here, _] = timed.world.imports().await;
        let (local, _bytes) = large();
        let time = if end == End::Time { TIME } else { LONG };
        let grant = timed.grant(&[0, 1, 2], time);
        let ticket = grant.ticket().clone();
        let faults = timed.faults();
        faults.next([ALL]);
        (1..AT_ONCE).for_each(|_| faults.next([]));
        let bulk = BlockTransferOptions::new().class(TransferClass::Bulk);
        let reading = begin(&here, (&ticket, &local), &[0, 1, 2], bulk);
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        match end {
            End::Time => timed.clock.advance(TIME),
            End::Owner => assert!(grant.end()),
        }
        // It would strike the next piece.
        faults.next([Fault::PostFails]);
        timed.release_until_finished(&reading).await;
        let error = cause(reading.await.unwrap());
        match end {
            End::Time => assert_eq!(error, TicketError::Expired.into()),
            End::Owner => assert!(is_stale(&error), "{error}"),
        }
        assert_eq!(faults.left(), 1, "{end:?}");
    }
}

#[tokio::test]
async fn a_read_without_a_deadline_ends_before_its_owner_stops_waiting() {
    const SKEW: Duration = Duration::from_secs(60);
    let timed = Timed::new(TransferLimits::new(), per_layer()).await;
    for import in timed.world.imports().await {
        let (local, _bytes) = contiguous();
        let grant = timed.grant(&[5], TIME);
        let faults = timed.faults();
        faults.next([ALL]);
        let reading = begin(&import, (grant.ticket(), &local), &[0], BlockTransferOptions::new());
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        timed.clock.advance(TIME + SKEW - Duration::from_millis(1));
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        timed.clock.advance(Duration::from_millis(1));
        let ended = tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
        let error = cause(ended.unwrap());
        let timed_out = crate::OperationError::TimedOut { after: TIME + SKEW };
        assert_eq!(error, ConnectorError::Operation(timed_out));
        faults.release();
    }
}

/// The look for a renewal has the time of the read.
#[tokio::test]
async fn a_read_that_looks_for_a_renewal_keeps_its_deadline() {
    let timed = Timed::new(TransferLimits::new(), per_layer()).await;
    let [_, afar] = timed.world.imports().await;
    let (local, _bytes) = contiguous();
    let grant = timed.grant(&[5], TIME);
    timed.clock.advance(TIME);
    let faults = timed.faults();
    faults.next([ALL]);
    let after = Duration::from_secs(1);
    let options = BlockTransferOptions::new().operation(OperationOptions::new().timeout(after));
    let reading = begin(&afar, (grant.ticket(), &local), &[0], options);
    while faults.left() > 0 {
        tokio::task::yield_now().await;
    }
    timed.clock.advance(after);
    let ended = tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
    let timed_out = crate::OperationError::TimedOut { after };
    assert_eq!(cause(ended.unwrap()), ConnectorError::Operation(timed_out));
    faults.release();
}
