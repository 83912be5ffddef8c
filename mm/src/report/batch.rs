//! The blocks of one zone that are out: taken off the lists for a device to be
//! told of them. A [`Batch`] owns them; whatever way it is left, they go back,
//! so no early end of a pass can lose one. May call: `buddy`.

use super::policy::{CAPACITY, budget};
use crate::buddy::{Buddy, Placement};
use crate::memmap::MemMap;
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{MAX_ORDER, MigrateType, Order, Pfn, PfnRange};
use crate::zone::Zone;

/// Reported blocks that are passed by with the zone's lock held, at most.
const SCAN: u64 = 512;

/// Why filling has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filled {
    /// The list has nothing more to report.
    Done,
    /// The batch is full and the list has more.
    Full,
    /// Others were waiting for the lock; there may be more.
    Paused,
    /// The watermark lets no more go: it is the only reason for which a free
    /// block cannot be taken.
    Short,
    /// The list has more, but its share of this pass is spent.
    Spent,
}

/// A list on its way through a pass.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) order: Order,
    pub(super) ty: MigrateType,
    /// Known once the list was seen.
    share: Option<Share>,
    /// Batches that were sent.
    sent: u64,
}

/// How much of a list a pass is for.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// The list is left after more batches than these.
    batches: u64,
    /// Blocks still to be looked at: whatever others do to the list meanwhile,
    /// this ends.
    blocks: u64,
}

impl Course {
    pub(super) const fn new(order: Order, ty: MigrateType) -> Self {
        Self { order, ty, share: None, sent: 0 }
    }

    /// A batch was sent.
    pub(super) fn count_sent(&mut self) {
        self.sent += 1;
    }
}

/// Up to [`CAPACITY`] blocks.
pub(super) struct Blocks {
    blocks: [PfnRange; CAPACITY],
    len: usize,
}

impl Blocks {
    const NONE: Self = Self { blocks: [PfnRange::new(Pfn(0), Pfn(0)); CAPACITY], len: 0 };

    pub(super) fn as_slice(&self) -> &[PfnRange] {
        &self.blocks[..self.len]
    }

    /// Pages in them.
    pub(super) fn pages(&self) -> u64 {
        self.as_slice().iter().map(|block| block.pages()).sum()
    }
}

/// Blocks of one zone, Held by this value.
pub(super) struct Batch<'a, P: Platform> {
    mm: &'a Mm<P>,
    zone: &'a Zone,
    out: Blocks,
}

impl<'a, P: Platform> Batch<'a, P> {
    pub(super) fn new(mm: &'a Mm<P>, zone: &'a Zone) -> Self {
        Self { mm, zone, out: Blocks::NONE }
    }

    /// The blocks.
    pub(super) fn blocks(&self) -> &[PfnRange] {
        self.out.as_slice()
    }

    /// Pages in them.
    pub(super) fn pages(&self) -> u64 {
        self.out.pages()
    }

    /// Takes unreported blocks off the list that `course` is about until there
    /// is a reason to stop. What is found next stands at the head of the list
    /// then, so that who goes on need not pass by what is reported already.
    pub(super) fn fill(&mut self, course: &mut Course) -> Filled {
        let (order, ty) = (course.order, course.ty);
        let (mm, zone) = (self.mm, self.zone);
        if zone.avail[ty.index()].load(Relaxed) >> order.0 & 1 == 0 {
            return Filled::Done;
        }
        let cpu = mm.enter();
        let mut buddy = Buddy::lock(&mm.map, zone, &cpu);
        let length = u64::from(buddy.list(order, ty).len());
        let share = || Share { batches: budget(buddy.listed_of(order)), blocks: length };
        let mut share = course.share.unwrap_or_else(share);
        let mut passed = 0;
        let mut at = buddy.list(order, ty).first();
        while let Some(pfn) = at.filter(|_| share.blocks > 0) {
            let known = is_reported(&mm.map, pfn);
            let stop = if known {
                (passed == SCAN).then_some(Filled::Paused)
            } else if course.sent > share.batches {
                Some(Filled::Spent)
            } else if self.out.len == CAPACITY {
                Some(Filled::Full)
            } else if !mm.may_take_free(zone, order) {
                Some(Filled::Short)
            } else {
                None
            };
            if let Some(why) = stop {
                let map = &mm.map;
                buddy.list(order, ty).begin_with(map, pfn);
                course.share = Some(share);
                return why;
            }
            at = buddy.list(order, ty).next(&mm.map, pfn);
            share.blocks -= 1;
            if known {
                passed += 1;
            } else {
                self.take(&mut buddy, pfn, order);
            }
        }
        Filled::Done
    }

    /// Takes the free block `pfn` of `order`.
    fn take(&mut self, buddy: &mut Buddy<'_>, pfn: Pfn, order: Order) {
        buddy.take_block(pfn, order);
        self.mm.map.page(pfn).set_head(HeadWord::new(PageType::Held, order));
        count_out(self.zone, order.pages() as i64);
        self.out.blocks[self.out.len] = PfnRange::sized(pfn, order.pages());
        self.out.len += 1;
    }

