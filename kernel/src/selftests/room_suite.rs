//! Tests that who wants a contiguous range pays for it: by what the page cache
//! of a disk keeps, in the range's own zone. Calls `mm`, `task`, `workers`.

use super::ARENA;
use crate::platform::Machine;
use crate::selftests::Subject;
use crate::{task, workers};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::arena::Handle;
use mm::block::{BlockDevice, IoFailed, PageBytes};
use mm::cache::{CacheFile, PageCache};
use mm::contig::ContigError;
use mm::lru::LruList;
use mm::types::{MAX_ORDER, Order, PAGE_SIZE, PfnRange};
use mm::zone::Zone;
use mm::{Gfp, Mm, Page, Request};
use selftest::{Case, CaseResult, Level, Suite, Test, check, check_eq, check_ok, skip};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] =
    [Suite { name: "room", cases: &[Case::quick("a_range_pays_for_itself", pays_for_itself)] }];

/// Pages of the largest area and of the largest machine that are filled: 64 MiB
/// and 8 GiB.
const MOST_AREA: u64 = 1 << 14;
const MOST_MACHINE: u64 = 1 << 21;
/// Those at each boot, 16 MiB and 768 MiB: to fill more takes too long.
const QUICK_AREA: u64 = 1 << 12;
const QUICK_MACHINE: u64 = 3 << 16;
/// Of so many pages one is dirty, which is less than the flusher is woken for; and
/// one is a driver's.
const DIRTY: u64 = 16;
const DRIVERS: u64 = 4;
/// Blocks that are forgotten at a time to get above a mark.
const FEW: u64 = 64;
/// Milliseconds after which kswapd counts as not woken.
const PATIENCE: u64 = 30_000;
/// Without a word to anybody.
const QUIETLY: Gfp = Gfp::NOWARN;

/// A disk whose blocks hold their numbers, whatever is written there.
struct Numbers {
    written: AtomicU64,
    /// Of these, blocks that were not what they had to be.
    wrong: AtomicU64,
}

static NUMBERS: Numbers = Numbers { written: AtomicU64::new(0), wrong: AtomicU64::new(0) };
static CACHE: PageCache = PageCache::new(&NUMBERS);

impl BlockDevice for Numbers {
    fn name(&self) -> &str {
        "numbers"
    }

    fn blocks(&self) -> u64 {
        4 * MOST_AREA
    }

    fn read(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed> {
        page.fill(0);
        page[..8].copy_from_slice(&block.to_le_bytes());
        Ok(())
    }

    fn write(&self, block: u64, page: &PageBytes) -> Result<(), IoFailed> {
        let right = page[..8] == block.to_le_bytes() && page[8..].iter().all(|&byte| byte == 0);
        self.written.fetch_add(1, Relaxed);
        self.wrong.fetch_add(u64::from(!right), Relaxed);
        Ok(())
    }
}

/// What fills the machine; it is given back in the end, however that comes.
struct Filled {
    mm: &'static Mm<Machine>,
    /// Blocks that nobody touches.
    taken: Vec<Page>,
    /// Pages of a driver, each with its number.
    movable: Vec<Handle>,
}

impl Filled {
    /// Takes what there is in blocks of 64 KiB and more without waiting, but for
    /// room to reclaim: as much as `area` in its zone, so that raised marks leave
    /// enough of it, and a block in others.
    fn new(mm: &'static Mm<Machine>, area: PfnRange, own: usize) -> CaseResult<Self> {
        let mut this = Self { mm, taken: Vec::new(), movable: Vec::new() };
        check_ok!(this.taken.try_reserve(4096));
        check_ok!(this.movable.try_reserve(MOST_AREA as usize));
        for order in (4..=MAX_ORDER.0).rev().map(Order) {
            let request = Request::new(order, QUIETLY | Gfp::HIGHMEM);
            while this.taken.len() < this.taken.capacity()
                && let Ok(page) = mm.alloc_pages(request)
            {
                this.taken.push(page);
            }
        }
        for index in 0..mm.zones().len() {
            let mut left = if index == own { area.pages() } else { 1 };
            let here = |page: &Page| {
                mm.map().try_block(page.pfn).is_some_and(|block| block.zone_index() == index)
            };
            while left > 0
                && let Some(at) = this.taken.iter().position(here)
            {
                let page = this.taken.swap_remove(at);
                left = left.saturating_sub(page.order.pages());
                check_ok!(mm.free_pages(page));
            }
        }
        Ok(this)
    }

