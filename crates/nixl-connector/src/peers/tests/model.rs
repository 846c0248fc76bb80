//! A model of the table: a plain list of the state of each peer.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Load(u8, u8),
    Use(u8, u8),
    Leaves(u8),
    /// With so many transfers that it stays, if it should make room.
    Busy(u8),
    Ends(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..8u8;
    prop_oneof![
        5 => (peer(), 0..3u8).prop_map(|(p, m)| Step::Load(p, m)),
        2 => (peer(), 0..3u8).prop_map(|(p, m)| Step::Use(p, m)),
        2 => peer().prop_map(Step::Leaves),
        2 => peer().prop_map(Step::Busy),
        2 => peer().prop_map(Step::Ends),
    ]
}

/// The state of a peer, as plain fields.
#[derive(Clone, Debug, Default)]
struct Told {
    loaded: Vec<u8>,
    is_known: bool,
    has_left: bool,
    is_busy: bool,
    used: u32,
}

proptest! {
    /// Peers are met, used, busy, leave, end, make room, and come again under the same name.
    #[test]
    fn as_a_list_of_what_is_known_of_each_peer(steps in proptest::collection::vec(step(), 0..200)) {
        const CAPACITY: usize = 3;
        let table = PeerTable::new(CAPACITY);
        let mut model: Vec<Told> = vec![Told::default(); 8];
        for (turn, step) in (1..).zip(steps) {
            match step {
                Step::Load(p, m) => {
                    let is_new = table.insert(metadata(&format!("{p} {m}")), &to(&p.to_string()));
                    let told = &mut model[usize::from(p)];
                    prop_assert_eq!(is_new, !told.is_known);
                    (told.is_known, told.used) = (true, turn);
                    told.loaded.push(m);
                    let mut excess = table.len().saturating_sub(CAPACITY);
                    let mut order: Vec<_> = (0..8).filter(|p| model[*p].is_known).collect();
                    order.sort_unstable_by_key(|p| model[*p].used);
                    order.pop();
                    order.truncate(if excess > 0 { excess + State::PASSED_OVER } else { 0 });
                    let busy: Vec<_> = (0..8).filter(|p| model[*p].is_busy).map(|p| p.to_string()).collect();
                    let busy: Vec<_> = busy.iter().map(String::as_str).collect();
                    let gone = disconnected(&table, &busy);
                    let mut expected = Vec::new();
                    for p in order {
                        if excess > 0 && !model[p].is_busy {
                            excess -= 1;
                            expected.push(p.to_string());
                            let has_left = model[p].has_left;
                            model[p] = Told { has_left, ..Told::default() };
                        }
                    }
                    prop_assert_eq!(gone, expected);
                }
                Step::Use(p, m) => {
                    let told = &mut model[usize::from(p)];
                    let found = table.get(&metadata(&format!("{p} {m}")), None).is_some();
                    prop_assert_eq!(found, told.loaded.contains(&m));
                    if found {
                        told.used = turn;
                    }
                }
                Step::Leaves(p) => {
                    let told = &mut model[usize::from(p)];
                    let is_first = told.is_known && !told.has_left;
                    prop_assert_eq!(table.note_leaving(&PeerId::new(p.to_string())), is_first);
                    told.has_left |= is_first;
                }
                Step::Busy(p) => model[usize::from(p)].is_busy ^= true,
                Step::Ends(p) => {
                    let told = &mut model[usize::from(p)];
                    prop_assert_eq!(table.remove(&PeerId::new(p.to_string())), told.is_known);
                    *told = Told { has_left: told.has_left, ..Told::default() };
                }
            }
            let mut known: Vec<_> = table.all().into_iter().map(|p| p.to_string()).collect();
            known.sort_unstable();
            let told: Vec<_> = (0..8).filter(|p| model[*p].is_known).map(|p| p.to_string()).collect();
            prop_assert_eq!(table.len(), told.len());
            prop_assert_eq!(known, told);
        }
    }
}
