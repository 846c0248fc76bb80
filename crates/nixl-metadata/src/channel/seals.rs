//! Sealing and opening of what a channel carries, where it has seals, and the checks of what it returns.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{ChannelError, ChannelOptions, Entry, WorkerName};
#[cfg(feature = "seal")]
use crate::seal::{Binding, Seals};

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
) -> Result<(Bytes, Option<String>), ChannelError> {
    #[cfg(feature = "seal")]
    if let Some(seals) = options.sealed_by() {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let sealed = seals.seal(Binding::Request(to, Some(&id)), &payload)?;
        options.fits(sealed.len())?;
        return Ok((sealed, Some(id)));
    }
    #[cfg(not(feature = "seal"))]
    let _ = to;
    options.fits(payload.len())?;
    Ok((payload, None))
}

/// A request to this worker, and its id.
pub(crate) fn open_request(
    options: &ChannelOptions,
    to: &WorkerName,
    payload: Bytes,
) -> Result<(Bytes, Option<String>), ChannelError> {
    options.fits(payload.len())?;
    #[cfg(feature = "seal")]
    if let Some(seals) = options.sealed_by() {
        let (payload, id) = seals.open_request(to, &payload)?;
        return Ok((payload, Some(id)));
    }
    #[cfg(not(feature = "seal"))]
    let _ = to;
    Ok((payload, None))
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
