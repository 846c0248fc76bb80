//! The owner's part in reads by tickets.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_descriptor::layout::Layout;
use nixl_device::locks::lock;
use nixl_metadata::PeerInfo;
use nixl_ops::{
    CompletionMode, Execution, GrantTable, PathKind, PathReport, PeerId, PeerMemory, Preparation,
    TicketRead, TransportError,
};

use super::Staging;
use crate::facts::STAGING_BY_TICKET;
use crate::messages::{GrantRefusal, MAX_TICKET, Message, OpenTicket, Outbox, SessionId};
use crate::sessions::{Membership, RefusalReply, failed, failed_by};
use crate::transfers::staged::granted::SourceGrant;
use crate::transfers::staged::role::Role;

/// The most chunks of blocks that are listed for a reader.
const CHUNKS: usize = 1 << 17;

/// Why an owner is not asked to take part in a read under a grant, if it is not.
pub(crate) fn why_owner_takes_no_part(
    read: Option<&TicketRead>,
    owner: Option<&PeerInfo>,
) -> Option<&'static str> {
    // Of each layer, K and V.
    const OUTERS: usize = 2;
    let Some(read) = read else {
        return Some("the owner takes part in the transfer of an offer, or by a ticket");
    };
    if owner.is_none_or(|owner| owner.versions().staging() < STAGING_BY_TICKET) {
        return Some("the owner's release takes part in the transfer of an offer, not of a grant");
    }
    let (ticket, part) = (read.ticket(), read.part());
    let chunks = ticket.blocks().len().saturating_mul(part.layers().len() * OUTERS);
    let fits = chunks <= CHUNKS && ticket.encoded_len() <= MAX_TICKET && OpenTicket::names(part);
    (!fits).then_some("the read has more blocks and layers than an owner takes part in at a time")
}

impl Staging {
    /// Serves a reader's request, or replies with the reason against it.
    pub(crate) fn serve_reader(
        self: &Arc<Self>,
        id: SessionId,
        from: &str,
        open: OpenTicket,
    ) -> Option<Box<dyn Execution>> {
        let initiator_metadata = open.initiator_metadata.clone();
        let at = self.sessions.admit_reader(id, from, &open.ticket, initiator_metadata)?;
        let table = self.sessions.grants_of(open.ticket.export().value());
        // A closed export has no grants.
        let table = table.ok_or(TransportError::Stale);
        let begun = table.and_then(|table| {
            let listing = self.list(&table, &open)?;
            let OpenTicket { ticket, part, chunk_bytes, on_gpu_by, .. } = open;
            let grant = SourceGrant::new(table, ticket, part.layers().clone());
            Ok((listing, Asked { id, peer: PeerId::new(from), grant, chunk_bytes, on_gpu_by }))
        });
        Some(match begun {
            Ok((listing, asked)) => {
                let state = State::Listing(Box::new((listing, at, asked)));
                Box::new(ReaderPart { staging: Arc::clone(self), state })
            }
            Err(error) => self.refusal(at, &error),
        })
    }

