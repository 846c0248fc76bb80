//! A table of grants against a model: a list that is scanned at each step.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nixl_descriptor::layout::{BlockGrantError, Layout};
use nixl_descriptor::{AccessError, PublishedWords, ReadOnlyWords};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{contiguous, key, per_layer, table};
use crate::grants::{
    DoneOutcome, FreeBlocks, GrantError, GrantTable, GrantTerms, Granted, StaleRead, WordCheck,
};
use crate::{Clock, ManualClock};

const BLOCKS: [usize; 2] = [8, 6];
const SLOTS: u32 = 5;

#[derive(Clone, Debug)]
enum Step {
    Grant { layout: u16, blocks: Vec<u32>, seconds: Option<u64>, readers: u32 },
    Publish(Index, u64),
    Ready(Index, u64),
    End(Index),
    Done { grant: Index, reader: u8, forged: bool },
    Renew { grant: Index, forged: bool },
    Advance(u64),
    Expire,
    Wait { layout: u16, blocks: Vec<u32> },
    PollAgain(Index),
    Cancel(Index),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    // Sometimes a block twice, or one that is not there.
    let blocks = || prop::collection::vec(prop_oneof![20 => 0..8u32, 1 => 8..10u32], 0..5);
    let index = any::<Index>;
    let forged = || prop::bool::weighted(0.1);
    let layout = || prop_oneof![10 => 0..2u16, 1 => Just(2u16)];
    let grant = (layout(), blocks(), prop::option::of(1..6u64), 1..4u32).prop_map(
        |(layout, blocks, seconds, readers)| Step::Grant { layout, blocks, seconds, readers },
    );
    let done = (index(), 0..3u8, forged());
    prop_oneof![
        12 => grant,
        8 => (index(), 0..4u64).prop_map(|(grant, layers)| Step::Publish(grant, layers)),
        2 => (index(), 0..4u64).prop_map(|(grant, layers)| Step::Ready(grant, layers)),
        4 => index().prop_map(Step::End),
        6 => done.prop_map(|(grant, reader, forged)| Step::Done { grant, reader, forged }),
        3 => (index(), forged()).prop_map(|(grant, forged)| Step::Renew { grant, forged }),
        5 => (0..3u64).prop_map(Step::Advance),
        3 => Just(Step::Expire),
        4 => (0..2u16, blocks()).prop_map(|(layout, blocks)| Step::Wait { layout, blocks }),
        2 => index().prop_map(Step::PollAgain),
        2 => index().prop_map(Step::Cancel),
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Step::Close } else { Step::Expire }),
    ]
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Reserved,
    Published,
    Over,
}

#[derive(Debug)]
struct Known {
    granted: Granted,
    layout: u16,
    blocks: Vec<u32>,
    lives: Option<Duration>,
    expires: Option<Duration>,
    readers: usize,
    done: HashSet<u8>,
    layers: u64,
    phase: Phase,
}

impl Known {
    fn alive(&self) -> bool {
        self.phase != Phase::Over
    }

    fn holds(&self, layout: u16, block: u32) -> bool {
        self.alive() && self.layout == layout && self.blocks.contains(&block)
    }

    fn digest(&self) -> u64 {
        !self.granted.generation
    }

    /// Whether it had not ended before.
    fn end(&mut self) -> bool {
        std::mem::replace(&mut self.phase, Phase::Over) != Phase::Over
    }

