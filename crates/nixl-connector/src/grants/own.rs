//! The exports of this process, whose readers in it need no engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nixl_device::PerProcess;
use nixl_device::locks::lock;
use nixl_metadata::ExportId;

use super::export::ExportShared;

/// Exports that are open, by their numbers.
#[derive(Default)]
pub(super) struct OwnExports {
    by_id: Mutex<HashMap<ExportId, Weak<ExportShared>>>,
}

pub(super) fn exports_of_this_process() -> &'static OwnExports {
    static EXPORTS: PerProcess<OwnExports> = PerProcess::new(OwnExports::default);
    EXPORTS.get()
}

impl OwnExports {
    pub(super) fn get(&self, id: ExportId) -> Option<Arc<ExportShared>> {
        self.lock().get(&id).and_then(Weak::upgrade)
    }

    pub(super) fn insert(&self, id: ExportId, export: &Arc<ExportShared>) {
        self.lock().insert(id, Arc::downgrade(export));
    }

    pub(super) fn remove(&self, id: ExportId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExportId, Weak<ExportShared>>> {
        lock(&self.by_id)
    }
}
