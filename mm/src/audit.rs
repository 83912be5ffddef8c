//! The whole truth, checked: every page is in exactly one state, every list is
//! well formed and agrees with the pageblocks, every counter equals what it
//! counts. For a stopped machine: nobody else may be allocating meanwhile. May
//! call: everything.

use crate::balloon::UNMANAGED;
use crate::buddy::Buddy;
use crate::lru::{LruCount, audit_lru_head};
use crate::memmap::MemMap;
use crate::migrate::OWNERS;
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, NIL, PageDesc, PageFlags, PageType, link};
use crate::pcp::list_order;
use crate::platform::Platform;
use crate::swap::SwapNames;
use crate::sync::{Cpu, Lock, LockRank};
use crate::types::{
    MAX_ORDER, MigrateType, NR_MIGRATETYPES, NR_ORDERS, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES,
    Pfn,
};
use crate::zone::{FreeLists, Zone};
use core::fmt;

/// What an audit that found nothing wrong looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Audit {
    /// Pages present.
    pub pages: u64,
    /// Single facts that were checked.
    pub checks: u64,
    /// Pages free on the buddy's lists, isolated ones included.
    pub free: u64,
    /// Pages on per-CPU lists.
    pub pcp: u64,
    /// Pages off the lists on their way to the host or back.
    pub out: u64,
    /// Pages that a reporting device keeps which could not be shut off.
    pub lost: u64,
    /// Pages allocated to somebody.
    pub allocated: u64,
    /// Of these, pages in slabs.
    pub slab: u64,
    /// Of these, pages in large kmalloc blocks.
    pub large_kmalloc: u64,
    /// Of these, mapped or cached pages.
    pub lru: u64,
    /// Of these, pages in the swap cache.
    pub swapcache: u64,
    /// Of these, pages lent to the host.
    pub balloon: u64,
    /// Pages reserved since boot.
    pub reserved: u64,
    /// Pages out of use of memory blocks that are partly in use.
    pub offline: u64,
    /// Pages that were found bad and are out of use.
    pub poisoned: u64,
}

/// The first thing that an audit found wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditError {
    /// What is wrong.
    pub what: &'static str,
    /// Where, if it is about a page.
    pub pfn: Option<Pfn>,
    /// What it should be.
    pub expected: u64,
    /// What it is.
    pub found: u64,
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some(pfn) = self.pfn {
            write!(f, " at {pfn:?}")?;
        }
        write!(f, ": expected {:#x}, found {:#x}", self.expected, self.found)
    }
}

impl core::error::Error for AuditError {}

/// Counts checks and turns the first that fails into an error.
pub(crate) struct Auditor {
    pub(crate) report: Audit,
}

impl Auditor {
    pub(crate) fn equal(
        &mut self,
        what: &'static str,
        pfn: Option<Pfn>,
        expected: u64,
        found: u64,
    ) -> Result<(), AuditError> {
        self.report.checks += 1;
        if expected == found { Ok(()) } else { Err(AuditError { what, pfn, expected, found }) }
    }

    pub(crate) fn holds(
        &mut self,
        what: &'static str,
        pfn: Pfn,
        truth: bool,
    ) -> Result<(), AuditError> {
        self.equal(what, Some(pfn), 1, u64::from(truth))
    }
}

/// What a walk over a zone's descriptors counted.
#[derive(Default)]
struct ZoneCount {
    present: u64,
    managed: u64,
    free: u64,
    free_cma: u64,
    free_highatomic: u64,
    free_isolated: u64,
    isolated_blocks: u64,
    cma_pages: u64,
    highatomic_pages: u64,
    heads: [[u64; NR_MIGRATETYPES]; NR_ORDERS],
    pcp_pages: u64,
    held_pages: u64,
    lost_pages: u64,
}

/// Movable pages by their drivers.
struct Drivers {
    /// A bit for each driver that is a balloon.
    balloons: u64,
    pages: [u64; OWNERS],
}

