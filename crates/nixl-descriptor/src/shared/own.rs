//! The files of shared memory that this process has made.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nixl_device::PerProcess;
use nixl_device::locks::lock;

use super::SharedName;
use crate::rendezvous;

/// The names and files of the memory that this process has made. Its number is no proof: those of its threads lead to its files too.
pub(crate) fn own() -> MutexGuard<'static, HashMap<[u8; 16], Weak<File>>> {
    static OWN: PerProcess<Mutex<HashMap<[u8; 16], Weak<File>>>> = PerProcess::new(Mutex::default);
    lock(OWN.get())
}

/// The file of this name, if this process has made it and has it open.
pub(crate) fn own_file(name: &[u8; 16]) -> Option<Arc<File>> {
    own().get(name)?.upgrade()
}

/// This process has the file no more.
pub(crate) fn disown(name: &SharedName) {
    let was_own = own().remove(&name.name);
    if was_own.is_some() {
        rendezvous::released(&name.name);
    }
}
