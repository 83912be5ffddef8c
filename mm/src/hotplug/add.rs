//! Memory that is new, and memory that leaves for good: descriptors and direct
//! map come and go with it. The frames behind its descriptors are other memory's,
//! so that the new memory need not be touched before all of it may be, and is
//! whole when it is to leave. May call: `alloc`, `free`, `list`, `platform`, the
//! rest of this module.

use super::{HotplugError, MEMORY_BLOCK_ORDER, MEMORY_BLOCK_PAGES, NAMES, memory_blocks};
use crate::gfp::{Gfp, Page, Request};
use crate::list::PageList;
use crate::memmap::MemMap;
use crate::mm::Mm;
use crate::page::{PageDesc, PageType};
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::{NR_ZONES, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, ZoneKind};

/// Frames behind the descriptors of a memory block.
const MAP_PAGES: usize = MEMORY_BLOCK_PAGES as usize * size_of::<PageDesc>() / PAGE_SIZE;
/// Tables that a memory block's descriptors, their pageblocks' words and its part
/// of the direct map may need: three levels each.
const TABLES: usize = 9;

/// What there is to know of memory that is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewMemory {
    /// The node it belongs to.
    pub node: NodeId,
    /// What `/proc/iomem` calls it, such as `System RAM (virtio_mem)`. Of a few
    /// names, each a constant of the caller's.
    pub name: &'static str,
    /// Whether it may be used right away; if not, each part may be from
    /// [`set_plugged`](Mm::set_plugged) on, and is not touched before.
    pub plugged: bool,
}

/// Frames set aside before a lock is taken inside of which none can be had.
struct Spare {
    frames: [Option<Pfn>; TABLES],
}

impl Spare {
    fn take(&mut self) -> Option<Pfn> {
        self.frames.iter_mut().find_map(Option::take)
    }

