//! Physical allocations of the fake driver, their handles, and where they are mapped.

use std::collections::{BTreeMap, HashMap};

use super::super::api::Address;

/// Memory of `cuMemCreate`. Nothing of it is there: addresses are not followed.
#[derive(Default)]
pub(super) struct Physical {
    /// The last number of an allocation.
    last: u64,
    allocations: HashMap<u64, Allocation>,
    /// Handles by number, with the allocation of each.
    handles: HashMap<u64, u64>,
    /// What is mapped, by address.
    mapped: BTreeMap<Address, Range>,
    /// Reserved for imported memory.
    reserved: BTreeMap<Address, usize>,
}

#[derive(Clone, Copy)]
struct Allocation {
    len: usize,
    handle_types: u32,
}

#[derive(Clone, Copy)]
struct Range {
    len: usize,
    allocation: u64,
    has_access: bool,
}

/// An allocation at one of its addresses.
#[derive(Clone, Copy)]
pub(super) struct Mapped {
    pub(super) address: Address,
    pub(super) len: usize,
    pub(super) id: u64,
    pub(super) handle_types: u32,
}

impl Physical {
    fn create(&mut self, len: usize, handle_types: u32) -> u64 {
        self.last += 1;
        self.allocations.insert(self.last, Allocation { len, handle_types });
        self.last
    }

    /// A new allocation's handle.
    pub(super) fn create_with_handle(&mut self, len: usize, handle_types: u32) -> u64 {
        let allocation = self.create(len, handle_types);
        self.last += 1;
        self.handles.insert(self.last, allocation);
        self.last
    }

    pub(super) fn create_and_map(&mut self, address: Address, len: usize, handle_types: u32) {
        let allocation = self.create(len, handle_types);
        self.mapped.insert(address, Range { len, allocation, has_access: true });
    }

    /// Maps another allocation where one is mapped.
    pub(super) fn replace(&mut self, address: Address) {
        let Range { len, allocation, .. } = self.mapped[&address];
        let Allocation { handle_types, .. } = self.allocations[&allocation];
        self.create_and_map(address, len, handle_types);
    }

    pub(super) fn mapped_at(&self, address: Address) -> Option<Mapped> {
        let (base, range) = self.mapped.range(..=address).next_back()?;
        let Range { len, allocation, .. } = *range;
        let handle_types = self.allocations[&allocation].handle_types;
        let found = Mapped { address: *base, len, id: allocation, handle_types };
        (address < base + len as u64).then_some(found)
    }

    pub(super) fn retain(&mut self, allocation: u64) -> Option<u64> {
        self.allocations.contains_key(&allocation).then(|| {
            self.last += 1;
            self.handles.insert(self.last, allocation);
            self.last
        })
    }

    /// The number of a handle's allocation, and its types of handle.
    pub(super) fn of_handle(&self, handle: u64) -> Option<(u64, u32)> {
        let allocation = *self.handles.get(&handle)?;
        Some((allocation, self.allocations[&allocation].handle_types))
    }

    pub(super) fn release(&mut self, handle: u64) -> bool {
        self.handles.remove(&handle).is_some()
    }

    pub(super) fn reserve(&mut self, address: Address, len: usize) {
        self.reserved.insert(address, len);
    }

    /// A range is given back whole, with nothing mapped in it.
    pub(super) fn free(&mut self, address: Address, len: usize) -> bool {
        let is_mapped = self.mapped.range(address..address + len as u64).next().is_some();
        !is_mapped
            && self.reserved.get(&address) == Some(&len)
            && self.reserved.remove(&address).is_some()
    }

    /// Into a reserved range, of all bytes of the allocation at most.
    pub(super) fn map(&mut self, address: Address, len: usize, handle: u64) -> bool {
        let end = address + len as u64;
        let is_reserved = self.reserved.range(..=address).next_back();
        let is_reserved = is_reserved.is_some_and(|(base, all)| end <= base + *all as u64);
        let is_mapped = self.mapped.range(address..end).next().is_some();
        let Some(allocation) = self.handles.get(&handle).copied() else { return false };
        if !is_reserved || is_mapped || len > self.allocations[&allocation].len {
            return false;
        }
        self.mapped.insert(address, Range { len, allocation, has_access: false });
        true
    }

    /// Whole mappings that follow each other.
    fn whole(&self, address: Address, len: usize) -> Option<Vec<Address>> {
        let (mut at, end, mut found) = (address, address + len as u64, Vec::new());
        while at < end {
            found.push(at);
            at += self.mapped.get(&at)?.len as u64;
        }
        (at == end).then_some(found)
    }

    pub(super) fn unmap(&mut self, address: Address, len: usize) -> bool {
        let Some(whole) = self.whole(address, len) else { return false };
        whole.iter().all(|at| self.mapped.remove(at).is_some())
    }

    pub(super) fn set_access(&mut self, address: Address, len: usize) -> bool {
        let Some(whole) = self.whole(address, len) else { return false };
        for at in whole {
            self.mapped.entry(at).and_modify(|range| range.has_access = true);
        }
        true
    }

    pub(super) fn imported(&self) -> (usize, usize, usize) {
        let in_reserved = |at: &Address| {
            let before = self.reserved.range(..=*at).next_back();
            before.is_some_and(|(base, len)| *at < base + *len as u64)
        };
        let mapped = self.mapped.iter().filter(|(at, range)| in_reserved(at) && range.has_access);
        (self.handles.len(), mapped.count(), self.reserved.len())
    }
}