    /// Has the blocks of a ticket listed on the connection's thread, and slots made for them.
    fn list(
        &self,
        table: &Arc<GrantTable>,
        open: &OpenTicket,
    ) -> Result<Arc<Listing>, TransportError> {
        let OpenTicket { ticket, part, pieces, on_gpu_by, .. } = open;
        let layers = (part.layers(), ticket.layers());
        let is_within = usize::from(layers.1.start) <= layers.0.start
            && layers.0.end <= usize::from(layers.1.end);
        let layout = table.layouts().nth(ticket.layout().into()).filter(|_| is_within);
        let layout = layout.cloned().ok_or(TransportError::NotGranted)?;
        // A ticket that is altered or too late costs no more.
        SourceGrant::new(Arc::clone(table), ticket.clone(), part.layers().clone()).check()?;
        let chunks = ticket.blocks().len().saturating_mul(part.chunks(layout.geometry()));
        if chunks > CHUNKS {
            let reason = format!("{chunks} chunks of blocks in one read, of {CHUNKS} allowed");
            return Err(failed("serve", reason));
        }
        let slots = on_gpu_by.is_none().then(|| self.outgoing_slots(&layout)).flatten();
        let listing = Arc::new(Listing::default());
        let (reply, waker) = (Arc::clone(&listing), self.link().waker().clone());
        let (blocks, part, pieces) = (ticket.blocks().to_vec(), part.clone(), *pieces as usize);
        let is_queued = self.link().background().run_for_peer(Box::new(move || {
            // Without slots the part fails, and says why.
            let _ = slots.map(|make| make());
            let blocks: Vec<_> = blocks.into_iter().map(|block| block as usize).collect();
            let listed = layout.piece_descriptors(&blocks, &part, pieces);
            let listed = listed.map_err(|error| failed("serve", error.to_string()));
            let listed = listed.and_then(|list| {
                DescriptorList::try_from(list).map_err(|error| failed_by("serve", error))
            });
            *lock(&reply.0) = Some(listed);
            waker.wake();
        }));
        match is_queued {
            true => Ok(listing),
            false => Err(failed("serve", "too many peers ask at once: ask again")),
        }
    }

    /// What makes slots for chunks of a layout, if there are none.
    fn outgoing_slots(&self, layout: &Layout) -> Option<Preparation> {
        let now = self.link().clock().now();
        if layout.device().is_host() || !self.outgoing.wants_memory(now) {
            return None;
        }
        let (gpu, slots) = (layout.device().index(), Arc::clone(&self.outgoing));
        let (gpus, cache) = (Arc::clone(&self.gpus), Arc::clone(self.link().registrations()));
        Some(Box::new(move || {
            slots.make_ready(&*gpus, gpu, &cache, now);
            Ok(())
        }))
    }

    fn part(&self, list: &DescriptorList, asked: Asked) -> Result<Role, TransportError> {
        let Asked { id, peer, grant, chunk_bytes, on_gpu_by } = asked;
        let chunking = self.chunking(list, chunk_bytes)?;
        let bytes = (list, &chunking);
        match on_gpu_by {
            Some(process) => self.on_gpu(true, bytes, process.get(), Some(grant)),
            None => Ok(Role::Source(self.granted_source((peer, id), bytes, grant)?)),
        }
    }

    fn refusal(
        &self,
        (session, outbox): (Membership, Outbox),
        error: &TransportError,
    ) -> Box<dyn Execution> {
        let message = match GrantRefusal::of(error) {
            Some(refusal) => Message::GrantRefused(refusal),
            None => Message::Stopped { reason: error.to_string() },
        };
        let sessions = Arc::clone(&self.sessions);
        Box::new(RefusalReply::new(sessions, session, outbox, &message))
    }
}

/// The blocks of a ticket, once they are listed.
#[derive(Default)]
struct Listing(Mutex<Option<Result<DescriptorList, TransportError>>>);

/// What a reader asks for.
struct Asked {
    id: SessionId,
    peer: PeerId,
    grant: SourceGrant,
    chunk_bytes: u64,
    on_gpu_by: Option<NonZeroU32>,
}

/// The owner's part in a read: the blocks are listed first.
struct ReaderPart {
    staging: Arc<Staging>,
    state: State,
}

enum State {
    Listing(Box<(Arc<Listing>, (Membership, Outbox), Asked)>),
    Begun(Box<dyn Execution>),
    Ended,
}

impl ReaderPart {
    fn begun(&self) -> Option<&dyn Execution> {
        match &self.state {
            State::Begun(part) => Some(&**part),
            State::Listing(_) | State::Ended => None,
        }
    }

