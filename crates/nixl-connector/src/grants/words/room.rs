//! Destination buffer of the reads of words.

use std::sync::Arc;

use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases, Region, Registration};
use nixl_ops::GrantWords;

use super::persistent_requests::{PersistentRequests, WINDOW};
use super::runs::Runs;
use crate::{Connector, ConnectorError};

/// Room for the words of some slots: registered, and leased for writing.
pub(super) struct Room {
    /// Field order: requests go before the memory that they bring words to.
    pub(super) persistent: PersistentRequests,
    pub(super) registrations: Arc<[Registration]>,
    pub(super) region: Region,
    pub(super) leased: Leased,
}

impl Room {
    const BYTES: usize = Runs::MOST_SLOTS * GrantWords::SLOT_BYTES;

    pub(super) async fn new(connector: &Connector) -> Result<Self, ConnectorError> {
        const { assert!(PersistentRequests::WINDOWS * WINDOW as usize <= Runs::MOST_SLOTS) };
        let region = connector.buffer(Self::BYTES)?;
        let list = DescriptorList::from(region.whole());
        let registrations = connector.connection().register(&list).await?;
        let leased = Leases::acquire_list(list, LeaseMode::Write)?;
        Ok(Self { persistent: PersistentRequests::default(), registrations, region, leased })
    }
}
