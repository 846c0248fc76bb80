//! Errors of seals.

use nixl_device::Advice;

/// A message could not be sealed, or its seal does not hold. No variant quotes a key, a token or what is sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A text is no key of PASETO v4.
    #[error(
        "not a PASERK key of version 4 of this kind: expected `k4.local.`, `k4.secret.` or `k4.public.`, and base64"
    )]
    BadKey,
    /// A key that signs was to replace one that encrypts.
    #[error(
        "the new key signs and does not encrypt, on which the channel relies: give it a `k4.local.` key, or connect anew"
    )]
    NotSecret,
    /// The message is no token of PASETO v4, or damaged beyond recognition.
    #[error("the message is not sealed, or its seal is damaged")]
    NotSealed,
    /// The token's key is none of the opener's.
    #[error(
        "the seal was made by a key that this opener does not have: give it the key, or update the sealer"
    )]
    UnknownKey,
    /// The token was changed, or made by another key of the same id.
    #[error("the seal is forged or damaged")]
    Forged,
    /// The seal's time is over.
    #[error("the seal has expired: seal anew, or compare the clocks of the hosts")]
    Expired,
    /// The seal is of the future.
    #[error("the seal was made in the future: compare the clocks of the hosts")]
    NotYet,
    /// The seal is for others.
    #[error("the seal is for another audience")]
    OtherAudience,
    /// The seal is of another worker, another start of it, another request or another kind of message.
    #[error("the seal is of another {what}: its message was moved or replayed")]
    OtherPlace {
        /// What differs.
        what: &'static str,
    },
    /// The request was delivered before.
    #[error("the request was delivered before: its message was replayed")]
    Replayed,
    /// A claim is missing, or of another type.
    #[error("the claim `{claim}` of the seal is missing or malformed")]
    BadClaim {
        /// The claim.
        claim: &'static str,
    },
    /// The message is longer than a seal may be.
    #[error("a message of {len} bytes is longer than the {limit} of a seal")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

impl SealError {
    /// What to do about it: [`AskAgain`](Advice::AskAgain) for a seal whose time is over, which its owner renews, else
    /// [`GiveUp`](Advice::GiveUp).
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Expired | Self::NotYet => Advice::AskAgain,
            _ => Advice::GiveUp,
        }
    }
}
