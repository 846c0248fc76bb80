//! The capability by which the initiator notifies the target of completion.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::{Field, MetadataError, name};

/// The text that the completion notification carries: 1 to 200 bytes without control characters.
///
/// Its holder can claim that the operation is complete, so `Debug` does not show it. Clones share the text. It
/// borrows as `str` with the same hash, so a map from keys to waiters can be asked with the payload of a notification.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NotificationKey(Arc<str>);

impl NotificationKey {
    /// The longest key, in bytes. Some engines drop longer notifications.
    pub const MAX_BYTES: usize = 200;

    /// Takes a key that a peer made.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Empty`], [`MetadataError::TooLarge`] or [`MetadataError::BadName`].
    pub fn new(text: &str) -> Result<Self, MetadataError> {
        name::check(Field::NotificationKey, text, Self::MAX_BYTES)?;
        Ok(Self(text.into()))
    }

    /// Makes a new random key: a version 4 UUID, as Dynamo makes them.
    #[must_use]
    pub fn random() -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        Self((*uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text)).into())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as the payload of the notification.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Borrow<str> for NotificationKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NotificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NotificationKey(<redacted>)")
    }
}
