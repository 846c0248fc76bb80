//! One simulated agent: its memory, inbox and peers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{RegionSpan, Span};

use super::blob::Entry;
use super::faults::Plan;
use super::peer::Peer;

pub(super) struct Agent {
    pub(super) incarnation: u64,
    pub(super) alive: bool,
    pub(super) plan: Plan,
    pub(super) inbox: VecDeque<Message>,
    pub(super) peers: HashMap<Arc<str>, Peer>,
    /// Moves its transfers, if they wake and the network is not stepped.
    pub(super) engine: Option<Thread>,
    /// Registered memory by its number.
    memory: BTreeMap<u64, RegionSpan>,
}

/// A message for an agent.
pub(super) struct Message {
    pub(super) from: Arc<str>,
    pub(super) payload: Bytes,
    /// When it arrives.
    pub(super) at: Duration,
}

impl Agent {
    pub(super) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            alive: true,
            plan: Plan::default(),
            inbox: VecDeque::new(),
            peers: HashMap::new(),
            engine: None,
            memory: BTreeMap::new(),
        }
    }

    /// Takes the messages that have arrived by now.
    pub(super) fn arrived(&mut self, now: Duration) -> VecDeque<Message> {
        let (arrived, later) = self.inbox.drain(..).partition(|message| message.at <= now);
        self.inbox = later;
        arrived
    }

    pub(super) fn register(&mut self, number: u64, span: RegionSpan) {
        self.memory.insert(number, span);
    }

    /// The caller drops the span, and perhaps the memory, without the network's lock.
    #[must_use]
    pub(super) fn deregister(&mut self, number: u64) -> Option<RegionSpan> {
        self.memory.remove(&number)
    }

    /// What its metadata lists.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.memory.iter().map(|(number, span)| Entry::of(*number, span)).collect()
    }

    /// The registration of this number, if it still is one.
    pub(super) fn registered(&self, number: u64) -> Option<&RegionSpan> {
        self.memory.get(&number)
    }

    /// A registration that covers `range`.
    pub(super) fn covering(&self, range: &Span) -> Option<&RegionSpan> {
        self.memory.iter().find(|(n, span)| Entry::of(**n, span).covers(range)).map(|(_, s)| s)
    }
}
