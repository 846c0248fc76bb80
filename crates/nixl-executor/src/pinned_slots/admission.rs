//! Fair admission of sessions to slots: first come, first served, with a bound on each session's share.

use std::collections::BTreeMap;

/// Slots by number, and the sessions that want some.
///
/// A session may hold at most its share, the slots divided by the sessions that want some, and one at least. One that
/// holds none comes before those that hold some, and among those the one that has waited longest. A session that can take a
/// slot never waits for one that will not: a session that needs no more must [settle](Self::settle).
#[derive(Debug)]
pub(super) struct Admission {
    free: Vec<u16>,
    slots: usize,
    /// All slots but those that were given up.
    usable: usize,
    members: BTreeMap<u64, MemberState>,
    last_member: u64,
    last_turn: u64,
}

#[derive(Debug, Default)]
struct MemberState {
    held: usize,
    /// The time of its request for a slot.
    waiting: Option<u64>,
}

/// All slots were given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NoUsableSlots;

impl Admission {
    pub(super) fn new(slots: u16) -> Self {
        Self {
            free: (0..slots).rev().collect(),
            slots: slots.into(),
            usable: slots.into(),
            members: BTreeMap::new(),
            last_member: 0,
            last_turn: 0,
        }
    }

    pub(super) fn join(&mut self) -> u64 {
        self.last_member += 1;
        self.members.insert(self.last_member, MemberState::default());
        self.last_member
    }

    pub(super) fn leave(&mut self, member: u64) {
        self.members.remove(&member);
    }

    /// A slot, if it is this member's turn. It is noted as waiting for more until it [settles](Self::settle).
    pub(super) fn take(&mut self, member: u64) -> Result<Option<u16>, NoUsableSlots> {
        if self.usable == 0 {
            return Err(NoUsableSlots);
        }
        let Some(me) = self.members.get_mut(&member) else { return Ok(None) };
        let next_turn = self.last_turn + 1;
        let since = *me.waiting.get_or_insert(next_turn);
        self.last_turn = self.last_turn.max(since);
        let held = me.held;
        let wanting = self.members.values().filter(|m| m.waiting.is_some()).count();
        let share = (self.usable / wanting.max(1)).max(1);
        let before = |other: &MemberState| {
            other.held == 0 && other.waiting.is_some_and(|turn| held > 0 || turn < since)
        };
        let ahead = self.members.values().filter(|other| before(other)).count();
        if held >= share || self.free.len() <= ahead {
            return Ok(None);
        }
        let taken = self.free.pop();
        if let (Some(_), Some(me)) = (taken, self.members.get_mut(&member)) {
            me.held += 1;
            // For the next one it queues anew.
            self.last_turn += 1;
            me.waiting = Some(self.last_turn);
        }
        Ok(taken)
    }

    /// This member needs no more for now.
    pub(super) fn settle(&mut self, member: u64) {
        if let Some(me) = self.members.get_mut(&member) {
            me.waiting = None;
        }
    }

    /// A slot comes back.
    pub(super) fn put(&mut self, member: u64, slot: u16) {
        self.release_one(member);
        self.free.push(slot);
    }

    /// A slot does not come back for now: a peer may still write to it.
    pub(super) fn give_up(&mut self, member: u64) {
        self.release_one(member);
        self.usable = self.usable.saturating_sub(1);
    }

    /// A slot that was given up comes back after all.
    pub(super) fn restore(&mut self, slot: u16) {
        self.usable += 1;
        self.free.push(slot);
    }

    /// Whether no session holds or waits for a slot, and no peer may write to one.
    pub(super) fn is_unused(&self) -> bool {
        self.members.is_empty() && self.free.len() == self.usable && self.usable == self.slots
    }

