//! A read by a ticket, as an executor can ask the owner of the blocks to take part in it.

use nixl_descriptor::layout::BlockPart;
use nixl_metadata::Ticket;

use crate::Mailbox;

/// The blocks of a ticket, in its order, and the order of the bytes in the lists of the transfer.
///
/// An owner whose executor takes part lists the same bytes of its own layout. It needs no address.
#[derive(Clone, Debug)]
pub struct TicketRead {
    ticket: Ticket,
    part: BlockPart,
    pieces: usize,
    mailbox: Option<Mailbox>,
}

impl TicketRead {
    /// A read of a part of the ticket's blocks, each of which the lists have in so many
    /// [pieces](nixl_descriptor::layout::RemotePairs::pieces).
    #[must_use]
    pub fn new(ticket: Ticket, part: BlockPart, pieces: usize) -> Self {
        Self { ticket, part, pieces, mailbox: None }
    }

    /// With the owner's mailbox, where it is on this host.
    #[must_use]
    pub fn with_mailbox(mut self, mailbox: Option<Mailbox>) -> Self {
        self.mailbox = mailbox;
        self
    }

    /// The ticket.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The part of each block.
    #[must_use]
    pub fn part(&self) -> &BlockPart {
        &self.part
    }

    /// The pieces of each block.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// The owner's mailbox.
    #[must_use]
    pub fn mailbox(&self) -> Option<&Mailbox> {
        self.mailbox.as_ref()
    }
}
