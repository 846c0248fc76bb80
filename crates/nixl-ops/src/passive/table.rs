//! All passive operations of a connection, and the memory of those that have ended.

mod quarantine;
mod retention;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nixl_metadata::NotificationKey;

use super::announced::Announced;
use super::ended::EndedKeys;
use super::entry::PassiveEntry;
use super::held::PassiveStats;
use super::quiet::QuietProof;
use super::readers::Looks;
use super::reads::LateReads;
use super::retained::Retained;
use super::spec::OfferSpec;
use super::telemetry::{OfferMetrics, note_second_completion};
use crate::clock::millis;
use crate::contained::contained;
use crate::deadline::Deadline;
use crate::grants::ServedGrants;
use crate::slots::OfferPage;
use crate::sync::{Mutex, lock};
use crate::{BlockingThread, Clock, EndedOffer, OperationError, OperationOptions, OperationStatus};

/// The most that a poll of the slots found.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum SlotsFound {
    Nothing,
    /// A use of an offer that has more readers: there is nothing more to do for it.
    Use,
    /// The end of an offer.
    End,
}

/// All passive operations of a connection.
#[derive(Debug)]
pub(crate) struct PassiveTable {
    entries: Mutex<HashMap<Box<[u8]>, Arc<PassiveEntry>>>,
    /// Given up, and perhaps still written by a peer.
    quarantine: Mutex<Vec<Arc<PassiveEntry>>>,
    /// Entries whose peers' messages are not waited for any more, and taken when they come.
    dormant: AtomicUsize,
    /// Whether the peers of the quarantine are being checked on the blocking thread.
    checking: AtomicBool,
    retained: Mutex<VecDeque<Retained>>,
    /// What of it has outlived the life time of its offer.
    late_reads: Arc<LateReads>,
    /// The looks for readers of closed exports.
    looks: Arc<Looks>,
    ended: Mutex<EndedKeys>,
    /// The earliest moment at which an entry needs [`expire`](Self::expire), in nanoseconds.
    next_expiry: AtomicU64,
    proofs: OnceLock<Proofs>,
    announced: Mutex<Announced>,
    /// The number of queried agents.
    asked: AtomicUsize,
    pub(crate) page: Arc<OfferPage>,
    /// The grants of this connection's exports.
    pub(crate) grants: ServedGrants,
    metrics: Arc<OfferMetrics>,
    clock: Arc<dyn Clock>,
    drain: Duration,
    skew: Duration,
}

#[derive(Debug)]
struct Proofs {
    quiet: Arc<dyn QuietProof>,
    background: Arc<dyn BlockingThread>,
}

impl PassiveTable {
    /// How often the peers of the quarantine are looked at.
    const CHECK: Duration = Duration::from_millis(300);

