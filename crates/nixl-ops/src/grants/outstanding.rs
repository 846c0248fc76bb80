//! The tickets by which readers may read, or have a read under way.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;

use super::terms::TicketEnd;
use super::tokens::same;
use crate::sync::{Mutex, lock};

/// The ends of an export's tickets, each until all readers of its grant are done: then no read by the ticket is under way, and
/// none begins. It outlives the table of the grants, for the readers of a closed export.
///
/// Its memory is bounded: of each step of time the latest end is kept, and of grants that ended before their readers were done only
/// the latest are known. For others the time decides.
pub struct OutstandingTickets {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the end on the table's clock, in units of [`OutstandingTickets::STEP`].
    steps: BTreeMap<u64, Step>,
    /// The latest end of the steps that made room.
    past: TicketEnd,
    /// Ended grants, by generation.
    unanswered: HashMap<u64, Unanswered>,
    /// Their generations, oldest first, with some that are known no more.
    order: VecDeque<u64>,
}

/// The tickets that end in a step.
#[derive(Default)]
struct Step {
    tickets: usize,
    /// Their latest end.
    end: TicketEnd,
}

/// A grant whose readers are not all done.
pub(super) struct Unanswered {
    pub(super) token: [u8; 16],
    pub(super) readers: usize,
    pub(super) done: HashSet<[u8; 16]>,
    pub(super) end: TicketEnd,
}

impl Unanswered {
    /// Records a reader. Returns whether all are done.
    pub(super) fn done(&mut self, reader: [u8; 16]) -> bool {
        if self.readers > 1 {
            self.done.insert(reader);
        }
        self.readers <= self.done.len().max(1)
    }
}

impl OutstandingTickets {
    /// Nanoseconds of a step.
    const STEP: u64 = 1 << 27;
    /// Steps with tickets, which are fewer than tickets.
    const STEPS: usize = 4096;
    /// Ended grants that are known.
    const UNANSWERED: usize = 4096;

    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::default()) }
    }

    /// Counts a ticket.
    pub(super) fn issue(&self, end: TicketEnd) {
        lock(&self.state).issue(end);
    }

    /// Forgets a ticket whose readers are done.
    pub(super) fn answered(&self, end: TicketEnd) {
        lock(&self.state).answered(end);
    }

    /// Gives a ticket a later end. Returns the later of both by each clock.
    pub(super) fn renew(&self, from: TicketEnd, to: TicketEnd) -> TicketEnd {
        let mut state = lock(&self.state);
        let end = from.max(to);
        state.answered(from);
        state.issue(end);
        end
    }

    /// A grant has ended, and readers of it may be reading.
    pub(super) fn ended(&self, generation: u64, grant: Unanswered) {
        let mut state = lock(&self.state);
        state.unanswered.insert(generation, grant);
        state.order.push_back(generation);
        if state.order.len() > Self::UNANSWERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.unanswered.remove(&oldest);
        }
    }

    /// Records that a reader of an ended grant is done. Returns whether this forgets its ticket.
    pub(super) fn done(&self, generation: u64, token: &[u8; 16], reader: [u8; 16]) -> bool {
        let mut state = lock(&self.state);
        let grant = state.unanswered.get_mut(&generation);
        let Some(grant) = grant.filter(|grant| same(&grant.token, token)) else { return false };
        if !grant.done(reader) {
            return false;
        }
        let end = grant.end;
        state.unanswered.remove(&generation);
        state.answered(end);
        true
    }

    /// Until when a reader may begin; `None` if no ticket is outstanding.
    #[must_use]
    pub fn until(&self) -> Option<TicketEnd> {
        let state = lock(&self.state);
        let until = state.steps.values().map(|step| step.end).fold(state.past, TicketEnd::max);
        (until != TicketEnd::default()).then_some(until)
    }
}

impl State {
    fn issue(&mut self, end: TicketEnd) {
        let step = self.steps.entry(step(end)).or_default();
        step.tickets += 1;
        step.end = step.end.max(end);
        if self.steps.len() > OutstandingTickets::STEPS
            && let Some((_, step)) = self.steps.pop_first()
        {
            self.past = self.past.max(step.end);
        }
    }

