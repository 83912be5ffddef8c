//! A memory manager by pageblocks, which knows what the device has plugged.

use drivers::virtio_mem::{MEMORY_BLOCK_BYTES, MemoryError, MemorySink, Usage};
use mm::contig::{Obstacle, Reason};
use mm::types::{NodeId, PAGE_SIZE, PAGEBLOCK_PAGES, Pfn, PfnRange};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

const PAGEBLOCK_BYTES: u64 = PAGEBLOCK_PAGES * PAGE_SIZE as u64;

/// What a pageblock that was provided is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Offline,
    Free,
    /// Something that can be moved to a free pageblock.
    Movable,
    Fixed,
}

pub(crate) struct Blocks {
    device: Rc<RefCell<BTreeSet<u64>>>,
    /// Added memory blocks, by address.
    pub(crate) added: RefCell<BTreeSet<u64>>,
    /// Provided pageblocks, by address.
    pub(crate) provided: RefCell<BTreeMap<u64, Use>>,
    /// memhp_default_state=offline.
    pub(crate) stays_offline: Cell<bool>,
    /// Blocks that can still be added, or pageblocks provided, before memory
    /// for that runs out.
    pub(crate) adds: Cell<u64>,
    pub(crate) provides: Cell<u64>,
    /// Addresses of zone Movable.
    pub(crate) movable: RefCell<Range<u64>>,
    /// Free pageblocks outside of the region.
    pub(crate) elsewhere: Cell<usize>,
    /// A memory block that others have already.
    pub(crate) taken: Cell<u64>,
}

fn pieces(range: PfnRange, bytes: u64) -> impl Iterator<Item = u64> {
    assert!(range.start.addr().is_multiple_of(bytes) && range.end.addr().is_multiple_of(bytes));
    (range.start.addr()..range.end.addr()).step_by(bytes as usize)
}

impl Blocks {
    pub(crate) fn new(device: Rc<RefCell<BTreeSet<u64>>>) -> Self {
        Self {
            device,
            added: RefCell::default(),
            provided: RefCell::default(),
            stays_offline: Cell::new(false),
            adds: Cell::new(u64::MAX),
            provides: Cell::new(u64::MAX),
            movable: RefCell::default(),
            elsewhere: Cell::new(0),
            taken: Cell::new(u64::MAX),
        }
    }

    pub(crate) fn set(&self, addr: u64, to: Use) {
        let old = self.provided.borrow_mut().insert(addr, to);
        assert!(old.is_some(), "{addr:#x} is not memory");
    }

    pub(crate) fn provided_bytes(&self) -> u64 {
        self.provided.borrow().len() as u64 * PAGEBLOCK_BYTES
    }

    /// Every pageblock that is used is memory by the device's word, and lies in
    /// an added block.
    pub(crate) fn check(&self) {
        let (device, added) = (self.device.borrow(), self.added.borrow());
        for addr in self.provided.borrow().keys() {
            assert!(device.range(..=addr).next_back().is_some(), "{addr:#x} is used");
            assert!(added.contains(&(addr & !(MEMORY_BLOCK_BYTES - 1))));
        }
    }

    fn plugged(&self, addr: u64) -> bool {
        // Blocks are pageblocks, smaller ones that make up one, or larger.
        let device = self.device.borrow();
        device.range(..=addr).next_back().is_some_and(|start| {
            *start == addr || addr - start < 256 << 20 && !device.contains(&(start + (2 << 20)))
        })
    }
}

impl MemorySink for Blocks {
    fn limit(&self) -> Pfn {
        Pfn::containing(1 << 46)
    }

    fn add(&self, blocks: PfnRange, _node: NodeId) -> Result<(), MemoryError> {
        let wanted: BTreeSet<u64> = pieces(blocks, MEMORY_BLOCK_BYTES).collect();
        if wanted.contains(&self.taken.get()) {
            return Err(MemoryError::Refused("it is somebody else's"));
        }
        if self.adds.get() == 0 {
            return Err(MemoryError::NoMemory);
        }
        self.adds.set(self.adds.get() - 1);
        for addr in wanted {
            assert!(self.added.borrow_mut().insert(addr), "{addr:#x} is known");
        }
        Ok(())
    }

    fn provide(&self, range: PfnRange) -> Result<(), MemoryError> {
        if self.provides.get() == 0 {
            return Err(MemoryError::NoMemory);
        }
        self.provides.set(self.provides.get() - 1);
        for addr in pieces(range, PAGEBLOCK_BYTES) {
            assert!(self.plugged(addr), "{addr:#x} is not memory");
            let to = if self.stays_offline.get() { Use::Offline } else { Use::Free };
            assert_eq!(self.provided.borrow_mut().insert(addr, to), None);
        }
        Ok(())
    }

    fn withdraw(&self, range: PfnRange) -> Result<(), MemoryError> {
        let wanted: Vec<u64> = pieces(range, PAGEBLOCK_BYTES).collect();
        let mut provided = self.provided.borrow_mut();
        for addr in &wanted {
            if provided[addr] == Use::Fixed {
                let obstacle = Obstacle { pfn: Pfn::containing(*addr), why: Reason::Unmovable };
                return Err(MemoryError::Busy(obstacle));
            }
        }
        let moving = wanted.iter().filter(|addr| provided[addr] == Use::Movable).count();
        let outside = |addr: &u64| !wanted.contains(addr);
        let places: Vec<u64> = provided
            .iter()
            .filter(|(addr, is)| **is == Use::Free && outside(addr))
            .map(|(addr, _)| *addr)
            .take(moving)
            .collect();
        let more = moving - places.len();
        if more > self.elsewhere.get() {
            return Err(MemoryError::NoMemory);
        }
        self.elsewhere.set(self.elsewhere.get() - more);
        for addr in places {
            provided.insert(addr, Use::Movable);
        }
        for addr in wanted {
            provided.remove(&addr);
        }
        Ok(())
    }

    fn remove(&self, blocks: PfnRange) -> Result<(), MemoryError> {
        let range = blocks.start.addr()..blocks.end.addr();
        assert_eq!(self.provided.borrow().range(range).count(), 0, "in use");
        for addr in pieces(blocks, MEMORY_BLOCK_BYTES) {
            assert!(self.added.borrow_mut().remove(&addr), "{addr:#x} is not known");
        }
        Ok(())
    }

    fn usage(&self, range: PfnRange) -> Usage {
        let provided = self.provided.borrow();
        let of = |addr| match provided[&addr] {
            Use::Offline => Usage::Offline,
            Use::Free => Usage::Free,
            Use::Movable | Use::Fixed => Usage::Used,
        };
        pieces(range, PAGEBLOCK_BYTES).map(of).max().expect("not empty")
    }

    fn is_movable(&self, range: PfnRange) -> bool {
        self.movable.borrow().contains(&range.start.addr())
    }
}
