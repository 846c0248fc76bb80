//! Advice on the errors of engines and operations: retry, ask again or give up.

use nixl_device::Advice;

use crate::{
    EndedOffer, GrantError, OperationError, PairingError, StaleRead, StatusError, TransportError,
};

impl PairingError {
    /// The remedy: [`Advice::GiveUp`], since the two sides belong to different transfers.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::WrongKind { .. }
            | Self::Count { .. }
            | Self::Size { .. }
            | Self::ReadOnly { .. } => Advice::GiveUp,
        }
    }
}

impl TransportError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            // No operation began.
            Self::UnknownPeer { .. }
            | Self::PeerBusy { .. }
            | Self::Reconnected { .. }
            | Self::OutOfFiles { .. }
            // The ticket stays good.
            | Self::NotReady { .. } => Advice::Retry,
            // The peer's metadata is out of date, or the offer may be partly used.
            Self::BadMetadata { .. }
            | Self::OutdatedMetadata { .. }
            | Self::PeerGone { .. }
            | Self::NotRegistered { .. }
            | Self::NotificationFailed { .. }
            | Self::Engine { .. }
            | Self::Stale
            | Self::NotGranted
            | Self::Corrupted { .. } => Advice::AskAgain,
            Self::OfferEnded { why } => why.advice(),
            Self::MemoryNotReady { error } => error.advice(),
            Self::OwnIdentity { .. }
            | Self::IdentityConflict { .. }
            | Self::NoPath { .. }
            | Self::NotHere { .. }
            | Self::NotLeased { .. }
            | Self::Panicked { .. }
            | Self::ThreadEnded { .. }
            | Self::NotListening { .. }
            | Self::Forked
            | Self::Closed => Advice::GiveUp,
        }
    }
}

impl EndedOffer {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Revoked
            | Self::Used
            | Self::Claimed
            | Self::Spent
            | Self::Expired
            | Self::OwnerGone
            | Self::WrongToken
            | Self::Unanswered => Advice::AskAgain,
            // Every offer gives the same result.
            Self::Unclaimable => Advice::GiveUp,
        }
    }
}

impl OperationError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::QueueFull { .. } => Advice::Retry,
            Self::TimedOut { .. } => Advice::AskAgain,
            // A decision of this program or of its peer.
            Self::Cancelled | Self::Declined => Advice::GiveUp,
            Self::Transport(error) => error.advice(),
        }
    }
}

impl GrantError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NoMemory(error) => error.advice(),
            Self::Blocks(error) => error.advice(),
            Self::Lease(error) => error.advice(),
            // The work that fills the blocks may still run.
            Self::Full { .. }
            | Self::NoRandomness { .. }
            | Self::Unpublished
            | Self::NotReady { .. } => Advice::Retry,
            Self::Over | Self::NotGranted { .. } => Advice::AskAgain,
            Self::TooManyLayouts { .. }
            | Self::NoLayout { .. }
            | Self::Closed
            | Self::NoSlot { .. }
            | Self::Published
            | Self::WrongToken { .. } => Advice::GiveUp,
        }
    }
}

impl StaleRead {
    /// The remedy: [`Advice::AskAgain`], for a new ticket, unless layers are not ready yet.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotReady { .. } => Advice::Retry,
            Self::Stale | Self::NotGranted | Self::NoSlot { .. } => Advice::AskAgain,
        }
    }
}