    /// Caches blocks, and has the driver have pages, until there is no room; but
    /// no zone is below its min mark then.
    fn fill(&mut self) -> CaseResult {
        let mm = self.mm;
        let gfp = (Gfp::HIGHUSER_MOVABLE - Gfp::DIRECT_RECLAIM - Gfp::KSWAPD_RECLAIM) | QUIETLY;
        for block in 0..NUMBERS.blocks() {
            let mut file = CacheFile::new(gfp);
            let at = block * PAGE_SIZE as u64;
            let done = match block % DIRTY {
                0 => CACHE.write(mm, &mut file, at, &block.to_le_bytes()),
                _ => CACHE.read(mm, &mut file, at, &mut [0; 8]),
            };
            if done.is_err() {
                break;
            }
            if block % DRIVERS == 0 && self.movable.len() < self.movable.capacity() {
                let Ok(handle) = ARENA.alloc(mm, gfp) else { break };
                let number = self.movable.len();
                self.movable.push(handle);
                check_ok!(ARENA.with(mm, handle, |page| stamp(page, number)));
            }
        }
        mm.lru_drain_all();
        mm.drain_all(None);
        // Of what a CPU's list is filled with at a time the last is below the mark;
        // that marks are raised is a wish.
        let low = || mm.zones().iter().any(is_low);
        let mut block = 0;
        while low() {
            check!(block < NUMBERS.blocks(), "a zone is low without anything cached");
            CACHE.invalidate(mm, block..block + FEW);
            mm.drain_all(None);
            block += FEW;
        }
        Ok(())
    }

    /// Whether each of the driver's pages is what it was, wherever it is now.
    fn is_whole(&self) -> bool {
        let mut pages = self.movable.iter().enumerate();
        pages.all(|(number, &handle)| {
            let mut wanted = [0; 8];
            wanted.copy_from_slice(&number.to_le_bytes());
            ARENA.with(self.mm, handle, |page| page.ends_with(&wanted)).unwrap_or(false)
        })
    }

