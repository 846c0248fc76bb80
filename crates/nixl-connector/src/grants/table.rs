//! The table of an export's grants.

use std::ops::Deref;
use std::sync::Arc;

use nixl_descriptor::layout::Layout;
use nixl_ops::{GrantError, GrantTable, GrantTableOptions};

use super::export::ExportOptions;
use crate::Connector;

/// A table that keeps its words for the next export once it is closed or dropped, also before it has an export: late readers of a
/// closed export reach the words that it has taken over.
pub(super) struct ExportTable {
    connector: Connector,
    table: Arc<GrantTable>,
}

impl ExportTable {
    /// With the words of a closed export, if there are some.
    pub(super) fn new(
        connector: &Connector,
        layouts: &[Layout],
        options: &ExportOptions,
    ) -> Result<Self, GrantError> {
        // Before words are taken: none are lost with an error.
        GrantTable::check_layouts(layouts.len())?;
        let connection = connector.connection();
        let clock = Arc::clone(connection.clock());
        let options = GrantTableOptions::default().with_slots(options.room());
        let table = match connection.take_words(options.slots().get()) {
            Some(words) => GrantTable::with_words(layouts, words, options, clock),
            None => GrantTable::new(layouts, options, clock),
        };
        Ok(Self { connector: connector.clone(), table: Arc::new(table?) })
    }

    /// Ends all grants, and refuses further ones.
    pub(super) fn close(&self) {
        let words = self.table.close();
        words.into_iter().for_each(|words| self.connector.connection().keep_words(words));
    }
}

impl Deref for ExportTable {
    type Target = Arc<GrantTable>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl Drop for ExportTable {
    fn drop(&mut self) {
        // The words are the parent's in a forked child.
        if self.connector.check_process().is_ok() {
            self.close();
        }
    }
}