impl StatusError {
    /// The remedy: [`Advice::GiveUp`], since the transition does not exist.
    #[must_use]
    pub fn advice(&self) -> Advice {
        Advice::GiveUp
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::error::Error;
    use std::fmt::Debug;
    use std::mem::discriminant;
    use std::time::Duration;

    use Advice::{AskAgain, GiveUp, Retry};
    use nixl_descriptor::layout::{BlockGrantError, BlockLeaseError};
    use nixl_descriptor::{DependencyError, LeaseError, RegionError};
    use nixl_device::SharedError;
    use nixl_metadata::OperationKind;
    use rustix::io::Errno;

    use super::*;

    /// Checks a table in which each variant must be there once.
    fn check<E: Debug>(table: &[(E, Advice)], advice: impl Fn(&E) -> Advice) {
        for (error, expected) in table {
            assert_eq!(advice(error), *expected, "{error:?}");
        }
        let variants: HashSet<_> = table.iter().map(|(error, _)| discriminant(error)).collect();
        assert_eq!(variants.len(), table.len(), "a variant is there twice");
    }

    fn ended() -> [(EndedOffer, Advice); 9] {
        [
            (EndedOffer::Revoked, AskAgain),
            (EndedOffer::Used, AskAgain),
            (EndedOffer::Claimed, AskAgain),
            (EndedOffer::Spent, AskAgain),
            (EndedOffer::Expired, AskAgain),
            (EndedOffer::OwnerGone, AskAgain),
            (EndedOffer::WrongToken, AskAgain),
            (EndedOffer::Unclaimable, GiveUp),
            (EndedOffer::Unanswered, AskAgain),
        ]
    }

    fn transport() -> Vec<(TransportError, Advice)> {
        use TransportError as E;
        let (name, reason) = (String::new, String::new);
        vec![
            (E::BadMetadata { reason: SharedError::text("") }, AskAgain),
            (E::OwnIdentity { name: name() }, GiveUp),
            (E::IdentityConflict { name: name() }, GiveUp),
            (E::OutdatedMetadata { name: name() }, AskAgain),
            (E::UnknownPeer { name: name() }, Retry),
            (E::PeerBusy { name: name() }, Retry),
            (E::Reconnected { name: name() }, Retry),
            (E::PeerGone { name: name() }, AskAgain),
            (E::NotRegistered { name: name(), index: 0, len: 1 }, AskAgain),
            (E::MemoryNotReady { error: DependencyError::new("") }, GiveUp),
            (E::NotificationFailed { reason: "".into() }, AskAgain),
            (E::Engine { engine: "nixl", call: "post", reason: SharedError::text("") }, AskAgain),
            (E::NoPath { rejected: vec![] }, GiveUp),
            (E::OfferEnded { why: EndedOffer::Used }, AskAgain),
            (E::Stale, AskAgain),
            (E::NotGranted, AskAgain),
            (E::NotReady { ready: 1, asked: 2 }, Retry),
            (E::Corrupted { bytes: 1 }, AskAgain),
            (E::NotHere { name: name(), reason: reason() }, GiveUp),
            (E::NotLeased { index: 0 }, GiveUp),
            (E::Panicked { what: "a waker", reason: reason() }, GiveUp),
            (E::ThreadEnded { thread: "nixl-driver" }, GiveUp),
            (E::OutOfFiles { open: 1, limit: 1 }, Retry),
            (E::NotListening { engine: "nixl" }, GiveUp),
            (E::Forked, GiveUp),
            (E::Closed, GiveUp),
        ]
    }

    #[test]
    fn every_error_of_an_engine_is_decided() {
        check(&transport(), TransportError::advice);
        check(&ended(), EndedOffer::advice);
    }

    #[test]
    fn why_an_offer_ended_decides() {
        for (why, advice) in ended() {
            assert_eq!(TransportError::OfferEnded { why }.advice(), advice, "{why:?}");
        }
    }

    #[test]
    fn every_error_of_an_operation_is_decided() {
        use OperationError as E;
        let table = [
            (E::Cancelled, GiveUp),
            (E::TimedOut { after: Duration::ZERO }, AskAgain),
            (E::QueueFull { limit: 1 }, Retry),
            (E::Declined, GiveUp),
            (E::Transport(TransportError::Stale), AskAgain),
        ];
        check(&table, E::advice);
        for (error, advice) in transport() {
            assert_eq!(E::Transport(error).advice(), advice);
        }
    }

    #[test]
    fn every_error_of_a_grant_is_decided() {
        use GrantError as E;
        let slot = 0;
        let blocks = BlockGrantError::TooMany { block: 0 };
        let table = [
            (E::NoMemory(RegionError::Empty), GiveUp),
            (E::TooManyLayouts { layouts: 2, most: 1 }, GiveUp),
            (E::NoLayout { layout: 1, layouts: 1 }, GiveUp),
            (E::Blocks(blocks), Retry),
            (E::Full { slots: 1 }, Retry),
            (E::Closed, GiveUp),
            (E::NoRandomness { error: std::io::Error::from(Errno::AGAIN).into() }, Retry),
            (E::NoSlot { slot, slots: 1 }, GiveUp),
            (E::Over, AskAgain),
            (E::Unpublished, Retry),
            (E::Published, GiveUp),
            (E::WrongToken { slot }, GiveUp),
            (E::NotGranted { slot }, AskAgain),
            (E::Lease(BlockLeaseError::Lease(LeaseError::InUse)), Retry),
        ];
        check(&table, E::advice);
        let duplicate = BlockLeaseError::Duplicate { block: 0 };
        assert_eq!(E::Lease(duplicate).advice(), GiveUp);
        let table = [
            (StaleRead::Stale, AskAgain),
            (StaleRead::NotGranted, AskAgain),
            (StaleRead::NoSlot { slot }, AskAgain),
        ];
        check(&table, StaleRead::advice);
    }

    #[test]
    fn sides_that_do_not_fit_never_will() {
        use PairingError as E;
        let (offered, wanted) = (OperationKind::Read, OperationKind::Write);
        let table = [
            (E::WrongKind { offered, wanted }, GiveUp),
            (E::Count { local: 1, remote: 2 }, GiveUp),
            (E::Size { index: 0, local: 1, remote: 2 }, GiveUp),
            (E::ReadOnly { index: 0 }, GiveUp),
        ];
        check(&table, E::advice);
    }

    /// An engine's error reads the same through an operation's: its message is not said twice.
    #[test]
    fn an_engines_error_shows_through() {
        for (error, _) in transport() {
            let (message, source) = (error.to_string(), error.source().map(ToString::to_string));
            let operation = OperationError::Transport(error);
            assert_eq!(operation.to_string(), message);
            assert_eq!(operation.source().map(ToString::to_string), source);
        }
    }
}
