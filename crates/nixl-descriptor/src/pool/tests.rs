//! Tests of the buffer pool.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use proptest::prelude::*;

use super::stock::{GRACE, LONGEST_RETENTION, MAX_RETIRED_BYTES, RETENTION, WARM, WINDOW};
use super::*;
use crate::lease::{LeaseMode, Leases};
use crate::{ReclaimError, SharedMemory};

const MIB: usize = 1 << 20;
const MOST: usize = usize::MAX;

#[derive(Clone, Debug)]
enum Step {
    Take {
        len: usize,
        zeroed: bool,
    },
    Drop(usize),
    Write {
        which: usize,
        byte: u8,
    },
    /// Of a buffer, as an operation in flight holds it.
    Lease(usize),
    EndLease(usize),
    /// Milliseconds.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1_usize..100, 1_usize..100_000, 1_usize..(3 * MIB), Just(40 * MIB)];
    prop_oneof![
        4 => (len, any::<bool>()).prop_map(|(len, zeroed)| Step::Take { len, zeroed }),
        3 => any::<usize>().prop_map(Step::Drop),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(which, byte)| Step::Write { which, byte }),
        1 => any::<usize>().prop_map(Step::Lease),
        1 => any::<usize>().prop_map(Step::EndLease),
        1 => (0_u64..3000).prop_map(Step::Pass),
    ]
}

/// A buffer and what its first and last byte are, if that is known.
struct Buffer {
    region: Region,
    ends: Option<[u8; 2]>,
}

impl Buffer {
    fn ends(&self) -> [u8; 2] {
        let mut ends = [0; 2];
        self.region.copy_to_slice(0, &mut ends[..1]).unwrap();
        self.region.copy_to_slice(self.region.len() - 1, &mut ends[1..]).unwrap();
        ends
    }

    fn write(&mut self, byte: u8) -> bool {
        let ends = [byte, if self.region.len() > 1 { byte ^ 0x55 } else { byte }];
        let written = self.region.copy_from_slice(0, &ends[..1]).is_ok()
            && self.region.copy_from_slice(self.region.len() - 1, &ends[1..]).is_ok();
        if written {
            self.ends = Some(ends);
        }
        written
    }
}

fn pick<T>(list: &mut [T], which: usize) -> Option<&mut T> {
    let index = which.checked_rem(list.len())?;
    list.get_mut(index)
}

fn pull<T>(list: &mut Vec<T>, which: usize) -> Option<T> {
    let index = which.checked_rem(list.len())?;
    Some(list.swap_remove(index))
}