impl<P: Platform> Mm<P> {
    /// Checks everything. Only on a machine where nobody else allocates, with
    /// interrupts on and no lock held: it takes each zone's lock for the whole
    /// walk over the zone.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn audit(&self) -> Result<Audit, AuditError> {
        self.audit_naming(SwapNames::default())
    }

    /// [`audit`](Self::audit) where swap slots are `named` elsewhere than in
    /// address spaces too.
    ///
    /// # Errors
    /// As [`audit`](Self::audit).
    pub fn audit_naming(&self, named: SwapNames) -> Result<Audit, AuditError> {
        let mut auditor = Auditor { report: Audit::default() };
        // What is put by has references that nobody counts.
        self.lru_drain_all();
        let mut drivers = self.drivers();
        let mut lru = LruCount::new(self.cache_owners().count() as u32);
        for zone in self.zones.iter() {
            let mut count = ZoneCount::default();
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            audit_pages(&mut auditor, &buddy, &mut count, &mut drivers, &mut lru)?;
            audit_deferred(&mut auditor, &mut buddy, &mut count)?;
            audit_lists(&mut auditor, &mut buddy, &count)?;
            audit_counters(&mut auditor, zone, &count)?;
            drop(buddy);
            drop(cpu);
            self.audit_pcps(&mut auditor, zone, count.pcp_pages)?;
            self.audit_lru_zone(&mut auditor, zone, &mut lru)?;
            auditor.report.pages += count.present;
        }
        let Audit { slab, large_kmalloc, .. } = auditor.report;
        let lost = auditor.report.lost;
        auditor.equal("pages lost by reporting", None, lost, self.report_stats().lost_pages)?;
        self.audit_slab(&mut auditor, slab, large_kmalloc)?;
        self.audit_lru(&mut auditor, &lru)?;
        self.audit_cma(&mut auditor)?;
        self.audit_hotplug(&mut auditor)?;
        self.audit_bad(&mut auditor)?;
        let spaces = self.audit_spaces(&mut auditor)?;
        let swapcache = auditor.report.swapcache;
        self.audit_swap(&mut auditor, named.and(spaces.names), swapcache)?;
        for (id, ops) in self.movable_drivers() {
            if let Some(pages) = ops.pages() {
                let found = drivers.pages.get(id.0 as usize).copied().unwrap_or_default();
                auditor.equal("pages of a driver", None, pages, found)?;
            }
        }
        Ok(auditor.report)
    }

    /// The drivers with movable pages, before any of these is counted.
    fn drivers(&self) -> Drivers {
        let balloons = self.movable_drivers().filter(|(_, ops)| ops.is_balloon());
        Drivers { balloons: balloons.fold(0, |bits, (id, _)| bits | 1 << id.0), pages: [0; OWNERS] }
    }

    /// The per-CPU lists of `zone` hold exactly the pages that say so.
    fn audit_pcps(
        &self,
        auditor: &mut Auditor,
        zone: &Zone,
        expected: u64,
    ) -> Result<(), AuditError> {
        // A verdict per CPU, brought out of the closure through a lock.
        let state = Lock::new(LockRank::Audit, (core::mem::take(&mut auditor.report), 0, Ok(())));
        Cpu::on_each(&self.platform, &|cpu| {
            let mut state = state.lock(cpu);
            if state.2.is_err() {
                return;
            }
            let mut inner = Auditor { report: state.0 };
            let result = self.audit_pcp(&mut inner, zone, cpu);
            state.0 = inner.report;
            match result {
                Ok(pages) => state.1 += pages,
                Err(e) => state.2 = Err(e),
            }
        });
        let (report, pages, result) = state.into_inner();
        auditor.report = report;
        result?;
        auditor.equal("pages on per-CPU lists", None, expected, pages)
    }

    fn audit_pcp(
        &self,
        auditor: &mut Auditor,
        zone: &Zone,
        cpu: &Cpu<'_, P>,
    ) -> Result<u64, AuditError> {
        // SAFETY: `cpu` is that CPU's token; the closure does not nest.
        unsafe {
            self.pcp(cpu.id(), zone).with(|pcp| {
                let (mut pages, mut large) = (0, 0);
                for (index, list) in pcp.lists.iter().enumerate() {
                    let order = list_order(index);
                    let mut prev = None;
                    for pfn in list.iter(&self.map) {
                        let page = self.map.page(pfn);
                        auditor.holds(
                            "type of a page on a per-CPU list",
                            pfn,
                            page.head().is(PageType::Pcp, order),
                        )?;
                        auditor.holds(
                            "zone of a page on a per-CPU list",
                            pfn,
                            zone.owns(&self.map, pfn),
                        )?;
                        // What the front's says does not matter.
                        let back = u64::from(page.prev());
                        let expected = prev.map_or(back, u64::from);
                        auditor.equal("back link", Some(pfn), expected, back)?;
                        prev = Some(link(pfn));
                        pages += order.pages();
                        large += u64::from(order == PAGEBLOCK_ORDER);
                        // A loop would never end.
                        auditor.holds("length of a per-CPU list", pfn, pages <= pcp.pages())?;
                    }
                    auditor.equal(
                        "end of a per-CPU list",
                        None,
                        u64::from(prev.unwrap_or(NIL)),
                        u64::from(list.last().map_or(NIL, link)),
                    )?;
                }
                auditor.equal("count of a per-CPU list", None, pages, pcp.pages())?;
                let counted = u64::from(pcp.large);
                auditor.equal("large blocks on a per-CPU list", None, large, counted)?;
                Ok(pages)
            })
        }
    }
}

