//! The check of every text that peers exchange.

use crate::limits::at_most;
use crate::{Field, MetadataError};

/// Refuses a text that is empty, too long, or holds control or format characters: a NUL would cut it short in the engine's C
/// strings, a line feed would forge lines in logs, and a text with others would look like another in them.
pub(crate) fn check(field: Field, text: &str, limit: usize) -> Result<(), MetadataError> {
    if text.is_empty() {
        return Err(MetadataError::Empty { field });
    }
    at_most(field, text.len(), limit)?;
    if text.chars().any(|c| c.is_control() || is_format(c)) {
        return Err(MetadataError::BadName { field });
    }
    Ok(())
}

/// Unicode's format characters and its separators of lines and paragraphs (categories Cf, Zl and Zp), most of which are invisible.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'
        | '\u{e0020}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_look_like_others_are_refused() {
        let name = |text: &str| check(Field::AgentName, text, 64);
        for text in ["worker-0", "naïve", "工作", "a b"] {
            assert_eq!(name(text), Ok(()), "{text:?}");
        }
        for c in [
            '\u{202e}',
            '\u{200b}',
            '\u{200d}',
            '\u{2066}',
            '\u{feff}',
            '\u{2028}',
            '\u{ad}',
            '\u{e0041}',
        ] {
            let field = Field::AgentName;
            assert_eq!(name(&format!("a{c}b")), Err(MetadataError::BadName { field }), "{c:?}");
        }
    }
}