/// The buffers that exist: those held, and those that only a lease holds.
fn check(pool: &BufferPool, alive: &HashMap<u64, (u64, usize)>) -> Result<(), TestCaseError> {
    let mut blocks: Vec<_> = alive.values().copied().collect();
    blocks.sort_unstable();
    for pair in blocks.windows(2) {
        prop_assert!(pair[0].0 + pair[0].1 as u64 <= pair[1].0, "{pair:x?} overlap");
    }
    let stats = pool.stats();
    prop_assert_eq!(stats.buffers, blocks.len());
    let used: usize = blocks.iter().map(|(_, len)| Class::of(*len).unwrap().block).sum();
    prop_assert_eq!(stats.used, used as u64);
    prop_assert!(stats.used + stats.warm <= stats.mapped, "{stats:?}");
    prop_assert_eq!(stats.made, (stats.slabs + stats.retired) as u64, "none was unmapped yet");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn buffers_are_apart_and_the_accounts_are_right(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let pool = BufferPool::new();
        let mut time = Instant::now();
        let mut buffers: Vec<Buffer> = Vec::new();
        let mut leases = Vec::new();
        for step in steps {
            match step {
                Step::Take { len, zeroed } => {
                    let block = pool.block(len).unwrap();
                    let region = match zeroed {
                        true => block.into_zeroed(len),
                        false => block.into_region(len),
                    };
                    let region = region.unwrap();
                    prop_assert_eq!(region.len(), len);
                    if zeroed {
                        prop_assert!(region.to_vec().unwrap() == vec![0; len]);
                    }
                    buffers.push(Buffer { region, ends: zeroed.then_some([0; 2]) });
                }
                Step::Drop(which) => drop(pull(&mut buffers, which)),
                Step::Write { which, byte } => {
                    if let Some(buffer) = pick(&mut buffers, which) {
                        let leased = leases.iter().any(|(id, _, _)| *id == buffer.region.id());
                        prop_assert_eq!(buffer.write(byte), !leased);
                    }
                }
                Step::Lease(which) => {
                    if let Some(Buffer { region, .. }) = pick(&mut buffers, which) {
                        let lease = Leases::acquire(&[region.whole()], LeaseMode::Read).unwrap();
                        leases.push((region.id(), (region.address(), region.len()), lease));
                    }
                }
                Step::EndLease(which) => drop(pull(&mut leases, which)),
                Step::Pass(millis) => {
                    time += Duration::from_millis(millis);
                    pool.trim(time);
                }
            }
            for buffer in &buffers {
                prop_assert!(buffer.ends.is_none_or(|ends| ends == buffer.ends()));
            }
            let held = buffers.iter().map(|Buffer { region, .. }| (region.address(), region.len()));
            let leased = leases.iter().map(|(_, place, _)| *place);
            check(&pool, &held.chain(leased).map(|place| (place.0, place)).collect())?;
        }
        drop((buffers, leases));
        let over = time + 3 * WINDOW + RETENTION;
        pool.trim(over);
        prop_assert_eq!(pool.trim(over + GRACE), None);
        let stats = pool.stats();
        prop_assert_eq!((stats.buffers, stats.used, stats.retired, stats.retired_bytes), (0, 0, 0, 0));
        prop_assert!(stats.warm <= WARM as u64);
        prop_assert_eq!(stats.unmapped_early, 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
fn many_buffers_one_after_the_other_take_few_slabs() {
    let pool = BufferPool::new();
    let mut held = std::collections::VecDeque::new();
    let lens = [1, 4096, 5000, 70_000, MIB, MIB + 1, 3 * MIB];
    let mut after_warm_up = None;
    for count in 0..100_000 {
        held.push_back(pool.buffer(lens[count % lens.len()]).unwrap());
        if held.len() > 70 {
            drop(held.pop_front());
        }
        if count == 1000 {
            after_warm_up = Some(pool.stats());
        }
    }
    let (before, after) = (after_warm_up.unwrap(), pool.stats());
    assert_eq!((after.made, after.slabs, after.mapped), (before.made, before.slabs, before.mapped));
    assert_eq!((after.retired, after.unmapped_early), (0, 0));
}

#[test]
#[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
fn ten_thousand_small_buffers_take_ten_files() {
    let pool = BufferPool::new();
    let buffers: Vec<_> = (0..10_000).map(|_| pool.buffer(4096).unwrap()).collect();
    let stats = pool.stats();
    let page = rustix::param::page_size();
    assert_eq!(stats.slabs, (10_000 * page).div_ceil(4 * MIB));
    let names: HashSet<_> = buffers.iter().map(|region| region.shared_name().unwrap()).collect();
    assert_eq!(names.len(), stats.slabs);
}

#[test]
fn the_block_that_is_free_for_longest_is_used_first() {
    let pool = BufferPool::new();
    let buffer = || pool.buffer(300_000).unwrap();
    let per_slab = Class::of(300_000).unwrap().blocks();
    let all: Vec<_> = (0..per_slab).map(|_| buffer()).collect();
    let order = [3, 0, 2, 1];
    let addresses = order.map(|index| all[index].address());
    let mut all: Vec<_> = all.into_iter().map(Some).collect();
    for index in order {
        all[index] = None;
    }
    let again = order.map(|_| buffer());
    assert_eq!(again.map(|region| region.address()), addresses);
    assert_eq!(pool.stats().slabs, 1);
}

#[test]
fn a_buffer_is_zero_if_that_is_promised() {
    let pool = BufferPool::new();
    let zeroed = |len| pool.block(len).unwrap().into_zeroed(len).unwrap();
    for len in [100, 5 * MIB] {
        let per_slab = Class::of(len).unwrap().blocks();
        for _ in 0..per_slab {
            pool.buffer(len).unwrap().copy_from_slice(len - 1, &[7]).unwrap();
        }
        assert_eq!(pool.buffer(len).unwrap().to_vec().unwrap()[len - 1], 7, "it is the same block");
        for _ in 0..per_slab {
            assert_eq!(zeroed(len).to_vec().unwrap(), vec![0; len]);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn free_memory_is_kept_for_a_while_and_then_given_back() {
    let pool = BufferPool::new();
    let buffers: Vec<_> = (0..6).map(|_| pool.buffer(40 * MIB).unwrap()).collect();
    let name = buffers[5].shared_name().unwrap();
    drop(buffers);
    // 40 of 240 MiB are few enough to be kept, the rest is not.
    let cold = Instant::now() + 3 * WINDOW;
    let over = pool.trim(cold).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.slabs, stats.retired), (1, 5));
    assert_eq!((stats.warm, stats.retired_bytes), (40 << 20, 200 << 20));
    // The newest is the one that is left.
    assert!(name.is_there());
    assert!(over <= cold + RETENTION);
    assert!(pool.trim(over - Duration::from_millis(1)).is_some_and(|due| due >= over));
    assert_eq!(pool.stats().unmapped_early, 0);
    // What was sent to a process that was stopped until now is read first.
    assert_eq!(pool.trim(cold + RETENTION), Some(cold + RETENTION + GRACE));
    let stopped = cold + RETENTION + 3 * GRACE;
    assert_eq!(pool.trim(stopped), Some(stopped + GRACE));
    assert_eq!(pool.stats().retired, 5);
    assert_eq!(pool.trim(stopped + GRACE), None);
    assert_eq!((pool.stats().retired, pool.stats().retired_bytes), (0, 0));
}

#[test]
fn what_was_in_use_lately_is_kept() {
    let start = Instant::now();
    let mut stock = Stock::new(start);
    let class = Class::of(40 * MIB).unwrap();
    for _ in 0..6 {
        stock.add(Slab::new(class).unwrap(), start);
    }
    let taken: Vec<_> = (0..6).map(|_| stock.take(class, start).unwrap()).collect();
    let at = |windows: f64| start + WINDOW.mul_f64(windows);
    for one in &taken {
        stock.put_back(&one.slab, one.index, at(0.5));
    }
    assert!(stock.clear(at(0.9), MOST).withdrawn.is_empty());
    assert!(stock.clear(at(1.1), MOST).withdrawn.is_empty(), "the window before counts");
    let due = stock.due().unwrap();
    assert_eq!(stock.clear(due, 2).withdrawn.len(), 2);
    assert_eq!(stock.clear(due, MOST).withdrawn.len(), 3);
    assert_eq!(stock.due(), at(0.5).checked_add(RETENTION));
    stock.retain_for(2 * RETENTION);
    stock.retain_for(Duration::ZERO);
    assert!(stock.clear(at(0.5) + RETENTION, MOST).unmapped.is_empty());
    assert!(stock.clear(at(0.5) + 2 * RETENTION, MOST).unmapped.is_empty());
    assert_eq!(stock.clear(at(0.5) + 2 * RETENTION + GRACE, 1).unmapped.len(), 1);
    assert_eq!(stock.clear(at(0.5) + 2 * RETENTION + GRACE, MOST).unmapped.len(), 4);
}

#[test]
fn a_life_without_an_end_keeps_no_slab_for_ever() {
    let start = Instant::now();
    let mut stock = Stock::new(start);
    stock.retain_for(Duration::MAX);
    let class = Class::of(40 * MIB).unwrap();
    for _ in 0..6 {
        stock.add(Slab::new(class).unwrap(), start);
    }
    let taken: Vec<_> = (0..6).map(|_| stock.take(class, start).unwrap()).collect();
    taken.iter().for_each(|one| stock.put_back(&one.slab, one.index, start));
    let cooled = stock.due().unwrap();
    assert!(!stock.clear(cooled, MOST).withdrawn.is_empty());
    let over = cooled + LONGEST_RETENTION;
    assert!(stock.clear(over, MOST).unmapped.is_empty());
    assert!(!stock.clear(over + GRACE, MOST).unmapped.is_empty());
}

#[test]
fn a_buffer_that_comes_back_gives_one_slab_back_that_is_too_much() {
    let pool = BufferPool::new();
    let last = pool.buffer(100).unwrap();
    let buffers: Vec<_> = (0..6).map(|_| pool.buffer(40 * MIB).unwrap()).collect();
    drop(buffers);
    // Time passes: what was in use does not count any more. There is no such block.
    let other = Class::of(500 * MIB).unwrap();
    assert!(pool.shelves.lock().take(other, Instant::now() + 3 * WINDOW).is_none());
    let others = [(); 2].map(|()| pool.buffer(100).unwrap());
    assert_eq!(pool.stats().retired, 0);
    drop(last);
    assert_eq!(pool.stats().retired, 1);
    drop(others);
    assert_eq!(pool.stats().retired, 3);
}

#[test]
fn a_slab_with_a_buffer_in_use_is_not_retired() {
    let pool = BufferPool::new();
    let mut buffers: Vec<_> = (0..160).map(|_| pool.buffer(MIB).unwrap()).collect();
    // One is left in each slab.
    let per_slab = Class::of(MIB).unwrap().blocks();
    let mut index = 0;
    buffers.retain(|_| {
        index += 1;
        index % per_slab == 1
    });
    pool.trim(Instant::now() + 3 * WINDOW);
    assert_eq!((pool.stats().slabs, pool.stats().retired), (10, 0));
    drop(buffers);
    pool.trim(Instant::now() + 3 * WINDOW);
    assert_eq!((pool.stats().slabs, pool.stats().retired), (4, 6));
}

#[test]
#[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
fn too_many_addresses_are_unmapped_early_and_counted() {
    let pool = BufferPool::new();
    let len = MAX_RETIRED_BYTES / 8 * 5;
    let buffers = [(); 3].map(|()| pool.buffer(len).unwrap());
    drop(buffers);
    let due = pool.trim(Instant::now() + 3 * WINDOW);
    let stats = pool.stats();
    assert_eq!((stats.slabs, stats.retired, stats.unmapped_early), (0, 1, 2));
    assert!(due.is_some());
}

#[test]
#[cfg_attr(miri, ignore = "asks for more memory than an interpreter can refuse")]
fn bad_lengths_are_refused() {
    let pool = BufferPool::new();
    assert_eq!(pool.buffer(0).unwrap_err(), RegionError::Empty);
    for len in [usize::MAX, usize::MAX / 2, 1 << 60] {
        let refused = pool.buffer(len).unwrap_err();
        assert!(matches!(refused, RegionError::OutOfMemory { .. }), "{refused}");
    }
    assert_eq!(pool.stats(), PoolStats::default());
}

#[test]
fn a_buffer_cannot_be_taken_out_of_the_pool() {
    let pool = BufferPool::new();
    let refused = pool.buffer(100).unwrap().try_into_inner::<SharedMemory>().unwrap_err();
    assert!(matches!(refused.reason, ReclaimError::WrongType { .. }));
    drop(refused);
    assert_eq!(pool.stats().buffers, 0);
}

#[test]
fn a_late_copy_of_an_engine_is_kept_apart_from_the_next_buffers() {
    // An engine inside the process knows the slab, and neither leases nor copies of the buffers in it.
    const LEN: usize = 65_536;
    let pool = BufferPool::new();
    let buffers = [(); 2].map(|()| pool.buffer(LEN).unwrap());
    let whole = buffers[0].whole_region().clone();
    assert_eq!(whole.id(), buffers[1].whole_region().id());
    let (engines, ours) = (vec![1; 2 * LEN], vec![2; LEN]);
    buffers[1].copy_from_slice(0, &ours).unwrap();
    let (ended, late) = (AtomicBool::new(false), AtomicUsize::new(0));
    let torn = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(SeqCst) {
                whole.copy_from_slice(0, &engines).unwrap();
                late.fetch_add(1, SeqCst);
            }
        });
        let mut bytes = vec![0; LEN];
        // Each copy was whole when the other began.
        let torn =
            std::iter::repeat_with(|| late.load(SeqCst)).take_while(|&n| n < 500).find(|_| {
                buffers[1].copy_from_slice(0, &ours).unwrap();
                buffers[1].copy_to_slice(0, &mut bytes).unwrap();
                bytes != ours && bytes != engines[LEN..]
            });
        ended.store(true, SeqCst);
        torn
    });
    assert_eq!(torn, None);
}
