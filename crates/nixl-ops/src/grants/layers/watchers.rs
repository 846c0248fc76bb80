//! The readers that an owner notifies of the layers of one grant.

use std::fmt;
use std::sync::Arc;

/// A reader, and the way to notify it.
pub(crate) struct Watcher {
    /// Its agent; empty if it is of this process.
    agent: Box<str>,
    reader: [u8; 16],
    tell: Box<dyn Fn(u64) + Send + Sync>,
}

/// A reader's notice, without a lock.
pub(in crate::grants) type Told = (Arc<Watcher>, u64);

/// The notified readers of one grant.
#[derive(Debug, Default)]
pub(in crate::grants) struct Watchers {
    /// In the order of their last requests.
    all: Vec<Arc<Watcher>>,
    /// The agents with a request: the engine may be connected to each.
    agents: Vec<Box<str>>,
}

impl Watcher {
    /// `tell` neither waits nor panics.
    pub(crate) fn new(
        agent: &str,
        reader: [u8; 16],
        tell: impl Fn(u64) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { agent: agent.into(), reader, tell: Box::new(tell) })
    }

    pub(in crate::grants) fn tell(&self, layers: u64) {
        (self.tell)(layers);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watchers {
    /// Notified readers beyond those of the grant.
    const SPARE: usize = 4;
    const MOST: usize = 4096;

    /// Adds a reader of a grant for so many, in the place of what it asked before. A further one takes the place of the one that
    /// has not asked for the longest, which asks again if it still waits. Returns `false` for one of a further agent.
    pub(in crate::grants) fn add(&mut self, watcher: Arc<Watcher>, readers: usize) -> bool {
        let most = readers.min(Self::MOST) + Self::SPARE;
        if !self.agents.contains(&watcher.agent) {
            if self.agents.len() >= most {
                return false;
            }
            self.agents.push(watcher.agent.clone());
        }
        self.all.retain(|known| known.reader != watcher.reader);
        if self.all.len() >= most {
            self.all.remove(0);
        }
        self.all.push(watcher);
        true
    }

    /// The notice to all.
    pub(in crate::grants) fn told(&self, layers: u64) -> impl Iterator<Item = Told> {
        self.all.iter().map(move |watcher| (Arc::clone(watcher), layers))
    }
}
