//! Fair queue of transfers, with bounds on the bytes in flight.

use std::collections::{HashMap, HashSet, VecDeque};

use nixl_ops::PeerId;

use super::TransferClass;

/// A transfer's share of the bounds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Charge {
    pub(super) class: TransferClass,
    pub(super) peer: PeerId,
    pub(super) bytes: u64,
}

/// Waiting transfers, each with its wake-up, and the bytes of those in flight.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    per_connection: u64,
    per_peer: u64,
    in_flight: u64,
    bulk: u64,
    /// Bytes of each peer that has some in flight, and 0 of a few that had some: the next transfer is often of the same peer.
    peers: HashMap<PeerId, u64>,
    /// Interactive, bulk.
    classes: [Waiting<T>; 2],
    /// The start tag of the transfer that was admitted last.
    now: u64,
    /// A transfer waits for room on the connection: none may overtake it, or it could starve.
    is_blocked: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    queue: VecDeque<(Charge, T)>,
    /// The finish tag of the class's last transfer.
    finish: u64,
}

/// The reason for a transfer's wait.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Bound {
    Connection,
    Class,
    Peer,
}

impl<T> FairQueue<T> {
    /// Of the bulk class: the bytes for which an interactive transfer may have to wait.
    pub(super) const BULK_IN_FLIGHT: u64 = 1 << 20;
    /// Bytes of the interactive class for one of the bulk class.
    const WEIGHT: u64 = 8;
    /// Peers that are kept while none of their bytes are in flight.
    const KEPT_PEERS: usize = 16;

    pub(super) fn new(per_connection: u64, per_peer: u64) -> Self {
        let waiting = || Waiting { queue: VecDeque::new(), finish: 0 };
        let classes = [waiting(), waiting()];
        let peers = HashMap::new();
        let (in_flight, bulk, now, is_blocked) = (0, 0, 0, false);
        Self { per_connection, per_peer, in_flight, bulk, peers, classes, now, is_blocked }
    }

    /// The number of waiting transfers.
    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(|class| class.queue.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let are_idle = self.peers.values().all(|bytes| *bytes == 0);
        self.len() == 0 && self.in_flight == 0 && self.bulk == 0 && are_idle
    }

    /// Admits a transfer if it waits for nothing, or gives it back: neither for room nor for one that it would overtake.
    pub(super) fn try_admit(&mut self, charge: Charge) -> Result<Charge, Charge> {
        let waiting = &self.classes[index(charge.class)].queue;
        let overtakes = match charge.class {
            TransferClass::Interactive => {
                waiting.iter().any(|(other, _)| other.peer == charge.peer)
            }
            TransferClass::Bulk => !waiting.is_empty(),
        };
        match self.is_blocked || overtakes || self.bound(&charge).is_some() {
            true => Err(charge),
            false => Ok(self.admitted(charge)),
        }
    }

    /// A transfer waits that cannot be admitted now.
    pub(super) fn push(&mut self, charge: Charge, tell: T) {
        self.is_blocked |= self.bound(&charge) == Some(Bound::Connection);
        self.classes[index(charge.class)].queue.push_back((charge, tell));
    }

    /// Whether a transfer waits for room on the connection, and all others behind it.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Only those wait that are so.
    pub(super) fn retain(&mut self, is_so: impl Fn(&T) -> bool) {
        for class in &mut self.classes {
            class.queue.retain(|(_, tell)| is_so(tell));
        }
    }

    /// Admits the next transfer, if one can be.
    pub(super) fn next(&mut self) -> Option<(Charge, T)> {
        self.is_blocked = false;
        let start = |class: &Waiting<T>| class.finish.max(self.now);
        let [interactive, bulk] = &self.classes;
        let order = if start(interactive) <= start(bulk) { [0, 1] } else { [1, 0] };
        for class in order {
            match self.first(class) {
                Ok(Some(at)) => {
                    let (charge, tell) = self.classes[class].queue.remove(at)?;
                    return Some((self.admitted(charge), tell));
                }
                Ok(None) => {}
                Err(()) => {
                    self.is_blocked = true;
                    return None;
                }
            }
        }
        None
    }

