//! The owners that an initiator has sent claims to, and those that have its identity.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::OfferSpec;

/// The latest owners, [`MOST`](Self::MOST) at most; one that is forgotten is sent a claim of each offer again.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_agent: HashMap<Box<str>, Owner>,
    order: VecDeque<Box<str>>,
}

#[derive(Debug, Default)]
struct Owner {
    /// By its clock, in milliseconds since 1970. `None` until it has granted a claim.
    known_since: Option<u64>,
    /// When the last claim that it granted was first sent, by the connection's clock.
    asked: Duration,
}

impl Owners {
    const MOST: usize = 4096;

    /// For how long an owner asks an agent about offers that it makes, from the agent's last claim on. The owner counts from when it
    /// has the claim, and somewhat longer.
    pub(super) const REMEMBERED: Duration = OfferSpec::LIFE_TIME;

    /// A claim is sent to this owner.
    pub(super) fn note_asked(&mut self, agent: &str) {
        if self.by_agent.contains_key(agent) {
            return;
        }
        if self.order.len() >= Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_agent.remove(&oldest);
        }
        self.by_agent.insert(agent.into(), Owner::default());
        self.order.push_back(agent.into());
    }

    /// The owner has ended.
    pub(super) fn forget(&mut self, agent: &str) {
        if self.by_agent.remove(agent).is_some() {
            self.order.retain(|owner| **owner != *agent);
        }
    }

    /// The owner has granted a claim that was first sent at `asked`.
    pub(super) fn note_granted(&mut self, agent: &str, known_since: u64, asked: Duration) {
        let Some(owner) = self.by_agent.get_mut(agent) else { return };
        // The latest counts: an owner that had forgotten this side did not ask about the offers in between.
        owner.known_since = owner.known_since.max(Some(known_since));
        owner.asked = owner.asked.max(asked);
    }

    /// Whether this owner was sent a claim.
    pub(super) fn were_asked(&self, agent: &str) -> bool {
        self.by_agent.contains_key(agent)
    }

    /// Whether the owner asks this side before it takes for granted that an offer, made at that time by its clock, is not being
    /// written by it.
    pub(super) fn know(&self, agent: &str, made_unix_millis: u64, now: Duration) -> bool {
        self.by_agent.get(agent).is_some_and(|owner| {
            owner.known_since.is_some_and(|since| since < made_unix_millis)
                && now.saturating_sub(owner.asked) < Self::REMEMBERED
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn an_owner_knows_this_side_for_some_time_after_a_claim() {
        let mut owners = Owners::default();
        owners.note_granted("a", 50, NOW);
        assert!(!owners.know("a", 60, NOW), "it was not asked");
        owners.note_asked("a");
        assert!(owners.were_asked("a") && !owners.know("a", 60, NOW));
        owners.note_granted("a", 50, NOW);
        assert!(owners.know("a", 51, NOW) && !owners.know("a", 50, NOW));
        let late = NOW + Owners::REMEMBERED;
        assert!(!owners.know("a", 60, late));
        owners.note_granted("a", 50, late);
        assert!(owners.know("a", 60, late), "a further claim renews it");
    }

    #[test]
    fn an_owner_that_has_forgotten_this_side_knows_it_since_later() {
        let mut owners = Owners::default();
        owners.note_asked("a");
        owners.note_granted("a", 50, NOW);
        owners.note_granted("a", 90, NOW);
        // An answer that comes late.
        owners.note_granted("a", 50, NOW);
        assert!(!owners.know("a", 80, NOW) && owners.know("a", 91, NOW));
    }

    #[test]
    fn an_owner_that_has_ended_is_forgotten() {
        let mut owners = Owners::default();
        for agent in ["a", "b"] {
            owners.note_asked(agent);
        }
        owners.forget("a");
        owners.forget("c");
        assert!(!owners.were_asked("a") && owners.were_asked("b"));
        assert_eq!((owners.by_agent.len(), owners.order.len()), (1, 1));
    }

    #[test]
    fn the_number_of_owners_is_bounded() {
        let mut owners = Owners::default();
        for agent in 0..=Owners::MOST {
            owners.note_asked(&agent.to_string());
        }
        assert!(!owners.were_asked("0") && owners.were_asked("1"));
        assert_eq!((owners.by_agent.len(), owners.order.len()), (Owners::MOST, Owners::MOST));
    }
}