    fn answered(&mut self, end: TicketEnd) {
        let at = step(end);
        let Some(step) = self.steps.get_mut(&at) else { return };
        step.tickets -= 1;
        if step.tickets == 0 {
            self.steps.remove(&at);
        }
    }
}

fn step(end: TicketEnd) -> u64 {
    let nanos = u64::try_from(end.time.as_nanos()).unwrap_or(u64::MAX);
    nanos / OutstandingTickets::STEP
}

impl fmt::Debug for OutstandingTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutstandingTickets").field("until", &self.until()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn end(millis: u64) -> TicketEnd {
        TicketEnd { unix_millis: 1_000_000 + millis, time: Duration::from_millis(millis) }
    }

    fn unanswered(readers: usize, end: TicketEnd) -> Unanswered {
        Unanswered { token: [1; 16], readers, done: HashSet::new(), end }
    }

    #[test]
    fn a_ticket_is_outstanding_until_each_reader_is_done() {
        let tickets = OutstandingTickets::new();
        assert_eq!(tickets.until(), None);
        tickets.issue(end(500));
        tickets.ended(7, unanswered(2, end(500)));
        assert!(!tickets.done(7, &[2; 16], [1; 16]), "another token");
        assert!(!tickets.done(7, &[1; 16], [1; 16]));
        assert!(!tickets.done(7, &[1; 16], [1; 16]), "the same reader");
        assert!(tickets.until().is_some());
        assert!(tickets.done(7, &[1; 16], [2; 16]));
        assert_eq!(tickets.until(), None);
        assert!(!tickets.done(7, &[1; 16], [3; 16]));
    }

    #[test]
    fn what_makes_room_is_waited_for_by_time() {
        let tickets = OutstandingTickets::new();
        let (most, step) = (OutstandingTickets::STEPS as u64, 200);
        for at in 0..2 * most {
            tickets.issue(end(at * step));
            tickets.ended(at, unanswered(1, end(at * step)));
        }
        {
            let state = lock(&tickets.state);
            assert!(state.steps.len() <= OutstandingTickets::STEPS);
            assert!(state.unanswered.len() <= OutstandingTickets::UNANSWERED);
            assert!(state.order.len() <= OutstandingTickets::UNANSWERED);
        }
        for at in 0..2 * most {
            tickets.done(at, &[1; 16], [0; 16]);
        }
        let until = tickets.until().unwrap();
        assert!(until.time >= end((most - 1) * step).time);
    }

    proptest! {
        /// The end is never before that of an outstanding ticket, and by less than a step after the last.
        #[test]
        fn the_end_is_that_of_the_last_outstanding_ticket(
            ends in prop::collection::vec((0u64..100_000, any::<bool>(), 0u64..1000), 1..50),
        ) {
            let tickets = OutstandingTickets::new();
            let mut left: Vec<TicketEnd> = Vec::new();
            for &(at, _, more) in &ends {
                tickets.issue(end(at));
                left.push(tickets.renew(end(at), end(at + more)));
            }
            let is_done: Vec<bool> = ends.iter().map(|(_, is_done, _)| *is_done).collect();
            for (end, _) in left.iter().zip(&is_done).filter(|(_, is_done)| **is_done) {
                tickets.answered(*end);
            }
            let kept = left.iter().zip(&is_done).filter(|(_, is_done)| !**is_done).map(|(end, _)| *end);
            let last = kept.reduce(TicketEnd::max);
            let until = tickets.until();
            prop_assert_eq!(until.is_some(), last.is_some());
            if let (Some(until), Some(last)) = (until, last) {
                prop_assert!(until.time >= last.time && until.unix_millis >= last.unix_millis);
                let step = Duration::from_nanos(OutstandingTickets::STEP);
                prop_assert!(until.time < last.time + step);
            }
        }
    }
}
