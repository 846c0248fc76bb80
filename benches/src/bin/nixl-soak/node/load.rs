//! The initiator's side: asks another node for offers and uses them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use nixl_connector::OperationOptions;
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::exported::Imported;
use super::{Node, memory, wire};
use crate::bytes::Random;
use crate::messages::{Access, Ask, Fate, Load, Memory, Work};
use crate::tally::{Tally, kind};

/// How long after its deadline an operation is given up as one that hangs.
const HANGS: Duration = Duration::from_secs(30);
/// How long a task waits for an offer before it uses one that it took beforehand.
const SILENCE: Duration = Duration::from_millis(50);

/// Runs the load to its end.
pub(super) async fn run(node: Arc<Node>, load: Load) -> Tally {
    let load = Arc::new(load);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..load.tasks)
        .map(|number| tokio::spawn(Task::new(&node, &load, number as u64).run(begun)))
        .collect();
    let mut sum = Tally::default();
    for task in tasks {
        match task.await {
            Ok(tally) => sum.add(tally),
            Err(error) => sum.error("panic", &error.to_string()),
        }
    }
    sum
}

/// One operation after another.
#[derive(Debug)]
struct Task {
    node: Arc<Node>,
    load: Arc<Load>,
    random: Random,
    tally: Tally,
    kept: Option<Region>,
    imported: Imported,
}

/// An offer in hand.
type Taken = (Ask, Vec<u8>);

impl Task {
    fn new(node: &Arc<Node>, load: &Arc<Load>, number: u64) -> Self {
        let random = Random::new(load.seed.wrapping_add(number << 32));
        let (node, load) = (Arc::clone(node), Arc::clone(load));
        Self {
            node,
            load,
            random,
            tally: Tally::default(),
            kept: None,
            imported: Imported::default(),
        }
    }

    async fn run(mut self, begun: Instant) -> Tally {
        if let Err(error) = self.all(begun).await {
            match self.load.lenient {
                true => self.tally.ended("control"),
                false => self.tally.error("control", &format!("{error:#}")),
            }
        }
        self.tally
    }

    async fn all(&mut self, begun: Instant) -> Result<()> {
        let until = begun + Duration::from_millis(self.load.ms);
        let connected = UnixStream::connect(&self.load.socket).await;
        let mut stream = connected.context("cannot connect to the other node")?;
        let mut ahead = VecDeque::new();
        for _ in 0..self.load.ahead {
            let ask = self.choose();
            match self.take(&mut stream, ask).await? {
                Some(taken) => ahead.push_back(taken),
                None => return self.owner_has_ended(),
            }
        }
        loop {
            let ask = self.choose();
            if !wire::ask(&mut stream, &ask).await? {
                return self.owner_has_ended();
            }
            while timeout(SILENCE, stream.readable()).await.is_err() {
                if let Some(taken) = ahead.pop_front() {
                    self.operation(taken).await;
                } else if Instant::now() > until + HANGS {
                    return Err(Error::msg("the other node makes no offer"));
                }
            }
            match wire::offered(&mut stream).await? {
                Some(metadata) => self.operation((ask, metadata)).await,
                None => return self.owner_has_ended(),
            }
            if Instant::now() >= until {
                break;
            }
        }
        for taken in ahead {
            self.operation(taken).await;
        }
        Ok(())
    }

    async fn take(&self, stream: &mut UnixStream, ask: Ask) -> io::Result<Option<Taken>> {
        if !wire::ask(stream, &ask).await? {
            return Ok(None);
        }
        Ok(wire::offered(stream).await?.map(|metadata| (ask, metadata)))
    }

    fn owner_has_ended(&mut self) -> Result<()> {
        match self.load.lenient {
            true => Ok(()),
            false => Err(Error::msg("the other node has ended")),
        }
    }

    fn choose(&mut self) -> Ask {
        let random = &mut self.random;
        let access = match self.load.work {
            Work::Reads => Access::Read,
            Work::Both | Work::Abandoned if random.next().is_multiple_of(2) => Access::Write,
            Work::Both | Work::Abandoned => Access::Read,
            Work::LongWrites => Access::Write,
            Work::Blocks => Access::Blocks,
        };
        let fate = match self.load.work {
            Work::Abandoned => Fate::ALL[random.next() as usize % Fate::ALL.len()],
            _ => Fate::Used,
        };
        let len = match (self.load.memory, self.load.work) {
            (_, Work::Blocks) => random.length(self.load.longest),
            (Memory::Kept, _) | (_, Work::LongWrites) => self.load.longest,
            _ => random.length(self.load.longest),
        };
        Ask {
            access,
            memory: self.load.memory,
            len,
            seed: random.next(),
            fate,
            lenient: self.load.lenient,
        }
    }

    /// Uses an offer, and notes how that ended.
    async fn operation(&mut self, (ask, metadata): Taken) {
        self.tally.operations += 1;
        if metadata.is_empty() {
            // Its owner has noted why it could not be made.
            return;
        }
        let within = Duration::from_millis(self.load.timeout_ms);
        let begun = Instant::now();
        let result = timeout(within + HANGS, self.end(&ask, &metadata, within)).await;
        let overrun = begun.elapsed().saturating_sub(within).as_millis();
        self.tally.overrun_ms =
            self.tally.overrun_ms.max(u64::try_from(overrun).unwrap_or(u64::MAX));
        match (result, ask.fate) {
            (Err(_), _) => self.tally.error("hangs", "an operation did not end by its deadline"),
            (Ok(Ok(())), Fate::Revoked | Fate::Dropped) => {
                self.tally.error("used after its end", "an offer was used that had been given up");
            }
            (Ok(Ok(())), _) => {}
            (Ok(Err(error)), fate) => {
                let name = kind(&format!("{:?}", error.root_cause()));
                match fate {
                    Fate::Revoked | Fate::RevokedLate | Fate::Dropped => self.tally.ended(&name),
                    _ if self.load.lenient => self.tally.ended(&name),
                    _ => self.tally.error(&name, &format!("{error:#}")),
                }
            }
        }
    }

    async fn end(&mut self, ask: &Ask, metadata: &[u8], within: Duration) -> Result<()> {
        let node = Arc::clone(&self.node);
        let connector = &node.connector;
        if ask.access == Access::Blocks {
            let (reads, imported) = ((ask.seed, ask.len), &mut self.imported);
            self.tally.wrong_bytes += imported.read(connector, metadata, reads, within).await?;
            // The first is counted by its beginning.
            self.tally.operations += ask.len as u64 - 1;
            return Ok(());
        }
        let remote = RdmaMetadata::decode(metadata)?;
        match ask.fate {
            Fate::Untaken => return Ok(()),
            Fate::Declined => return Ok(connector.decline(&remote).await?),
            _ => {}
        }
        let options = OperationOptions::new().timeout(within);
        // What is read over must not be right from the start.
        let seed = match ask.access {
            Access::Write => ask.seed,
            _ => !ask.seed,
        };
        let region = memory::filled(connector, ask.memory, &mut self.kept, ask.len, seed)?;
        match ask.access {
            Access::Read => {
                let local = region.clone();
                let mut read = connector.begin_read_with(&remote, local, options).await?;
                read.wait_for_completion().await?;
                drop(read);
                self.tally.wrong_bytes += memory::wrong_bytes(&region, ask.seed)?;
            }
            Access::Write => {
                let mut write = connector.begin_write_with(region, &remote, options).await?;
                write.wait_for_completion().await?;
            }
            Access::Blocks => bail!("a ticket is no offer"),
        }
        Ok(())
    }
}
