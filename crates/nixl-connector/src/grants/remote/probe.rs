//! The probes of an import: reads of the first bytes of each layout, after a check that the owner has the export open.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_metadata::ExportMetadata;
use nixl_ops::{Completion, Driver, EndedOffer, OperationOptions, PeerId, TransportError};

use super::check::{EXPORT_WORD, Words, closed};
use super::connected::{LastConnection, RECONNECTS, is_reconnected};
use crate::grants::read::Lists;
use crate::{Connector, ConnectorError};

/// The time from the begin of a check to the post of the probe after it. The owner of a closed export keeps its memory for
/// [longer](Driver::IMPORT).
const AFTER_LOOK: Duration = Driver::IMPORT.checked_div(2).unwrap();

/// The export was closed before the post.
const CLOSED: TransportError = TransportError::OfferEnded { why: EndedOffer::Revoked };

impl Connector {
    /// Reads some bytes of each part of a layout.
    pub(super) async fn probe(
        &self,
        (metadata, layout): (&ExportMetadata, usize),
        words: &Words,
        looked: &LastConnection,
    ) -> Result<(Completion, PeerId), ConnectorError> {
        let local = self.room_for(&Lists::probed(metadata, layout))?;
        let mut again = RECONNECTS;
        loop {
            let lists = Lists::of_probe(metadata, layout, local.clone())?;
            let probed = match words {
                Words::Mapped(words) => {
                    let (words, export) = (Arc::clone(words), metadata.export().value());
                    let options = self.default_options();
                    let is_open = move || match words.load(EXPORT_WORD) == Some(export) {
                        true => Ok(()),
                        false => Err(CLOSED),
                    };
                    self.read_silently(lists, (options, None), is_open).await
                }
                Words::Engine(_) => self.probe_after_look(metadata, lists, looked).await,
                Words::Own(_) => return Err(closed(metadata)),
            };
            match probed {
                Err(error) if is_reconnected(&error) && again > 0 => again -= 1,
                Err(error) if error.as_transport() == Some(&CLOSED) => {
                    return Err(closed(metadata));
                }
                probed => return probed,
            }
        }
    }

    /// Reads the words first. As on a new connection if the probe is late.
    async fn probe_after_look(
        &self,
        metadata: &ExportMetadata,
        lists: Lists,
        looked: &LastConnection,
    ) -> Result<(Completion, PeerId), ConnectorError> {
        let clock = Arc::clone(self.connection().clock());
        let post_by = clock.now().saturating_add(AFTER_LOOK);
        let options: OperationOptions = self.default_options();
        let ([.., export], connection) = self.read_words(metadata, 0, options).await?;
        if export != metadata.export().value() {
            return Err(closed(metadata));
        }
        looked.note(connection);
        let name = metadata.peer().agent_name().to_owned();
        let in_time = move || match clock.now() < post_by {
            true => Ok(()),
            false => Err(TransportError::Reconnected { name: name.clone() }),
        };
        self.read_silently(lists, (options, connection), in_time).await
    }

    /// A buffer of so many bytes for each descriptor.
    fn room_for(&self, lens: &[u64]) -> Result<DescriptorList, ConnectorError> {
        let region = self.buffer(lens.iter().sum::<u64>() as usize)?;
        let mut end = 0;
        let parts = lens.iter().map(|len| {
            let start = end;
            end += *len as usize;
            region.descriptor(start..end)
        });
        Ok(DescriptorList::try_from(parts.collect::<Result<Vec<_>, _>>()?)?)
    }
}