    /// The first of a class that can be admitted and overtakes none of its peer's. An error if one waits for room of the connection.
    fn first(&self, class: usize) -> Result<Option<usize>, ()> {
        let mut full = HashSet::new();
        for (at, (charge, _)) in self.classes[class].queue.iter().enumerate() {
            if full.contains(&charge.peer) {
                continue;
            }
            match self.bound(charge) {
                None => return Ok(Some(at)),
                Some(Bound::Connection) => return Err(()),
                Some(Bound::Class) => return Ok(None),
                Some(Bound::Peer) => _ = full.insert(&charge.peer),
            }
        }
        Ok(None)
    }

    /// A transfer has ended. Admits the next one, if one can be.
    #[must_use]
    pub(super) fn release(&mut self, charge: &Charge) -> Option<(Charge, T)> {
        self.ended(charge);
        self.next()
    }

    fn ended(&mut self, Charge { class, peer, bytes }: &Charge) {
        self.in_flight = self.in_flight.saturating_sub(*bytes);
        if *class == TransferClass::Bulk {
            self.bulk = self.bulk.saturating_sub(*bytes);
        }
        if let Some(of_peer) = self.peers.get_mut(peer) {
            *of_peer = of_peer.saturating_sub(*bytes);
            if *of_peer == 0 && self.peers.len() > Self::KEPT_PEERS {
                self.peers.remove(peer);
            }
        }
    }

    fn bound(&self, Charge { class, peer, bytes }: &Charge) -> Option<Bound> {
        let exceeds = |now: u64, most: u64| now > 0 && now.saturating_add(*bytes) > most;
        let of_peer = self.peers.get(peer).copied().unwrap_or(0);
        if exceeds(of_peer, self.per_peer) {
            return Some(Bound::Peer);
        }
        if *class == TransferClass::Bulk && exceeds(self.bulk, Self::BULK_IN_FLIGHT) {
            return Some(Bound::Class);
        }
        exceeds(self.in_flight, self.per_connection).then_some(Bound::Connection)
    }

    fn admitted(&mut self, charge: Charge) -> Charge {
        let weight = if charge.class == TransferClass::Bulk { 1 } else { Self::WEIGHT };
        let class = &mut self.classes[index(charge.class)];
        self.now = class.finish.max(self.now);
        class.finish = self.now.saturating_add(charge.bytes.saturating_mul(Self::WEIGHT) / weight);
        self.in_flight = self.in_flight.saturating_add(charge.bytes);
        if charge.class == TransferClass::Bulk {
            self.bulk = self.bulk.saturating_add(charge.bytes);
        }
        if charge.bytes > 0 {
            match self.peers.get_mut(&charge.peer) {
                Some(of_peer) => *of_peer = of_peer.saturating_add(charge.bytes),
                None => _ = self.peers.insert(charge.peer.clone(), charge.bytes),
            }
        }
        charge
    }
}

