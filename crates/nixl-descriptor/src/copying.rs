//! Exclusion between copies of memory as a whole and copies of its parts.
//!
//! An engine inside the process has a slab's registration, and copies to any of its bytes: also for an offer of a
//! buffer whose bytes belong to another buffer by now. The owner of that one copies under the traffic of its own region,
//! which the engine does not see. This lock, held for the copy alone and after everything else, keeps the two apart.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nixl_device::locks::{read, write};

/// One side of a copy: the whole, or a part of it.
#[derive(Debug)]
pub(crate) struct Copying {
    lock: Arc<RwLock<()>>,
    whole: bool,
}

/// Copies of the other kind wait until this is dropped.
#[derive(Debug)]
pub(crate) enum Entered<'a> {
    Whole { _guard: RwLockWriteGuard<'a, ()> },
    Part { _guard: RwLockReadGuard<'a, ()> },
}

impl Copying {
    pub(crate) fn whole() -> Self {
        Self { lock: Arc::default(), whole: true }
    }

    /// Parts do not overlap, so their copies do not wait for each other.
    pub(crate) fn part(&self) -> Self {
        Self { lock: Arc::clone(&self.lock), whole: false }
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        match self.whole {
            true => Entered::Whole { _guard: write(&self.lock) },
            false => Entered::Part { _guard: read(&self.lock) },
        }
    }

    /// Both sides of one copy, in an order that is the same for all copies, and a lock that they share once.
    pub(crate) fn enter_both<'a>(
        one: Option<&'a Self>,
        other: Option<&'a Self>,
    ) -> (Option<Entered<'a>>, Option<Entered<'a>>) {
        let (Some(a), Some(b)) = (one, other) else {
            return (one.or(other).map(Self::enter), None);
        };
        if Arc::ptr_eq(&a.lock, &b.lock) {
            return (Some(if a.whole { a } else { b }.enter()), None);
        }
        let (first, second) = match Arc::as_ptr(&a.lock) < Arc::as_ptr(&b.lock) {
            true => (a, b),
            false => (b, a),
        };
        (Some(first.enter()), Some(second.enter()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_copied_alone_and_parts_at_the_same_time() {
        let whole = Copying::whole();
        let (part, other) = (whole.part(), whole.part());
        let copies = (part.enter(), other.enter());
        assert!(whole.lock.try_write().is_err());
        drop(copies);
        let copy = whole.enter();
        assert!(part.lock.try_read().is_err());
        drop(copy);
        assert!(part.lock.try_write().is_ok());
    }

    #[test]
    fn a_copy_within_one_memory_takes_its_lock_once() {
        let whole = Copying::whole();
        let part = whole.part();
        for (a, b) in [(&whole, &part), (&part, &whole), (&whole, &whole)] {
            let copy = Copying::enter_both(Some(a), Some(b));
            assert!(whole.lock.try_read().is_err() && copy.1.is_none());
        }
        let copy = Copying::enter_both(Some(&part), Some(&part));
        assert!(whole.lock.try_read().is_ok() && whole.lock.try_write().is_err());
        drop(copy);
    }

    #[test]
    fn copies_in_opposite_directions_take_the_locks_in_one_order() {
        let (a, b) = (Copying::whole(), Copying::whole());
        let (first, second) = Copying::enter_both(Some(&a), Some(&b));
        drop(second);
        // What is still held is the first, whichever way round it was asked for.
        let held = [&a, &b].map(|one| one.lock.try_write().is_err());
        drop(first);
        let (first, second) = Copying::enter_both(Some(&b), Some(&a));
        drop(second);
        assert_eq!(held, [&a, &b].map(|one| one.lock.try_write().is_err()));
        drop(first);
        assert!(matches!(Copying::enter_both(None, Some(&b)), (Some(_), None)));
    }
}
