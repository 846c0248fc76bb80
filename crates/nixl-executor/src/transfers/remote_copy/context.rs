//! The parts of a connection that remote copies use.

use std::fmt;
use std::sync::Arc;

use crate::facts::LocalFacts;
use crate::local::CopyContext;
use crate::remote_memory::ImportCache;

/// What remote copies need: open imports, copy workers and local facts.
pub(crate) struct RemoteCopyContext {
    pub(crate) imports: Arc<ImportCache>,
    pub(crate) context: CopyContext,
    pub(crate) facts: Arc<LocalFacts>,
}

impl fmt::Debug for RemoteCopyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCopyContext").field("imports", &self.imports).finish_non_exhaustive()
    }
}