    fn give(&mut self, frame: Pfn) {
        if let Some(slot) = self.frames.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(frame);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Makes `range`, whole memory blocks that the machine has got, known: it
    /// gets descriptors and its place in the direct map, and is out of use. To
    /// put it into use is the next step ([`online`](Self::online)), which whoever
    /// adds memory takes if [`default_online`](Self::default_online) says so.
    /// Interrupts on, no lock held.
    ///
    /// # Errors
    /// [`Invalid`](HotplugError::Invalid): not aligned, beyond what the map has
    /// addresses for, no such node, or memory that is known already;
    /// [`NoMemory`](HotplugError::NoMemory);
    /// [`NotMapped`](HotplugError::NotMapped). Nothing has changed then.
    pub fn add_memory(&self, range: PfnRange, new: NewMemory) -> Result<(), HotplugError> {
        let _gate = self.hotplug_gate();
        let aligned =
            range.start.is_aligned(MEMORY_BLOCK_ORDER) && range.end.is_aligned(MEMORY_BLOCK_ORDER);
        if range.is_empty() || !aligned {
            return Err(HotplugError::Invalid("not a multiple of 128 MiB, or nothing at all"));
        }
        if range.end > self.map.limit() {
            return Err(HotplugError::Invalid("the memory map does not reach so far"));
        }
        if usize::from(new.node.0) >= self.nodes() {
            return Err(HotplugError::Invalid("there is no such node"));
        }
        if self.map.described_blocks(range).next().is_some() {
            return Err(HotplugError::Invalid("there is memory already"));
        }
        let name = self.name_number(new.name)?;
        for block in memory_blocks(range) {
            if let Err(why) = self.add_block(block, new, name) {
                memory_blocks(PfnRange::new(range.start, block.start))
                    .for_each(|block| self.remove_block(block));
                return Err(why);
            }
        }
        self.map.note_dense();
        self.log_hotplug(format_args!(
            "memory added: [mem {:#018x}-{:#018x}] node {}",
            range.start.addr(),
            range.end.addr() - 1,
            new.node.0
        ));
        Ok(())
    }

    /// Forgets `range`, whole memory blocks that came by
    /// [`add_memory`](Self::add_memory) and are out of use: its descriptors' frames
    /// are free again, and nobody can reach it by the direct map. Interrupts on,
    /// no lock held; waits for other CPUs.
    ///
    /// # Errors
    /// [`InUse`](HotplugError::InUse), [`Invalid`](HotplugError::Invalid): not
    /// aligned, or not added after the boot. Nothing has changed then.
    pub fn remove_memory(&self, range: PfnRange) -> Result<(), HotplugError> {
        let _gate = self.hotplug_gate();
        let aligned =
            range.start.is_aligned(MEMORY_BLOCK_ORDER) && range.end.is_aligned(MEMORY_BLOCK_ORDER);
        if !aligned {
            return Err(HotplugError::Invalid("not a multiple of 128 MiB"));
        }
        self.check_described(range)?;
        if self.map.described_blocks(range).any(|(_, word)| !word.is_added()) {
            return Err(HotplugError::Invalid("it has been there since the boot"));
        }
        if self.map.known_blocks(range).next().is_some() {
            return Err(HotplugError::InUse);
        }
        memory_blocks(range).for_each(|block| self.remove_block(block));
        self.log_hotplug(format_args!(
            "memory removed: [mem {:#018x}-{:#018x}]",
            range.start.addr(),
            range.end.addr() - 1
        ));
        Ok(())
    }

    /// Says whether the device that `range` belongs to, added memory that is out
    /// of use, lends it out: what is not plugged is not put into use by anybody,
    /// and not touched.
    ///
    /// # Errors
    /// [`InUse`](HotplugError::InUse), [`Invalid`](HotplugError::Invalid).
    pub fn set_plugged(&self, range: PfnRange, plugged: bool) -> Result<(), HotplugError> {
        let _gate = self.hotplug_gate();
        self.check_described(range)?;
        if self.map.described_blocks(range).any(|(_, word)| !word.is_added()) {
            return Err(HotplugError::Invalid("it has been there since the boot"));
        }
        if self.map.described_blocks(range).any(|(_, word)| !word.is_offline()) {
            return Err(HotplugError::InUse);
        }
        self.map.described_blocks(range).for_each(|(_, word)| word.set_plugged(plugged));
        Ok(())
    }

    /// The memory that has been added, and its names, lowest first.
    pub fn added_memory(&self) -> impl Iterator<Item = (PfnRange, &'static str)> {
        let names = *self.hotplug.names.lock(&self.enter());
        let all = PfnRange::new(Pfn(0), self.map.end());
        let mut blocks = self
            .map
            .described_blocks(all)
            .filter(|(_, word)| word.is_added())
            .map(|(block, word)| {
                (PfnRange::sized(block, crate::types::PAGEBLOCK_PAGES), word.name())
            })
            .peekable();
        core::iter::from_fn(move || {
            let (mut range, name) = blocks.next()?;
            while let Some((more, _)) =
                blocks.next_if(|(more, other)| more.start == range.end && *other == name)
            {
                range.end = more.end;
            }
            Some((range, names.get(name).copied().unwrap_or("")))
        })
    }

    fn name_number(&self, name: &'static str) -> Result<usize, HotplugError> {
        let cpu = self.enter();
        let mut names = self.hotplug.names.lock(&cpu);
        let at = names.iter().position(|known| *known == name || known.is_empty());
        let at = at.filter(|&at| at < NAMES && !name.is_empty());
        let at = at.ok_or(HotplugError::Invalid("no name, or too many names"))?;
        names[at] = name;
        Ok(at)
    }

    /// Makes one memory block known.
    fn add_block(&self, block: PfnRange, new: NewMemory, name: usize) -> Result<(), HotplugError> {
        let mut spare = Spare { frames: [None; TABLES] };
        let reserved = self.reserve_spare(&mut spare, new.node);
        let mut used = spare.frames.iter().flatten().count() as u64;
        let result = reserved.and_then(|()| {
            if !self.platform.direct_map_extend(block, &mut || spare.take()) {
                return Err(HotplugError::NotMapped);
            }
            self.back_block(block, new.node, &mut spare).inspect_err(|_| {
                self.withdraw(block);
            })
        });
        while let Some(pfn) = spare.take() {
            self.free_frame(pfn);
            used -= 1;
        }
        self.hotplug.map_pages.fetch_add(used, Relaxed);
        result?;
        let kind = ZoneKind::ALL[Self::kernel_zone(new.node, block) % NR_ZONES];
        // SAFETY: the words are backed, here or earlier.
        unsafe {
            self.map.add_words(block, |word| word.init_added(new.node, kind, name, new.plugged));
        }
        Ok(())
    }

    /// Undoes what [`add_block`](Self::add_block) has done. The block is of no
    /// zone.
    fn remove_block(&self, block: PfnRange) {
        // What was bad of it is nobody's memory now.
        self.strike_off(block);
        self.map.described_blocks(block).for_each(|(_, word)| word.init_removed());
        // Whoever saw the block while it was known and holds a token for as long
        // as he relies on that is through after this.
        Cpu::on_each(&self.platform, &|_| ());
        // Those who hold nothing say so.
        self.await_walkers();
        self.unback_block(block);
        self.withdraw(block);
    }

    fn withdraw(&self, block: PfnRange) {
        let mut tables = [None; TABLES];
        let mut gone = tables.iter_mut();
        self.platform.direct_map_withdraw(block, &mut |table| {
            let slot = gone.next();
            debug_assert!(slot.is_some(), "a memory block has few tables");
            if let Some(slot) = slot {
                *slot = Some(table);
            }
        });
        for table in tables.into_iter().flatten() {
            self.hotplug.map_pages.fetch_sub(1, Relaxed);
            self.free_frame(table);
        }
    }

    fn reserve_spare(&self, spare: &mut Spare, node: NodeId) -> Result<(), HotplugError> {
        for slot in &mut spare.frames {
            let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN;
            let take = |gfp| self.alloc_pages(Request::new(Order(0), gfp).on(node));
            // Some of them stay for good: in memory that was added before, most of
            // which is above 4 GiB, they would keep it from leaving.
            let page = take(gfp | Gfp::DMA32 | Gfp::NORETRY).or_else(|_| take(gfp));
            let page = page.map_err(|_| HotplugError::NoMemory)?;
            *slot = Some(page.pfn);
        }
        Ok(())
    }

    fn free_frame(&self, pfn: Pfn) {
        let freed = self.free_pages(Page { pfn, order: Order(0) });
        debug_assert!(freed.is_ok(), "a frame that was set aside");
    }

    /// Puts frames behind the block's descriptors, all zero, and behind the words
    /// of its pageblocks.
    fn back_block(
        &self,
        block: PfnRange,
        node: NodeId,
        spare: &mut Spare,
    ) -> Result<(), HotplugError> {
        let [(pages, bytes), (words, words_bytes)] = self.map.backing(block);
        debug_assert!(bytes == MAP_PAGES * PAGE_SIZE && words_bytes == PAGE_SIZE);
        if !self.map.has_region(block.start) {
            // It stays when the block goes: there is one for each 2 GiB.
            let frame = spare.take().ok_or(HotplugError::NoMemory)?;
            let frames = PfnRange::sized(frame, 1);
            if !self.platform.memmap_back(words, frames, &mut || spare.take()) {
                spare.give(frame);
                return Err(HotplugError::NoMemory);
            }
            self.map.note_region(block.start);
        }
        let (mut at, mut order) = (0, Order::for_pages(MAP_PAGES as u64));
        while at < MAP_PAGES as u64 {
            let least = if order.0 > 0 { Gfp::NORETRY } else { Gfp::empty() };
            let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN | least;
            let Ok(page) = self.alloc_pages(Request::new(order, gfp).on(node)) else {
                if order.0 > 0 {
                    order.0 -= 1;
                    continue;
                }
                self.unback_block(block);
                return Err(HotplugError::NoMemory);
            };
            let frames = PfnRange::sized(page.pfn, order.pages());
            self.hotplug.map_pages.fetch_add(order.pages(), Relaxed);
            let ptr = pages.wrapping_add(at as usize * PAGE_SIZE);
            let backed = self.platform.memmap_back(ptr, frames, &mut || spare.take());
            if !backed {
                // As far as they are there they go, and are freed as a whole.
                self.platform.memmap_unback(ptr, order.bytes(), &mut |_| ());
                self.hotplug.map_pages.fetch_sub(order.pages(), Relaxed);
                let freed = self.free_pages(page);
                debug_assert!(freed.is_ok(), "not in use yet");
                self.unback_block(block);
                return Err(HotplugError::NoMemory);
            }
            at += order.pages();
        }
        Ok(())
    }

    /// Frees the frames behind the block's descriptors, as far as there are any.
    fn unback_block(&self, block: PfnRange) {
        let [(pages, bytes), _] = self.map.backing(block);
        // They can be freed when none of them is behind the map any more, and
        // meanwhile are noted in their own descriptors, which are theirs alone:
        // there are too many for a thread's stack.
        let mut heads = PageList::new();
        self.platform.memmap_unback(pages, bytes, &mut |pfn| {
            // They were allocated in blocks, and are freed in such.
            if self.map.page(pfn).head().ty() == PageType::Kernel {
                heads.push_back(&self.map, pfn);
            }
        });
        while let Some(pfn) = heads.pop_front(&self.map) {
            let order = self.map.page(pfn).head().order();
            let freed = self.free_pages(Page { pfn, order });
            debug_assert!(freed.is_ok(), "frames of the memory map");
            self.hotplug.map_pages.fetch_sub(order.pages(), Relaxed);
        }
    }
}

const _: () = assert!(MemMap::pages_bytes(Pfn(MEMORY_BLOCK_PAGES)) == MAP_PAGES * PAGE_SIZE);
