//! Admission of tickets: the refusals before the first byte moves.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nixl_metadata::{Rights, Ticket};
use nixl_ops::{EndedOffer, GrantWords, OperationOptions, TransportError};

use super::check::{Words, check_of, check_of_layers, refused};
use super::{Imported, RemoteExport};
use crate::ConnectorError;
#[cfg(doc)]
use crate::admission::Admitted;
use crate::grants::error::TicketError;

impl RemoteExport {
    /// The layers to read, of a ticket that is for this export.
    pub(super) fn admit(
        &self,
        ticket: &Ticket,
        rights: Rights,
        layers: Option<Range<usize>>,
    ) -> Result<Range<usize>, TicketError> {
        let Imported { metadata, layouts, .. } = &*self.0;
        let (import, layout, slot) = (metadata.export(), ticket.layout(), ticket.slot());
        if ticket.export() != import {
            return Err(TicketError::OtherExport { ticket: ticket.export(), import });
        }
        if usize::from(layout) >= layouts.len() {
            return Err(TicketError::NoSuchLayout { layout, layouts: layouts.len() });
        }
        let slots = metadata.words().slots;
        if rights == Rights::Read && ticket.rights() == rights && slot >= slots {
            return Err(TicketError::NoSuchSlot { slot, slots });
        }
        if ticket.rights() != rights {
            return Err(TicketError::OtherRights { writing: rights == Rights::Read });
        }
        let granted = ticket.layers();
        let all = usize::from(granted.start)..usize::from(granted.end);
        let layers = layers.unwrap_or_else(|| all.clone());
        if layers.is_empty() || layers.start < all.start || layers.end > all.end {
            let Range { start, end } = layers;
            let (first, last) = (granted.start, granted.end);
            return Err(TicketError::Layers { start, end, first, last });
        }
        Ok(layers)
    }

    /// Whether a time of the owner's, in milliseconds since 1970, is over by this side's clock.
    pub(super) fn is_over(&self, unix_millis: u64) -> bool {
        let now = self.0.connector.connection().clock().unix_time();
        now >= Duration::from_millis(unix_millis)
    }

    /// Admits a ticket whose time is not over, or was renewed: until when, since 1970. Where the words are not mapped, looking for
    /// that takes two requests of the engine's, within the time of `options`.
    pub(super) async fn admit_in_time(
        &self,
        ticket: &Ticket,
        options: OperationOptions,
    ) -> Result<Duration, ConnectorError> {
        let until = ticket.expires_unix_millis();
        if !self.is_over(until) {
            return Ok(Duration::from_millis(until));
        }
        let Imported { connector, metadata, words, .. } = &*self.0;
        let (check, slots) = (check_of(ticket), metadata.words().slots);
        let until = match words {
            Words::Own(own) => self.own(own)?.table().words().renewed_until(&check),
            Words::Mapped(words) => check.renewed_until(words, slots),
            Words::Engine(_) => {
                let driver = connector.connection().driver();
                let look = async {
                    let slot = GrantWords::renewed_slot(check.slot(), slots);
                    let ([.., until], _) = connector.read_words(metadata, slot, options).await?;
                    // It is of this grant if that stands after it was read.
                    let words = connector.read_words(metadata, check.slot(), options).await?;
                    let ([word, digest, ready, _], _) = words;
                    Ok::<_, ConnectorError>(check.compare([word, digest, ready]).map(|()| until))
                };
                driver.with_timeout(options, look).await?.0?
            }
        };
        match until {
            Ok(until) if !self.is_over(until) => Ok(Duration::from_millis(until)),
            // An altered ticket has no time that counts.
            Ok(_) | Err(_) => Err(TicketError::Expired.into()),
        }
    }

    /// Admits a ticket again, before a request: the read may have waited for its turn. Returns the options of the request, which
    /// ends no later than the owner waits for readers that began in time, and the check of its [post](Admitted::checked).
    pub(super) async fn admit_post(
        &self,
        ticket: &Ticket,
        layers: &Range<usize>,
        options: OperationOptions,
    ) -> Result<
        (OperationOptions, impl Fn() -> Result<(), TransportError> + Send + use<>),
        ConnectorError,
    > {
        let until = self.admit_in_time(ticket, options).await?;
        let connection = self.0.connector.connection();
        let last = until.saturating_add(connection.skew());
        let (clock, check) = (Arc::clone(connection.clock()), check_of_layers(ticket, layers));
        let words = match &self.0.words {
            Words::Mapped(words) => Some(Arc::clone(words)),
            _ => None,
        };
        let options = options.within(last.saturating_sub(clock.unix_time()));
        // Its owner waits for later posts no more.
        let may_post = move || match &words {
            Some(words) => check.check_mapped(words).map_err(refused),
            None if clock.unix_time() >= until => {
                Err(TransportError::OfferEnded { why: EndedOffer::Expired })
            }
            None => Ok(()),
        };
        Ok((options, may_post))
    }
}
