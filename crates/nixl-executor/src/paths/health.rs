//! How real use of the paths went.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixl_device::Device;
use nixl_ops::PathKind;

use super::Standing;
use super::peer_map::PeerMap;
use super::plan::same;

/// What was used: a kind of path between two memories.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "it is a key")]
pub struct Subject {
    /// The kind of path.
    pub kind: PathKind,
    /// Memory of this side.
    pub local: Device,
    /// Memory of the peer, in its numbering.
    pub remote: Device,
}

impl Subject {
    fn is(&self, other: &Self) -> bool {
        same(self.kind, other.kind) && self.pair() == other.pair()
    }

    fn pair(&self) -> (Device, Device) {
        (self.local, self.remote)
    }
}

/// What is known of a path from use.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HealthState {
    /// It has not been used, or that was forgotten.
    Unproven,
    /// It worked the last time.
    Proven,
    /// It failed the last time.
    Failed {
        /// How many cooldowns in a row.
        times: u32,
        /// How long ago.
        ago: Duration,
        /// How much longer it stands behind the others. Zero once it may be tried again.
        retry_in: Duration,
        /// How it failed.
        reason: Cow<'static, str>,
    },
}

/// Remembers for each peer which paths worked and which failed. A failure demotes a path for a cooldown, which doubles
/// each time that the path fails again after it; a success ends that. Bounded: the peers and paths that were used the
/// longest ago are forgotten. Times are those of one [`Clock`](nixl_ops::Clock). Methods take a short lock.
///
/// ```
/// use std::time::Duration;
/// use nixl_device::Device;
/// use nixl_executor::paths::{Health, Subject};
/// use nixl_ops::PathKind;
///
/// let health = Health::new();
/// let subject = Subject { kind: PathKind::CudaIpc, local: Device::cuda(0), remote: Device::cuda(1) };
/// health.failed("peer", subject, "the driver refused the handle", Duration::from_secs(5));
/// let at = |seconds| health.standing("peer", Device::cuda(0), Device::cuda(1), Duration::from_secs_f64(seconds));
/// assert_eq!(
///     at(5.4).cooling(PathKind::CudaIpc).unwrap(),
///     "failed 400.0ms ago, not tried again for 600.0ms: the driver refused the handle"
/// );
/// assert!(at(6.0).cooling(PathKind::CudaIpc).is_none());
/// ```
#[derive(Debug)]
pub struct Health {
    peers: Mutex<PeerMap<Vec<Record>>>,
}

#[derive(Clone, Debug)]
struct Record {
    subject: Subject,
    failure: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    times: u32,
    at: Duration,
    until: Duration,
    reason: Cow<'static, str>,
}

impl Health {
    /// How long the first failure demotes a path.
    pub const FIRST_COOLDOWN: Duration = Duration::from_secs(1);
    /// The longest time for which a failure demotes a path.
    pub const LONGEST_COOLDOWN: Duration = Duration::from_secs(300);
    /// How many peers are remembered.
    pub const MAX_PEERS: usize = 1024;
    /// How many paths of one peer.
    pub const MAX_SUBJECTS: usize = 128;

    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(Self::MAX_PEERS)
    }

    fn with_limit(peers: usize) -> Self {
        Self { peers: Mutex::new(PeerMap::new(peers)) }
    }

    /// The path worked.
    pub fn succeeded(&self, peer: &str, subject: Subject) {
        let mut peers = self.lock();
        record(peers.get_or_new(peer), subject).failure = None;
    }

    /// The path failed. Failures of operations that were under way together count as one: during its cooldown a path's
    /// further failures change the reason only.
    pub fn failed(
        &self,
        peer: &str,
        subject: Subject,
        reason: impl Into<Cow<'static, str>>,
        now: Duration,
    ) {
        let reason = reason.into();
        let mut peers = self.lock();
        let record = record(peers.get_or_new(peer), subject);
        match &mut record.failure {
            Some(failure) if now < failure.until => {
                failure.at = failure.at.max(now);
                failure.reason = reason;
            }
            failure => {
                let times = failure.as_ref().map_or(0, |f| f.times).saturating_add(1);
                let until = now.saturating_add(cooldown(times));
                *failure = Some(Failure { times, at: now, until, reason });
            }
        }
    }

    /// What is known of a path.
    #[must_use]
    pub fn state(&self, peer: &str, subject: Subject, now: Duration) -> HealthState {
        let mut peers = self.lock();
        let records = peers.get(peer).map_or(&[][..], |records| records.as_slice());
        match records.iter().find(|record| record.subject.is(&subject)) {
            None => HealthState::Unproven,
            Some(Record { failure: None, .. }) => HealthState::Proven,
            Some(Record { failure: Some(failure), .. }) => HealthState::Failed {
                times: failure.times,
                ago: now.saturating_sub(failure.at),
                retry_in: failure.until.saturating_sub(now),
                reason: failure.reason.clone(),
            },
        }
    }

    /// How the paths between two memories stand. Takes memory only if one of them is in its cooldown.
    #[must_use]
    pub fn standing(&self, peer: &str, local: Device, remote: Device, now: Duration) -> Standing {
        let mut standing = Standing::new();
        let mut peers = self.lock();
        for record in peers.get(peer).into_iter().flatten() {
            if record.subject.pair() != (local, remote) {
                continue;
            }
            if let Some(failure) = &record.failure
                && now < failure.until
            {
                let ago = now.saturating_sub(failure.at);
                let wait = failure.until - now;
                standing.note_cooling(
                    record.subject.kind,
                    format!(
                        "failed {ago:.1?} ago, not tried again for {wait:.1?}: {}",
                        failure.reason
                    ),
                );
            }
        }
        standing
    }

    /// Forgets a peer, for instance because it is gone.
    pub fn forget(&self, peer: &str) {
        self.lock().remove(peer);
    }

    fn lock(&self) -> MutexGuard<'_, PeerMap<Vec<Record>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// The cooldown after so many failures in a row.
fn cooldown(times: u32) -> Duration {
    let factor = 1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    Health::FIRST_COOLDOWN.saturating_mul(factor).min(Health::LONGEST_COOLDOWN)
}

/// The record of a subject, moved to the end; the one at the front is the oldest.
fn record(records: &mut Vec<Record>, subject: Subject) -> &mut Record {
    match records.iter().position(|record| record.subject.is(&subject)) {
        Some(index) => records[index..].rotate_left(1),
        None => {
            if records.len() == Health::MAX_SUBJECTS {
                records.remove(0);
            }
            records.push(Record { subject, failure: None });
        }
    }
    let last = records.len() - 1;
    &mut records[last]
}
