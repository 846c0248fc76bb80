//! Injection of faults.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::fabric::{Network, State};

/// One thing that goes wrong with a transfer.
///
/// `after` counts the bytes of the transfer that are moved before the fault strikes. One that is not reached
/// strikes when all are moved, before the notification.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing moves for this long after the post.
    Delay(Duration),
    /// The post fails.
    PostFails,
    /// The post fails at a piece, when those before it are in flight. The transfer fails once they have moved.
    PostFailsAfter {
        /// The pieces before it: descriptors, after neighbours were merged.
        pieces: usize,
    },
    /// The transfer fails.
    Fails {
        /// Bytes moved before.
        after: u64,
    },
    /// The peer dies, for this transfer and for everyone.
    PeerDies {
        /// Bytes moved before.
        after: u64,
    },
    /// The transfer stands still until [`Faults::release`], which may come long after everyone has given
    /// it up: the rest of the bytes moves then.
    Stalls {
        /// Bytes moved before.
        after: u64,
    },
    /// One bit of the bytes that a read brings is another than at the peer.
    FlipsBit {
        /// The byte that it is in.
        at: u64,
    },
    /// A transfer that wakes does not.
    WakeLost,
    /// The peer is never notified.
    NotificationLost,
    /// The peer is notified at the post, before the bytes have arrived.
    NotificationEarly,
    /// The peer is notified twice.
    NotificationTwice,
    /// The bytes are there, but the engine reports that the peer cannot be notified.
    NotificationFails,
}

/// One thing that goes wrong with a message that is sent by itself, not with a transfer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MessageFault {
    /// It never arrives.
    Lost,
    /// It arrives twice.
    Twice,
    /// It arrives this much later, perhaps after others that are sent after it.
    Delayed(Duration),
}

/// Orders faults, for a [fabric](super::Fabric::faults) or for [one agent](super::Fabric::faults_of) on it.
#[derive(Clone)]
pub struct Faults {
    network: Arc<Network>,
    agent: Option<Arc<str>>,
}

impl Faults {
    pub(super) fn new(network: Arc<Network>, agent: Option<Arc<str>>) -> Self {
        Self { network, agent }
    }

