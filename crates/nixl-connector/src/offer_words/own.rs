//! The words of this connection's offers, registered when the first offer with a word is made.

use std::sync::{Arc, Mutex};

use nixl_descriptor::{DescriptorList, Registration};
use nixl_device::locks::lock;
use nixl_ops::{OfferWord, OfferWords};

use crate::ConnectorError;
use crate::connection::Connection;

/// The words, once an offer has one. They stay registered as long as the connection: late reads find words, not freed memory.
#[derive(Debug, Default)]
pub(crate) struct OwnWords {
    made: Mutex<Option<Registered>>,
}

#[derive(Clone, Debug)]
struct Registered {
    words: Arc<OfferWords>,
    registrations: Arc<[Registration]>,
}

impl OwnWords {
    /// A word for a new offer, and the registrations of its memory.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::NoOfferWord`] if all are in use; the system or the engine refuses the memory.
    pub(crate) async fn publish(
        &self,
        connection: &Connection,
    ) -> Result<(OfferWord, Arc<[Registration]>), ConnectorError> {
        let made = lock(&self.made).clone();
        let Registered { words, registrations } = match made {
            Some(made) => made,
            None => {
                let words = OfferWords::new()?;
                let list = DescriptorList::from(words.region().whole());
                let registrations = connection.register(&list).await?;
                // Another offer's may have been first.
                let mut made = lock(&self.made);
                made.get_or_insert(Registered { words, registrations }).clone()
            }
        };
        let reason = "all words of this connection are in use: end some of its offers first";
        let word = words.publish().ok_or(ConnectorError::NoOfferWord { reason })?;
        Ok((word, registrations))
    }
}