    fn release_one(&mut self, member: u64) {
        if let Some(me) = self.members.get_mut(&member) {
            me.held = me.held.saturating_sub(1);
        }
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn usable(&self) -> usize {
        self.usable
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(usize),
        Settle(usize),
        Put(usize),
        GiveUp(usize),
        Restore,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..6usize).prop_map(Step::Take),
            1 => (0..6usize).prop_map(Step::Settle),
            4 => (0..6usize).prop_map(Step::Put),
            2 => (0..6usize).prop_map(Step::GiveUp),
            1 => Just(Step::Restore),
        ]
    }

    proptest! {
        #[test]
        fn slots_are_neither_lost_nor_shared(slots in 1u16..9, steps in vec(step(), 0..120)) {
            let mut pool = Admission::new(slots);
            let members: Vec<_> = (0..6).map(|_| pool.join()).collect();
            let mut held: HashMap<u64, Vec<u16>> = HashMap::new();
            let mut wanting = [false; 6];
            let mut lost = Vec::new();
            for step in steps {
                match step {
                    Step::Take(i) => {
                        let others = (0..6).filter(|j| *j != i && wanting[*j]).count();
                        let taken = pool.take(members[i]);
                        let gone = lost.len();
                        if gone == usize::from(slots) {
                            prop_assert_eq!(taken, Err(NoUsableSlots));
                            continue;
                        }
                        wanting[i] = true;
                        let mine = held.entry(members[i]).or_default();
                        if let Some(slot) = taken.unwrap() {
                            mine.push(slot);
                            let share = ((usize::from(slots) - gone) / (others + 1)).max(1);
                            prop_assert!(mine.len() <= share);
                        } else if others == 0 {
                            prop_assert_eq!(pool.free(), 0, "no other session wants one");
                        }
                    }
                    Step::Settle(i) => {
                        pool.settle(members[i]);
                        wanting[i] = false;
                    }
                    Step::Put(i) => {
                        if let Some(slot) = held.get_mut(&members[i]).and_then(Vec::pop) {
                            pool.put(members[i], slot);
                        }
                    }
                    Step::GiveUp(i) => {
                        if let Some(slot) = held.get_mut(&members[i]).and_then(Vec::pop) {
                            pool.give_up(members[i]);
                            lost.push(slot);
                        }
                    }
                    Step::Restore => {
                        if let Some(slot) = lost.pop() {
                            pool.restore(slot);
                        }
                    }
                }
                let gone = lost.len();
                let mut out: Vec<_> = held.values().flatten().copied().collect();
                prop_assert_eq!(out.len() + pool.free() + gone, usize::from(slots));
                prop_assert_eq!(pool.usable(), usize::from(slots) - gone);
                out.sort_unstable();
                out.dedup();
                prop_assert_eq!(out.len(), held.values().map(Vec::len).sum::<usize>());
            }
        }

        /// In any order of requests, every session that keeps asking gets slots.
        #[test]
        fn every_session_is_served(slots in 1u16..6, members in 1usize..9, order in vec(0..9usize, 2000)) {
            let mut pool = Admission::new(slots);
            let ids: Vec<_> = (0..members).map(|_| pool.join()).collect();
            let mut queues = vec![Vec::new(); members];
            let mut served = vec![0u32; members];
            let mut held = std::collections::VecDeque::new();
            for turn in order {
                let i = turn % members;
                while let Some(slot) = pool.take(ids[i]).unwrap() {
                    queues[i].push(slot);
                    held.push_back((i, slot));
                    served[i] += 1;
                }
                // The oldest is done.
                if turn % 2 == 0 && let Some((who, slot)) = held.pop_front() {
                    queues[who].retain(|s| *s != slot);
                    pool.put(ids[who], slot);
                }
            }
            prop_assert!(served.iter().all(|count| *count > 0), "{served:?}");
        }
    }

    #[test]
    fn the_one_that_waited_longest_and_holds_none_is_next() {
        let mut pool = Admission::new(2);
        let [a, b, c] = [(); 3].map(|()| pool.join());
        let slots = [pool.take(a), pool.take(a)].map(|s| s.unwrap().unwrap());
        assert_eq!(pool.take(b), Ok(None));
        assert_eq!(pool.take(c), Ok(None));
        pool.put(a, slots[0]);
        assert_eq!(pool.take(a), Ok(None), "two wait that hold none");
        assert_eq!(pool.take(c), Ok(None), "b came first");
        assert!(pool.take(b).unwrap().is_some());
        pool.put(a, slots[1]);
        pool.settle(a);
        assert!(pool.take(c).unwrap().is_some());
    }
}
