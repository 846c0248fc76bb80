//! The set of keys that this process has used.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::PerProcess;
use nixl_device::locks::lock;
use nixl_metadata::NotificationKey;

use crate::{Clock, EndedOffer, TransportError};

/// The keys of offers that this process has used or disowned. They prevent a second use: by a queue that delivers a message
/// twice, a retry, or two workers with one message.
///
/// One set for the process: any of its connectors may get the metadata again. Bounded: beyond 65,536 keys the oldest are
/// forgotten, and [counted](SpentStats::forgotten).
#[derive(Debug, Default)]
pub struct SpentKeys {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Begun uses, by key.
    uses: HashMap<NotificationKey, u32>,
    /// Keys in order of first use, with the end of their record.
    order: VecDeque<(NotificationKey, Moment)>,
    forgotten: u64,
}

/// A moment on both clocks: a step of the wall clock makes a record neither shorter nor, by which owners judge, an offer usable again.
#[derive(Clone, Copy, Debug)]
struct Moment {
    unix: Duration,
    clock: Duration,
}

/// How long a key is remembered.
#[derive(Clone, Copy, Debug)]
pub struct KeyRecord {
    now: Moment,
    until: Moment,
}

impl KeyRecord {
    /// From now until that [`unix_time`](Clock::unix_time), and for as long on a clock that no step of the wall clock moves.
    #[must_use]
    pub fn new(clock: &dyn Clock, until: Duration) -> Self {
        let now = Moment { unix: clock.unix_time(), clock: clock.now() };
        let life = until.saturating_sub(now.unix);
        let until = Moment { unix: until, clock: now.clock.saturating_add(life) };
        Self { now, until }
    }
}

/// Counters of [`SpentKeys`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SpentStats {
    pub(crate) keys: usize,
    forgotten: u64,
}

impl SpentStats {
    /// Remembered keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Keys forgotten before the end of their life time.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// One use of a key. Dropped before it is [spent](Self::spend), it leaves the key usable.
#[derive(Debug)]
pub struct KeyUse {
    key: Option<NotificationKey>,
}

impl SpentKeys {
    /// Bound on remembered keys.
    pub const MOST: usize = 1 << 16;

    /// The set of this process.
    pub fn of_this_process() -> &'static Self {
        static KEYS: PerProcess<SpentKeys> = PerProcess::new(SpentKeys::default);
        KEYS.get()
    }

    /// Begins one of at most `most` uses of the key.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`] with [`EndedOffer::Spent`].
    pub fn begin(
        &self,
        key: &NotificationKey,
        most: u32,
        KeyRecord { now, until }: KeyRecord,
    ) -> Result<KeyUse, TransportError> {
        let mut inner = self.lock();
        inner.forget(now);
        match inner.uses.entry(key.clone()) {
            Entry::Occupied(uses) if *uses.get() >= most => {
                return Err(TransportError::OfferEnded { why: EndedOffer::Spent });
            }
            Entry::Occupied(mut uses) => *uses.get_mut() += 1,
            Entry::Vacant(place) => {
                place.insert(1);
                inner.order.push_back((key.clone(), until));
            }
        }
        Ok(KeyUse { key: Some(key.clone()) })
    }

    /// Refuses all further uses of a key that this process has declined.
    pub fn disown(&self, key: &NotificationKey, KeyRecord { now, until }: KeyRecord) {
        let mut inner = self.lock();
        inner.forget(now);
        if inner.uses.insert(key.clone(), u32::MAX).is_none() {
            inner.order.push_back((key.clone(), until));
        }
    }

    /// The current counts.
    pub fn stats(&self) -> SpentStats {
        let inner = self.lock();
        SpentStats { keys: inner.uses.len(), forgotten: inner.forgotten }
    }

