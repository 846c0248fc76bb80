//! Waits for layers that are not ready.
//!
//! The reader sends one message for each grant. The owner answers with the number of ready layers at each rise, and at the end of the
//! grant. The words of the grant decide: a wait reads them when it begins and after each answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_metadata::{Rights, Ticket};
use nixl_ops::{
    Driver, GrantMessage, GrantMessageKind, LayerWatch, OperationOptions, RecentMap, StaleRead,
    TransportError,
};

use super::check::{Words, check_of, refused};
use super::{Imported, RemoteExport};
use crate::ConnectorError;
#[cfg(doc)]
use crate::grants::error::TicketError;

/// The grants whose layers an import watches.
pub(super) struct WatchedGrants {
    by_generation: Mutex<RecentMap<u64, Arc<LayerWatch>>>,
}

impl WatchedGrants {
    /// Grants that are kept while no wait is for them. For others, the owner gets a new request.
    const MOST: usize = 256;

    fn watch(&self, generation: u64, make: impl FnOnce() -> Arc<LayerWatch>) -> Arc<LayerWatch> {
        let mut known = lock(&self.by_generation);
        if let Some(watch) = known.get(&generation) {
            return Arc::clone(watch);
        }
        let watch = make();
        let evicted = known.insert(generation, Arc::clone(&watch));
        drop(known);
        drop(evicted);
        watch
    }
}

impl Default for WatchedGrants {
    fn default() -> Self {
        Self { by_generation: Mutex::new(RecentMap::new(Self::MOST)) }
    }
}

impl RemoteExport {
    /// While a wait goes on, the owner is asked again, and the words are looked at, this often: messages may be lost, and an owner of
    /// an earlier release sends none.
    const LOOK_AGAIN: Duration = Duration::from_secs(1);

    /// Waits until the layers of a ticket below this one are ready, and returns how many are: those are read as their owner has filled
    /// them. Of a ticket of blocks that [some work](crate::GrantOptions::after) fills, until that is done.
    ///
    /// The owner sends a message then: nothing is polled, but for one poll a second in case the message is lost.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: [`TransportError::Stale`] once the grant has ended, [`TicketError::Expired`] once the ticket's time is over,
    /// [`TicketError::Layers`] for layers that it does not grant, [`OperationError::TimedOut`](crate::OperationError::TimedOut) after
    /// the [default time](crate::ConnectorBuilder::timeout), or the owner cannot be reached.
    pub async fn wait_ready(
        &self,
        ticket: &Ticket,
        layers: usize,
    ) -> Result<usize, ConnectorError> {
        self.wait_ready_with(ticket, layers, self.0.connector.default_options()).await
    }

    /// As [`wait_ready`](Self::wait_ready), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn wait_ready_with(
        &self,
        ticket: &Ticket,
        layers: usize,
        options: OperationOptions,
    ) -> Result<usize, ConnectorError> {
        let Imported { connector, .. } = &*self.0;
        connector.check_process()?;
        let first = usize::from(ticket.layers().start);
        self.admit(ticket, Rights::Read, Some(first..layers))?;
        let (ready, _) = self.ready_within(ticket, layers, options).await?;
        Ok(usize::try_from(ready).unwrap_or(usize::MAX))
    }

    /// Waits for layers of an admitted ticket. Returns how many are ready, and the options with the time that is left.
    pub(super) async fn ready_within(
        &self,
        ticket: &Ticket,
        layers: usize,
        options: OperationOptions,
    ) -> Result<(u64, OperationOptions), ConnectorError> {
        let driver = self.0.connector.connection().driver();
        let wait = self.ready_at_last(ticket, layers as u64, options);
        let (ready, options) = driver.with_timeout(options, wait).await?;
        Ok((ready?, options))
    }

    async fn ready_at_last(
        &self,
        ticket: &Ticket,
        asked: u64,
        options: OperationOptions,
    ) -> Result<u64, ConnectorError> {
        let Imported { connector, ready, watched, reader, .. } = &*self.0;
        let driver = connector.connection().driver();
        let (reader, generation) = (*reader, ticket.generation());
        let mut watch: Option<Arc<LayerWatch>> = None;
        loop {
            self.admit_in_time(ticket, options).await?;
            // Before the words are read: a message after that ends the wait.
            let heard = watch.as_ref().map_or(0, |watch| watch.messages());
            match self.stage(ticket, options).await? {
                Some(layers) if layers >= asked => {
                    ready.note(ticket, layers);
                    return Ok(layers);
                }
                // The grant of such a ticket was valid when it was made.
                None if !ticket.is_unfilled() => return Err(TransportError::Stale.into()),
                Some(_) | None => {}
            }
            let make = || driver.watch_layers(reader, generation);
            let watch = watch.get_or_insert_with(|| watched.watch(generation, make));
            if watch.is_to_be_asked(connector.connection().clock().now(), Self::LOOK_AGAIN) {
                self.ask_for_layers(ticket, watch).await?;
            }
            driver.await_grants();
            let hint = watch.hinted(heard, asked);
            let again = OperationOptions::new().timeout(Self::LOOK_AGAIN);
            match driver.with_timeout(again, hint).await {
                Ok(_) | Err(crate::OperationError::TimedOut { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How many layers are ready by the words; `None` while the grant is still to become valid.
    async fn stage(
        &self,
        ticket: &Ticket,
        options: OperationOptions,
    ) -> Result<Option<u64>, ConnectorError> {
        let (check, Imported { words, peer, .. }) = (check_of(ticket), &*self.0);
        let stage = match words {
            Words::Own(own) => self.own(own)?.table().words().stage(&check),
            Words::Mapped(words) => check.stage_mapped(words),
            Words::Engine(words) => {
                let Some(peer) = peer else { return Err(TransportError::Closed.into()) };
                let under_way = words.begin();
                let look = async || words.after(&under_way, (check.slot(), peer), options).await;
                match check.stage(look().await?) {
                    // The words may have been read while the slot was granted anew.
                    Err(StaleRead::NotGranted) => check.stage(look().await?),
                    stage => stage,
                }
            }
        };
        Ok(stage.map_err(refused)?)
    }

    async fn ask_for_layers(
        &self,
        ticket: &Ticket,
        watch: &Arc<LayerWatch>,
    ) -> Result<(), ConnectorError> {
        let Imported { connector, metadata, words, peer, reader, .. } = &*self.0;
        // Without a kind.
        let message = GrantMessage::about(ticket, *reader, GrantMessageKind::Done);
        if let Words::Own(own) = words {
            // If it has ended meanwhile, the words say so.
            let _ = self.own(own)?.table().watch_here(&message, watch);
            return Ok(());
        }
        let Some(peer) = peer else { return Err(TransportError::Closed.into()) };
        if metadata.peer().versions().claims() < Driver::LAYER_WAITS_SINCE {
            return Ok(());
        }
        let (connection, mailbox) = (connector.connection(), self.0.mailbox.clone());
        let agent = match &mailbox {
            Some(_) => None,
            None => Some(connection.local_metadata().await?),
        };
        let agent = agent.as_ref().map_or(&[][..], |agent| &agent.compressed()[..]);
        let (driver, options) = (connection.driver(), connector.default_options());
        Ok(driver.ask_for_layers(&message, agent, (peer, mailbox), options).await?)
    }
}
