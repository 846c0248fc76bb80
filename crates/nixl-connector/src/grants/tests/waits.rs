//! Waits for layers, which end by a message of the owner, before the next poll of its words, or with the grant.

use tokio::task::JoinHandle;

use super::stream::{self, Stream};
use super::*;
use crate::OperationError;
use crate::simulated::MessageFault;

type Wait = JoinHandle<Result<usize, ConnectorError>>;

const LONG: Duration = Duration::from_secs(3600);
const STEP: Duration = Duration::from_micros(100);

/// A world in which time passes by steps.
struct Timed {
    clock: Arc<ManualClock>,
    world: World,
    imports: [RemoteExport; 3],
}

impl Timed {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let reader = |reader: ConnectorBuilder| reader;
        let world = World::at(Arc::<ManualClock>::clone(&clock), reader, per_layer()).await;
        let [here, afar] = world.imports().await;
        let own = world.reader.import(world.export.metadata()).await.unwrap();
        Self { clock, world, imports: [here, afar, own] }
    }

    fn grant(&self, options: GrantOptions) -> crate::Grant {
        self.world.export.grant(0, &[5], options.time_to_live(LONG)).unwrap()
    }

    /// Lets a little time pass.
    async fn step(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn goes_on<T>(&self, wait: &JoinHandle<T>) {
        for _ in 0..30 {
            self.step(STEP).await;
            assert!(!wait.is_finished(), "it waits");
        }
    }

    /// The end of a task, by a message: sooner than the next look.
    async fn soon<T>(&self, task: JoinHandle<T>) -> T {
        let begun = self.clock.now();
        while !task.is_finished() {
            self.step(STEP).await;
            let waited = self.clock.now().saturating_sub(begun);
            assert!(waited < Duration::from_millis(900), "no message has come");
        }
        task.await.unwrap()
    }

    /// The end of a task, by the next poll at the latest.
    async fn at_last<T>(&self, task: JoinHandle<T>) -> T {
        while !task.is_finished() {
            self.step(Duration::from_millis(5)).await;
        }
        task.await.unwrap()
    }
}

fn wait(import: &RemoteExport, ticket: &Ticket, layers: usize) -> Wait {
    let (import, ticket) = (import.clone(), ticket.clone());
    let options = OperationOptions::new();
    tokio::spawn(async move { import.wait_ready_with(&ticket, layers, options).await })
}

#[tokio::test]
async fn a_wait_ends_by_the_owners_message_once_its_layers_are_ready() {
    let timed = Timed::new().await;
    for import in &timed.imports {
        let grant = timed.grant(GrantOptions::new().ready(1));
        assert_eq!(timed.soon(wait(import, grant.ticket(), 1)).await, Ok(1));
        let third = wait(import, grant.ticket(), 3);
        timed.goes_on(&third).await;
        let second = wait(import, grant.ticket(), 2);
        timed.goes_on(&second).await;
        grant.ready_through(2).unwrap();
        assert_eq!(timed.soon(second).await, Ok(2));
        timed.goes_on(&third).await;
        grant.ready_through(3).unwrap();
        assert_eq!(timed.soon(third).await, Ok(3));
        // Of a grant whose layers were ready when it was made.
        let filled = timed.grant(GrantOptions::new());
        assert_eq!(timed.soon(wait(import, filled.ticket(), 3)).await, Ok(3));
    }
}

#[tokio::test]
async fn the_words_are_not_looked_at_while_fewer_layers_are_ready() {
    let timed = Timed::new().await;
    let [_, afar, _] = &timed.imports;
    let grant = timed.grant(GrantOptions::new().ready(0));
    let before = afar.word_requests();
    let waiting = wait(afar, grant.ticket(), 3);
    timed.goes_on(&waiting).await;
    for layers in 1..3 {
        grant.ready_through(layers).unwrap();
        timed.goes_on(&waiting).await;
    }
    assert_eq!(afar.word_requests() - before, 1);
    grant.ready_through(3).unwrap();
    assert_eq!(timed.soon(waiting).await, Ok(3));
    assert_eq!(afar.word_requests() - before, 2);
}

