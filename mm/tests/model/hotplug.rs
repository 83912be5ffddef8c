//! Memory that goes out of use and comes back, is added, lent and removed.

use crate::world::World;
use mm::hotplug::{HotplugError, MEMORY_BLOCK_PAGES, NewMemory, OnlineType};
use mm::types::{NodeId, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange};
use std::collections::BTreeSet;

/// What is not in use, by pageblocks.
#[derive(Default)]
pub(crate) struct Memory {
    /// Memory blocks that there is room for, by number.
    room: Vec<u64>,
    /// Those that are there.
    added: BTreeSet<u64>,
    offline: BTreeSet<Pfn>,
    /// Of these, those that are not lent.
    unplugged: BTreeSet<Pfn>,
    /// Pages that went out of use, came, and requests that were refused.
    pub(crate) counts: [u64; 3],
}

impl Memory {
    pub(crate) fn with_room(room: &[u64]) -> Self {
        Self { room: room.to_vec(), ..Self::default() }
    }

    /// A frame that is out of use.
    pub(crate) fn some_offline(&self, dice: u64) -> Option<Pfn> {
        let at = dice as usize % self.offline.len().max(1);
        self.offline.iter().nth(at).map(|block| block.add(dice >> 32 & 511))
    }
}

fn pageblocks(range: PfnRange) -> impl Iterator<Item = Pfn> {
    (range.start.0..range.end.0).step_by(PAGEBLOCK_PAGES as usize).map(Pfn)
}

fn memory_block(number: u64) -> PfnRange {
    PfnRange::sized(Pfn(number * MEMORY_BLOCK_PAGES), MEMORY_BLOCK_PAGES)
}

impl World<'_> {
    /// Pageblocks in a row, somewhere; a whole memory block at times.
    fn some_pageblocks(&mut self) -> PfnRange {
        let end = self.mm.map().end();
        let blocks = end.align_up(PAGEBLOCK_ORDER).0 / PAGEBLOCK_PAGES;
        let start = match self.memory.some_offline(self.rng.bits()) {
            Some(pfn) if self.rng.percent(50) => pfn.pageblock(),
            _ => Pfn(self.rng.below(blocks) * PAGEBLOCK_PAGES),
        };
        if self.rng.percent(30) {
            return memory_block(start.0 / MEMORY_BLOCK_PAGES);
        }
        PfnRange::sized(start, (1 + self.rng.below(4)) * PAGEBLOCK_PAGES)
    }

    pub(crate) fn change_memory(&mut self) {
        match self.rng.below(8) {
            0..3 => self.offline(),
            3..6 => self.online(),
            6 => self.lend(),
            _ => self.add_or_remove(),
        }
    }

    fn offline(&mut self) {
        let range = self.some_pageblocks();
        let in_use: Vec<Pfn> =
            pageblocks(range).filter(|at| !self.memory.offline.contains(at)).collect();
        match self.mm.offline(range) {
            Ok(pages) => {
                assert_eq!(pages, in_use.len() as u64 * PAGEBLOCK_PAGES);
                for pfn in (range.start.0..range.end.0).map(Pfn) {
                    assert_eq!(self.owners.of(pfn), 0, "{pfn:?} went and has an owner");
                }
                self.memory.offline.extend(in_use);
                self.memory.counts[0] += pages;
            }
            Err(HotplugError::Already) => assert!(in_use.is_empty(), "{range:?}"),
            Err(HotplugError::Busy(_) | HotplugError::NoMemory | HotplugError::Invalid(_)) => {
                self.memory.counts[2] += 1;
            }
            Err(why) => panic!("{range:?}: {why}"),
        }
    }

    fn online(&mut self) {
        let range = self.some_pageblocks();
        let how = self.rng.pick(&[OnlineType::Auto, OnlineType::Kernel, OnlineType::Movable]);
        let memory = &self.memory;
        let idle = |at: &Pfn| memory.offline.contains(at) && !memory.unplugged.contains(at);
        let idle: Vec<Pfn> = pageblocks(range).filter(idle).collect();
        match self.mm.online(range, how) {
            Ok(pages) => {
                assert_eq!(pages, idle.len() as u64 * PAGEBLOCK_PAGES);
                idle.iter().for_each(|at| assert!(self.memory.offline.remove(at)));
                self.memory.counts[1] += pages;
            }
            Err(HotplugError::Already) => assert!(idle.is_empty(), "{range:?}"),
            Err(HotplugError::Invalid(_)) => self.memory.counts[2] += 1,
            Err(why) => panic!("{range:?}: {why}"),
        }
    }

    /// A device lends out what is out of use, or does so no longer.
    fn lend(&mut self) {
        let Some(pfn) = self.memory.some_offline(self.rng.bits()) else { return };
        let block = PfnRange::sized(pfn.pageblock(), PAGEBLOCK_PAGES);
        let plugged = self.rng.percent(60);
        let added = self.memory.added.contains(&(pfn.0 / MEMORY_BLOCK_PAGES));
        assert_eq!(self.mm.set_plugged(block, plugged).is_ok(), added);
        if !added {
        } else if plugged {
            self.memory.unplugged.remove(&block.start);
        } else {
            self.memory.unplugged.insert(block.start);
        }
    }

    fn add_or_remove(&mut self) {
        if self.memory.room.is_empty() {
            return;
        }
        let number = self.rng.pick(&self.memory.room.clone());
        let range = memory_block(number);
        if self.memory.added.contains(&number) {
            let idle = pageblocks(range).all(|at| self.memory.offline.contains(&at));
            match self.mm.remove_memory(range) {
                Ok(()) => {
                    assert!(idle, "{range:?} was in use");
                    self.memory.added.remove(&number);
                    self.memory.offline.retain(|&at| !range.contains(at));
                    self.memory.unplugged.retain(|&at| !range.contains(at));
                    self.bad.forget(range);
                }
                Err(why) => assert!(!idle && why == HotplugError::InUse, "{range:?}: {why}"),
            }
            return;
        }
        let plugged = self.rng.percent(70);
        let new = NewMemory { node: NodeId(0), name: "System RAM", plugged };
        match self.mm.add_memory(range, new) {
            Ok(()) => {
                self.memory.added.insert(number);
                self.memory.offline.extend(pageblocks(range));
                if !plugged {
                    self.memory.unplugged.extend(pageblocks(range));
                }
            }
            Err(why) => assert_eq!(why, HotplugError::NoMemory),
        }
    }

    /// What is listed as out of use is what went.
    pub(crate) fn check_memory(&self) {
        let offline: u64 = self.mm.memory_blocks().map(|block| block.offline).sum();
        assert_eq!(offline, self.memory.offline.len() as u64 * PAGEBLOCK_PAGES);
        let unplugged: u64 = self.mm.memory_blocks().map(|block| block.unplugged).sum();
        assert_eq!(unplugged, self.memory.unplugged.len() as u64 * PAGEBLOCK_PAGES);
    }
}
