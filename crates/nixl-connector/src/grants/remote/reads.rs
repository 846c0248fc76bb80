//! Reads of blocks by tickets.

use std::num::NonZeroU64;
use std::sync::Arc;

use nixl_descriptor::layout::{BlockPart, Layout};
use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases};
use nixl_metadata::{Rights, Ticket};
use nixl_ops::{
    Completion, EndedOffer, Execution, OperationKind, OperationOptions, PathKind, PathPolicy,
    PathReport, PeerId, ReadOperation, StaleRead, TicketRead, TransportError, WordCheck,
};

use super::check::{Words, check_of_layers, refused};
use super::connected::{RECONNECTS, is_reconnected};
use super::options::BlockTransferOptions;
use super::prepared::{Making, PreparedPair};
use super::under_way::{Begun, UnderWay};
use super::{Imported, RemoteExport};
use crate::ConnectorError;
use crate::admission::{Admitted, TransferClass};
use crate::connector::SilentRead;
use crate::grants::error::{BlockReadError, TicketError};
use crate::grants::read::{Lists, Sides};
use crate::grants::words::{ReadUnderWay, WordReads};
use crate::offload::Offloaded;

impl RemoteExport {
    /// Reads the blocks of a ticket, in its order, into `blocks` of a local layout. The bytes are those that were granted: the
    /// grant stood when the last of them had arrived.
    ///
    /// Cancel safe: if the future is dropped, the read is cancelled, and the local blocks can be used once the engine is quiet.
    ///
    /// # Errors
    ///
    /// [`BlockReadError`], which names the local blocks that must not be used: [`TransportError::Stale`] if the grant has ended,
    /// [`TransportError::NotGranted`] for a ticket that its owner did not give out, [`TransportError::NotReady`] for layers that are
    /// [not ready](Self::layers_ready), [`TicketError`], or why the owner was not reached.
    pub async fn read_blocks(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
    ) -> Result<Completion, BlockReadError> {
        self.read_blocks_with(ticket, local, blocks, self.default_options()).await
    }

