//! Reads of the bulk class: in pieces, so that others find the engine free between them.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use nixl_descriptor::layout::{BlockPart, RemotePairs};
use nixl_descriptor::{Descriptor, DescriptorList, LeaseMode, Leased, Leases, Span};
use nixl_metadata::Ticket;
use nixl_ops::{Completion, OperationOptions, PathReport, PeerId, ReadOperation, TransportError};

use super::RemoteExport;
use super::under_way::UnderWay;
use crate::ConnectorError;
use crate::admission::{Admitted, Permit, TransferClass};
use crate::connector::SilentRead;
use crate::grants::read::{Part, Sides, of_peer, pairs_of_blocks};
use crate::offload::Offloaded;

/// Bytes of a piece: an engine that copies by a processor takes ten to twenty microseconds for them, inside the post, while other
/// posts wait.
const BYTES: u64 = 64 << 10;
/// Pieces of a read that are in flight while no other transfer waits.
const AT_ONCE: usize = 4;

/// Some of the bytes of a read, whose destination is leased.
struct Piece {
    local: DescriptorList,
    leased: Leased,
    remote: Vec<Span>,
    parts: Vec<Part>,
}

/// A piece that grows.
#[derive(Default)]
struct Growing {
    bytes: u64,
    local: Vec<Descriptor>,
    remote: Vec<Span>,
    parts: Vec<Part>,
}

impl Growing {
    fn add(&mut self, part: usize, remote: Span, local: Descriptor) {
        self.bytes += remote.len;
        match self.parts.last_mut() {
            Some((last, runs)) if *last == part => *runs += 1,
            _ => self.parts.push((part, 1)),
        }
        self.remote.push(remote);
        self.local.push(local);
    }

    fn leased(self) -> Result<Piece, ConnectorError> {
        let Self { local, remote, parts, .. } = self;
        let leased = Leased::from(Leases::acquire(&local, LeaseMode::Write)?);
        Ok(Piece { local: DescriptorList::try_from(local)?, leased, remote, parts })
    }
}

/// Cuts a read into pieces, all of which are leased.
fn cut(pairs: RemotePairs) -> Result<VecDeque<Piece>, ConnectorError> {
    let (remote, parts) = (pairs.remote().to_vec(), pairs.remote_parts().to_vec());
    let mut runs = remote.into_iter().zip(pairs.into_local());
    let (mut pieces, mut growing) = (VecDeque::new(), Growing::default());
    for (part, count) in parts {
        for (there, here) in runs.by_ref().take(count) {
            let mut from = 0;
            while from < there.len {
                let len = (there.len - from).min(BYTES - growing.bytes);
                let local = here.slice(from as usize..(from + len) as usize)?;
                let remote = Span { address: there.address.wrapping_add(from), len, ..there };
                growing.add(part, remote, local);
                from += len;
                if growing.bytes == BYTES {
                    pieces.push_back(std::mem::take(&mut growing).leased()?);
                }
            }
        }
    }
    if growing.bytes > 0 || pieces.is_empty() {
        pieces.push_back(growing.leased()?);
    }
    Ok(pieces)
}

impl RemoteExport {
    /// Reads blocks piece by piece. Returns the options with the time that is left.
    pub(super) async fn read_in_pieces(
        &self,
        (ticket, local, blocks): Sides<'_>,
        part: &BlockPart,
        (options, on, reading): (OperationOptions, Option<NonZeroU64>, &UnderWay),
    ) -> Result<(Completion, PeerId, OperationOptions), ConnectorError> {
        let sides = (ticket.clone(), local.clone(), blocks.to_vec());
        let (of_blocks, layers) = (part.clone(), part.layers());
        let layout = usize::from(ticket.layout());
        let connection = self.0.connector.connection();
        let (driver, clock) = (connection.driver(), connection.clock());
        let me = self.clone();
        let cutting = async move {
            let (ticket, local, blocks) = &sides;
            cut(pairs_of_blocks(me.remote(layout), (ticket, local, blocks), &of_blocks)?)
        };
        let cutting = Offloaded::new(connection.work()?, cutting);
        let (pieces, mut options) = driver.with_timeout(options, cutting).await?;
        let mut pieces = pieces??;
        let mut peer = self.0.peer.clone().ok_or(TransportError::Closed)?;
        let (begun, mut last) = (clock.now(), clock.now());
        let (mut reads, mut moved) = (VecDeque::new(), Moved::default());
        loop {
            while reads.len() < AT_ONCE
                && let Some(piece) = pieces.pop_front()
            {
                let bytes = piece.local.total_bytes();
                let class = TransferClass::Bulk;
                let permit = match connection.admission().try_admit(class, &peer, bytes) {
                    Some(permit) => permit,
                    None if reads.is_empty() => {
                        let turn = connection.admission().admit(class, &peer, bytes);
                        driver.with_timeout(options, turn).await?.0?
                    }
                    None => {
                        pieces.push_front(piece);
                        break;
                    }
                };
                let now = clock.now();
                options = options.spending(now.saturating_sub(last));
                last = now;
                let (of_request, may_post) = self.admit_post(ticket, layers, options).await?;
                let held = (permit, reading.another());
                let (read, of_peer) =
                    self.begin_piece(ticket, piece, (held, may_post), (of_request, on)).await?;
                peer = of_peer;
                reads.push_back(read);
            }
            let Some(mut read) = reads.pop_front() else { break };
            moved.add(&read.wait_for_completion().await?);
        }
        let elapsed = clock.now().saturating_sub(begun);
        Ok((moved.completion(elapsed), peer, options))
    }

    async fn begin_piece(
        &self,
        ticket: &Ticket,
        piece: Piece,
        (held, may_post): (
            (Permit, UnderWay),
            impl Fn() -> Result<(), TransportError> + Send + 'static,
        ),
        (options, connection): (OperationOptions, Option<NonZeroU64>),
    ) -> Result<(ReadOperation, PeerId), ConnectorError> {
        let Piece { local, leased, remote, parts } = piece;
        let import = &*self.0;
        let export = (&import.metadata, &import.key);
        let remote = of_peer(export, ticket.layout().into(), (&remote, &parts))?;
        let (policy, known) = (options.path_policy(), import.peer.as_ref());
        let to = SilentRead { policy, known, connection, ..SilentRead::default() };
        let prepare = import.connector.prepare_silently((&local, &leased), &remote, to);
        let driver = import.connector.connection().driver();
        let (prepared, options) = driver.with_timeout(options, prepare).await?;
        let (execution, peer) = prepared?;
        let execution = Admitted::checked(execution, held, may_post);
        Ok((ReadOperation::begin(driver, execution, local, options)?, peer))
    }
}

/// What the pieces of a read came to.
#[derive(Default)]
struct Moved {
    bytes: u64,
    descriptors: usize,
    pieces: u64,
    report: Option<PathReport>,
}

impl Moved {
    fn add(&mut self, piece: &Completion) {
        self.bytes += piece.bytes();
        self.pieces += 1;
        if let Some(report) = piece.path() {
            self.descriptors += report.descriptors();
            self.report = Some(report.clone());
        }
    }

    /// By the path of the last piece.
    fn completion(self, elapsed: std::time::Duration) -> Completion {
        let Self { bytes, descriptors, pieces, report } = self;
        let none = || PathReport::new(nixl_ops::PathKind::Direct, "none", 0, 0);
        let report = report.unwrap_or_else(none);
        Completion::of_copy(report.of_copies(bytes, descriptors).with_chunks(pieces), elapsed)
    }
}
