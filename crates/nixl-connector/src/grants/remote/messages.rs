//! Messages about grants: the reader is done, or requests more time.

use nixl_metadata::{Rights, Ticket};
use nixl_ops::{GrantMessage, GrantMessageKind};

use super::check::Words;
use super::{Imported, RemoteExport};
use crate::ConnectorError;
use crate::connector::token_of_ticket;
use crate::grants::error::TicketError;
use crate::grants::write::key_of;

impl RemoteExport {
    /// Notifies the owner that this import is done with a ticket: its grant ends once all its readers have done so, and its memory may
    /// be freed then. Saying it again changes nothing. Reads by the ticket are [`Stale`](crate::TransportError::Stale) from here
    /// on, and those that are under way, also cancelled ones, are waited for.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the ticket is for another export, reads by it are under way for longer than the
    /// [default time](crate::ConnectorBuilder::timeout), or the owner cannot be reached. Without an error the message may be lost
    /// with its owner; the grant then ends by its time to live.
    pub async fn done(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        let (export, import) = (ticket.export(), self.0.metadata.export());
        if export != import {
            return Err(TicketError::OtherExport { ticket: export, import }.into());
        }
        let Imported { connector, under_way, .. } = &*self.0;
        connector.check_process()?;
        let generation = ticket.generation();
        // Usually none is under way, and no timer is needed.
        let now = connector.connection().unix_millis();
        if !under_way.done(generation, ticket.expires_unix_millis(), now) {
            connector
                .within_timeout(async {
                    under_way.ended(generation).await;
                    Ok(())
                })
                .await?;
        }
        self.tell_owner(ticket, GrantMessageKind::Done).await
    }

    /// Requests that the owner restarts the time to live of a ticket's grant, from the arrival of the message. Reads by the ticket go on
    /// beyond its own time once that is so, which each looks up by the words of the grant; a write is claimed, which decides. A peer
    /// whose transfers may take longer than the time to live asks well before its end, and again: an owner that awaits nothing takes
    /// messages once a second.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the ticket is for another export, or the owner cannot be reached. Without an error the message may be
    /// lost with its owner, come too late, or find an owner of an earlier release, which ignores it.
    pub async fn renew(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        self.admit(ticket, ticket.rights(), None)?;
        match ticket.rights() {
            Rights::Read => self.tell_owner(ticket, GrantMessageKind::Renew).await,
            Rights::Write => self.renew_written(ticket).await,
        }
    }

    async fn renew_written(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        let Imported { connector, words, peer, .. } = &*self.0;
        connector.check_process()?;
        match (words, peer) {
            (Words::Own(own), _) => self.own(own)?.renew_written(ticket),
            (_, None) => Ok(()),
            (_, Some(peer)) => {
                let key = key_of(ticket.token())?;
                let token = token_of_ticket(&key).get();
                let to = (peer, self.0.mailbox.clone());
                let options = connector.default_options();
                let driver = connector.connection().driver();
                Ok(driver.ask_to_renew_offer((&key, token), to, options).await?)
            }
        }
    }

    async fn tell_owner(
        &self,
        ticket: &Ticket,
        kind: GrantMessageKind,
    ) -> Result<(), ConnectorError> {
        let Imported { connector, words, peer, .. } = &*self.0;
        connector.check_process()?;
        let message = GrantMessage::about(ticket, self.0.reader, kind);
        match (words, peer) {
            (Words::Own(own), _) => match (own.upgrade(), kind) {
                (Some(own), _) => Ok(own.table().receive(&message)?),
                // It has ended with its export.
                (None, GrantMessageKind::Done) => Ok(()),
                (None, _) => self.own(own).map(drop),
            },
            (_, None) => Ok(()),
            (_, Some(peer)) => {
                let to = (peer, self.0.mailbox.clone());
                let driver = connector.connection().driver();
                let options = connector.default_options();
                Ok(driver.send_grant_message(&message, to, options).await?)
            }
        }
    }
}
