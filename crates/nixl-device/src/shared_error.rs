//! Errors of any type that can be cloned, as the sources of errors that can.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// An error of any type that can be cloned. It dereferences to the error, and equals one with the same message.
///
/// It is no [`Error`] itself: the source of an error that holds it is the error inside, to which it can be
/// downcast.
#[derive(Clone)]
pub struct SharedError(Arc<dyn Error + Send + Sync>);

impl SharedError {
    /// An error that is this text alone.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Message { text: text.into(), source: None }))
    }

    /// An error with a text of its own and this source.
    pub fn with_source(text: impl Into<Cow<'static, str>>, source: impl Into<Self>) -> Self {
        Self(Arc::new(Message { text: text.into(), source: Some(source.into()) }))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Message {
    text: Cow<'static, str>,
    source: Option<SharedError>,
}

impl<E: Error + Send + Sync + 'static> From<E> for SharedError {
    fn from(error: E) -> Self {
        Self(Arc::new(error))
    }
}

impl Deref for SharedError {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for SharedError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for SharedError {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::ProcessError;

    #[test]
    fn the_source_is_the_error_inside() {
        let error = SharedError::from(io::Error::from_raw_os_error(24));
        let outer = ProcessError::Refused { pid: 1, error: error.clone() };
        let inside = outer.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(inside.raw_os_error(), Some(24));
        assert!(outer.to_string().contains(&inside.to_string()));
        assert_eq!(error, SharedError::from(io::Error::from_raw_os_error(24)));
        assert_ne!(error, SharedError::from(io::Error::from_raw_os_error(23)));
    }

    #[test]
    fn a_text_of_its_own_hides_no_source() {
        let error = SharedError::with_source("no file", io::Error::from_raw_os_error(24));
        assert_eq!(error.to_string(), "no file");
        assert!(error.source().unwrap().is::<io::Error>());
        assert!(SharedError::text("nothing").source().is_none());
    }
}
