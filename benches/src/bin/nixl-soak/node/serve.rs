//! The owner's side: makes offers for other nodes, and sees each come to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result, bail};
use nixl_connector::{
    OperationError, OperationOptions, ReadableOperation, RevokeOutcome, WritableOperation,
};
use nixl_descriptor::Region;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::exported::Exported;
use super::{Node, memory, wire};
use crate::bytes::Random;
use crate::messages::{Access, Ask, Fate, Memory};
use crate::tally::kind;

/// How long an offer lasts that is meant to time out.
const UNTAKEN: Duration = Duration::from_millis(100);
/// The life time of offers that are given up.
const GIVEN_UP: Duration = Duration::from_millis(400);
/// How far into its use an offer may be revoked, in microseconds.
const LATE: u64 = 2000;

/// Offers what other nodes ask for, until this process ends.
pub(super) async fn serve(listener: UnixListener, node: Arc<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, Arc::clone(&node)))),
            Err(error) => {
                // Out of files, most likely, which is what the test is there to see.
                node.served(|tally| tally.error("accept", &error.to_string()));
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What stays from one offer to the next.
#[derive(Debug, Default)]
struct Kept {
    region: Option<Region>,
    exported: Option<Exported>,
}

async fn connection(mut stream: UnixStream, node: Arc<Node>) {
    let mut kept = Kept::default();
    loop {
        match turn(&mut stream, &node, &mut kept).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) if wire::is_gone(&error) => return,
            Err(error) => {
                return node.served(|tally| tally.error("control", &error.to_string()));
            }
        }
    }
}

/// One offer. False once the other node is gone.
async fn turn(stream: &mut UnixStream, node: &Arc<Node>, kept: &mut Kept) -> io::Result<bool> {
    let Some(ask) = wire::asked(stream).await? else { return Ok(false) };
    node.served(|tally| tally.operations += 1);
    let not_made = |error: Error| {
        let name = kind(&format!("{:?}", error.root_cause()));
        node.served(|tally| match ask.lenient {
            true => tally.ended(&name),
            false => tally.error(&name, &format!("{error:#}")),
        });
        Vec::new()
    };
    if ask.access == Access::Blocks {
        let granted = grant(node, &mut kept.exported, &ask).await.unwrap_or_else(not_made);
        return wire::offer(stream, &granted).await.map(|()| true);
    }
    let (mut offer, metadata) = match make(node, &mut kept.region, &ask).await {
        Ok(made) => made,
        Err(error) => return wire::offer(stream, &not_made(error)).await.map(|()| true),
    };
    match ask.fate {
        Fate::Revoked => {
            let outcome = offer.operation.revoke();
            if outcome != RevokeOutcome::Free {
                let found = format!("{outcome:?}");
                node.served(|tally| tally.error("revoke of an unknown offer", &found));
            }
        }
        Fate::Dropped => {
            drop(offer);
            wire::offer(stream, &metadata).await?;
            node.served(|tally| tally.ended("dropped"));
            return Ok(true);
        }
        _ => {}
    }
    // The reader may be gone: the offer goes its way all the same.
    let sent = wire::offer(stream, &metadata).await;
    let end = offer.end(Arc::clone(node), ask);
    if ask.memory == Memory::Kept {
        // The memory is free for the next offer only then.
        end.await;
    } else {
        tokio::spawn(end);
    }
    sent.map(|()| true)
}

#[derive(Debug)]
struct Offer {
    operation: Operation,
    region: Region,
}

#[derive(Debug)]
enum Operation {
    Readable(ReadableOperation),
    Writable(WritableOperation),
}

/// A grant of exported memory, and what its reader needs to know of it.
async fn grant(node: &Node, exported: &mut Option<Exported>, ask: &Ask) -> Result<Vec<u8>> {
    let exported = match exported {
        Some(exported) => exported,
        None => exported.insert(Exported::new(&node.connector).await?),
    };
    exported.grant(ask.seed, node.timeout).await
}

/// An offer, and what its peer needs to know of it.
async fn make(node: &Node, kept: &mut Option<Region>, ask: &Ask) -> Result<(Offer, Vec<u8>)> {
    // What is written over must not be right from the start.
    let seed = match ask.access {
        Access::Write => !ask.seed,
        _ => ask.seed,
    };
    let region = memory::filled(&node.connector, ask.memory, kept, ask.len, seed)?;
    let timeout = if ask.fate == Fate::Untaken { UNTAKEN } else { node.timeout };
    let mut options = OperationOptions::new().timeout(timeout);
    if is_given_up(ask.fate) {
        options = options.life_time(GIVEN_UP);
    }
    let (connector, local) = (&node.connector, region.clone());
    let operation = match ask.access {
        Access::Read => Operation::Readable(connector.create_readable_with(local, options).await?),
        Access::Write => Operation::Writable(connector.create_writable_with(local, options).await?),
        Access::Blocks => bail!("a grant is no offer"),
    };
    let metadata = match &operation {
        Operation::Readable(operation) => operation.metadata(),
        Operation::Writable(operation) => operation.metadata(),
    };
    let metadata = metadata.to_native_bytes()?;
    Ok((Offer { operation, region }, metadata))
}

impl Offer {
    /// Waits for its end, and notes whether that is the right one.
    async fn end(mut self, node: Arc<Node>, ask: Ask) {
        if ask.fate == Fate::RevokedLate {
            sleep(Duration::from_micros(Random::new(ask.seed).between(0, LATE))).await;
            self.operation.revoke();
        }
        let result = self.operation.wait().await;
        let wrong = match (ask.access, &result) {
            (Access::Write, Ok(())) => memory::wrong_bytes(&self.region, ask.seed),
            _ => Ok(0),
        };
        node.served(|tally| {
            match result {
                Ok(()) if matches!(ask.fate, Fate::Used | Fate::RevokedLate) => {}
                Ok(()) => {
                    tally.error("completed", &format!("an offer that was {:?} completed", ask.fate))
                }
                Err(error) if is_right(&ask, &error) => {
                    tally.ended(&kind(&format!("{error:?}")));
                }
                Err(error) => tally.error(&kind(&format!("{error:?}")), &error.to_string()),
            }
            match wrong {
                Ok(wrong) => tally.wrong_bytes += wrong,
                Err(error) => tally.error("memory", &error.to_string()),
            }
        });
    }
}

/// Whether the offer may end so.
fn is_right(ask: &Ask, error: &OperationError) -> bool {
    if ask.lenient {
        return true;
    }
    match ask.fate {
        Fate::Used => false,
        Fate::Untaken => matches!(error, OperationError::TimedOut { .. }),
        Fate::Revoked | Fate::RevokedLate => matches!(error, OperationError::Cancelled),
        Fate::Declined => matches!(error, OperationError::Declined),
        Fate::Dropped => false,
    }
}

/// Whether its owner gives it up: its memory may be held until its life time is over.
fn is_given_up(fate: Fate) -> bool {
    matches!(fate, Fate::Untaken | Fate::Revoked | Fate::RevokedLate | Fate::Dropped)
}

impl Operation {
    fn revoke(&mut self) -> RevokeOutcome {
        match self {
            Self::Readable(operation) => operation.revoke(),
            Self::Writable(operation) => operation.revoke(),
        }
    }

    async fn wait(&mut self) -> Result<(), OperationError> {
        match self {
            Self::Readable(operation) => operation.wait_for_completion().await.map(drop),
            Self::Writable(operation) => operation.wait_for_completion().await.map(drop),
        }
    }
}
