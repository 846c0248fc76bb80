//! Lists of an import's blocks that the engine has prepared, for the pairs of layouts that are read again.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use nixl_descriptor::layout::{Layout, LayoutId, LayoutPieces, RemoteLayout};
use nixl_descriptor::{Registration, RegistrationCache, Span};
use nixl_device::locks::lock;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{Listed, ListsSpec, PeerId, PreparedLists, Transport, TransportError};

use crate::ConnectorError;
use crate::connection::Connection;

/// What the engine has prepared for an import: for a layout of the peer's and one of this process, all pieces of both. It is made
/// on the connection's thread once the pair has been read twice, and anew once it is stale.
///
/// It holds no memory of the reader's, so that layouts can be dropped: see [`PreparedLists`].
#[derive(Default)]
pub(super) struct PreparedBlocks {
    pairs: Mutex<Vec<Pair>>,
}

struct Pair {
    key: Key,
    stage: Stage,
}

/// The position of the peer's layout, and the one here.
type Key = (usize, LayoutId);

enum Stage {
    /// Not yet, after so many reads.
    Read(u32),
    Preparing,
    Prepared(Arc<PreparedPair>),
    /// The engine keeps no such lists, or they would be too long.
    Never,
}

/// The pieces of two layouts, of which the engine has lists.
pub(super) struct PreparedPair {
    pieces: LayoutPieces,
    lists: Arc<PreparedLists>,
}

impl PreparedPair {
    /// Where the runs of a read are in the lists, if all of them are pieces.
    pub(super) fn positions(
        &self,
        (theirs, ours): (&[u32], &[usize]),
        layers: Range<usize>,
    ) -> Option<Vec<[u32; 2]>> {
        let ours: Vec<u32> =
            ours.iter().map(|&block| u32::try_from(block).ok()).collect::<Option<_>>()?;
        self.pieces.positions(theirs, &ours, layers)
    }

    pub(super) fn at<'a>(&'a self, positions: &'a [[u32; 2]]) -> Listed<'a> {
        Listed::new(&self.lists, positions)
    }
}

/// What lists are made with.
pub(super) struct Making {
    theirs: Arc<[RemoteLayout]>,
    peer: PeerId,
    transport: Arc<dyn Transport>,
    registrations: Arc<RegistrationCache>,
}

impl Making {
    pub(super) fn new(
        connection: &Connection,
        theirs: &Arc<[RemoteLayout]>,
        peer: &PeerId,
    ) -> Self {
        Self {
            theirs: Arc::clone(theirs),
            peer: peer.clone(),
            transport: Arc::clone(connection.transport()),
            registrations: Arc::clone(connection.registrations()),
        }
    }

    /// **Blocks.** `None` if there are none.
    fn make(&self, layout: usize, local: &Layout) -> Result<Option<PreparedPair>, ConnectorError> {
        let theirs = &self.theirs[layout];
        let Ok(pieces) = LayoutPieces::of(theirs, local) else { return Ok(None) };
        if pieces.counts().iter().any(|count| *count > PreparedBlocks::MOST_PIECES) {
            return Ok(None);
        }
        let regions =
            local.parts().iter().map(|part| self.registrations.get_or_register(part.region()));
        let registrations: Vec<Registration> = regions.collect::<Result<_, _>>()?;
        let (here, there) = (pieces.local(local), pieces.remote(theirs));
        let of_peer = |span: &Span| SerializedDescriptor::new(span.device, span.address, span.len);
        let there: Vec<_> = there.iter().map(of_peer).collect::<Result<_, _>>()?;
        let spec = ListsSpec::new(&self.peer, &here, &there, &registrations);
        let lists = PreparedLists::prepare(&*self.transport, &spec)?;
        Ok(lists.map(|lists| PreparedPair { pieces, lists: Arc::new(lists) }))
    }
}

/// Whether the peer has to be connected anew.
fn is_of_peer(error: &ConnectorError) -> bool {
    use TransportError::{PeerGone, UnknownPeer};
    matches!(error, ConnectorError::Transport(UnknownPeer { .. } | PeerGone { .. }))
}

impl PreparedBlocks {
    /// Pieces of a side: of longer lists, the few that a read names are listed for it. Each takes some hundred bytes.
    const MOST_PIECES: usize = 1 << 16;
    /// Pairs of layouts.
    const MOST_PAIRS: usize = 4;
    /// Reads of a pair before lists are prepared: layouts that are made for a read are not worth it.
    const READS: u32 = 2;

    pub(super) fn get(&self, layout: usize, local: &Layout) -> Option<Arc<PreparedPair>> {
        let key = (layout, local.id());
        let mut pairs = self.lock();
        let pair = pairs.iter_mut().find(|pair| pair.key == key)?;
        let Stage::Prepared(prepared) = &pair.stage else { return None };
        if !prepared.lists.is_stale() {
            return Some(Arc::clone(prepared));
        }
        let stale = std::mem::replace(&mut pair.stage, Stage::Read(Self::READS - 1));
        drop(pairs);
        drop(stale);
        None
    }

    /// A pair was read through the engine by ranges one by one: prepares lists if it is worth it.
    pub(super) fn was_read(
        self: &Arc<Self>,
        (layout, local): (usize, &Layout),
        connection: &Connection,
        making: impl FnOnce() -> Making,
    ) {
        let key = (layout, local.id());
        if !self.is_due(key) {
            return;
        }
        let (me, making, local) = (Arc::clone(self), making(), local.clone());
        connection.control().post(move || {
            let stage = match making.make(layout, &local) {
                Ok(Some(prepared)) => Stage::Prepared(Arc::new(prepared)),
                Ok(None) => Stage::Never,
                Err(error) => {
                    tracing::debug!(%error, "lists of blocks are not prepared");
                    // Reads go on, or fail by themselves.
                    if is_of_peer(&error) { Stage::Read(0) } else { Stage::Never }
                }
            };
            me.set(key, stage);
        });
    }

    /// Counts a read. Whether lists are to be prepared now.
    fn is_due(&self, key: Key) -> bool {
        let mut dropped = None;
        let mut pairs = self.lock();
        if !pairs.iter().any(|pair| pair.key == key) {
            dropped = (pairs.len() == Self::MOST_PAIRS).then(|| pairs.remove(0));
            pairs.push(Pair { key, stage: Stage::Read(0) });
        }
        let pair = pairs.iter_mut().find(|pair| pair.key == key);
        let is_due = match pair.map(|pair| &mut pair.stage) {
            Some(Stage::Read(reads)) if *reads + 1 < Self::READS => {
                *reads += 1;
                false
            }
            Some(stage @ Stage::Read(_)) => {
                *stage = Stage::Preparing;
                true
            }
            _ => false,
        };
        drop(pairs);
        drop(dropped);
        is_due
    }

    fn set(&self, key: Key, stage: Stage) {
        let mut pairs = self.lock();
        let pair = pairs.iter_mut().find(|pair| pair.key == key);
        // The pair may have given its place to another.
        let dropped = match pair {
            Some(pair) => std::mem::replace(&mut pair.stage, stage),
            None => stage,
        };
        drop(pairs);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pair>> {
        lock(&self.pairs)
    }
}
