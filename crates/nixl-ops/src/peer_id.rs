//! The identifier of a peer.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// A peer's agent name. It carries the peer's incarnation where the peer has one: a restarted peer is a new peer.
///
/// Equality and order are those of the name.
#[derive(Clone)]
pub struct PeerId {
    name: Arc<str>,
    /// [`States`], of which no equality or hash takes notice; `None` for a name that no connect has returned.
    states: Option<Arc<dyn Any + Send + Sync>>,
}

/// One for the engine, one for the executor.
type States = [OnceLock<Box<dyn Any + Send + Sync>>; 2];

impl PeerId {
    /// The peer of this agent name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), states: None }
    }

    /// The agent name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The identifier that a connect returns, with no state yet.
    pub(crate) fn connected(self) -> Self {
        Self { states: Some(Arc::new(States::default())), ..self }
    }

    fn states(&self) -> Option<&States> {
        self.states.as_ref()?.downcast_ref()
    }

    /// The state of this type that was [kept](Self::keep_state) with the identifier.
    #[must_use]
    pub fn state<T: Any>(&self) -> Option<&T> {
        self.states()?.iter().find_map(|state| state.get()?.downcast_ref())
    }

    /// Keeps state of an engine or an executor with the identifier that a connect has returned, and with its clones: each finds
    /// its entry for the peer without a look-up by name. A hint for later calls. Without effect on an identifier that is
    /// [new](Self::new), and if there is state of this type or of two others.
    pub fn keep_state<T: Any + Send + Sync>(&self, state: T) {
        let Some(states) = self.states().filter(|_| self.state::<T>().is_none()) else { return };
        let mut state: Box<dyn Any + Send + Sync> = Box::new(state);
        for place in states {
            match place.set(state) {
                Ok(()) => return,
                Err(back) => state = back,
            }
        }
    }
}

impl PartialEq for PeerId {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for PeerId {}

impl Hash for PeerId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Ord for PeerId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl PartialOrd for PeerId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerId").field(&self.name).finish()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_with_the_clones_of_a_connect() {
        let (name, connected) = (PeerId::new("p"), PeerId::new("p").connected());
        let clone = connected.clone();
        name.keep_state(1_u8);
        connected.keep_state(1_u8);
        connected.keep_state(2_u8);
        clone.keep_state("engine");
        clone.keep_state(3_u16);
        assert_eq!((name.state::<u8>(), connected.state::<u8>()), (None, Some(&1)));
        assert_eq!((connected.state(), clone.state::<u16>()), (Some(&"engine"), None));
        assert_eq!(connected.connected().state::<u8>(), None, "a connect begins anew");
        assert_eq!((name, "PeerId(\"p\")"), (clone.clone(), &*format!("{clone:?}")));
    }
}
