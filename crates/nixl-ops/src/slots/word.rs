//! The word of an offer slot: token, detail and state in 64 bits.
//!
//! | bits | content |
//! |---|---|
//! | 24 to 63 | the low 40 bits of the offer's token, not 0 |
//! | 2 to 23 | the detail |
//! | 0 to 1 | the state: 0 open, 1 claimed, 2 done, 3 revoked |
//!
//! | state | detail of a writable offer | detail of a readable offer |
//! |---|---|---|
//! | open | 0 | 11 bits: ended uses; 11 bits: successful ones |
//! | claimed | the process identifier of the initiator | not used |
//! | done | 1 if the bytes are in place, 0 if not | the two numbers |
//! | revoked | as it was before | as it was before |
//!
//! A token is random and never used twice on a page, so a word of one offer never equals a word of another.

use nixl_metadata::OperationKind;

use crate::EndedOffer;

/// The content of a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SlotWord(u64);

/// The state of an offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SlotState {
    Open,
    /// Claimed by this process.
    Claimed(u32),
    Done,
    Revoked,
}

impl SlotState {
    /// The reason why an offer in this state cannot be used.
    pub(crate) const fn ended(self) -> EndedOffer {
        match self {
            Self::Claimed(_) => EndedOffer::Claimed,
            Self::Done => EndedOffer::Used,
            Self::Open | Self::Revoked => EndedOffer::Revoked,
        }
    }
}

impl SlotWord {
    const STATE_BITS: u32 = 2;
    const DETAIL_BITS: u32 = 22;
    const TOKEN_SHIFT: u32 = Self::STATE_BITS + Self::DETAIL_BITS;
    const COUNT_BITS: u32 = Self::DETAIL_BITS / 2;
    /// The largest process identifier that Linux gives out is one less than 2 to the 22nd.
    const MAX_DETAIL: u32 = (1 << Self::DETAIL_BITS) - 1;

    /// The most readers that a slot counts.
    pub(crate) const MAX_READERS: u32 = (1 << Self::COUNT_BITS) - 1;

    /// A token of which 40 bits are used; 0 is none.
    pub(crate) const fn token_bits(token: u64) -> u64 {
        token & (u64::MAX >> Self::TOKEN_SHIFT)
    }

    pub(crate) const fn open(token: u64) -> Self {
        Self::with(token, 0, 0)
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    const fn with(token: u64, detail: u32, state: u64) -> Self {
        Self(token << Self::TOKEN_SHIFT | (detail as u64) << Self::STATE_BITS | state)
    }

    pub(crate) const fn is_of(self, token: u64) -> bool {
        self.0 >> Self::TOKEN_SHIFT == Self::token_bits(token)
    }

    const fn token(self) -> u64 {
        self.0 >> Self::TOKEN_SHIFT
    }

    const fn detail(self) -> u32 {
        (self.0 >> Self::STATE_BITS) as u32 & Self::MAX_DETAIL
    }

    const fn counts(self) -> (u32, u32) {
        let detail = self.detail();
        (detail & Self::MAX_READERS, detail >> Self::COUNT_BITS)
    }

    pub(crate) const fn state(self) -> SlotState {
        match self.0 & 3 {
            0 => SlotState::Open,
            1 => SlotState::Claimed(self.detail()),
            2 => SlotState::Done,
            _ => SlotState::Revoked,
        }
    }

    /// The ended uses, and the successful ones.
    pub(crate) const fn uses(self, kind: OperationKind) -> (u32, u32) {
        match (kind, self.state()) {
            (OperationKind::Read, _) => self.counts(),
            (OperationKind::Write, SlotState::Done) => (1, self.detail()),
            (OperationKind::Write, _) => (0, 0),
        }
    }

    /// Claimed by a process. `None` if its identifier does not fit.
    pub(crate) fn claimed(self, pid: u32) -> Option<Self> {
        (pid != 0 && pid <= Self::MAX_DETAIL).then(|| Self::with(self.token(), pid, 1))
    }

    /// Claimed by an agent without a process here.
    pub(crate) const fn claimed_by_agent(self) -> Self {
        Self::with(self.token(), 0, 1)
    }

    pub(crate) const fn unclaimed(self) -> Self {
        Self::open(self.token())
    }

    pub(crate) const fn revoked(self) -> Self {
        Self(self.0 | 3)
    }

    /// The word after a write.
    pub(crate) const fn written(self, succeeded: bool) -> Self {
        Self::with(self.token(), succeeded as u32, 2)
    }

    /// The word after one more of `readers` reads. `None` if all had ended before.
    pub(crate) fn read(self, succeeded: bool, readers: u32) -> Option<Self> {
        let (uses, successes) = self.counts();
        if uses >= readers.min(Self::MAX_READERS) {
            return None;
        }
        let (uses, successes) = (uses + 1, successes + u32::from(succeeded));
        let state = if uses == readers { 2 } else { 0 };
        Some(Self::with(self.token(), uses | successes << Self::COUNT_BITS, state))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_part_keeps_to_its_bits(token in 1..u64::MAX, pid in 1..1u32 << 22, readers in 1..2048u32) {
            let token = SlotWord::token_bits(token).max(1);
            let open = SlotWord::open(token);
            prop_assert!(open.is_of(token) && open.state() == SlotState::Open);
            let claimed = open.claimed(pid).unwrap();
            prop_assert!(claimed.is_of(token));
            prop_assert_eq!(claimed.state(), SlotState::Claimed(pid));
            prop_assert_eq!(claimed.unclaimed(), open);
            prop_assert_eq!(claimed.revoked().state(), SlotState::Revoked);
            for succeeded in [true, false] {
                let done = claimed.written(succeeded);
                prop_assert!(done.is_of(token));
                prop_assert_eq!(done.state(), SlotState::Done);
                prop_assert_eq!(done.uses(OperationKind::Write), (1, u32::from(succeeded)));
            }
            let mut word = open;
            for at in 1..=readers {
                word = word.read(at % 2 == 0, readers).unwrap();
                prop_assert!(word.is_of(token));
                let expected = if at == readers { SlotState::Done } else { SlotState::Open };
                prop_assert_eq!(word.state(), expected);
                prop_assert_eq!(word.uses(OperationKind::Read), (at, at / 2));
            }
            prop_assert_eq!(word.read(true, readers), None);
        }
    }

    #[test]
    fn process_identifiers_that_do_not_fit_are_refused() {
        let open = SlotWord::open(1);
        assert!(open.claimed(0).is_none() && open.claimed(1 << 22).is_none());
    }
}
