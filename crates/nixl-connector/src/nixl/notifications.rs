//! The notifications of one poll of NIXL, read and handed out outside the gate.

use std::borrow::Cow;
use std::collections::HashSet;
use std::mem;

use nixl_metadata::PeerInfo;
use nixl_sys::NotificationMap;

use super::exit;

/// The notifications of a poll that could not be handed out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Missed {
    /// Senders and payloads that cannot be read.
    pub(super) unreadable: usize,
    /// Senders beyond those that one look reads.
    pub(super) left_out: usize,
}

/// Hands the notifications of a map to `sink`, outside of the gate and of the exit's guard: the sink answers peers and wakes tasks. Names
/// and payloads are a peer's bytes. Those of the agents that `connected` names are left out by no number of others.
pub(super) fn hand_out(
    map: NotificationMap,
    connected: impl FnOnce() -> Vec<String>,
    sink: &mut dyn FnMut(&str, &[u8]),
) -> Missed {
    let mut missed = Missed::default();
    read(&map, connected, &mut missed, sink);
    // Nothing of NIXL's is called once the process exits.
    match exit::enter() {
        Some(_busy) => drop(map),
        None => mem::forget(map),
    }
    missed
}

fn read(
    map: &NotificationMap,
    connected: impl FnOnce() -> Vec<String>,
    missed: &mut Missed,
    sink: &mut dyn FnMut(&str, &[u8]),
) {
    let Some(busy) = exit::enter() else { return };
    let payloads = |from: &str| map.get_notifications_size(from).ok();
    let is_there = |from: &str| payloads(from).is_some();
    let walk = map.agents().map(Result::ok);
    let senders = Senders::choose(map.len().unwrap_or(0), walk, connected, is_there);
    *missed = senders.missed;
    let senders: Vec<_> = senders.names.into_iter().map(|from| (payloads(&from), from)).collect();
    drop(busy);
    for (payloads, from) in senders {
        let Some(payloads) = payloads else {
            missed.unreadable += 1;
            continue;
        };
        for index in 0..payloads {
            let Some(busy) = exit::enter() else { return };
            let payload = map.get_notification_bytes(&from, index);
            drop(busy);
            match payload {
                Ok(payload) => sink(&from, &payload),
                Err(_) => missed.unreadable += 1,
            }
        }
    }
}

/// The senders of a poll.
#[derive(Debug)]
struct Senders<'a> {
    names: Vec<Cow<'a, str>>,
    missed: Missed,
}

impl<'a> Senders<'a> {
    /// Names that are walked by. The binding goes to the n-th through n others: this many take two million steps, some milliseconds.
    const MOST: usize = 2048;

    /// Takes the first of the `len` names that `walk` comes by, and of `connected` ones, where there are more, all that are there. What
    /// cannot be read keeps no notification of others back.
    fn choose(
        len: usize,
        walk: impl Iterator<Item = Option<&'a str>>,
        connected: impl FnOnce() -> Vec<String>,
        is_there: impl Fn(&str) -> bool,
    ) -> Self {
        let mut sought = HashSet::new();
        if len > Self::MOST {
            sought.extend(connected().into_iter().filter(|name| is_there(name)));
        }
        let (mut names, mut seen, mut unreadable) = (Vec::new(), HashSet::new(), 0);
        for name in walk.take(Self::MOST) {
            // A name with a NUL ends there for the binding: then it is none, or that of another peer for a second time.
            match name.filter(|name| PeerInfo::is_name(name) && seen.insert(*name)) {
                Some(name) => names.push(Cow::Borrowed(name)),
                None => unreadable += 1,
            }
        }
        sought.retain(|name| !seen.contains(&**name));
        let left_out = len.saturating_sub(Self::MOST + sought.len());
        names.extend(sought.into_iter().map(Cow::Owned));
        Self { names, missed: Missed { unreadable, left_out } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[String], connected: &[&str]) -> (Vec<String>, Missed, usize) {
        let mut steps = 0;
        let walk = names.iter().map(|name| {
            steps += 1;
            (name != "?").then_some(name.as_str())
        });
        let connected = || connected.iter().map(|name| (*name).to_owned()).collect();
        let is_there = |name: &str| names.iter().any(|other| other == name);
        let Senders { names, missed } = Senders::choose(names.len(), walk, connected, is_there);
        let mut names: Vec<_> = names.into_iter().map(Cow::into_owned).collect();
        names.sort_unstable();
        (names, missed, steps)
    }

    #[test]
    fn a_flood_of_names_is_walked_in_part_and_leaves_no_connected_peer_out() {
        let mut names: Vec<_> = (0..100_000).map(|n| format!("stranger {n}")).collect();
        names[17] = "first".to_owned();
        names[90_000] = "last".to_owned();
        let (read, missed, steps) = chosen(&names, &["first", "last", "absent"]);
        assert_eq!((steps, read.len()), (Senders::MOST, Senders::MOST + 1));
        assert!(["first", "last"].iter().all(|name| read.iter().any(|other| other == name)));
        assert_eq!(missed, Missed { unreadable: 0, left_out: names.len() - read.len() });
    }

    #[test]
    fn names_that_no_agent_has_are_counted_and_cost_no_other() {
        let long = "x".repeat(PeerInfo::MAX_NAME_BYTES);
        let names = ["", "?", "a\nb", "\u{1b}[2J", &long, &format!("{long}x"), "twin", "twin", "z"];
        let (read, missed, _) = chosen(&names.map(str::to_owned), &[]);
        assert_eq!(read, ["twin", &long, "z"]);
        assert_eq!(missed, Missed { unreadable: 6, left_out: 0 });
    }
}
