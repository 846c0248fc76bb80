//! The check of reads by the words of their grants, mapped or through the engine.

use std::num::NonZeroU64;
use std::ops::{Deref, Range};
use std::sync::{Arc, Weak};

use nixl_descriptor::{
    DescriptorList, PublishedWords, ReadOnlyWords, RendezvousState, SharedMemoryError, SharedName,
};
use nixl_metadata::{ExportMetadata, Rights, Ticket};
use nixl_ops::{
    EndedOffer, GrantWords, OperationOptions, RecentCheck, StaleRead, TransportError, WordCheck,
    foreign_process,
};

use super::connected::{RECONNECTS, is_reconnected};
use super::{Imported, RemoteExport};
use crate::grants::error::TicketError;
use crate::grants::export::ExportShared;
use crate::grants::read::Lists;
use crate::grants::words::WordReads;
use crate::named_file::{notes_owner, page_of_file};
use crate::{Connector, ConnectorError};

/// How the words of the export are read.
pub(super) enum Words {
    /// The export is this process's own. It is not kept open.
    Own(Weak<ExportShared>),
    Mapped(Arc<MappedWords>),
    Engine(WordReads),
}

/// Words that are mapped here.
pub(super) struct MappedWords {
    words: ReadOnlyWords,
    owner: RecentCheck,
}

impl MappedWords {
    fn new(words: ReadOnlyWords) -> Self {
        Self { words, owner: RecentCheck::default() }
    }

    /// Refuses bytes that an engine has read from a process by its number: the words of an owner that was killed stand, and the number may
    /// have become another process's. Not for memory that is mapped here, which stays what it was.
    pub(super) fn check_owner(&self) -> Result<(), TransportError> {
        match self.owner.get_or(|| !self.words.name().is_gone()) {
            true => Ok(()),
            false => Err(TransportError::OfferEnded { why: EndedOffer::OwnerGone }),
        }
    }
}

impl Deref for MappedWords {
    type Target = ReadOnlyWords;

    fn deref(&self) -> &ReadOnlyWords {
        &self.words
    }
}

/// The place of the export's number among the words of slot 0.
pub(super) const EXPORT_WORD: usize = 3;

impl Connector {
    pub(super) async fn open_words(
        &self,
        metadata: &ExportMetadata,
    ) -> Result<Words, ConnectorError> {
        let connection = self.connection();
        let (here, there) = (connection.info().host(), metadata.peer().host());
        let foreign = foreign_process(here, there);
        let is_here = match foreign {
            Some(process) => process.rendezvous_state() != RendezvousState::NoFolder,
            None => here.same_pid_namespace(there),
        };
        let Some(file) = metadata.words().file.filter(|_| is_here) else {
            return self.words_by_engine(metadata).await;
        };
        // The owner chooses how long the file is.
        let needed = GrantWords::bytes(metadata.words().slots);
        let name = SharedName { len: file.length().min(needed), ..page_of_file(&file) };
        let open = move || match notes_owner(&name, foreign) {
            true => PublishedWords::open(&name),
            false => Err(SharedMemoryError::Unanswered),
        };
        match connection.control().run(open).await? {
            Ok(words) if words.load(EXPORT_WORD) == Some(metadata.export().value()) => {
                Ok(Words::Mapped(Arc::new(MappedWords::new(words))))
            }
            // The file is that of the random name, so the process is the owner.
            Ok(_) => Err(closed(metadata)),
            // The engine reads them: the owner has closed them or does not answer, or runs on another host that has this one's identity.
            Err(error) => {
                tracing::debug!(%error, "the words of an export are not mapped");
                self.words_by_engine(metadata).await
            }
        }
    }

    /// Words that are read by requests.
    async fn words_by_engine(&self, metadata: &ExportMetadata) -> Result<Words, ConnectorError> {
        Ok(Words::Engine(WordReads::new(self, *metadata.words()).await?))
    }

    /// The words of a slot, read through the engine, and the connection by which they were. They are in the owner's byte order,
    /// which is this process's. Read again if the peer is connected anew meanwhile.
    pub(super) async fn read_words(
        &self,
        metadata: &ExportMetadata,
        slot: u32,
        mut options: OperationOptions,
    ) -> Result<([u64; GrantWords::SLOT_WORDS], Option<NonZeroU64>), ConnectorError> {
        let clock = self.connection().clock();
        let mut again = RECONNECTS;
        loop {
            let begun = clock.now();
            // Seldom, and larger than the rest of a read.
            match Box::pin(self.read_words_once(metadata, slot, options)).await {
                Err(error) if is_reconnected(&error) && again > 0 => again -= 1,
                read => return read,
            }
            options = options.spending(clock.now().saturating_sub(begun));
        }
    }