    pub(crate) fn new(clock: Arc<dyn Clock>, drain: Duration, skew: Duration) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::new(HashMap::new()),
            quarantine: Mutex::new(Vec::new()),
            dormant: AtomicUsize::new(0),
            checking: AtomicBool::new(false),
            retained: Mutex::new(VecDeque::new()),
            late_reads: Arc::default(),
            looks: Arc::default(),
            ended: Mutex::new(EndedKeys::default()),
            next_expiry: AtomicU64::new(u64::MAX),
            proofs: OnceLock::new(),
            announced: Mutex::default(),
            asked: AtomicUsize::new(0),
            page: Arc::default(),
            grants: ServedGrants::default(),
            metrics: Arc::default(),
            clock,
            drain,
            skew,
        })
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn drain(&self) -> Duration {
        self.drain
    }

    pub(super) fn skew(&self) -> Duration {
        self.skew
    }

    /// Sets the proof that peers are quiet, and the thread that checks it. Only the first call counts.
    pub(crate) fn set_proofs(
        &self,
        quiet: Arc<dyn QuietProof>,
        background: Arc<dyn BlockingThread>,
    ) {
        let _ = self.proofs.set(Proofs { quiet, background });
    }

    pub(crate) fn insert(
        self: &Arc<Self>,
        spec: OfferSpec,
        options: &OperationOptions,
    ) -> Arc<PassiveEntry> {
        let now = self.clock.now();
        let deadline = Deadline::starting(now, options);
        let (table, metrics) = (Arc::downgrade(self), Arc::clone(&self.metrics));
        let entry = Arc::new(PassiveEntry::new(spec, now, deadline, (table, metrics)));
        entry.cell.advance(OperationStatus::Initialized);
        lock(&self.entries).insert(entry.key().as_bytes().into(), Arc::clone(&entry));
        if let Some(deadline) = deadline {
            self.wake_by(deadline.at);
        }
        entry
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Entries whose peers' messages are waited for.
    pub(crate) fn awaited(&self) -> usize {
        self.len().saturating_sub(self.dormant.load(Ordering::Acquire))
    }

    pub(super) fn count_dormant(&self) {
        self.dormant.fetch_add(1, Ordering::AcqRel);
    }

    /// How often messages are taken while none is awaited.
    pub(crate) fn poll_interval(&self) -> Option<Duration> {
        let is_held =
            self.dormant.load(Ordering::Acquire) > 0 || self.retains() || self.grants.are_alive();
        is_held.then_some(Self::CHECK)
    }

    pub(crate) fn stats(&self) -> PassiveStats {
        let mut stats = PassiveStats::default();
        for entry in lock(&self.quarantine).iter().filter(|entry| entry.is_held()) {
            let bytes = entry.held_bytes();
            match entry.is_without_terms() {
                true => stats.quarantined_without_terms.add(bytes),
                false => stats.quarantined.add(bytes),
            }
        }
        for retained in lock(&self.retained).iter() {
            stats.retained.add(retained.bytes());
        }
        self.late_reads.each(|retained| stats.retained.add(retained.bytes()));
        stats.second_completions = lock(&self.ended).again;
        stats
    }

    /// A notification arrived. Returns whether an operation was waiting for it. One that this process copies is ended by the
    /// copy.
    pub(crate) fn deliver(&self, payload: &[u8]) -> bool {
        // No key: a flood of long payloads is not hashed.
        if payload.len() > NotificationKey::MAX_BYTES {
            return false;
        }
        let entry = lock(&self.entries).get(payload).cloned();
        match entry {
            Some(entry) => entry.notified(),
            None if self.read_late(payload) => true,
            None => {
                let mut ended = lock(&self.ended);
                if !ended.by_key.contains_key(payload) {
                    return false;
                }
                ended.again += 1;
                drop(ended);
                note_second_completion();
                tracing::warn!(
                    "an offer was used a second time: two initiators have its metadata, or one used it again"
                );
                true
            }
        }
    }

    /// Ends the operations whose slots say so. `copied` gets those that are complete while this process copies them.
    pub(crate) fn poll_slots(&self, copied: &mut dyn FnMut(&NotificationKey)) -> SlotsFound {
        let mut found = SlotsFound::Nothing;
        self.page.poll(&mut |key, event| {
            let entry = lock(&self.entries).get(key.as_bytes()).cloned();
            let is_end = entry.is_none_or(|entry| match Arc::clone(&entry).used(event) {
                true => entry.cell.status().is_terminal(),
                false => {
                    if event.successes > 0 {
                        copied(key);
                    }
                    true
                }
            });
            found = found.max(if is_end { SlotsFound::End } else { SlotsFound::Use });
        });
        found
    }

    /// Notes that an agent has claimed an offer. Returns since when it need not claim those that are made later, in milliseconds since
    /// 1970; the end of time if it must.
    pub(crate) fn claimed_by(&self, agent: &str) -> u64 {
        let now = (self.clock.now(), millis(self.clock.unix_time()));
        let oldest = || lock(&self.entries).values().map(|entry| entry.begun).min();
        lock(&self.announced).note_claim(agent, now, oldest)
    }

    /// The agents that may write an offer without a claim.
    pub(super) fn announced_writers(&self, begun: Duration, made_unix_millis: u64) -> Vec<String> {
        lock(&self.announced).writers(begun, made_unix_millis)
    }

    /// The entry of a key whose offer has the sender's token.
    pub(crate) fn entry_with(
        &self,
        key: &[u8],
        token: u64,
    ) -> Result<Arc<PassiveEntry>, EndedOffer> {
        let entry = lock(&self.entries).get(key).cloned();
        let Some(entry) = entry else {
            let ended = lock(&self.ended);
            let known = ended.by_key.get(key).is_some_and(|ended| ended.token == Some(token));
            return Err(if known { EndedOffer::Revoked } else { EndedOffer::WrongToken });
        };
        match entry.token() == Some(token) {
            true => Ok(entry),
            false => Err(EndedOffer::WrongToken),
        }
    }

    /// Renews an offer of an export's blocks, which has the sender's token. Returns whether it has not ended.
    pub(crate) fn renew(&self, key: &[u8], token: u64) -> bool {
        // The entry of the earlier deadline leads to the later one.
        self.entry_with(key, token).is_ok_and(|entry| entry.renew(self.clock.now()))
    }

    /// Whether a claim of an offer, live or ended, may be answered to an agent that may have to be met for it.
    pub(crate) fn may_introduce(&self, key: &[u8], agent: &str) -> bool {
        if let Some(entry) = lock(&self.entries).get(key).cloned() {
            return entry.may_introduce(agent);
        }
        let mut ended = lock(&self.ended);
        let Some(ended) = ended.by_key.get_mut(key) else { return false };
        let fits = ended.answered < EndedKeys::ANSWERED;
        ended.answered += u8::from(fits);
        fits
    }

    /// Applies the deadlines that have passed, and looks at the peers of the quarantine. Costs one load while nothing is due.
    ///
    /// Returns whether there is a quarantine.
    pub(crate) fn expire(self: &Arc<Self>, now: Duration) -> bool {
        if nanos(now) < self.next_expiry.load(Ordering::Acquire) {
            return false;
        }
        self.next_expiry.store(u64::MAX, Ordering::Release);
        let entries: Vec<_> = lock(&self.entries).values().cloned().collect();
        for entry in entries {
            // A subscriber's or a recorder's panic keeps no other entry from its deadline.
            match contained("the end of an offer", || entry.expire(now)) {
                Ok(next) => next.into_iter().for_each(|next| self.wake_by(next)),
                Err(_) => self.wake_by(now.saturating_add(Self::CHECK)),
            }
        }
        if let Some(next) = self.grants.expire(now) {
            self.wake_by(next);
        }
        self.expire_retained(now);
        self.check_quarantine(now)
    }

    /// When [`expire`](Self::expire) is due next.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        let at = self.next_expiry.load(Ordering::Acquire);
        (at != u64::MAX).then(|| Duration::from_nanos(at))
    }

    /// Ends all operations: no notification of a peer is taken any more.
    pub(crate) fn abandon_all(&self, error: &OperationError) {
        let entries: Vec<_> = lock(&self.entries).values().cloned().collect();
        for entry in entries {
            entry.abandon(error.clone());
        }
    }

    /// Has [`expire`](Self::expire) called then, at the latest.
    pub(crate) fn wake_by(&self, at: Duration) {
        self.next_expiry.fetch_min(nanos(at), Ordering::AcqRel);
    }

    pub(super) fn remove(&self, key: &NotificationKey) {
        let removed = lock(&self.entries).remove(key.as_bytes());
        if let Some(entry) = &removed {
            if entry.is_dormant() {
                self.dormant.fetch_sub(1, Ordering::AcqRel);
            }
            lock(&self.ended).add(key.as_bytes().into(), entry.token());
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