    /// Why a ticket of it is not good for a message, if it is not.
    fn refusal(&mut self, forged: bool, now: Duration) -> Option<GrantError> {
        if !self.alive() {
            return Some(GrantError::Over);
        }
        if forged {
            return Some(GrantError::WrongToken { slot: self.granted.slot });
        }
        if self.expires.is_some_and(|at| at <= now) {
            self.end();
            return Some(GrantError::Over);
        }
        None
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

struct Wait {
    future: FreeBlocks,
    layout: u16,
    blocks: Vec<u32>,
    flag: Arc<Flag>,
}

struct World {
    layouts: [Layout; 2],
    table: Arc<GrantTable>,
    clock: Arc<ManualClock>,
    /// What peers of this host have.
    words: ReadOnlyWords,
    known: Vec<Known>,
    waits: Vec<Wait>,
    flags: Vec<Arc<Flag>>,
    closed: bool,
    /// All values that a word has had, and what each word is.
    values: HashSet<u64>,
    last: [u64; SLOTS as usize],
}

impl World {
    fn new() -> Self {
        let layouts = [contiguous(BLOCKS[0]), per_layer(BLOCKS[1])];
        let (table, clock) = table(&layouts, SLOTS);
        let words = PublishedWords::open(&table.words().name()).unwrap();
        Self {
            layouts,
            table,
            clock,
            words,
            known: Vec::new(),
            waits: Vec::new(),
            flags: Vec::new(),
            closed: false,
            values: HashSet::from([0]),
            last: [0; SLOTS as usize],
        }
    }

    fn held(&self, layout: u16, block: u32) -> bool {
        self.known.iter().any(|grant| grant.holds(layout, block))
    }

    fn are_free(&self, layout: u16, blocks: &[u32]) -> bool {
        !blocks.iter().any(|&block| self.held(layout, block))
    }

    fn expected(&self, layout: u16, blocks: &[u32]) -> Result<(), GrantError> {
        let Some(&count) = BLOCKS.get(usize::from(layout)) else {
            return Err(GrantError::NoLayout { layout, layouts: 2 });
        };
        if blocks.is_empty() {
            return Err(BlockGrantError::NoBlocks.into());
        }
        for (at, &block) in blocks.iter().enumerate() {
            if block as usize >= count {
                return Err(BlockGrantError::OutOfRange { block, blocks: count }.into());
            }
            if blocks[..at].contains(&block) {
                return Err(BlockGrantError::Duplicate { block }.into());
            }
        }
        if self.closed {
            return Err(GrantError::Closed);
        }
        let taken = self.known.iter().filter(|grant| grant.alive()).count();
        if taken == SLOTS as usize {
            return Err(GrantError::Full { slots: SLOTS });
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now = self.clock.now();
        let pick = |index: &Index| (!self.known.is_empty()).then(|| index.index(self.known.len()));
        let reader = |reader: u8| [reader; 16];
        let token = |granted: &Granted, forged: bool| {
            let mut token = granted.token;
            token[3] ^= u8::from(forged);
            token
        };
        match step {
            Step::Grant { layout, blocks, seconds, readers } => {
                let lives = seconds.map(Duration::from_secs);
                let readers = NonZeroU32::new(*readers).unwrap();
                let mut terms = GrantTerms::new(*layout).for_readers(readers);
                terms.time_to_live = lives;
                let taken = self.table.grant(&terms, blocks);
                let expected = self.expected(*layout, blocks);
                prop_assert_eq!(taken.as_ref().map(drop), expected.as_ref().map(drop));
                let Ok(granted) = taken else { return Ok(()) };
                self.known.push(Known {
                    granted,
                    layout: *layout,
                    blocks: blocks.clone(),
                    lives,
                    expires: lives.map(|time| now + time),
                    readers: readers.get() as usize,
                    done: HashSet::new(),
                    layers: 0,
                    phase: Phase::Reserved,
                });
            }
            Step::Publish(index, layers) => {
                let Some(at) = pick(index) else { return Ok(()) };
                let grant = &mut self.known[at];
                let (slot, generation) = key(&grant.granted);
                let result = self.table.publish(slot, generation, grant.digest(), *layers);
                let expected = match grant.phase {
                    Phase::Reserved => Ok(()),
                    Phase::Published => Err(GrantError::Published),
                    Phase::Over => Err(GrantError::Over),
                };
                prop_assert_eq!(&result, &expected);
                if result.is_ok() {
                    grant.phase = Phase::Published;
                    grant.layers = grant.layers.max(*layers);
                }
            }
            Step::Ready(index, layers) => {
                let Some(at) = pick(index) else { return Ok(()) };
                let grant = &mut self.known[at];
                let (slot, generation) = key(&grant.granted);
                let result = self.table.ready_through(slot, generation, *layers);
                prop_assert_eq!(result, grant.alive().then_some(()).ok_or(GrantError::Over));
                if grant.alive() {
                    grant.layers = grant.layers.max(*layers);
                }
            }
            Step::End(index) => {
                let Some(at) = pick(index) else { return Ok(()) };
                let (slot, generation) = key(&self.known[at].granted);
                prop_assert_eq!(self.table.end(slot, generation), self.known[at].end());
            }
            Step::Done { grant: index, reader: by, forged } => {
                let Some(at) = pick(index) else { return Ok(()) };
                let grant = &mut self.known[at];
                let (slot, generation) = key(&grant.granted);
                let token = token(&grant.granted, *forged);
                let result = self.table.done(slot, generation, &token, reader(*by));
                let expected = if grant.phase == Phase::Over {
                    Ok(DoneOutcome::Over)
                } else if *forged {
                    Err(GrantError::WrongToken { slot })
                } else if grant.expires.is_some_and(|at| at <= now) {
                    grant.end();
                    Ok(DoneOutcome::Over)
                } else {
                    grant.done.insert(*by);
                    match grant.readers - grant.done.len() {
                        0 => {
                            grant.phase = Phase::Over;
                            Ok(DoneOutcome::Ended)
                        }
                        readers => Ok(DoneOutcome::Waiting { readers }),
                    }
                };
                prop_assert_eq!(result, expected);
            }
            Step::Renew { grant: index, forged } => {
                let Some(at) = pick(index) else { return Ok(()) };
                let grant = &mut self.known[at];
                let (slot, generation) = key(&grant.granted);
                let result = self.table.renew(slot, generation, &token(&grant.granted, *forged));
                let expected = match grant.refusal(*forged, now) {
                    Some(refusal) => Err(refusal),
                    None => {
                        grant.expires = grant.lives.map(|time| now + time);
                        Ok(grant.expires)
                    }
                };
                prop_assert_eq!(result, expected);
            }
            Step::Advance(seconds) => self.clock.advance(Duration::from_secs(*seconds)),
            Step::Expire => {
                let due =
                    |grant: &&mut Known| grant.alive() && grant.expires.is_some_and(|at| at <= now);
                let expected = self.known.iter_mut().filter(due).map(Known::end).count();
                prop_assert_eq!(self.table.expire(now), expected);
            }
            Step::Wait { layout, blocks } => {
                let count = BLOCKS[usize::from(*layout)];
                let future = self.table.free_blocks(*layout, blocks);
                let missing = blocks.iter().copied().find(|&block| block as usize >= count);
                if let Some(block) = missing {
                    let expected = BlockGrantError::OutOfRange { block, blocks: count };
                    prop_assert_eq!(future.map(drop), Err(expected.into()));
                    return Ok(());
                }
                let flag = Arc::new(Flag::default());
                self.flags.push(Arc::clone(&flag));
                let (layout, blocks) = (*layout, blocks.clone());
                self.waits.push(Wait { future: future.unwrap(), layout, blocks, flag });
                self.poll(self.waits.len() - 1)?;
            }
            Step::PollAgain(index) if !self.waits.is_empty() => {
                let at = index.index(self.waits.len());
                // By another waker from now on.
                let flag = Arc::new(Flag::default());
                self.flags.push(Arc::clone(&flag));
                let before = std::mem::replace(&mut self.waits[at].flag, flag);
                self.poll(at)?;
                prop_assert_eq!(Arc::strong_count(&before), 2, "a waker was kept");
            }
            Step::Cancel(index) if !self.waits.is_empty() => {
                let at = index.index(self.waits.len());
                self.waits.swap_remove(at);
            }
            Step::PollAgain(_) | Step::Cancel(_) => {}
            Step::Close => {
                self.closed = true;
                self.known.iter_mut().for_each(|grant| grant.phase = Phase::Over);
                self.table.close();
            }
        }
        Ok(())
    }

    /// Polls a wait, which is over if its blocks are free.
    fn poll(&mut self, at: usize) -> Result<(), TestCaseError> {
        let free = self.are_free(self.waits[at].layout, &self.waits[at].blocks);
        let wait = &mut self.waits[at];
        let waker = Waker::from(Arc::clone(&wait.flag));
        let poll = Pin::new(&mut wait.future).poll(&mut Context::from_waker(&waker));
        prop_assert_eq!(poll, if free { Poll::Ready(()) } else { Poll::Pending });
        if free {
            self.waits.swap_remove(at);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        // Waits are woken when, and only when, their blocks are free.
        for at in (0..self.waits.len()).rev() {
            let wait = &self.waits[at];
            let woken = wait.flag.0.load(SeqCst);
            prop_assert_eq!(woken, self.are_free(wait.layout, &wait.blocks));
            if woken {
                self.poll(at)?;
            }
        }
        // A value of a word is never there again, on any slot, once it was another.
        for slot in 0..SLOTS {
            let word = self.words.load(slot as usize * 4).unwrap();
            let last = &mut self.last[slot as usize];
            prop_assert!(word == *last || self.values.insert(word), "{word} again");
            *last = word;
        }
        for grant in &self.known {
            let (slot, generation) = key(&grant.granted);
            let check = WordCheck::new(slot, generation, grant.digest());
            let published = grant.phase == Phase::Published;
            let expected = published.then_some(()).ok_or(StaleRead::Stale);
            prop_assert_eq!(check.check_mapped(&self.words), expected);
            prop_assert_eq!(check.layers_ready(&self.words), expected.map(|()| grant.layers));
            let altered = WordCheck { digest: check.digest ^ 1, ..check };
            let expected = if published { StaleRead::NotGranted } else { StaleRead::Stale };
            prop_assert_eq!(altered.check_mapped(&self.words), Err(expected));
        }
        let mut granted = 0;
        for (layout, count) in BLOCKS.into_iter().enumerate() {
            for block in 0..count as u32 {
                let held = self.held(layout as u16, block);
                granted += usize::from(held);
                self.check_copies(layout, block, held)?;
            }
        }
        let stats = self.table.stats();
        let alive = self.known.iter().filter(|grant| grant.alive()).count();
        prop_assert_eq!((stats.alive, stats.blocks), (alive, granted));
        prop_assert_eq!(stats.waiting, self.waits.len());
        prop_assert_eq!(self.table.waiters(|waiters| waiters.watched()), self.waits.len());
        let deadlines = self.known.iter().filter(|grant| grant.alive());
        let next = deadlines.filter_map(|grant| grant.expires).min();
        prop_assert_eq!(self.table.next_expiry(), next);
        Ok(())
    }

    /// Copies by the host keep out of the way of grants, and of nothing else.
    fn check_copies(&self, layout: usize, block: u32, held: bool) -> Result<(), TestCaseError> {
        let layout = &self.layouts[layout];
        let span = layout.chunk(block as usize, 1, 0).unwrap();
        let region = layout.parts()[span.part].region();
        let mut bytes = vec![0; span.len];
        prop_assert_eq!(region.copy_to_slice(span.offset, &mut bytes), Ok(()));
        let changed = region.copy_from_slice(span.offset, &bytes);
        let expected = if held { Err(AccessError::Granted { block }) } else { Ok(()) };
        prop_assert_eq!(changed, expected);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn as_a_list_of_grants(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step)?;
            world.check()?;
        }
        world.waits.clear();
        prop_assert_eq!(world.table.stats().waiting, 0);
        for flag in &world.flags {
            prop_assert_eq!(Arc::strong_count(flag), 1, "a waker is kept");
        }
        world.table.close();
        prop_assert_eq!(world.table.stats(), Default::default());
    }
}