    /// All of `faults` strike the next transfer that is posted and has none ordered. Each call is for one
    /// transfer, in this order; an agent's come before the fabric's. With no faults, that transfer is spared.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.edit(|plan| plan.next.push_back(faults));
    }

    /// How many orders of [`next`](Self::next) have struck no transfer yet.
    pub fn left(&self) -> usize {
        let mut left = 0;
        self.edit(|plan| left = plan.next.len());
        left
    }

    /// All of `faults` strike every transfer that is posted from now on, beside those ordered by
    /// [`next`](Self::next); replaces what this said before. With no faults, transfers are well again.
    pub fn always(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.edit(|plan| plan.always = faults);
    }

    /// Each of `faults` strikes one of the next messages that agents send by themselves, in this order; `None` spares
    /// one.
    pub fn messages(&self, faults: impl IntoIterator<Item = Option<MessageFault>>) {
        let faults: Vec<_> = faults.into_iter().collect();
        self.edit(|plan| plan.messages.extend(faults));
    }

    /// Lets the transfers that are stalled now go on. Those that are still polled move at their next poll, those
    /// that everyone has given up before this returns.
    pub fn release(&self) {
        self.edit(|plan| plan.releases += 1);
        self.network.move_orphans();
    }

    /// Whether registering memory fails from now on.
    pub fn refuse_registrations(&self, refuse: bool) {
        self.edit(|plan| plan.refuse_registrations = refuse);
    }

    /// From now on, registering memory blocks this long on the fabric's clock.
    pub fn delay_registrations(&self, delay: Duration) {
        self.edit(|plan| plan.registration_delay = delay);
    }

    fn edit(&self, edit: impl FnOnce(&mut Plan)) {
        let mut state = self.network.lock();
        match &self.agent {
            None => edit(&mut state.plan),
            Some(name) => {
                if let Some(agent) = state.agents.get_mut(name) {
                    edit(&mut agent.plan);
                }
            }
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// The faults that are set for one agent, or for all.
#[derive(Debug, Default)]
pub(super) struct Plan {
    next: VecDeque<Vec<Fault>>,
    always: Vec<Fault>,
    messages: VecDeque<Option<MessageFault>>,
    /// How often stalled transfers were released.
    releases: u64,
    refuse_registrations: bool,
    registration_delay: Duration,
}

/// What strikes one transfer.
#[derive(Debug)]
pub(super) struct Strikes {
    faults: Vec<Fault>,
    /// The releases before it was posted, of its agent and of the fabric.
    releases: (u64, u64),
}

impl State {
    /// The fault of a transfer that `agent` posts now.
    pub(super) fn strikes(&mut self, agent: &str) -> Strikes {
        let mut none = Plan::default();
        let own = self.agents.get_mut(agent).map_or(&mut none, |agent| &mut agent.plan);
        let next = own.next.pop_front().or_else(|| self.plan.next.pop_front());
        let mut faults = next.unwrap_or_default();
        faults.extend(own.always.iter().chain(&self.plan.always).cloned());
        Strikes { faults, releases: (own.releases, self.plan.releases) }
    }

    /// The fault of a message that `agent` sends now.
    pub(super) fn message_fault(&mut self, agent: &str) -> Option<MessageFault> {
        let own = self.agents.get_mut(agent).and_then(|agent| agent.plan.messages.pop_front());
        own.or_else(|| self.plan.messages.pop_front()).flatten()
    }

    /// Whether stalled transfers of `agent` were released since it got its strikes.
    pub(super) fn is_released(&self, agent: &str, strikes: &Strikes) -> bool {
        let own = self.agents.get(agent).map_or(0, |agent| agent.plan.releases);
        strikes.releases != (own, self.plan.releases)
    }

    /// Whether a registration of `agent` fails, and how long it takes.
    pub(super) fn registration_fault(&self, agent: &str) -> (bool, Duration) {
        let own = self.agents.get(agent).map(|agent| &agent.plan);
        let refused = |plan: &Plan| plan.refuse_registrations;
        (
            refused(&self.plan) || own.is_some_and(refused),
            self.plan.registration_delay.max(own.map_or(Duration::ZERO, |p| p.registration_delay)),
        )
    }
}

impl Strikes {
    pub(super) fn has(&self, fault: &Fault) -> bool {
        self.faults.contains(fault)
    }

    /// The pieces that are posted, if the post fails at the next.
    pub(super) fn posted_pieces(&self) -> Option<usize> {
        let posted = |fault: &Fault| match *fault {
            Fault::PostFailsAfter { pieces } => Some(pieces),
            _ => None,
        };
        self.faults.iter().filter_map(posted).min()
    }

    /// The bytes in which a bit is flipped.
    pub(super) fn flipped(&self) -> impl Iterator<Item = u64> {
        self.faults.iter().filter_map(|fault| match *fault {
            Fault::FlipsBit { at } => Some(at),
            _ => None,
        })
    }

    /// The sum of all delays.
    pub(super) fn delay(&self) -> Duration {
        self.faults.iter().fold(Duration::ZERO, |sum, fault| match fault {
            Fault::Delay(delay) => sum.saturating_add(*delay),
            _ => sum,
        })
    }

    /// The first fault that strikes at a byte, and at which; stalls only if `stalling`.
    pub(super) fn at_byte(&self, stalling: bool) -> Option<(u64, &Fault)> {
        let byte = |fault: &Fault| match *fault {
            Fault::Fails { after } | Fault::PeerDies { after } => Some(after),
            Fault::Stalls { after } if stalling => Some(after),
            _ => None,
        };
        self.faults.iter().filter_map(|f| Some((byte(f)?, f))).min_by_key(|(byte, _)| *byte)
    }
}