    /// Puts all blocks back, marked reported if `reported` and if they are still
    /// blocks of their own, or part of one that is reported as a whole.
    pub(super) fn put_back(&mut self, reported: bool) {
        if self.out.len == 0 {
            return;
        }
        let cpu = self.mm.enter();
        let mut buddy = Buddy::lock(&self.mm.map, self.zone, &cpu);
        for block in core::mem::replace(&mut self.out, Blocks::NONE).as_slice() {
            count_out(self.zone, -(block.pages() as i64));
            let order = Order::for_pages(block.pages());
            buddy.free_held(block.start, order, reported);
        }
    }

    /// Leaves all blocks to a device that could not be shut off. There are none
    /// yet that are lost: no device is registered while there are.
    pub(super) fn lose(&mut self) {
        let lost = core::mem::replace(&mut self.out, Blocks::NONE);
        {
            let cpu = self.mm.enter();
            let _buddy = Buddy::lock(&self.mm.map, self.zone, &cpu);
            for block in lost.as_slice() {
                let order = Order::for_pages(block.pages());
                let word = HeadWord::new(PageType::Held, order);
                self.mm.map.page(block.start).set_head(word.with(PageFlags::REPORTED));
                count_out(self.zone, -(block.pages() as i64));
            }
            count(&self.zone.report_lost, lost.pages() as i64);
            self.mm.report.counters.lost_pages.fetch_add(lost.pages(), Relaxed);
        }
        self.mm.report_slot(|slot| slot.lost = Some(lost));
    }
}

impl<P: Platform> Drop for Batch<'_, P> {
    /// Unreported: nobody has said that the host knows.
    fn drop(&mut self) {
        self.put_back(false);
    }
}

impl HeadWord {
    /// Whether it is of a block that a device keeps which could not be shut off.
    pub(crate) const fn is_lost(self) -> bool {
        matches!(self.ty(), PageType::Held) && self.flags().contains(PageFlags::REPORTED)
    }
}

fn is_reported(map: &MemMap, pfn: Pfn) -> bool {
    map.page(pfn).head().flags().contains(PageFlags::REPORTED)
}

impl<P: Platform> Mm<P> {
    /// Frees a block that was lost, unreported.
    pub(super) fn recover_block(&self, block: PfnRange) {
        let zone = self.zone_at(block.start);
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        count(&zone.report_lost, -(block.pages() as i64));
        self.report.counters.lost_pages.fetch_sub(block.pages(), Relaxed);
        buddy.free_held(block.start, Order::for_pages(block.pages()), false);
    }

    /// Pages in free blocks of `from` on that the host knows of. Any context; a
    /// hint on a running machine.
    pub(super) fn known_pages(&self, from: Order) -> u64 {
        let mut pages = 0;
        for zone in self.zones.iter().filter(|zone| zone.managed() > 0) {
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            for order in (from.0..=MAX_ORDER.0).map(Order) {
                for ty in MigrateType::ALL {
                    let blocks = buddy.list(order, ty).iter(&self.map);
                    let known = blocks.filter(|&pfn| is_reported(&self.map, pfn)).count();
                    pages += known as u64 * order.pages();
                }
            }
        }
        pages
    }
}

/// Counts `pages` more (or fewer) of the zone as out. Under the zone lock.
fn count_out(zone: &Zone, pages: i64) {
    count(&zone.report_out, pages);
}

/// Counts `pages` more (or fewer). Under the zone lock, whose holder is the only
/// writer.
fn count(counter: &AtomicU64, pages: i64) {
    counter.store(counter.load(Relaxed).wrapping_add_signed(pages), Relaxed);
}

impl Buddy<'_> {
    /// Free blocks of `order` on the lists, of all types.
    fn listed_of(&self, order: Order) -> u64 {
        self.inner.lists[order.index()].iter().map(|list| u64::from(list.len())).sum()
    }

    /// Frees a block that the manager holds, to the tail of its list; what it
    /// becomes is marked reported if `reported` and if all that it merges with
    /// is.
    fn free_held(&mut self, pfn: Pfn, order: Order, reported: bool) {
        let map = self.map;
        let ty = map.block(pfn).migratetype();
        let (mut head, mut at, mut all) = (pfn, order, reported);
        while at < MAX_ORDER
            && let Some((buddy, _)) = self.mergeable_buddy(head, at, ty)
        {
            all &= is_reported(map, buddy);
            head = head.min(buddy);
            at = Order(at.0 + 1);
        }
        map.page(pfn).clear();
        self.free(pfn, order, Placement::Tail);
        // Somebody may have waited for just this block, or it fell in two whose
        // types have changed.
        let page = map.page(head);
        if all && page.head().is(PageType::Buddy, at) {
            page.set_head(HeadWord::new(PageType::Buddy, at).with(PageFlags::REPORTED));
        }
    }
}
