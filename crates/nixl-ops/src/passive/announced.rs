//! The agents that may write offers without a claim, since they have claimed one before.

use std::collections::HashMap;
use std::time::Duration;

use super::spec::OfferSpec;

/// Agents that are queried about each offer of their time that is given up unused.
#[derive(Debug, Default)]
pub(super) struct Announced {
    by_agent: HashMap<Box<str>, Agent>,
}

#[derive(Debug)]
struct Agent {
    /// In milliseconds since 1970.
    since: u64,
    /// When it claimed an offer last, by the connection's clock.
    claimed: Duration,
}

impl Agent {
    /// For how long after its last claim an agent may write without one: as long as it counts from before that claim, and a minute for
    /// clocks that do not run alike.
    const REMEMBERED: Duration = OfferSpec::LIFE_TIME.saturating_add(Duration::from_secs(60));

    fn may_write(&self, begun: Duration) -> bool {
        begun <= self.claimed.saturating_add(Self::REMEMBERED)
    }
}

impl Announced {
    /// Agents at most. Others claim every offer.
    const MOST: usize = 4096;

    /// Notes a claim of an agent. Returns since when it need not claim, in milliseconds since 1970; the end of time if it must always.
    /// `oldest` is when the oldest live offer was made.
    pub(super) fn note_claim(
        &mut self,
        agent: &str,
        (now, unix_millis): (Duration, u64),
        oldest: impl FnOnce() -> Option<Duration>,
    ) -> u64 {
        if let Some(known) = self.by_agent.get_mut(agent) {
            // One that was out of time may have been queried about none of the offers since.
            if !known.may_write(now) {
                known.since = unix_millis;
            }
            known.claimed = now;
            return known.since;
        }
        if self.by_agent.len() >= Self::MOST {
            let oldest = oldest().unwrap_or(now);
            self.by_agent.retain(|_, agent| agent.may_write(oldest));
        }
        if self.by_agent.len() >= Self::MOST {
            return u64::MAX;
        }
        self.by_agent.insert(agent.into(), Agent { since: unix_millis, claimed: now });
        unix_millis
    }

    /// The agents that may write, without a claim, an offer that was begun then by the connection's clock.
    pub(super) fn writers(&self, begun: Duration, made_unix_millis: u64) -> Vec<String> {
        let may = |agent: &Agent| agent.since < made_unix_millis && agent.may_write(begun);
        let agents = self.by_agent.iter().filter(|(_, agent)| may(agent));
        agents.map(|(name, _)| name.to_string()).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn an_agent_may_write_for_some_time_after_its_last_claim() {
        let mut announced = Announced::default();
        assert_eq!(announced.note_claim("a", (NOW, 50), || None), 50);
        assert_eq!(announced.writers(NOW, 50), Vec::<String>::new(), "made before");
        assert_eq!(announced.writers(NOW, 51), ["a"]);
        let last = NOW + Agent::REMEMBERED;
        assert_eq!(announced.writers(last, 51), ["a"]);
        let later = last + Duration::from_nanos(1);
        assert_eq!(announced.writers(later, 51), Vec::<String>::new());
        // Within its time a claim renews it; after that it is known anew.
        assert_eq!(announced.note_claim("a", (last, 90), || None), 50);
        assert_eq!(announced.writers(later, 51), ["a"]);
        let over = last + Agent::REMEMBERED + Duration::from_nanos(1);
        assert_eq!(announced.note_claim("a", (over, 95), || None), 95);
        assert_eq!(announced.writers(over, 60), Vec::<String>::new());
    }

    #[test]
    fn those_that_no_live_offer_is_of_the_time_of_make_room() {
        let mut announced = Announced::default();
        for agent in 0..Announced::MOST {
            announced.note_claim(&agent.to_string(), (NOW, 50), || None);
        }
        let later = NOW + Agent::REMEMBERED + Duration::from_secs(1);
        let oldest = || Some(NOW + Agent::REMEMBERED);
        assert_eq!(announced.note_claim("new", (later, 60), oldest), u64::MAX);
        assert_eq!(announced.note_claim("new", (later, 60), || Some(later)), 60);
        assert_eq!(announced.by_agent.len(), 1);
    }
}
