//! Sealing and opening of what a channel carries, where it has seals, and the checks of what it returns.

#[cfg(feature = "seal")]
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "seal")]
use nixl_device::locks::lock;
use tokio::time::Instant;

#[cfg(feature = "seal")]
use super::inbox::MAX_WITHIN;
use super::{ChannelError, ChannelOptions, Entry, WorkerName};
#[cfg(feature = "seal")]
use crate::seal::{Binding, SealError, Seals};

/// An entry as it travels.
fn seal_entry(options: &ChannelOptions, entry: &Entry) -> Result<Entry, ChannelError> {
    #[cfg(feature = "seal")]
    if let Some(seals) = options.sealed_by() {
        let payload =
            seals.seal(Binding::Entry(entry.name(), entry.incarnation()), entry.payload())?;
        options.fits(payload.len())?;
        return Ok(Entry::new(entry.name().clone(), entry.incarnation(), payload));
    }
    options.fits(entry.payload().len())?;
    Ok(entry.clone())
}

/// The terms of a seal that is made now: the number of its keys, and how long it holds. None where nothing is sealed.
fn terms(options: &ChannelOptions) -> Option<(u64, Duration)> {
    #[cfg(feature = "seal")]
    return options.sealed_by().map(Seals::terms);
    #[cfg(not(feature = "seal"))]
    {
        let _ = options;
        None
    }
}

/// An entry as it travels, for as long as it is renewed.
pub(crate) struct Travelling {
    pub(crate) sealed: Entry,
    terms: Option<(u64, Duration)>,
    since: Instant,
}

impl Travelling {
    pub(crate) fn new(options: &ChannelOptions, entry: &Entry) -> Result<Self, ChannelError> {
        let terms = terms(options);
        Ok(Self { sealed: seal_entry(options, entry)?, terms, since: Instant::now() })
    }

    /// Seals anew after a third of the time for which a seal holds, and by other keys at once.
    pub(crate) fn renew(
        &mut self,
        options: &ChannelOptions,
        entry: &Entry,
    ) -> Result<(), ChannelError> {
        let is_due = self.terms.is_some_and(|(_, valid)| self.since.elapsed() >= valid / 3);
        if is_due || self.terms != terms(options) {
            *self = Self::new(options, entry)?;
        }
        Ok(())
    }

    /// The pause before the next renewal of an entry that lives so long.
    pub(crate) fn pause(&self, life: Duration) -> Duration {
        let holds = self.terms.map_or(life, |(_, valid)| valid.min(life));
        // Seals that hold for no time make no busy loop.
        (holds / 3).max(Duration::from_millis(10))
    }
}

/// The entry of a worker, from what came.
pub(crate) fn open_entry(
    options: &ChannelOptions,
    wanted: &WorkerName,
    entry: Entry,
) -> Result<Entry, ChannelError> {
    if entry.name() != wanted {
        return Err(ChannelError::WrongEntry {
            wanted: wanted.clone(),
            found: entry.name().clone(),
        });
    }
    options.fits(entry.payload().len())?;
    #[cfg(feature = "seal")]
    if let Some(seals) = options.sealed_by() {
        let binding = Binding::Entry(entry.name(), entry.incarnation());
        let payload = seals.open(binding, entry.payload())?;
        return Ok(Entry::new(entry.name().clone(), entry.incarnation(), payload));
    }
    Ok(entry)
}

/// A request as it travels, and the id that its reply has to have.
pub(crate) fn seal_request(
    options: &ChannelOptions,
    to: &WorkerName,
    payload: Bytes,
    within: Duration,
) -> Result<(Bytes, Option<String>), ChannelError> {
    #[cfg(feature = "seal")]
    if let Some(seals) = options.sealed_by() {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let sealed = seals.seal_for(within, Binding::Request(to, Some(&id)), &payload)?;
        options.fits(sealed.len())?;
        return Ok((sealed, Some(id)));
    }
    let _ = (to, within);
    options.fits(payload.len())?;
    Ok((payload, None))
}

/// A request to this worker that it has not had before, and its id.
pub(crate) fn open_request(
    options: &ChannelOptions,
    to: &WorkerName,
    had: &Mutex<Had>,
    payload: Bytes,
) -> Result<(Bytes, Option<String>), ChannelError> {
    options.fits(payload.len())?;
    #[cfg(feature = "seal")]
    if let Some(seals) = options.sealed_by() {
        let (payload, id, left) = seals.open_request(to, &payload)?;
        lock(had).add(&id, left)?;
        return Ok((payload, Some(id)));
    }
    let _ = (to, had);
    Ok((payload, None))
}

/// The sealed requests that an inbox has had, as long as their seals hold.
#[derive(Debug, Default)]
pub(crate) struct Had {
    #[cfg(feature = "seal")]
    ends: HashMap<u128, Instant>,
}

#[cfg(feature = "seal")]
impl Had {
    /// The most that are remembered.
    const MOST: usize = 1 << 16;

    fn add(&mut self, id: &str, left: Duration) -> Result<(), ChannelError> {
        let id = uuid::Uuid::try_parse(id).map_err(|_| SealError::BadClaim { claim: "jti" })?;
        let now = Instant::now();
        if self.ends.len() >= Self::MOST {
            self.ends.retain(|_, ends| *ends > now);
        }
        if self.ends.get(&id.as_u128()).is_some_and(|ends| *ends > now) {
            return Err(SealError::Replayed.into());
        }
        if self.ends.len() >= Self::MOST {
            let what = "the record of requests that were delivered".to_owned();
            return Err(ChannelError::Full { what });
        }
        // Requests wait for an hour at most, and so do their seals, but for those of other builds.
        let ends = now.checked_add(left).unwrap_or(now + MAX_WITHIN);
        self.ends.insert(id.as_u128(), ends);
        Ok(())
    }
}

/// A reply as it travels.
pub(crate) fn seal_reply(
    options: &ChannelOptions,
    to: &WorkerName,
    id: Option<&str>,
    payload: Bytes,
) -> Result<Bytes, ChannelError> {
    #[cfg(feature = "seal")]
    if let (Some(seals), Some(id)) = (options.sealed_by(), id) {
        let sealed = seals.seal(Binding::Reply(to, id), &payload)?;
        options.fits(sealed.len())?;
        return Ok(sealed);
    }
    let _ = (to, id);
    options.fits(payload.len())?;
    Ok(payload)
}

/// The reply to a request of this id.
pub(crate) fn open_reply(
    options: &ChannelOptions,
    to: &WorkerName,
    id: Option<&str>,
    payload: Bytes,
) -> Result<Bytes, ChannelError> {
    options.fits(payload.len())?;
    #[cfg(feature = "seal")]
    if let (Some(seals), Some(id)) = (options.sealed_by(), id) {
        return Ok(seals.open(Binding::Reply(to, id), &payload)?);
    }
    let _ = (to, id);
    Ok(payload)
}