fn index(class: TransferClass) -> usize {
    match class {
        TransferClass::Interactive => 0,
        TransferClass::Bulk => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const CLASSES: [TransferClass; 2] = [TransferClass::Interactive, TransferClass::Bulk];

    fn charge(class: TransferClass, peer: usize, bytes: u64) -> Charge {
        Charge { class, peer: PeerId::new(format!("peer-{peer}")), bytes }
    }

    proptest! {
        /// Transfers arrive and end at random. What is in flight keeps to the bounds unless it is alone, each peer's are admitted
        /// in their order within a class, and in the end all were.
        #[test]
        fn bounds_and_order_are_kept_and_none_starves(
            steps in proptest::collection::vec(
                (any::<bool>(), 0usize..3, 0u64..600 * KIB, any::<proptest::sample::Index>()),
                1..200,
            ),
        ) {
            const CONNECTION: u64 = 1500 * KIB;
            const PEER: u64 = 700 * KIB;
            let mut queue = FairQueue::new(CONNECTION, PEER);
            let mut in_flight: Vec<Charge> = Vec::new();
            let (mut arrived, mut last) = (0, HashMap::new());
            let mut admitted = 0;
            let mut admit = |queue: &mut FairQueue<usize>, in_flight: &mut Vec<Charge>| {
                while let Some((charge, number)) = queue.next() {
                    let before = last.insert((charge.class, charge.peer.clone()), number);
                    assert!(before < Some(number), "{before:?} before {number}");
                    in_flight.push(charge);
                    admitted += 1;
                    let sum = |of: &dyn Fn(&Charge) -> bool| {
                        let those = || in_flight.iter().filter(|charge| of(charge));
                        // Those of no bytes are not bounded.
                        let count = those().filter(|charge| charge.bytes > 0).count();
                        (those().map(|charge| charge.bytes).sum::<u64>(), count)
                    };
                    let within = |(bytes, count): (u64, usize), most| bytes <= most || count == 1;
                    assert!(within(sum(&|_| true), CONNECTION));
                    let bulk = sum(&|charge| charge.class == TransferClass::Bulk);
                    assert!(within(bulk, FairQueue::<usize>::BULK_IN_FLIGHT));
                    for peer in 0..3 {
                        let peer = PeerId::new(format!("peer-{peer}"));
                        assert!(within(sum(&|charge| charge.peer == peer), PEER));
                    }
                }
            };
            for (is_bulk, peer, bytes, ends) in steps {
                let arrives = charge(CLASSES[usize::from(is_bulk)], peer, bytes);
                match queue.try_admit(arrives) {
                    // What goes at once goes as the next would.
                    Ok(charge) => {
                        queue.ended(&charge);
                        queue.push(charge, arrived);
                    }
                    Err(charge) => queue.push(charge, arrived),
                }
                arrived += 1;
                admit(&mut queue, &mut in_flight);
                if !in_flight.is_empty() && bytes % 3 == 0 {
                    let ended = in_flight.swap_remove(ends.index(in_flight.len()));
                    queue.ended(&ended);
                    admit(&mut queue, &mut in_flight);
                }
            }
            while let Some(ended) = in_flight.pop() {
                queue.ended(&ended);
                admit(&mut queue, &mut in_flight);
            }
            prop_assert_eq!(admitted, arrived);
            prop_assert!(queue.is_idle());
        }
    }

    /// One at a time, while both classes wait.
    #[test]
    fn classes_that_both_wait_share_by_their_weights() {
        let mut queue = FairQueue::new(1, 1);
        for number in 0..4000 {
            queue.push(charge(TransferClass::Interactive, 0, 4 * KIB), number);
            queue.push(charge(TransferClass::Bulk, 0, 256 * KIB), number);
        }
        let mut bytes = [0; 2];
        for _ in 0..2000 {
            let (charge, _) = queue.next().unwrap();
            bytes[index(charge.class)] += charge.bytes;
            queue.ended(&charge);
        }
        let [interactive, bulk] = bytes;
        let share = interactive as f64 / bulk as f64;
        assert!((7.0..9.0).contains(&share), "{bytes:?}");
    }

    #[test]
    fn peers_without_bytes_in_flight_are_forgotten_but_for_a_few() {
        let mut queue = FairQueue::<()>::new(u64::MAX, u64::MAX);
        for peer in 0..1000 {
            let charge = queue.try_admit(charge(TransferClass::Interactive, peer, KIB)).unwrap();
            queue.ended(&charge);
        }
        assert!(queue.is_idle() && queue.peers.len() <= FairQueue::<()>::KEPT_PEERS);
    }

    #[test]
    fn an_interactive_transfer_waits_for_no_bulk_one_that_waits() {
        let mut queue = FairQueue::new(u64::MAX, u64::MAX);
        let bulk = || charge(TransferClass::Bulk, 0, 600 * KIB);
        for number in 0..64 {
            queue.push(bulk(), number);
        }
        assert_eq!(queue.next().unwrap().1, 0);
        assert!(queue.next().is_none(), "the bulk class has its bytes in flight");
        let interactive = charge(TransferClass::Interactive, 0, 4 * KIB);
        assert!(queue.try_admit(interactive).is_ok());
        assert!(queue.try_admit(bulk()).is_err());
    }
}