    /// Begins the part once its blocks are listed.
    fn begin(&mut self) {
        let listed = match &self.state {
            State::Listing(listing) => lock(&listing.0.0).take(),
            State::Begun(_) | State::Ended => None,
        };
        let Some(listed) = listed else { return };
        let State::Listing(listing) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let (_, at, asked) = *listing;
        let staging = &self.staging;
        let part = listed.and_then(|list| {
            let size = (list.total_bytes(), list.len());
            Ok((staging.part(&list, asked)?, size))
        });
        self.state = State::Begun(match part {
            Ok((role, size)) => staging.serving(at, role, None, size),
            Err(error) => staging.refusal(at, &error),
        });
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for ReaderPart {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.begin();
        match &mut self.state {
            State::Listing(_) => Poll::Pending,
            State::Begun(part) => part.poll(cx),
            State::Ended => Poll::Ready(Err(TransportError::Closed)),
        }
    }

    fn abandon(&mut self) -> bool {
        match &mut self.state {
            State::Begun(part) => part.abandon(),
            State::Listing(_) | State::Ended => true,
        }
    }

    fn report(&self) -> PathReport {
        let listing = || PathReport::new(PathKind::StagedBothSides, "listing", 0, 0);
        self.begun().map_or_else(listing, |part| part.report())
    }

    fn steps(&self) -> u64 {
        // The list was the first.
        self.begun().map_or(0, |part| part.steps() + 1)
    }

    fn completion_mode(&self) -> CompletionMode {
        self.begun().map_or(CompletionMode::Polled, |part| part.completion_mode())
    }

    fn expected(&self) -> Option<Duration> {
        self.begun()?.expected()
    }

    fn awaits_notification(&self) -> bool {
        self.begun().is_some_and(|part| part.awaits_notification())
    }

    fn posts_quickly(&self) -> bool {
        self.begun().is_some_and(|part| part.posts_quickly())
    }

    fn takes_turns(&self) -> bool {
        self.begun().is_some_and(|part| part.takes_turns())
    }

    fn target_told(&self) -> bool {
        self.begun().is_some_and(|part| part.target_told())
    }

    fn peer_memory(&self) -> PeerMemory {
        self.begun().map_or(PeerMemory::UNPROVEN, |part| part.peer_memory())
    }
}

#[cfg(test)]
mod tests {
    use nixl_descriptor::layout::BlockPart;
    use nixl_metadata::{ExportId, HostIdentity, MessageVersions, Rights, Ticket, TicketTerms};

    use super::*;

    fn read(blocks: u32, layers: u16) -> TicketRead {
        let terms = TicketTerms {
            export: ExportId::new(1),
            layout: 0,
            layers: 0..layers,
            rights: Rights::Read,
            slot: 0,
            generation: 1,
            token: [1; 16],
            expires_unix_millis: 1,
        };
        let ticket = Ticket::new(terms, (0..blocks).collect::<Vec<_>>()).unwrap();
        TicketRead::new(ticket, BlockPart::of_layers(0..layers.into()), layers.into())
    }

    fn owner(staging: u16) -> PeerInfo {
        let host = HostIdentity::new("host", "", 1).unwrap();
        let versions = MessageVersions::default().with_staging(staging);
        PeerInfo::new("owner", 1, host).unwrap().with_versions(versions)
    }

    #[test]
    fn an_owner_is_asked_by_a_ticket_if_its_release_answers() {
        let (read, why_not) = (read(64, 80), why_owner_takes_no_part);
        assert_eq!(why_not(Some(&read), Some(&owner(4))), None);
        for (read, owner) in
            [(Some(&read), Some(owner(3))), (Some(&read), None), (None, Some(owner(4)))]
        {
            assert!(why_not(read, owner.as_ref()).is_some());
        }
    }

    #[test]
    fn a_read_of_more_than_an_owner_lists_is_not_asked_for() {
        let why_not = |read: &TicketRead| why_owner_takes_no_part(Some(read), Some(&owner(4)));
        assert!(why_not(&read(819, 80)).is_none());
        assert!(why_not(&read(820, 80)).is_some(), "131,200 chunks");
        assert!(why_not(&read(60_000, 1)).is_none());
        assert!(why_not(&read(65_500, 1)).is_some(), "65,564 bytes");
    }
}
