//! Peers that were connected by their own message, in the order of those messages.

use std::collections::VecDeque;

/// Their names, for so many at most. The application did not ask for these peers, so they make room for each other.
#[derive(Debug, Default)]
pub(super) struct Introduced {
    /// The one connected the longest ago is first.
    names: VecDeque<Box<str>>,
}

impl Introduced {
    /// Peers that are kept.
    const MOST: usize = 1024;
    /// Beyond the bound, so many are looked at for each new one.
    const LOOKS: usize = 4;

    /// Returns those that are to be forgotten.
    pub(super) fn add(&mut self, name: &str) -> Vec<Box<str>> {
        self.remove(name);
        self.names.push_back(name.into());
        let beyond = self.names.len().saturating_sub(Self::MOST).min(Self::LOOKS);
        self.names.drain(..beyond).collect()
    }

    /// One that cannot be forgotten now is the next to be.
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