    /// As [`read_blocks`](Self::read_blocks), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_blocks_with(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
        options: BlockTransferOptions,
    ) -> Result<Completion, BlockReadError> {
        let read = async {
            self.0.connector.check_process()?;
            let read = self.read(ticket, local, blocks, options);
            self.0.metrics.counted(OperationKind::Read, read).await
        };
        read.await.map_err(|cause| BlockReadError { blocks: blocks.to_vec(), cause })
    }

    async fn read(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
        options: BlockTransferOptions,
    ) -> Result<Completion, ConnectorError> {
        let Imported { connector, words, .. } = &*self.0;
        connector.refuse_if_draining()?;
        if options.operation.has_checksum() {
            return Err(ConnectorError::NoChecksum);
        }
        let layers = self.admit(ticket, Rights::Read, options.layers.clone())?;
        let part = options.part(layers.clone());
        let BlockTransferOptions { class, mut operation, when_ready, .. } = options;
        if when_ready && ticket.is_unfilled() {
            // Larger than all that follows together, and seldom called.
            let ready = Box::pin(self.ready_within(ticket, layers.end, operation));
            (_, operation) = ready.await?;
        }
        self.admit_in_time(ticket, operation).await?;
        let check = check_of_layers(ticket, &layers);
        let now = connector.connection().unix_millis();
        let begun = self.0.under_way.begin(ticket.generation(), now);
        let Begun { under_way: reading, is_doubtful } = begun.ok_or(TransportError::Stale)?;
        let under_way = match words {
            Words::Engine(words) => Some(WordsUnderWay::begin(words)),
            _ => None,
        };
        if let Words::Mapped(words) = words {
            // A grant that has ended moves nothing, nor do layers that are not ready.
            check.check_mapped(words).map_err(refused)?;
        }
        if let Words::Own(own) = words {
            let own = self.own(own)?;
            let copy = own.copy(connector, ticket, (local, blocks), &part, operation);
            let done = Box::pin(copy).await?;
            own.table().check_copied(&check).map_err(refused)?;
            return Ok(done);
        }
        if let Some(words) = &under_way
            && (ticket.is_unfilled() || is_doubtful)
        {
            operation = self.look_ahead(ticket, &check, (words, is_doubtful), operation).await?;
        }
        let (of, under) = ((class, &check), (operation, &reading));
        let (done, peer, operation) =
            self.read_bytes((ticket, local, blocks), &part, of, under).await?;
        // The bytes have arrived: every thread and request of theirs has ended.
        match (words, &under_way) {
            // The owner has looked at them after each of its copies.
            (_, Some(_)) if done.path().is_some_and(PathReport::is_checked_by_owner) => {}
            (Words::Mapped(words), _) => {
                check.check_mapped(words).map_err(refused)?;
                if done.path().is_none_or(|path| path.kind() != PathKind::SharedMemory) {
                    words.check_owner()?;
                }
            }
            (_, Some(words)) => {
                words.check(&check, &peer, operation.spending(done.elapsed())).await?;
            }
            (Words::Own(_) | Words::Engine(_), None) => {}
        }
        Ok(done)
    }

    /// Reads the bytes, on a connection by which the words were read. Returns the options with the time that was left when it began.
    async fn read_bytes(
        &self,
        sides: Sides<'_>,
        part: &BlockPart,
        (class, check): (TransferClass, &WordCheck),
        (mut operation, reading): (OperationOptions, &UnderWay),
    ) -> Result<(Completion, PeerId, OperationOptions), ConnectorError> {
        let clock = self.0.connector.connection().clock();
        let mut again = RECONNECTS;
        loop {
            let begun = clock.now();
            let (connection, options) = self.connection_of_read(check, operation).await?;
            let under = (options, connection, reading);
            let read = match class {
                TransferClass::Bulk if !self.needs_owner(sides.0) => {
                    Box::pin(self.read_in_pieces(sides, part, under)).await
                }
                class => self.read_whole(sides, part, class, under).await,
            };
            match read {
                Err(error) if is_reconnected(&error) && again > 0 => again -= 1,
                Err(error) if has_expired(&error) => return Err(TicketError::Expired.into()),
                read => return read,
            }
            operation = operation.spending(clock.now().saturating_sub(begun));
        }
    }

    /// Looks at the words, where they are not mapped, before a read of blocks that were not all filled when the ticket was made: the
    /// look afterwards cannot tell whether a layer was filled before its bytes were read. None is needed for layers that were seen
    /// to be ready before, unless one is `always` needed.
    async fn look_ahead(
        &self,
        ticket: &Ticket,
        check: &WordCheck,
        (words, always): (&WordsUnderWay<'_>, bool),
        options: OperationOptions,
    ) -> Result<OperationOptions, ConnectorError> {
        let Imported { connector, ready, peer, .. } = &*self.0;
        if !always && ready.covers(ticket, check.layers()) {
            return Ok(options);
        }
        let Some(peer) = peer else { return Err(TransportError::Closed.into()) };
        let clock = connector.connection().clock();
        let begun = clock.now();
        let layers = words.check(check, peer, options).await?;
        ready.note(ticket, layers);
        Ok(options.spending(clock.now().saturating_sub(begun)))
    }

    /// Reads blocks in one piece. Returns the options with the time that was left when it began.
    async fn read_whole(
        &self,
        sides: Sides<'_>,
        part: &BlockPart,
        class: TransferClass,
        (options, on, reading): (OperationOptions, Option<NonZeroU64>, &UnderWay),
    ) -> Result<(Completion, PeerId, OperationOptions), ConnectorError> {
        let connection = self.0.connector.connection();
        let driver = connection.driver();
        let (ticket, into, blocks) = sides;
        let layers = part.layers();
        let runs = blocks.len().saturating_mul(layers.len() * into.geometry().outer());
        let policy = options.path_policy();
        let (prepared, options) = if runs <= Self::LISTED_HERE {
            driver.with_timeout(options, self.prepare(sides, part, (policy, on))).await?
        } else {
            let (me, part) = (self.clone(), part.clone());
            let owned = (ticket.clone(), into.clone(), blocks.to_vec());
            let prepare = async move {
                let (ticket, into, blocks) = &owned;
                me.prepare((ticket, into, blocks), &part, (policy, on)).await
            };
            let offloaded = Offloaded::new(connection.work()?, prepare);
            let (prepared, options) = driver.with_timeout(options, offloaded).await?;
            (prepared?, options)
        };
        let (execution, local, peer) = prepared?;
        let (permit, options) = self.turn(class, (&peer, &local), options).await?;
        let (of_request, may_post) = self.admit_post(ticket, layers, options).await?;
        let execution = Admitted::checked(execution, (permit, reading.another()), may_post);
        let mut read = ReadOperation::begin(driver, execution, local, of_request)?;
        let done = read.wait_for_completion().await?;
        if done.path().is_some_and(by_ranges) {
            let making = || Making::new(connection, &self.0.layouts, &peer);
            self.0.prepared.was_read((ticket.layout().into(), into), connection, making);
        }
        Ok((done, peer, options))
    }

    /// Whether no path leads to the blocks without their owner, which stages them chunk by chunk itself.
    fn needs_owner(&self, ticket: &Ticket) -> bool {
        let layout = ticket.layout().into();
        self.path(layout).is_none() && !self.remote(layout).device().is_host()
    }

    /// The read as its owner can be asked to take part in it. Memory of the host is reached without the owner.
    pub(super) fn by_ticket(
        &self,
        ticket: &Ticket,
        part: &BlockPart,
        pieces: usize,
    ) -> Option<TicketRead> {
        if self.remote(ticket.layout().into()).device().is_host() {
            return None;
        }
        let read = TicketRead::new(ticket.clone(), part.clone(), pieces);
        Some(read.with_mailbox(self.0.mailbox.clone()))
    }

    async fn prepare(
        &self,
        sides: Sides<'_>,
        part: &BlockPart,
        (policy, connection): (PathPolicy, Option<NonZeroU64>),
    ) -> Result<(Box<dyn Execution>, DescriptorList, PeerId), ConnectorError> {
        let Imported { connector, metadata, peer, key, .. } = &*self.0;
        let (ticket, into, blocks) = sides;
        let theirs = self.remote(ticket.layout().into());
        let lists = Lists::of_blocks(((metadata, key), theirs), sides, part)?;
        let Lists { local, remote, pieces } = lists;
        let leased = Leased::from(Leases::acquire(local.as_slice(), LeaseMode::Write)?);
        let memory = (&local, &leased);
        let is_listed = part.has_whole_layers(into.geometry());
        let prepared = self.0.prepared.get(ticket.layout().into(), into).filter(|_| is_listed);
        let of_pair = |pair: &Arc<PreparedPair>| {
            pair.positions((ticket.blocks(), blocks), part.layers().clone())
        };
        let positions = prepared.as_ref().and_then(of_pair);
        let listed = prepared.as_ref().zip(positions.as_ref()).map(|(pair, at)| pair.at(at));
        let by_ticket = self.by_ticket(ticket, part, pieces);
        let by_ticket = by_ticket.as_ref();
        let to = SilentRead { policy, known: peer.as_ref(), listed, connection, by_ticket };
        let (execution, peer) = connector.prepare_silently(memory, &remote, to).await?;
        Ok((execution, local, peer))
    }
}

