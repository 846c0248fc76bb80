//! The owner of the model: its cache, its grants and their ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_metadata::Ticket;
use nixl_ops::Clock;

use super::super::{Export, ExportOptions, Grant, GrantOptions};
use super::Random;
use super::clock::AheadClock;
use crate::Connector;

pub(super) const BLOCKS: usize = 12;
pub(super) const LAYERS: usize = 3;
/// Grants alive: a few slots are used again and again.
const SLOTS: u32 = 6;
/// Readers must begin this much before the owner ends a grant, since tickets have times in milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

pub(super) fn geometry() -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks: BLOCKS,
        layers: LAYERS,
        outer: 2,
        page_size: 4,
        inner: Inner::Elements(8),
        element_width: 2,
    })
    .unwrap()
}

/// The content of a layer of a block, which each of its words states.
pub(super) fn content(block: usize, layer: usize, version: u32) -> Vec<u8> {
    let word = u64::from(version) << 16 | (block as u64) << 8 | layer as u64;
    word.to_ne_bytes().repeat(geometry().layer_len() / size_of::<u64>())
}

/// What was granted, and what is known of its end.
pub(super) struct Granted {
    pub(super) ticket: Ticket,
    /// Of each block, of each layer.
    pub(super) versions: Vec<[u32; LAYERS]>,
    /// The owner of that number granted it.
    pub(super) owner: u32,
    /// The owner has ended it, or found its blocks free.
    pub(super) is_over: Cell<bool>,
    /// A reader has sent `done`, or the owner is dead.
    pub(super) may_be_over: Cell<bool>,
    expires: Duration,
}

impl Granted {
    pub(super) fn has_expired(&self, now: Duration) -> bool {
        now >= self.expires
    }

    pub(super) fn may_be_over(&self, now: Duration) -> bool {
        self.is_over.get() || self.may_be_over.get() || self.has_expired(now)
    }
}

pub(super) struct Owner {
    pub(super) connector: Connector,
    pub(super) export: Export,
    pub(super) number: u32,
    parts: Vec<Region>,
    versions: [[u32; LAYERS]; BLOCKS],
    alive: Vec<(Grant, Rc<Granted>)>,
    clock: Arc<AheadClock>,
}

impl Owner {
    pub(super) async fn new(connector: Connector, clock: &Arc<AheadClock>, number: u32) -> Self {
        let version = number << 24;
        let part = |layer| {
            let bytes = (0..BLOCKS).flat_map(|block| content(block, layer, version));
            Region::try_from(bytes.collect::<Vec<_>>()).unwrap()
        };
        let parts: Vec<_> = (0..LAYERS).map(part).collect();
        let whole = parts.iter().map(Region::whole).collect();
        let layout = Layout::per_layer(geometry(), LayerOrder::BlockFirst, whole).unwrap();
        let options = ExportOptions::new().slots(SLOTS.try_into().unwrap());
        let export = connector.export_with([("cache", layout)], options).await.unwrap();
        let (versions, clock) = ([[version; LAYERS]; BLOCKS], Arc::clone(clock));
        Self { connector, export, number, parts, versions, alive: Vec::new(), clock }
    }

    /// Grants one to three blocks.
    pub(super) fn grant(&mut self, random: &mut Random) -> Option<Rc<Granted>> {
        if self.alive.len() >= SLOTS as usize {
            return None;
        }
        let first = random.below(BLOCKS);
        let count = 1 + random.below(3);
        let blocks: Vec<_> = (0..count).map(|at| ((first + 5 * at) % BLOCKS) as u32).collect();
        let time = Duration::from_millis([200, 5_000, 60_000][random.below(3)]);
        let readers = (1 + random.below(2) as u32).try_into().unwrap();
        let options = GrantOptions::new().time_to_live(time).readers(readers);
        let expires = self.clock.now() + time - ROUNDING;
        let grant = self.export.grant(0, &blocks, options).unwrap();
        let versions = blocks.iter().map(|&block| self.versions[block as usize]).collect();
        let granted = Rc::new(Granted {
            ticket: grant.ticket().clone(),
            versions,
            owner: self.number,
            is_over: Cell::new(false),
            may_be_over: Cell::new(false),
            expires,
        });
        self.alive.push((grant, Rc::clone(&granted)));
        Some(granted)
    }

    /// One that was not ended here.
    pub(super) fn any_alive(&self, random: &mut Random) -> Option<Rc<Granted>> {
        if self.alive.is_empty() {
            return None;
        }
        Some(Rc::clone(&self.alive[random.below(self.alive.len())].1))
    }

    /// Ends a grant.
    pub(super) fn end(&mut self, random: &mut Random) -> bool {
        let granted = self.any_alive(random);
        granted.is_some_and(|granted| self.end_this(&granted, random))
    }

    /// Ends a grant, and usually overwrites its blocks at once.
    pub(super) fn end_this(&mut self, granted: &Rc<Granted>, random: &mut Random) -> bool {
        let Some(at) = self.alive.iter().position(|(_, other)| Rc::ptr_eq(other, granted)) else {
            return false;
        };
        let (grant, granted) = self.alive.swap_remove(at);
        let had_not_ended = grant.end();
        assert!(
            had_not_ended || granted.may_be_over(self.clock.now()),
            "a grant has ended too early"
        );
        granted.is_over.set(true);
        if !random.one_in(4) {
            for &block in granted.ticket.blocks() {
                for layer in 0..LAYERS {
                    self.overwrite(block as usize, layer);
                }
            }
        }
        true
    }

    /// Overwrites a layer of a block, which is refused exactly as long as a grant covers it.
    pub(super) fn overwrite(&mut self, block: usize, layer: usize) -> bool {
        let now = self.clock.now();
        let version = self.versions[block][layer] + 1;
        let bytes = content(block, layer, version);
        let written = self.parts[layer].copy_from_slice(block * bytes.len(), &bytes);
        let covering = self
            .alive
            .iter()
            .filter(|(_, granted)| granted.ticket.blocks().contains(&(block as u32)));
        match written {
            Ok(()) => {
                for (_, granted) in covering {
                    let over = granted.may_be_over(self.clock.now());
                    assert!(over, "granted block {block} was overwritten");
                    granted.is_over.set(true);
                }
                self.versions[block][layer] = version;
                true
            }
            Err(error) => {
                let any = covering.count() > 0;
                assert!(any, "block {block} is not granted at {now:?}, but: {error}");
                false
            }
        }
    }

    /// Whether no block is granted any more, once all grants were ended here.
    pub(super) fn is_free(&mut self) -> bool {
        self.alive.clear();
        let free = (0..BLOCKS).all(|block| self.overwrite(block, 0));
        free && self.export.stats().alive() == 0
    }
}
