//! Offers by key, as staging serves them, and keys of offers that have ended.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use nixl_metadata::NotificationKey;
use nixl_ops::Offer;

use crate::messages::{PresentedOffer, Proof};

/// The offers of a connection by key.
#[derive(Debug, Default)]
pub(super) struct Offers {
    live: HashMap<NotificationKey, Offer>,
    /// The tokens of the offers that ended last, 0 for those without. A request for one of these gets the answer that the offer has
    /// ended.
    ended: HashMap<NotificationKey, Ended>,
    /// In the order in which they ended.
    order: VecDeque<NotificationKey>,
    last_end: Option<Duration>,
}

#[derive(Debug)]
struct Ended {
    token: u64,
    /// Requests of agents to which this side connected for the answer.
    answered: u8,
}

impl Offers {
    /// Requests for an ended offer that are answered after a connect to their agents.
    const ANSWERED: u8 = 16;
    /// Ended offers that are remembered. To requests for earlier ones there is no answer.
    const ENDED: usize = 1 << 14;

    pub(super) fn offer_created(&mut self, offer: Offer) {
        self.live.insert(offer.key().clone(), offer);
    }

    /// The offer may hold the last handle to its memory: the caller drops it outside locks.
    pub(super) fn offer_ended(&mut self, key: &NotificationKey, now: Duration) -> Option<Offer> {
        self.last_end = Some(now);
        let offer = self.live.remove(key)?;
        if self.ended.insert(key.clone(), Ended { token: token(&offer), answered: 0 }).is_none() {
            self.order.push_back(key.clone());
        }
        if self.order.len() > Self::ENDED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        Some(offer)
    }

    pub(super) fn get(&self, key: &NotificationKey) -> Option<&Offer> {
        self.live.get(key)
    }

    /// Whether this is presented by a holder of the metadata of one of these offers.
    pub(super) fn know(&self, presented: &PresentedOffer) -> bool {
        let live = self.live.get(&presented.key).map(token);
        let known = live.or_else(|| self.ended.get(&presented.key).map(|ended| ended.token));
        match presented.proof {
            Proof::Key => known.is_some(),
            // One instruction, whose time does not depend on the bits.
            Proof::Token(token) => known.is_some_and(|known| known == token),
        }
    }

    /// Whether the engine may be connected to an agent that holds this offer.
    pub(super) fn may_introduce(&mut self, key: &NotificationKey, agent: &str) -> bool {
        if let Some(offer) = self.live.get(key) {
            return offer.may_introduce(agent);
        }
        let Some(ended) = self.ended.get_mut(key) else { return false };
        let fits = ended.answered < Self::ANSWERED;
        ended.answered += u8::from(fits);
        fits
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Offer> {
        self.live.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// When the last offer ended.
    pub(super) fn last_end(&self) -> Option<Duration> {
        self.last_end
    }
}

fn token(offer: &Offer) -> u64 {
    offer.token().unwrap_or(0)
}