    /// Of the driver's pages, those that lie in a range.
    fn movable_in(&self, range: PfnRange) -> u64 {
        let inside = |handle: &&Handle| {
            ARENA.frame(self.mm, **handle).is_ok_and(|frame| range.contains(frame))
        };
        self.movable.iter().filter(inside).count() as u64
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mm = self.mm;
        // All of it is its own, and the disk never fails: there is nothing to be
        // told.
        for page in self.taken.drain(..) {
            let _ = mm.free_pages(page);
        }
        for handle in self.movable.drain(..) {
            let _ = ARENA.free(mm, handle);
        }
        let _ = ARENA.release_tables(mm);
        let _ = CACHE.sync(mm);
        CACHE.invalidate(mm, 0..NUMBERS.blocks());
        // What the cache remembers of blocks that were reclaimed takes pages too.
        mm.drop_slab();
    }
}

fn stamp(page: &mut [u8; PAGE_SIZE], number: usize) {
    page[PAGE_SIZE - 8..].copy_from_slice(&number.to_le_bytes());
}

/// Whether a zone with memory has less than it has to have.
fn is_low(zone: &Zone) -> bool {
    zone.managed() > 0 && zone.free_pages() < zone.marks().min
}

/// Cached pages of a zone.
fn cached_in(mm: &Mm<Machine>, zone: &Zone) -> u64 {
    mm.lru_pages(zone, LruList::ActiveFile) + mm.lru_pages(zone, LruList::InactiveFile)
}

/// In a machine that is nearly full the whole of an area is had by having cached
/// pages of its zone forgotten, and of no other. All zones have what they have to
/// have then, and whoever cannot wait is served. Without the right to reclaim
/// kswapd is woken, and that is all.
fn pays_for_itself(test: &mut Test<'_, Subject>) -> CaseResult {
    let mm = test.on.mm;
    let (most_area, most_machine) = match test.level {
        Level::Full => (MOST_AREA, MOST_MACHINE),
        _ => (QUICK_AREA, QUICK_MACHINE),
    };
    let mut areas = mm
        .cma_areas()
        .filter(|(_, area)| mm.cma_used(area) == 0 && area.range().pages() <= most_area);
    let Some((id, area)) = areas.next() else {
        skip!("no unused area of up to {} MiB", most_area >> 8);
    };
    if mm.managed_pages() > most_machine {
        skip!("a machine of more than {} MiB", most_machine >> 8);
    }
    let area = area.range();
    let own = check_ok!(mm.map().try_block(area.start).ok_or("no such block")).zone_index();
    check_ok!(CACHE.register(mm));
    let event = |key| mm.vmstat_value(key).unwrap_or_default();
    let mut filled = Filled::new(mm, area, own)?;
    filled.fill()?;
    let movable = filled.movable_in(area);
    check!(CACHE.pages() > area.pages() / 2, "only {} pages are cached", CACHE.pages());
    check!(movable > 0, "no page of a driver is in the area");

    // With the right to reclaim, but nobody to help.
    let mut before = [0; 64];
    for (slot, zone) in before.iter_mut().zip(mm.zones()) {
        *slot = cached_in(mm, zone);
    }
    let (moved, reclaimed) = (event("pgmigrate_success"), event("pgsteal_direct"));
    let written = NUMBERS.written.load(Relaxed);
    let gfp = (Gfp::KERNEL - Gfp::KSWAPD_RECLAIM) | Gfp::RETRY_MAYFAIL | QUIETLY;
    let got = mm.cma_alloc(id, area.pages(), Order(0), gfp);
    check_eq!(got, Ok(area));
    let mut wrong = None;
    for (zone, was) in mm.zones().iter().zip(before) {
        let is = cached_in(mm, zone);
        if is_low(zone) || zone.index() != own && is < was {
            wrong = Some((zone.kind, zone.free_pages(), zone.marks().min, is, was));
        }
    }
    let urgent = mm.alloc_pages(Request::new(Order(0), Gfp::ATOMIC | QUIETLY));
    let dug = urgent.as_ref().is_ok_and(|page| mm.is_pfmemalloc(page.pfn));
    let urgent = urgent.map(|page| mm.free_pages(page));
    let released = mm.cma_release(id, area);
    check_eq!(released, Ok(()));
    check_eq!(urgent, Ok(Ok(())), "an urgent request");
    check!(!dug, "it was served by digging");
    check!(wrong.is_none(), "a zone is below its mark, or has paid for another: {wrong:?}");
    // What was dirty was written, what is somebody's was moved, the rest is gone.
    check!(event("pgsteal_direct") > reclaimed, "nothing was reclaimed");
    check!(event("pgmigrate_success") >= moved + movable, "pages of drivers were not moved");
    check!(NUMBERS.written.load(Relaxed) > written, "nothing was written");
    check_eq!(NUMBERS.wrong.load(Relaxed), 0, "blocks that were written wrongly");
    check!(filled.is_whole(), "a page of a driver has changed");

    // Without it.
    filled.fill()?;
    let (scanned, rounds) = (event("pgscan_direct"), event("pageoutrun"));
    let got = mm.cma_alloc(id, area.pages(), Order(0), Gfp::NOWAIT | QUIETLY);
    let waited = event("pgscan_direct") - scanned;
    if let Ok(range) = got {
        check_ok!(mm.cma_release(id, range));
    }
    check_eq!(got, Err(ContigError::NoMemory));
    check_eq!(waited, 0, "pages that were looked at");
    check_eq!(event("pageoutrun"), rounds, "kswapd works though it is to be quiet");
    let busy = workers::busy();
    let mut left = PATIENCE;
    while event("pageoutrun") == rounds {
        check!(left > 0, "kswapd was not woken");
        task::sleep(10);
        left -= 10;
    }
    drop(busy);
    drop(filled);
    check_eq!(CACHE.pages(), 0);
    Ok(())
}
