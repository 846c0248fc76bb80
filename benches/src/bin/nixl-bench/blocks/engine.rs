//! The engines that move the bytes.

use std::fmt;

/// A way to read blocks of another process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Engine {
    /// By a ticket, as of another host: through the engine, the word of the grant too.
    Ticket,
    /// By a ticket, through the engine, of an owner whose words are mapped.
    TicketWordsMapped,
    /// By a ticket, of memory that is mapped.
    TicketMapped,
    /// By an offer, through the engine.
    OneShot,
    /// By an offer of memory that is mapped.
    OneShotMapped,
    /// Plain nixl-sys, with lists that were prepared.
    NixlSys,
    /// A loop in the reader's process, by as many threads as the executor has.
    Memcpy,
}

impl Engine {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::TicketWordsMapped => "ticket-words-mapped",
            Self::TicketMapped => "ticket-mapped",
            Self::OneShot => "one-shot",
            Self::OneShotMapped => "one-shot-mapped",
            Self::NixlSys => "nixl-sys",
            Self::Memcpy => "memcpy",
        }
    }

    /// What it is compared with: the one-shot way, and what is below.
    pub(crate) const fn beside(self) -> Option<(Self, Self)> {
        match self {
            Self::Ticket | Self::TicketWordsMapped => Some((Self::OneShot, Self::NixlSys)),
            Self::TicketMapped => Some((Self::OneShotMapped, Self::Memcpy)),
            _ => None,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