    fn undo(&self, key: &NotificationKey) {
        if let Some(uses) = self.lock().uses.get_mut(key)
            && *uses != u32::MAX
        {
            // The key keeps its position in the order.
            *uses = uses.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    /// Makes room for one more key.
    fn forget(&mut self, now: Moment) {
        while let Some((_, until)) = self.order.front() {
            let over = until.unix <= now.unix && until.clock <= now.clock;
            if !over && self.order.len() < SpentKeys::MOST {
                return;
            }
            self.forgotten += u64::from(!over);
            if let Some((oldest, _)) = self.order.pop_front() {
                self.uses.remove(&oldest);
            }
        }
    }
}

impl KeyUse {
    /// The peer's memory was accessed or claimed: the use counts.
    pub fn spend(mut self) {
        self.key = None;
    }
}

impl Drop for KeyUse {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            SpentKeys::of_this_process().undo(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: KeyRecord = record(0, 0, 600);

    /// From these seconds on the two clocks, for so many.
    const fn record(unix: u64, clock: u64, life: u64) -> KeyRecord {
        KeyRecord { now: moment(unix, clock), until: moment(unix + life, clock + life) }
    }

    const fn moment(unix: u64, clock: u64) -> Moment {
        Moment { unix: Duration::from_secs(unix), clock: Duration::from_secs(clock) }
    }

    #[test]
    fn a_key_is_used_as_often_as_it_has_readers() {
        let keys = SpentKeys::of_this_process();
        let key = NotificationKey::random();
        for _ in 0..3 {
            keys.begin(&key, 3, LONG).unwrap().spend();
        }
        assert!(keys.begin(&key, 3, LONG).is_err());
    }

    #[test]
    fn a_use_that_touched_nothing_leaves_the_key_usable() {
        let keys = SpentKeys::of_this_process();
        let key = NotificationKey::random();
        let attempt = keys.begin(&key, 1, LONG).unwrap();
        assert!(keys.begin(&key, 1, LONG).is_err(), "the first is under way");
        drop(attempt);
        keys.begin(&key, 1, LONG).unwrap().spend();
        assert!(keys.begin(&key, 1, LONG).is_err());
    }

    #[test]
    fn a_disowned_key_is_refused() {
        let keys = SpentKeys::of_this_process();
        let key = NotificationKey::random();
        keys.disown(&key, LONG);
        assert!(keys.begin(&key, u32::MAX, LONG).is_err());
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_what_is_forgotten_early_is_counted() {
        let keys = SpentKeys::default();
        for _ in 0..SpentKeys::MOST + 10 {
            keys.begin(&NotificationKey::random(), 1, LONG).unwrap().spend();
        }
        assert_eq!(keys.stats(), SpentStats { keys: SpentKeys::MOST, forgotten: 10 });
        let keys = SpentKeys::default();
        for _ in 0..100 {
            keys.begin(&NotificationKey::random(), 1, record(0, 0, 0)).unwrap().spend();
        }
        let stats = keys.stats();
        assert!(stats.keys <= 1 && stats.forgotten == 0, "{stats:?}");
    }

    #[test]
    fn a_step_of_the_wall_clock_forgets_no_key() {
        let keys = SpentKeys::default();
        let key = NotificationKey::random();
        let is_spent = |unix, clock| keys.begin(&key, 1, record(unix, clock, 60)).is_err();
        keys.begin(&key, 1, record(1000, 10, 60)).unwrap().spend();
        assert!(is_spent(5000, 20), "a step forward");
        assert!(is_spent(1005, 25), "and back");
        assert!(is_spent(100, 75), "a step back: the offer looks as if it lived");
        assert!(!is_spent(1060, 75));
    }

    #[test]
    fn a_record_is_as_long_on_both_clocks() {
        let clock = crate::ManualClock::new();
        clock.advance(Duration::from_secs(7));
        let until = clock.unix_time() + Duration::from_secs(60);
        let KeyRecord { now, until } = KeyRecord::new(&clock, until);
        assert_eq!(until.clock - now.clock, until.unix - now.unix);
        assert_eq!(until.clock, Duration::from_secs(67));
    }
}