/// Walks all heads of a zone.
fn audit_pages(
    auditor: &mut Auditor,
    buddy: &Buddy<'_>,
    count: &mut ZoneCount,
    drivers: &mut Drivers,
    lru: &mut LruCount,
) -> Result<(), AuditError> {
    let (map, zone) = (buddy.map, buddy.zone);
    let span = zone.span();
    let mut pfn = span.start.pageblock();
    while pfn < span.end {
        if !zone.owns(map, pfn) {
            pfn = map.next_populated(pfn.pageblock().add(PAGEBLOCK_PAGES));
            continue;
        }
        let start = pfn;
        pfn = audit_head(auditor, map, pfn, count, drivers, lru)?;
        // A block of order 10 begins one pageblock and covers another.
        let mut block = start.align_up(PAGEBLOCK_ORDER);
        while block < pfn {
            audit_block(auditor, map, block, count)?;
            block = block.add(PAGEBLOCK_PAGES);
        }
    }
    Ok(())
}

/// Counts the blocks of a zone that have no descriptors. They are free: more is
/// not known of them, nor is there more to be wrong.
fn audit_deferred(
    auditor: &mut Auditor,
    buddy: &mut Buddy<'_>,
    count: &mut ZoneCount,
) -> Result<(), AuditError> {
    let (map, zone) = (buddy.map, buddy.zone);
    let mut pages = 0;
    let mut at = zone.span().start;
    while let Some((block, word)) = map.next_deferred(at, zone.span().end) {
        at = block.add(MAX_ORDER.pages());
        if word.zone_index() != zone.index() {
            continue;
        }
        pages += MAX_ORDER.pages();
        for half in [block, block.add(PAGEBLOCK_PAGES)] {
            let movable = map.info(half).is_some_and(|word| {
                !word.is_populated()
                    && word.zone_index() == zone.index()
                    && word.migratetype() == MigrateType::Movable
            });
            auditor.holds("half of a deferred block", half, movable)?;
        }
    }
    auditor.equal("deferred pages", None, pages, zone.deferred_pages())?;
    let listed = !buddy.list(MAX_ORDER, MigrateType::Movable).is_empty();
    auditor.equal("a largest block listed while some are deferred", None, 1, {
        u64::from(pages == 0 || listed)
    })?;
    count.present += pages;
    count.managed += pages;
    count.free += pages;
    auditor.report.free += pages;
    Ok(())
}

fn audit_block(
    auditor: &mut Auditor,
    map: &MemMap,
    pfn: Pfn,
    count: &mut ZoneCount,
) -> Result<(), AuditError> {
    let block = map.block(pfn);
    let begins = map.page(pfn).head().ty() != PageType::Tail;
    auditor.holds("a pageblock out of use with a head", pfn, begins || !block.is_offline())?;
    match block.migratetype() {
        MigrateType::Isolate => {
            count.isolated_blocks += 1;
            auditor.holds(
                "type to restore after isolation",
                pfn,
                block.restore_type() != MigrateType::Isolate,
            )?;
            if block.restore_type() == MigrateType::Cma {
                count.cma_pages += PAGEBLOCK_PAGES;
            }
            if block.restore_type() == MigrateType::HighAtomic {
                count.highatomic_pages += PAGEBLOCK_PAGES;
            }
        }
        MigrateType::Cma => count.cma_pages += PAGEBLOCK_PAGES,
        MigrateType::HighAtomic => count.highatomic_pages += PAGEBLOCK_PAGES,
        _ => {}
    }
    Ok(())
}

