//! The rules that all channels share: sizes, deadlines, repetitions, seals, names.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nixl_device::Advice;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::backend::{Backend, Held};
use super::backoff::Backoff;
use super::inbox::{Delivery, MAX_WITHIN};
use super::seals::{Travelling, open_entry, open_reply, seal_request};
use super::watch::{AbortOnDrop, States};
use super::{
    Channel, ChannelError, ChannelOptions, Entry, Exposure, Inbox, Incarnation, Listed, Published,
    Watch, WorkerName,
};

/// A channel over a backend.
pub(crate) struct Shared {
    backend: Arc<dyn Backend>,
    options: Arc<ChannelOptions>,
    exposure: Exposure,
}

impl Shared {
    /// Refuses a backend over which metadata would travel in the clear.
    pub(crate) fn channel(
        backend: impl Backend,
        options: ChannelOptions,
        exposure: Exposure,
    ) -> Result<Arc<dyn Channel>, ChannelError> {
        options.allows(&exposure)?;
        Ok(Arc::new(Self { backend: Arc::new(backend), options: Arc::new(options), exposure }))
    }

    /// A channel that leaves neither the process nor anything in the clear.
    pub(crate) fn within_process(
        backend: impl Backend,
        options: ChannelOptions,
    ) -> Arc<dyn Channel> {
        let (backend, options) = (Arc::new(backend), Arc::new(options));
        Arc::new(Self { backend, options, exposure: Exposure::ThisHost })
    }

    /// Repeats a call until it succeeds, fails for good, or its time is over. What may have taken effect is repeated only
    /// `if_lost`.
    async fn repeat<T, F>(
        &self,
        call: &'static str,
        within: Duration,
        if_lost: bool,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, ChannelError>
    where
        F: Future<Output = Result<T, ChannelError>> + Send,
    {
        let now = Instant::now();
        let deadline = now.checked_add(within).unwrap_or(now + MAX_WITHIN);
        let mut pause = Duration::from_millis(10);
        let mut last = None;
        loop {
            let error = match timeout_at(deadline, attempt()).await {
                Ok(Err(error @ ChannelError::Down { .. })) => error,
                Ok(Err(error @ ChannelError::Lost { .. })) if if_lost => error,
                Ok(ended) => return ended,
                Err(_) => {
                    return Err(last.unwrap_or_else(|| ChannelError::TimedOut {
                        place: self.backend.place().to_owned(),
                        call,
                        within,
                    }));
                }
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            last = Some(error);
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("place", &self.backend.place())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Channel for Shared {
    fn exposure(&self) -> &Exposure {
        &self.exposure
    }

    async fn publish(&self, entry: Entry) -> Result<Published, ChannelError> {
        let travelling = Travelling::new(&self.options, &entry)?;
        let held = tokio::sync::Mutex::new(Held::new());
        let put = || async {
            self.backend.put(&travelling.sealed, self.options.life(), &mut *held.lock().await).await
        };
        let life = self.repeat("publish", self.options.call(), true, put).await?;
        let (backend, options) = (Arc::clone(&self.backend), Arc::clone(&self.options));
        Ok(Published::keep(backend, options, entry, travelling, held.into_inner(), life))
    }

    async fn fetch(&self, name: &WorkerName) -> Result<Entry, ChannelError> {
        let get = || self.backend.get(name);
        let entry = self.repeat("fetch", self.options.call(), true, get).await?;
        let entry = entry.ok_or_else(|| ChannelError::NotFound { name: name.clone() })?;
        open_entry(&self.options, name, entry)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError> {
        let list = || self.backend.list(prefix);
        let mut listed = self.repeat("list", self.options.call(), true, list).await?;
        listed.retain(|listed| listed.name().as_str().starts_with(prefix));
        listed.sort();
        Ok(listed)
    }

    async fn watch(&self, name: &WorkerName) -> Result<Watch, ChannelError> {
        let states = Arc::new(States::new(name.clone(), Arc::clone(&self.options)));
        let (ended, mut has_ended) = watch::channel(None);
        let (backend, name, reported) =
            (Arc::clone(&self.backend), name.clone(), Arc::clone(&states));
        let follower = tokio::spawn(async move {
            let mut backoff = Backoff::new();
            loop {
                let begun = Instant::now();
                let error = backend.follow(&name, &reported).await;
                if reported.is_empty() {
                    ended.send_replace(Some(error));
                } else {
                    reported.failed(error);
                }
                sleep(backoff.after(begun.elapsed())).await;
            }
        });
        let mut watch = states.watch(follower.abort_handle());
        let first = async {
            loop {
                tokio::select! {
                    () = watch.arrived() => return Ok(()),
                    _ = has_ended.changed() => {
                        let error = has_ended.borrow_and_update().clone();
                        if let Some(error) = error.filter(|e| e.advice() == Advice::GiveUp) {
                            return Err(error);
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(self.options.call(), first).await {
            Ok(Ok(())) => Ok(watch),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.late("watch", has_ended.borrow().clone())),
        }
    }

    async fn request(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError> {
        let within = within.min(MAX_WITHIN);
        let (sealed, id) = seal_request(&self.options, to, payload, within)?;
        let ask = || self.backend.request(from, to, sealed.clone(), within);
        let reply = self.repeat("request", within, false, ask).await?;
        open_reply(&self.options, to, id.as_deref(), reply)
    }

    async fn serve(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
    ) -> Result<Inbox, ChannelError> {
        let (delivery, requests) = Delivery::new(name.clone(), Arc::clone(&self.options));
        let (ended, mut has_ended) = watch::channel(None);
        let (backend, name, passes) = (Arc::clone(&self.backend), name.clone(), delivery.clone());
        let server = tokio::spawn(async move {
            let mut backoff = Backoff::new();
            loop {
                let begun = Instant::now();
                let error = backend.serve(&name, incarnation, &passes).await;
                // Refusals of an inbox that stood before are of servers and proxies that start.
                let is_last = match error {
                    ChannelError::OlderIncarnation { .. } => true,
                    _ => error.advice() == Advice::GiveUp && !passes.was_ready(),
                };
                ended.send_replace(Some(error));
                if is_last {
                    return;
                }
                sleep(backoff.after(begun.elapsed())).await;
            }
        });
        let server = AbortOnDrop(server.abort_handle());
        let ready = async {
            loop {
                tokio::select! {
                    () = delivery.is_ready() => return Ok(()),
                    changed = has_ended.changed() => {
                        let error = has_ended.borrow_and_update().clone();
                        if let Some(error) = error.filter(|e| e.advice() == Advice::GiveUp || changed.is_err()) {
                            return Err(error);
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(self.options.call(), ready).await {
            Ok(Ok(())) => Ok(Inbox { requests, ended: has_ended, _server: server }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.late("serve", has_ended.borrow().clone())),
        }
    }
}

impl Shared {
    /// The error of a call that got no answer in time.
    fn late(&self, call: &'static str, last: Option<ChannelError>) -> ChannelError {
        last.unwrap_or_else(|| ChannelError::TimedOut {
            place: self.backend.place().to_owned(),
            call,
            within: self.options.call(),
        })
    }
}
