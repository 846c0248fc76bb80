//! The load of a peer: only operations that run alone measure their path.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use nixl_device::locks::lock;

use super::Peer;

/// The running operations with one peer.
#[derive(Debug, Default)]
pub(crate) struct Load(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    underway: u32,
    /// The number of begun operations.
    begun: u64,
    /// The end of the last one.
    ended: Option<Duration>,
}

/// A running operation, until the drop.
#[derive(Debug)]
pub(crate) struct Underway {
    peer: Arc<Peer>,
    began: Duration,
    /// Its number, if none was running at its begin.
    alone: Option<u64>,
    /// The pause before it.
    pause: Option<Duration>,
}

impl Load {
    /// After a longer pause the clocks of GPUs and processors are low.
    const WARM: Duration = Duration::from_millis(1);
    /// Within this time clocks have risen.
    const WARM_UP: Duration = Duration::from_millis(10);

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut lock(&self.0))
    }
}

impl Underway {
    pub(crate) fn begin(peer: &Arc<Peer>, now: Duration) -> Self {
        let (alone, pause) = peer.load.with(|state| {
            state.begun += 1;
            state.underway += 1;
            let alone = (state.underway == 1).then_some(state.begun);
            (alone, state.ended.map(|ended| now.saturating_sub(ended)))
        });
        Self { peer: Arc::clone(peer), began: now, alone, pause }
    }

    /// Its duration, if that measures its path: no other operation ran at the same time, and clocks were high.
    pub(crate) fn took(&self, now: Duration) -> Option<Duration> {
        let took = now.saturating_sub(self.began);
        let is_warm = self.pause.is_some_and(|pause| pause <= Load::WARM) || took >= Load::WARM_UP;
        let is_alone = || self.peer.load.with(|state| self.alone == Some(state.begun));
        (is_warm && is_alone()).then_some(took)
    }

    /// It has ended.
    pub(crate) fn end(self, now: Duration) {
        self.peer.load.with(|state| state.ended = Some(now));
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.peer.load.with(|state| state.underway -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peers;

    #[test]
    fn the_time_of_an_operation_tells_if_it_ran_alone_and_warm() {
        let peer = Peers::default().of("a");
        let ms = Duration::from_millis;
        // Cold.
        let first = Underway::begin(&peer, ms(0));
        assert_eq!(first.took(ms(2)), None);
        assert_eq!(first.took(ms(11)), Some(ms(11)), "long enough to warm up");
        first.end(ms(11));
        let second = Underway::begin(&peer, ms(12));
        assert_eq!(second.took(ms(13)), Some(ms(1)));
        let third = Underway::begin(&peer, ms(13));
        assert_eq!((second.took(ms(14)), third.took(ms(30))), (None, None), "not alone");
        third.end(ms(14));
        assert_eq!(second.took(ms(15)), None, "another ran beside it");
        drop(second);
        let fourth = Underway::begin(&peer, ms(20));
        assert_eq!(fourth.took(ms(21)), None, "cold again");
        let after = Underway::begin(&peer, ms(15));
        drop((fourth, after));
        assert_eq!(peer.load.with(|state| state.underway), 0);
    }
}