/// Checks one head and its tails; returns the frame after the block.
fn audit_head(
    auditor: &mut Auditor,
    map: &MemMap,
    pfn: Pfn,
    count: &mut ZoneCount,
    drivers: &mut Drivers,
    lru: &mut LruCount,
) -> Result<Pfn, AuditError> {
    let page = map.page(pfn);
    let word = page.head();
    let (order, pages) = (word.order(), word.order().pages());
    auditor.holds("a frame that no block covers", pfn, word.ty() != PageType::Tail)?;
    auditor.holds("alignment of a block", pfn, order <= MAX_ORDER && pfn.is_aligned(order))?;
    for i in 1..pages {
        let tail = pfn.add(i);
        auditor.holds("a tail that is not clear", tail, map.page(tail).is_clear())?;
    }
    let pfmemalloc = word.flags().contains(PageFlags::PFMEMALLOC);
    auditor.holds(
        "mark of the reserves on a page that is not allocated",
        pfn,
        !pfmemalloc || word.ty().is_allocated(),
    )?;
    auditor.holds(
        "mark of bad memory on a page that is not allocated",
        pfn,
        !word.is_bad() || word.ty().is_allocated(),
    )?;
    // On a stopped machine nobody is in the middle of anything.
    auditor.holds(
        "a page lock that somebody left",
        pfn,
        !word.flags().contains(PageFlags::LOCKED),
    )?;
    auditor.holds(
        "flags of a free block",
        pfn,
        match word.ty() {
            PageType::Buddy | PageType::Held => PageFlags::REPORTED.contains(word.flags()),
            PageType::Pcp => word.flags().is_empty(),
            _ => !word.flags().contains(PageFlags::REPORTED),
        },
    )?;
    let ty = map.block(pfn).migratetype();
    // What is bad is out of use in any case.
    if word.ty() != PageType::Poisoned {
        auditor.equal(
            "a page out of use like its pageblock",
            Some(pfn),
            u64::from(map.block(pfn).is_offline()),
            u64::from(word.ty() == PageType::Offline),
        )?;
    }
    let mut unmanaged = 0;
    match word.ty() {
        PageType::Buddy => {
            count.heads[order.index()][ty.index()] += 1;
            for i in (0..pages).step_by(PAGEBLOCK_PAGES as usize) {
                let other = map.block(pfn.add(i)).migratetype();
                auditor.equal(
                    "types of the blocks under a free block",
                    Some(pfn),
                    ty as u64,
                    other as u64,
                )?;
            }
            auditor.report.free += pages;
            if ty != MigrateType::Isolate {
                count.free += pages;
            }
            match ty {
                MigrateType::Isolate => count.free_isolated += pages,
                MigrateType::Cma => count.free_cma += pages,
                MigrateType::HighAtomic => count.free_highatomic += pages,
                _ => {}
            }
            auditor.equal("references to a free page", Some(pfn), 0, u64::from(page.count()))?;
            audit_merged(auditor, map, pfn, order, ty)?;
        }
        PageType::Pcp => {
            count.pcp_pages += pages;
            auditor.report.pcp += pages;
        }
        PageType::Held if word.is_lost() => {
            count.lost_pages += pages;
            auditor.report.lost += pages;
        }
        PageType::Held => {
            count.held_pages += pages;
            auditor.report.out += pages;
        }
        PageType::Lru | PageType::Movable => {
            auditor.holds("a counted page without references", pfn, page.count() > 0)?;
            auditor.report.allocated += pages;
            if word.ty() == PageType::Movable {
                unmanaged = audit_movable(auditor, page, pages, drivers);
            } else {
                audit_lru_head(auditor, lru, pfn, map.block(pfn).node(), page)?;
                let cached = word.lru().contains(LruFlags::SWAPCACHE);
                auditor.report.swapcache += u64::from(cached);
            }
        }
        PageType::Reserved => auditor.report.reserved += pages,
        PageType::Offline => auditor.report.offline += pages,
        PageType::Poisoned => auditor.report.poisoned += pages,
        PageType::Hole => {}
        _ => {
            auditor.equal("references to a frozen page", Some(pfn), 0, u64::from(page.count()))?;
            auditor.report.allocated += pages;
            match word.ty() {
                PageType::Slab => auditor.report.slab += pages,
                PageType::LargeKmalloc => auditor.report.large_kmalloc += pages,
                _ => {}
            }
        }
    }
    if word.ty() != PageType::Hole {
        count.present += pages;
        if !matches!(word.ty(), PageType::Reserved | PageType::Offline | PageType::Poisoned) {
            count.managed += pages - unmanaged;
        }
    }
    Ok(pfn.add(pages))
}

/// Counts the pages of a driver; returns how many of them are not managed.
fn audit_movable(auditor: &mut Auditor, page: &PageDesc, pages: u64, drivers: &mut Drivers) -> u64 {
    let owner = page.owner();
    if let Some(count) = drivers.pages.get_mut(owner as usize) {
        *count += pages;
    }
    if owner >= u64::BITS || drivers.balloons >> owner & 1 == 0 {
        return 0;
    }
    auditor.report.balloon += pages;
    if page.private() == UNMANAGED { pages } else { 0 }
}