/// The words of a read that is under way, through the engine.
pub(super) struct WordsUnderWay<'a> {
    words: &'a WordReads,
    under_way: ReadUnderWay<'a>,
}

impl<'a> WordsUnderWay<'a> {
    pub(super) fn begin(words: &'a WordReads) -> Self {
        Self { words, under_way: words.begin() }
    }

    /// Checks the words as they are after this call. Returns how many layers are ready.
    pub(super) async fn check(
        &self,
        check: &WordCheck,
        peer: &PeerId,
        options: OperationOptions,
    ) -> Result<u64, ConnectorError> {
        let ask = async || {
            let words = self.words.after(&self.under_way, (check.slot(), peer), options).await?;
            Ok::<_, ConnectorError>(check.compare(words).map(|()| words[2]))
        };
        let checked = match ask().await? {
            // The words may have been read while the slot was granted anew.
            Err(StaleRead::NotGranted) => ask().await?,
            checked => checked,
        };
        Ok(checked.map_err(refused)?)
    }
}

/// Whether the ticket's time was over before the post.
fn has_expired(error: &ConnectorError) -> bool {
    error.as_transport() == Some(&TransportError::OfferEnded { why: EndedOffer::Expired })
}

/// Whether the engine got the ranges one by one.
fn by_ranges(path: &PathReport) -> bool {
    let is_of_engine = matches!(path.kind(), PathKind::Direct | PathKind::GpuDirect);
    is_of_engine && !path.uses_prepared_lists()
}
