//! Published entries and their renewal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::backend::{Backend, Held};
use super::seals::Travelling;
use super::{ChannelError, ChannelOptions, Entry, Listed};

/// How an entry stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PublishState {
    /// The last renewal succeeded.
    Current,
    /// The last renewal failed; it is repeated. Once the channel is up, the entry is there again.
    Retrying(ChannelError),
    /// A later start of the worker, or a later call of `publish`, has replaced the entry, for good.
    Replaced(ChannelError),
}

/// A published entry, renewed until this is dropped, which withdraws it.
#[derive(Debug)]
pub struct Published {
    listed: Listed,
    state: watch::Receiver<PublishState>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Published {
    /// Whose entry it is.
    #[must_use]
    pub const fn listed(&self) -> &Listed {
        &self.listed
    }

    /// How the entry stands.
    #[must_use]
    pub fn state(&self) -> PublishState {
        self.state.borrow().clone()
    }

    /// Waits until a later start of the worker, or a later call of `publish`, has replaced the entry. It can be cancelled.
    pub async fn replaced(&mut self) {
        let replaced = |state: &PublishState| matches!(state, PublishState::Replaced(_));
        if self.state.wait_for(replaced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Withdraws the entry and waits for that, at most for the time of a call. Cancelled, it withdraws in the background.
    pub async fn withdraw(mut self) {
        self.stop.take();
        if let Some(task) = self.task.take() {
            let _panicked = task.await;
        }
    }

    /// Keeps an entry alive that was put.
    pub(crate) fn keep(
        backend: Arc<dyn Backend>,
        options: Arc<ChannelOptions>,
        entry: Entry,
        mut travelling: Travelling,
        mut held: Held,
        life: Duration,
    ) -> Self {
        let listed = Listed::new(entry.name().clone(), entry.incarnation());
        let (stop, mut stopped) = oneshot::channel();
        let (sender, state) = watch::channel(PublishState::Current);
        let owner = listed.clone();
        let task = tokio::spawn(async move {
            let mut pause = travelling.pause(life);
            // One that hangs leaves time for another, before the entry ends.
            let within = options.call().min((life / 3).max(SHORTEST));
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    () = sleep(pause) => {}
                }
                let renewed = async {
                    travelling.renew(&options, &entry)?;
                    backend.put(&travelling.sealed, options.life(), &mut held).await
                };
                let renewed = tokio::select! {
                    _ = &mut stopped => break,
                    renewed = timeout(within, renewed) => renewed,
                };
                let error = match renewed {
                    Ok(Ok(life)) => {
                        pause = travelling.pause(life);
                        sender.send_replace(PublishState::Current);
                        continue;
                    }
                    Ok(Err(
                        error @ (ChannelError::OlderIncarnation { .. }
                        | ChannelError::Republished { .. }),
                    )) => {
                        sender.send_replace(PublishState::Replaced(error));
                        return;
                    }
                    Ok(Err(error)) => error,
                    Err(_) => ChannelError::TimedOut {
                        place: backend.place().to_owned(),
                        call: "publish",
                        within,
                    },
                };
                sender.send_replace(PublishState::Retrying(error));
                pause = (options.life() / 3).clamp(SHORTEST, RETRY);
            }
            // At worst it ends by its life time.
            let _withdrawn = timeout(options.call(), backend.remove(&owner, &held)).await;
        });
        Self { listed, state, stop: Some(stop), task: Some(task) }
    }
}

/// The least time of an attempt to renew an entry, and of the pause after one that failed.
const SHORTEST: Duration = Duration::from_millis(100);

/// The longest pause between attempts to renew an entry.
const RETRY: Duration = Duration::from_millis(500);