/// Two free buddies that may merge must have merged.
fn audit_merged(
    auditor: &mut Auditor,
    map: &MemMap,
    pfn: Pfn,
    order: Order,
    ty: MigrateType,
) -> Result<(), AuditError> {
    if order == MAX_ORDER {
        return Ok(());
    }
    let buddy = pfn.buddy(order);
    let Some(block) = map.try_block(buddy) else { return Ok(()) };
    let other = block.migratetype();
    let mergeable = block.zone_index() == map.block(pfn).zone_index()
        && other == ty
        && map.page(buddy).head().is(PageType::Buddy, order);
    auditor.holds("two buddies free and not merged", pfn, !mergeable)
}

/// The lists hold exactly the free heads that the walk has seen.
fn audit_lists(
    auditor: &mut Auditor,
    buddy: &mut Buddy<'_>,
    count: &ZoneCount,
) -> Result<(), AuditError> {
    let map = buddy.map;
    for order in (0..NR_ORDERS as u8).map(Order) {
        for ty in MigrateType::ALL {
            let list = *buddy.list(order, ty);
            let (mut prev, mut seen) = (NIL, 0u64);
            for pfn in list.iter(map) {
                let page = map.page(pfn);
                let (want, word) = (HeadWord::new(PageType::Buddy, order), page.head());
                let found = if word.is(PageType::Buddy, order) { want } else { word };
                auditor.equal(
                    "head word of a page on a free list",
                    Some(pfn),
                    u64::from(want.0),
                    u64::from(found.0),
                )?;
                auditor.equal(
                    "type of the block of a listed page",
                    Some(pfn),
                    ty as u64,
                    map.block(pfn).migratetype() as u64,
                )?;
                auditor.holds("zone of a listed page", pfn, buddy.zone.owns(map, pfn))?;
                auditor.equal("back link", Some(pfn), u64::from(prev), u64::from(page.prev()))?;
                prev = link(pfn);
                seen += 1;
                // A loop would never end.
                auditor.holds("length of a free list", pfn, seen <= u64::from(list.len()))?;
            }
            auditor.equal("length of a free list", None, u64::from(list.len()), seen)?;
            let heads = count.heads[order.index()][ty.index()];
            auditor.equal("free blocks on their list", list.first(), heads, seen)?;
            let bit =
                buddy.zone.avail[ty.index()].load(crate::sync::Ordering::Relaxed) >> order.0 & 1;
            auditor.equal(
                "hint of a list that is not empty",
                None,
                u64::from(seen > 0),
                u64::from(bit),
            )?;
        }
    }
    let FreeLists { capture, .. } = &*buddy.inner;
    auditor.equal("a capture that nobody waits for", None, 0, u64::from(capture.is_some()))
}

fn audit_counters(auditor: &mut Auditor, zone: &Zone, count: &ZoneCount) -> Result<(), AuditError> {
    let free = &zone.free;
    auditor.equal("present pages", None, count.present, zone.present())?;
    auditor.equal("managed pages", None, count.managed, zone.managed())?;
    auditor.equal("free pages", None, count.free, free.total() as u64)?;
    auditor.equal("free CMA pages", None, count.free_cma, free.cma() as u64)?;
    let highatomic = free.highatomic() as u64;
    auditor.equal("free HighAtomic pages", None, count.free_highatomic, highatomic)?;
    for class in crate::types::ZoneKind::ALL {
        let need = zone.mark(crate::zone::Mark::Low) + zone.lowmem_reserve(class);
        auditor.equal("need of the fast path", None, need, zone.plain_low(class))?;
    }
    auditor.equal("free isolated pages", None, count.free_isolated, free.isolated() as u64)?;
    auditor.equal("HighAtomic pages", None, count.highatomic_pages, zone.reserved_highatomic())?;
    auditor.equal("CMA pages", None, count.cma_pages, zone.cma_pages())?;
    // Nothing else is held by the manager on a stopped machine.
    auditor.equal("pages out for reporting", None, count.held_pages, zone.pages_out())?;
    auditor.equal("pages lost to a device", None, count.lost_pages, zone.pages_lost())?;
    let isolated = zone.isolated_blocks.load(crate::sync::Ordering::Relaxed);
    auditor.equal("isolated blocks", None, count.isolated_blocks, u64::from(isolated))
}
