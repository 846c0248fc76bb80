//! The one rule for every text that peers exchange.

use crate::limits::at_most;
use crate::{Field, MetadataError};

/// Refuses a text that is empty, too long, or holds control characters: a NUL would cut it short in the engine's C
/// strings, and a line feed would forge lines in logs.
pub(crate) fn check(field: Field, text: &str, limit: usize) -> Result<(), MetadataError> {
    if text.is_empty() {
        return Err(MetadataError::Empty { field });
    }
    at_most(field, text.len(), limit)?;
    if text.chars().any(char::is_control) {
        return Err(MetadataError::BadName { field });
    }
    Ok(())
}