    async fn read_words_once(
        &self,
        metadata: &ExportMetadata,
        slot: u32,
        options: OperationOptions,
    ) -> Result<([u64; GrantWords::SLOT_WORDS], Option<NonZeroU64>), ConnectorError> {
        let connection = self.connection();
        let region = self.buffer(GrantWords::SLOT_BYTES)?;
        let lists = Lists::of_words(metadata, slot, DescriptorList::from(region.whole()))?;
        let connect = connection.connect(&lists.remote);
        let (peer, options) = connection.driver().with_timeout(options, connect).await?;
        let on = connection.transport().connection_to(&peer?);
        self.read_silently(lists, (options, on), || Ok(())).await?;
        let mut words = [0; GrantWords::SLOT_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            region.copy_to_slice(8 * index, &mut bytes).map_err(TicketError::Local)?;
            *word = u64::from_ne_bytes(bytes);
        }
        Ok((words, on))
    }
}

pub(super) fn closed(metadata: &ExportMetadata) -> ConnectorError {
    ConnectorError::ExportClosed { export: metadata.export() }
}

impl RemoteExport {
    /// How many layers of a ticket's blocks are ready, from the first on: those below are read as their owner has filled them.
    ///
    /// One look: where the words are not mapped, two requests of the engine's. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: as [`read_blocks`](Self::read_blocks), [`TransportError::Stale`] among them.
    pub async fn layers_ready(&self, ticket: &Ticket) -> Result<usize, ConnectorError> {
        let Imported { connector, metadata, words, ready, .. } = &*self.0;
        connector.check_process()?;
        self.admit(ticket, Rights::Read, None)?;
        let options = connector.default_options();
        self.admit_in_time(ticket, options).await?;
        let check = check_of(ticket);
        let layers = match words {
            Words::Own(own) => self.own(own)?.layers_ready(&check)?,
            Words::Mapped(words) => check.layers_ready(words).map_err(refused)?,
            Words::Engine(_) => {
                let read = || connector.read_words(metadata, check.slot(), options);
                let ([_, _, layers, _], _) = read().await?;
                // The number is of this grant if that stands after the number was read.
                let ([word, digest, now, _], _) = read().await?;
                check.compare([word, digest, now]).map_err(refused)?;
                ready.note(ticket, layers);
                layers
            }
        };
        Ok(usize::try_from(layers).unwrap_or(usize::MAX))
    }
}

impl RemoteExport {
    /// The export of this process, while it is open.
    pub(super) fn own(
        &self,
        own: &Weak<ExportShared>,
    ) -> Result<Arc<ExportShared>, ConnectorError> {
        own.upgrade().ok_or_else(|| closed(&self.0.metadata))
    }
}

pub(super) fn check_of(ticket: &Ticket) -> WordCheck {
    WordCheck::new(ticket.slot(), ticket.generation(), ticket.digest())
}

/// The check of a read of these layers.
pub(super) fn check_of_layers(ticket: &Ticket, layers: &Range<usize>) -> WordCheck {
    check_of(ticket).of_layers_below(layers.end as u64)
}

/// The error of a grant that has ended, or whose layers are not ready.
pub(super) fn refused(stale: StaleRead) -> TransportError {
    match stale {
        StaleRead::NotGranted => TransportError::NotGranted,
        StaleRead::NotReady { ready, asked } => TransportError::NotReady { ready, asked },
        _ => TransportError::Stale,
    }
}

#[cfg(test)]
impl RemoteExport {
    fn word_reads(&self) -> &WordReads {
        match &self.0.words {
            Words::Engine(words) => words,
            _ => panic!("the words are not read through the engine"),
        }
    }

    /// Whether a request for words is in flight, and how many reads wait for the next.
    pub(in crate::grants) fn words_in_flight(&self) -> (bool, usize) {
        self.word_reads().state()
    }

    /// How many words are mapped here.
    pub(in crate::grants) fn mapped_words(&self) -> Option<usize> {
        match &self.0.words {
            Words::Mapped(words) => Some(words.len()),
            _ => None,
        }
    }

    /// Requests for words so far.
    pub(in crate::grants) fn word_requests(&self) -> usize {
        self.word_reads().requests()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_an_owner_that_is_gone_do_not_count_though_its_words_stand() {
        let published = PublishedWords::new(8).unwrap();
        let words = MappedWords::new(PublishedWords::open(&published.name()).unwrap());
        words.check_owner().unwrap();
        drop(published);
        std::thread::sleep(2 * RecentCheck::TTL);
        let gone = TransportError::OfferEnded { why: EndedOffer::OwnerGone };
        assert_eq!(words.check_owner(), Err(gone));
        assert_eq!(words.load(0), Some(0));
    }
}
