//! Tickets, and requests for the owner's part in reads by them, as holders forge them.

use nixl_metadata::{Rights, Ticket, TicketTerms};

use crate::forge::Forge;

impl Forge<'_> {
    /// The ticket with something changed.
    pub(crate) fn changed_ticket(&mut self, from: &Ticket) -> Option<Ticket> {
        let mut terms = TicketTerms {
            export: from.export(),
            layout: from.layout(),
            layers: from.layers(),
            rights: from.rights(),
            slot: from.slot(),
            generation: from.generation(),
            token: *from.token(),
            expires_unix_millis: from.expires_unix_millis(),
        };
        let mut blocks = from.blocks().to_vec();
        match self.below(9) {
            0 => terms.layout = self.below(3) as u16,
            1 => terms.layers = 0..self.below(4) as u16,
            2 => terms.rights = Rights::Write,
            3 => terms.slot = self.pick(&[0, 1, 2, 65_535, 65_536, u32::MAX]),
            4 => terms.generation = terms.generation.wrapping_add(self.below(4)),
            5 => terms.token[self.below(16) as usize] ^= 1,
            6 => terms.expires_unix_millis = self.pick(&[0, u64::MAX]),
            _ => {
                let at = self.below(blocks.len() as u64) as usize;
                blocks[at] = self.pick(&[0, 7, 63, 64, u32::MAX]);
            }
        }
        Ticket::new(terms, blocks).ok()
    }

    /// A request for the owner's part in a read by the held ticket or another, or an answer to one.
    pub(crate) fn ticket_request(&mut self) -> Vec<u8> {
        let held = self.ticket.clone();
        let ticket = held.and_then(|held| match self.below(3) {
            0 => Some(held),
            _ => self.changed_ticket(&held),
        });
        let Some(ticket) = ticket else { return self.bytes(300) };
        let mut out = b"nxs\x02".to_vec();
        // Few sessions are open at once, so that later messages meet earlier ones.
        out.extend(u128::from(self.below(16)).to_be_bytes());
        match self.below(8) {
            0 => self.put_answer(&mut out),
            _ => self.put_ticket_request(&ticket, &mut out),
        }
        if self.below(3) == 0 {
            self.damage(&mut out);
        }
        out
    }

    fn put_ticket_request(&mut self, ticket: &Ticket, out: &mut Vec<u8>) {
        const TAG: u8 = 16;
        out.push(TAG);
        out.extend(ticket.export().value().to_be_bytes());
        let mut bytes = ticket.encode();
        if self.below(4) == 0 {
            self.damage(&mut bytes);
        }
        out.extend((bytes.len() as u32).to_be_bytes());
        out.extend(bytes);
        for _ in 0..2 {
            let (start, end) = self.pick(&[(0u16, 1u16), (0, 1), (0, 0), (1, 0), (0, u16::MAX)]);
            out.extend([start.to_be_bytes(), end.to_be_bytes()].concat());
        }
        let (start, end) = self.pick(&[(0u32, 0u32), (0, 0), (0, 1), (3, 2), (0, u32::MAX)]);
        out.extend([start.to_be_bytes(), end.to_be_bytes()].concat());
        out.extend(self.pick(&[0u32, 1, 1, 2, 1 << 20, u32::MAX]).to_be_bytes());
        out.extend(self.pick(&[0u64, 1, 7, 4096, 1 << 20, u64::MAX]).to_be_bytes());
        let introduction = self.introduction();
        out.extend((introduction.len() as u32).to_be_bytes());
        out.extend(introduction);
        if self.below(4) == 0 {
            // The process by which chunks are staged on a GPU.
            out.extend([0, 0, 0, 0, 0, 4]);
            out.extend(self.pick(&[0, 1, std::process::id(), u32::MAX]).to_be_bytes());
        }
    }

    /// The refusal of a read, or a free chunk.
    fn put_answer(&mut self, out: &mut Vec<u8>) {
        const REFUSED: u8 = 17;
        out[3] = 1;
        out.push(REFUSED);
        out.push(self.below(4) as u8);
        let more = self.bytes(17);
        out.extend(more);
    }
}
