//! Entries of workers.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Incarnation, WorkerName};

/// The bytes that a worker publishes under its name: the metadata of its exports, for example.
///
/// `Debug` shows the length only: the holder of metadata can read or write the memory that it names.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    name: WorkerName,
    incarnation: Incarnation,
    payload: Bytes,
}

impl Entry {
    /// The entry of a worker's start.
    #[must_use]
    pub fn new(name: WorkerName, incarnation: Incarnation, payload: impl Into<Bytes>) -> Self {
        Self { name, incarnation, payload: payload.into() }
    }

    /// The worker's name.
    #[must_use]
    pub const fn name(&self) -> &WorkerName {
        &self.name
    }

    /// Which start of the worker it is of.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The bytes.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("incarnation", &self.incarnation)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// A line of a list of workers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listed {
    name: WorkerName,
    incarnation: Incarnation,
}

impl Listed {
    pub(crate) const fn new(name: WorkerName, incarnation: Incarnation) -> Self {
        Self { name, incarnation }
    }

    /// The worker's name.
    #[must_use]
    pub const fn name(&self) -> &WorkerName {
        &self.name
    }

    /// Which start of the worker has an entry.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}