#[tokio::test]
async fn a_wait_ends_with_its_grant() {
    let timed = Timed::new().await;
    for import in &timed.imports {
        let grant = timed.grant(GrantOptions::new().ready(1));
        let waiting = wait(import, grant.ticket(), 3);
        timed.goes_on(&waiting).await;
        let ticket = grant.ticket().clone();
        grant.end();
        assert!(is_stale(&timed.soon(waiting).await.unwrap_err()));
        assert!(is_stale(&timed.soon(wait(import, &ticket, 3)).await.unwrap_err()));
        let error = import.wait_ready(&ticket, 4).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Ticket(TicketError::Layers { .. })), "{error}");
    }
    let short = GrantOptions::new().ready(1).time_to_live(Duration::from_secs(5));
    for import in &timed.imports {
        let grant = timed.world.export.grant(0, &[5], short.clone()).unwrap();
        let waiting = wait(import, grant.ticket(), 3);
        let error = timed.at_last(waiting).await.unwrap_err();
        let is_over = error == TicketError::Expired.into() || is_stale(&error);
        assert!(is_over, "{error}");
    }
}

#[tokio::test]
async fn a_wait_has_a_deadline_and_can_be_dropped() {
    let timed = Timed::new().await;
    let after = Duration::from_millis(300);
    for import in &timed.imports {
        let grant = timed.grant(GrantOptions::new().ready(1));
        let (of, ticket) = (import.clone(), grant.ticket().clone());
        let options = OperationOptions::new().timeout(after);
        let waiting = tokio::spawn(async move { of.wait_ready_with(&ticket, 3, options).await });
        let error = timed.at_last(waiting).await.unwrap_err();
        assert_eq!(error, OperationError::TimedOut { after }.into());
        let dropped = wait(import, grant.ticket(), 3);
        timed.goes_on(&dropped).await;
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        let waiting = wait(import, grant.ticket(), 3);
        timed.goes_on(&waiting).await;
        grant.ready_through(3).unwrap();
        assert_eq!(timed.soon(waiting).await, Ok(3));
    }
}

#[tokio::test]
async fn what_is_lost_is_asked_for_again() {
    let timed = Timed::new().await;
    let [_, afar, _] = &timed.imports;
    let fabric = &timed.world.fabric;
    let [of_reader, of_owner] = [&timed.world.reader, &timed.world.owner]
        .map(|connector| fabric.faults_of(connector.name()).unwrap());
    for lossy in [of_reader, of_owner] {
        let grant = timed.grant(GrantOptions::new().ready(1));
        lossy.messages([Some(MessageFault::Lost), Some(MessageFault::Lost)]);
        let waiting = wait(afar, grant.ticket(), 3);
        timed.goes_on(&waiting).await;
        grant.ready_through(3).unwrap();
        assert_eq!(timed.at_last(waiting).await, Ok(3));
        lossy.messages([]);
    }
}

#[tokio::test]
async fn blocks_are_waited_for_until_the_work_that_fills_them_is_done() {
    let timed = Timed::new().await;
    for import in &timed.imports {
        let queue = Arc::new(Stream::default());
        let grant = timed.grant(GrantOptions::new().after(queue.clone()));
        let waiting = wait(import, grant.ticket(), 3);
        timed.goes_on(&waiting).await;
        queue.step(Ok(()));
        assert_eq!(timed.soon(waiting).await, Ok(3));
        let failed = timed.grant(GrantOptions::new().after(queue.clone()));
        let waiting = wait(import, failed.ticket(), 3);
        timed.goes_on(&waiting).await;
        queue.step(Err(stream::failure()));
        assert!(is_stale(&timed.soon(waiting).await.unwrap_err()));
    }
}

#[tokio::test]
async fn a_read_waits_for_its_layers() {
    let timed = Timed::new().await;
    for import in &timed.imports {
        let (local, bytes) = contiguous();
        let grant = timed.grant(GrantOptions::new().ready(0));
        let begin = |options: BlockTransferOptions| {
            let (import, ticket, local) = (import.clone(), grant.ticket().clone(), local.clone());
            tokio::spawn(async move {
                import.read_blocks_with(&ticket, &local, &[0], options.when_ready()).await
            })
        };
        let reading = begin(BlockTransferOptions::new());
        timed.goes_on(&reading).await;
        grant.ready_through(3).unwrap();
        timed.soon(reading).await.unwrap();
        assert_eq!(read(&bytes, 0), block(5));
        let unfilled = timed.grant(GrantOptions::new().ready(0));
        let after = Duration::from_millis(300);
        let options = BlockTransferOptions::new().operation(OperationOptions::new().timeout(after));
        let (import, ticket, local) = (import.clone(), unfilled.ticket().clone(), local.clone());
        let reading = tokio::spawn(async move {
            import.read_blocks_with(&ticket, &local, &[0], options.when_ready()).await
        });
        let error = cause(timed.at_last(reading).await);
        assert_eq!(error, OperationError::TimedOut { after }.into());
    }
}
