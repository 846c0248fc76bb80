//! The rule for retrying a failed operation on another path.

use nixl_ops::TransportError;

/// How many paths one operation may try, the first included.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

/// Whether an operation that failed may be tried again, on another path. `target_told`: the target may have learned that
/// the operation is complete.
///
/// - Before any byte moved, yes: the target cannot have been notified.
/// - After that a read, yes: its bytes lie in memory that the operation still owns, and are written over.
/// - After that a write, too, unless the target may have been notified: until then it does not look at its memory.
/// - Once it may have been notified, never: its memory may be in another use.
/// - Never if the error is one of the operation, its metadata or its offer: another path fails the same way, or accesses the memory that is
///   at the offer's address by now.
///
/// So neither the kind of operation nor what has moved matters by itself. The caller ensures the rest: the path that
/// failed is quiet, so that none of its bytes arrives later, and the operation has time and [attempts](MAX_ATTEMPTS) left.
#[must_use]
pub(crate) fn may_retry(target_told: bool, error: &TransportError) -> bool {
    !target_told && is_of_the_path(error)
}

/// Whether another path may do better.
fn is_of_the_path(error: &TransportError) -> bool {
    match error {
        // An engine's trouble. A peer that one engine cannot reach may still share memory.
        TransportError::Engine { .. }
        | TransportError::PeerGone { .. }
        | TransportError::PeerBusy { .. }
        | TransportError::UnknownPeer { .. } => true,
        // Wrong metadata is wrong on every path.
        TransportError::BadMetadata { .. }
        | TransportError::OutdatedMetadata { .. }
        | TransportError::OwnIdentity { .. }
        | TransportError::IdentityConflict { .. }
        | TransportError::NotRegistered { .. } => false,
        // Decided again by the caller.
        TransportError::Reconnected { .. } => false,
        // The target's memory may be another owner's by now.
        TransportError::OfferEnded { .. } | TransportError::Stale => false,
        // The bytes are in place.
        TransportError::NotificationFailed { .. } => false,
        // Nothing is left.
        TransportError::NoPath { .. } | TransportError::Closed => false,
        // Errors that are not known here.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use nixl_device::SharedError;
    use nixl_ops::EndedOffer;

    use super::*;

    fn errors() -> Vec<(TransportError, bool)> {
        let name = || "peer".to_owned();
        vec![
            (
                TransportError::Engine {
                    engine: "nixl",
                    call: "post",
                    reason: SharedError::text("why"),
                },
                true,
            ),
            (TransportError::PeerGone { name: name() }, true),
            (TransportError::PeerBusy { name: name() }, true),
            (TransportError::UnknownPeer { name: name() }, true),
            (TransportError::Reconnected { name: name() }, false),
            (TransportError::BadMetadata { reason: SharedError::text("why") }, false),
            (TransportError::OutdatedMetadata { name: name() }, false),
            (TransportError::OwnIdentity { name: name() }, false),
            (TransportError::IdentityConflict { name: name() }, false),
            (TransportError::NotRegistered { name: name(), index: 0, len: 1 }, false),
            (TransportError::NotificationFailed { reason: Cow::Borrowed("why") }, false),
            (TransportError::OfferEnded { why: EndedOffer::OwnerGone }, false),
            (TransportError::Stale, false),
            (TransportError::NoPath { rejected: vec![] }, false),
            (TransportError::Closed, false),
        ]
    }

    #[test]
    fn errors_of_a_path_are_retried_until_the_target_may_have_been_told() {
        for (error, of_the_path) in errors() {
            assert_eq!(may_retry(false, &error), of_the_path, "{error}");
            assert!(!may_retry(true, &error), "{error}");
        }
    }
}
