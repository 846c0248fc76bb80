//! Uses of pinned host memory by byte range, so that the host and a device do not race on it.
//!
//! Devices may overlap with each other: their order is the streams' business, and such a race gives wrong bytes, not
//! undefined behaviour. The host may not overlap with a writer.

use crate::locks::lock;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What is done with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    HostRead,
    HostWrite,
    DeviceRead,
    DeviceWrite,
}

impl Use {
    const fn by_host(self) -> bool {
        matches!(self, Self::HostRead | Self::HostWrite)
    }

    const fn writes(self) -> bool {
        matches!(self, Self::HostWrite | Self::DeviceWrite)
    }

    const fn conflicts(self, other: Self) -> bool {
        (self.by_host() || other.by_host()) && (self.writes() || other.writes())
    }
}

#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Active>);

#[derive(Debug, Default)]
struct Active {
    next: u64,
    entries: Vec<(u64, Range<usize>, Use)>,
}

impl Uses {
    /// Takes note of a use until the guard is dropped. `None` if it conflicts with another one.
    pub(super) fn begin(self: &Arc<Self>, range: Range<usize>, kind: Use) -> Option<UseGuard> {
        let mut active = lock(&self.0);
        let conflict = active.entries.iter().any(|(_, other, other_kind)| {
            kind.conflicts(*other_kind) && range.start < other.end && other.start < range.end
        });
        if conflict {
            return None;
        }
        let id = active.next;
        active.next += 1;
        active.entries.push((id, range, kind));
        Some(UseGuard { uses: Arc::clone(self), id })
    }
}

/// A use that goes on.
#[derive(Debug)]
pub(super) struct UseGuard {
    uses: Arc<Uses>,
    id: u64,
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        let mut active = lock(&self.uses.0);
        if let Some(index) = active.entries.iter().position(|(id, ..)| *id == self.id) {
            active.entries.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Use; 4] = [Use::HostRead, Use::HostWrite, Use::DeviceRead, Use::DeviceWrite];

    proptest! {
        /// Against the rule spelt out byte by byte.
        #[test]
        fn no_byte_is_raced_on(
            steps in proptest::collection::vec((0..16_usize, 1..8_usize, 0..4_usize, any::<bool>()), 1..40),
        ) {
            let uses = Arc::new(Uses::default());
            let mut held: Vec<(Range<usize>, Use, UseGuard)> = Vec::new();
            for (start, len, kind, release) in steps {
                let (range, kind) = (start..start + len, KINDS[kind]);
                let races = held.iter().any(|(other, other_kind, _)| {
                    let host = |kind| matches!(kind, Use::HostRead | Use::HostWrite);
                    let writes = |kind| matches!(kind, Use::HostWrite | Use::DeviceWrite);
                    range.clone().any(|byte| other.contains(&byte))
                        && (host(kind) || host(*other_kind))
                        && (writes(kind) || writes(*other_kind))
                });
                let guard = uses.begin(range.clone(), kind);
                prop_assert_eq!(guard.is_none(), races);
                held.extend(guard.map(|guard| (range, kind, guard)));
                if release && !held.is_empty() {
                    held.swap_remove(start % held.len());
                }
            }
            held.clear();
            prop_assert!(uses.begin(0..100, Use::HostWrite).is_some());
        }
    }
}
