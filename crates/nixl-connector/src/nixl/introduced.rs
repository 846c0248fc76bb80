//! Peers connected by their own message, in the order of the messages.

use std::collections::VecDeque;

/// A bounded set of names. The application did not request these peers, so they evict each other.
#[derive(Debug, Default)]
pub(super) struct Introduced {
    /// The oldest connection is first.
    names: VecDeque<Box<str>>,
}

impl Introduced {
    /// Bound on kept peers.
    const MOST: usize = 1024;
    /// Beyond the bound, so many are checked for each new one.
    const LOOKS: usize = 4;

    /// Returns the peers to forget.
    pub(super) fn add(&mut self, name: &str) -> Vec<Box<str>> {
        self.remove(name);
        self.names.push_back(name.into());
        let beyond = self.names.len().saturating_sub(Self::MOST).min(Self::LOOKS);
        self.names.drain(..beyond).collect()
    }

    /// A peer that cannot be forgotten now is retried next.
    pub(super) fn put_back(&mut self, name: Box<str>) {
        self.names.push_front(name);
    }

    /// The application uses the peer.
    pub(super) fn remove(&mut self, name: &str) {
        self.names.retain(|known| **known != *name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_came_first_make_room_unless_they_are_used() {
        let mut introduced = Introduced::default();
        for peer in 0..Introduced::MOST {
            assert!(introduced.add(&peer.to_string()).is_empty());
        }
        // Again, and used by the application.
        assert!(introduced.add("0").is_empty());
        introduced.remove("1");
        assert!(introduced.add("a").is_empty());
        assert_eq!(introduced.add("b"), ["2".into()]);
        introduced.put_back("2".into());
        assert_eq!(introduced.add("c"), ["2".into(), "3".into()]);
        assert_eq!(introduced.names.len(), Introduced::MOST);
    }
}
