//! Seals: PASETO v4 tokens around entries, requests and replies of channels.
//!
//! | token | gives | keys (PASERK) |
//! |---|---|---|
//! | `v4.local` | secrecy and origin among those who have the key | `k4.local.…`, of all |
//! | `v4.public` | origin, no secrecy | `k4.secret.…` of the worker, `k4.public.…` of the others |
//!
//! The claims are PASETO's: `aud` is the audience, `sub` the worker, `exp` the expiry, `iat` the time of sealing, `jti` the id of a
//! request; `use` is an entry, a request or a reply, `inc` the incarnation, `data` the bytes in base64. The footer
//! has the key's PASERK id in `kid`, by which an opener chooses among its keys. To replace a key, give the new one to the openers,
//! then to the sealers, then remove the old one: [`Seals::replace`] does so under channels, published entries, watches and inboxes.
//!
//! # Replay
//!
//! A seal is bound to its use, its worker, its incarnation and its audience, and ends by its expiry. An entry is refused under
//! another name or incarnation; a reply, for another request. A request holds for as long as its sender waits, and is refused by an
//! inbox that has had it. Within its time, an entry that was withdrawn can be shown again, and a request can be shown to another
//! inbox of the worker: a later one, or over NATS that of another start.
//!
//! # Origin
//!
//! Each holder of a sealing key can seal entries and replies of any worker, unless the opener's key is [of one](OpenKey::of_worker).

mod claims;
mod error;
mod key;
mod seals;

pub use error::SealError;
pub use key::{OpenKey, SealKey};
pub use seals::{Opener, Sealer, Seals};

pub(crate) use claims::Binding;

/// Opens bytes as a seal by fixed keys, and as claims that were sealed by them.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub fn fuzz(input: &[u8]) {
    let key = FUZZ_KEY;
    let opened = || -> Result<_, SealError> {
        let sealer = Sealer::new(SealKey::from_paserk(key)?, "a", std::time::Duration::MAX)?;
        let seals = Seals::new(sealer, Opener::new([OpenKey::from_paserk(key)?], "a")?);
        let worker = crate::channel::WorkerName::new("w").map_err(|_| SealError::BadKey)?;
        let as_claims = seals.open_request(&worker, &seals.sealed_claims(input)?);
        seals.open_request(&worker, input).or(as_claims)
    };
    let _refused = (opened(), SealKey::from_paserk(&String::from_utf8_lossy(input)));
}

/// 32 bytes of zeros.
#[cfg(any(test, fuzzing))]
const FUZZ_KEY: &str = "k4.local.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_of_the_fuzz_target_is_one() {
        assert!(super::OpenKey::from_paserk(super::FUZZ_KEY).is_ok());
    }
}
