//! Bad pages in memory that goes out of use and comes back: it goes without them,
//! and they never come back into use with it.
#![cfg(feature = "host")]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use mm::host::{Machine, build, pc};
use mm::hotplug::{MEMORY_BLOCK_PAGES, NewMemory, OnlineType, RangeUse};
use mm::page::PageType;
use mm::platform::{IrqState, LogLevel, Platform};
use mm::poison::{BadPage, PoisonError, Poisoned, Recovery};
use mm::proc::KPageFlags;
use mm::types::{CpuId, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use mm::zone::Zone;
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::Mutex;

const BLOCK: u64 = MEMORY_BLOCK_PAGES;
const NEW: NewMemory = NewMemory { node: NodeId(0), name: "System RAM", plugged: true };

fn block(number: u64) -> PfnRange {
    PfnRange::sized(Pfn(number * BLOCK), BLOCK)
}

fn zone<P: Platform>(mm: &Mm<P>, kind: ZoneKind) -> &Zone {
    mm.zone(NodeId(0), kind).expect("node 0")
}

/// Present and managed.
fn sizes(mm: &Mm<Machine>, kind: ZoneKind) -> [u64; 2] {
    [zone(mm, kind).present(), zone(mm, kind).managed()]
}

const fn recovered(page: BadPage) -> Result<Poisoned, PoisonError> {
    Ok(Poisoned { page, recovery: Recovery::Recovered })
}

/// Counted, listed, marked and known; and the manager whole.
#[track_caller]
fn check_bad<P: Platform>(mm: &Mm<P>, bad: &[Pfn]) {
    mm.audit().expect("whole");
    assert_eq!((mm.bad_pages(), mm.taken_pages()), (bad.len() as u64, bad.len() as u64));
    let mut listed = String::new();
    mm.proc_read("/sys/kernel/debug/quarry/poisoned", &mut listed).expect("a file");
    for &pfn in bad {
        assert!(listed.lines().any(|line| line.starts_with(&format!("{pfn} "))), "{listed}");
        assert_eq!(mm.poison_page(pfn), Err(PoisonError::Already));
        let flags = mm.kpageflags(pfn);
        assert!(matches!(flags, KPageFlags::HWPOISON | KPageFlags::NOPAGE), "{flags:?}");
    }
}

/// Allocates all there is, and sees that none of `bad` is given out.
fn never_given_out(mm: &Mm<Machine>, bad: &[Pfn]) {
    let mut pages = Vec::new();
    for order in (0..=10).rev().map(Order) {
        let request = Request::new(order, Gfp::HIGHUSER_MOVABLE | Gfp::NORETRY | Gfp::NOWARN);
        while let Ok(page) = mm.alloc_pages(request) {
            let all = PfnRange::sized(page.pfn, page.order.pages());
            assert!(!bad.iter().any(|&pfn| all.contains(pfn)), "{page:?} has a bad frame");
            pages.push(page);
        }
    }
    assert!(!pages.is_empty());
    pages.into_iter().for_each(|page: Page| mm.free_pages(page).expect("ours"));
    mm.drain_all(None);
}

#[test]
fn bad_pages_are_no_obstacle_and_do_not_come_back() {
    let mm = pc(512, 2, &Config::default()).expect("a machine");
    let [present, managed] = sizes(&mm, ZoneKind::Dma32);
    // At borders and in the middle, two side by side, in three pageblocks.
    let at = |n| block(2).start.add(n);
    let bad = [at(0), at(77), at(78), at(511), at(512), at(5 * PAGEBLOCK_PAGES + 300)];
    for pfn in bad {
        assert_eq!(mm.poison_page(pfn), recovered(BadPage::Free));
    }
    let good = managed - bad.len() as u64;
    assert_eq!(sizes(&mm, ZoneKind::Dma32), [present, good]);
    check_bad(&mm, &bad);
    // A sub-block of it, then all.
    let sub = PfnRange::sized(at(0), PAGEBLOCK_PAGES);
    assert!(mm.memory_block(2).is_some_and(|listed| mm.is_removable(&listed)));
    assert_eq!(mm.range_use(sub), RangeUse::Free);
    assert_eq!(mm.offline(sub), Ok(PAGEBLOCK_PAGES));
    check_bad(&mm, &bad);
    assert_eq!(sizes(&mm, ZoneKind::Dma32), [present, good - (PAGEBLOCK_PAGES - 4)]);
    assert_eq!(mm.kpageflags(at(1)), KPageFlags::OFFLINE);
    assert_eq!(mm.online(sub, OnlineType::Auto), Ok(PAGEBLOCK_PAGES));
    check_bad(&mm, &bad);
    assert_eq!(sizes(&mm, ZoneKind::Dma32), [present, good]);
    for how in [OnlineType::Kernel, OnlineType::Movable] {
        assert_eq!(mm.offline(block(2)), Ok(BLOCK));
        check_bad(&mm, &bad);
        assert_eq!(sizes(&mm, ZoneKind::Dma32), [present - BLOCK, managed - BLOCK]);
        assert_eq!(mm.online(block(2), how), Ok(BLOCK));
        check_bad(&mm, &bad);
        never_given_out(&mm, &bad);
        check_bad(&mm, &bad);
    }
    assert_eq!(sizes(&mm, ZoneKind::Movable), [BLOCK, BLOCK - bad.len() as u64]);
    bad.iter().for_each(|&pfn| mm.unpoison_page(pfn).expect("it was bad"));
    check_bad(&mm, &[]);
    assert_eq!(sizes(&mm, ZoneKind::Movable), [BLOCK; 2]);
}

#[test]
fn what_goes_bad_out_of_use_stays_out() {
    for part in [false, true] {
        let mm = pc(512, 1, &Config::default()).expect("a machine");
        let before = sizes(&mm, ZoneKind::Dma32);
        let range = if part { PfnRange::sized(block(2).start, 4096) } else { block(2) };
        assert_eq!(mm.offline(range), Ok(range.pages()));
        let out = sizes(&mm, ZoneKind::Dma32);
        let bad = [0, 1, 700, 4095].map(|n| range.start.add(n));
        for pfn in bad {
            assert_eq!(mm.poison_page(pfn), recovered(BadPage::Offline));
        }
        check_bad(&mm, &bad);
        assert_eq!(sizes(&mm, ZoneKind::Dma32), out);
        assert_eq!(mm.online(range, OnlineType::Auto), Ok(range.pages()));
        check_bad(&mm, &bad);
        assert_eq!(sizes(&mm, ZoneKind::Dma32), [before[0], before[1] - 4]);
        never_given_out(&mm, &bad);
        check_bad(&mm, &bad);
        // They get well in use, and out of use.
        mm.unpoison_page(bad[0]).expect("it was bad");
        assert_eq!(mm.offline(range), Ok(range.pages()));
        mm.unpoison_page(bad[2]).expect("it was bad");
        check_bad(&mm, &[bad[1], bad[3]]);
        assert_eq!(mm.unpoison_page(bad[2]), Err(PoisonError::NotPoisoned));
        assert_eq!(mm.online(range, OnlineType::Auto), Ok(range.pages()));
        check_bad(&mm, &[bad[1], bad[3]]);
        assert_eq!(sizes(&mm, ZoneKind::Dma32), [before[0], before[1] - 2]);
    }
}

/// A machine of 512 MiB at boot, with room for more up to 8 GiB.
fn growing(config: &Config) -> Mm<Machine> {
    let config = Config { hotplug_end: Pfn(8 << 18), ..*config };
    let machine = Machine::new(Pfn(0), Pfn(8 << 18), 2).expect("address space");
    let ram = [(PfnRange::new(Pfn(1), Pfn(4 * BLOCK)), NodeId(0))];
    build(machine, &ram, &config).expect("a machine")
}

/// Scrubbing would write to what is bad, and to what is not there.
#[test]
fn bad_memory_is_forgotten_when_it_is_removed() {
    for page_poison in [false, true] {
        let mm = growing(&Config { page_poison, ..Config::default() });
        mm.add_memory(block(32), NEW).expect("room for it");
        let bad = [block(32).start.add(5), Pfn(block(32).end.0 - 1)];
        let byte = || mm.platform().frame(bad[0]);
        // SAFETY: nobody has the frame.
        unsafe { byte().write(0x11) };
        for pfn in bad {
            assert_eq!(mm.poison_page(pfn), recovered(BadPage::Offline));
        }
        check_bad(&mm, &bad);
        assert_eq!(mm.online(block(32), OnlineType::Auto), Ok(BLOCK));
        check_bad(&mm, &bad);
        assert_eq!(sizes(&mm, ZoneKind::Normal), [BLOCK, BLOCK - 2]);
        // SAFETY: still nobody's.
        assert_eq!(unsafe { byte().read() }, 0x11, "what is bad was written to");
        assert_eq!(mm.offline(block(32)), Ok(BLOCK));
        check_bad(&mm, &bad);
        mm.remove_memory(block(32)).expect("out of use");
        check_bad(&mm, &[]);
        assert_eq!(mm.poison_page(bad[0]), Err(PoisonError::NotRam));
        mm.add_memory(block(32), NEW).expect("room for it");
        assert_eq!(mm.online(block(32), OnlineType::Auto), Ok(BLOCK));
        mm.audit().expect("whole");
        assert_eq!(sizes(&mm, ZoneKind::Normal), [BLOCK; 2]);
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// A machine on which something happens between any two steps of the manager, or
/// whose page tables run out.
struct Fateful {
    machine: Machine,
    /// What happens when so many times more a CPU has been taken.
    hook: Mutex<Option<(u32, Hook)>>,
    /// CPUs that are taken; while one is, nothing else can happen.
    depth: AtomicU32,
    /// Pieces of the memory map that can be backed.
    tables: AtomicU32,
}

// SAFETY: the machine's own answers; the hook runs before the CPU is held.
unsafe impl Platform for Fateful {
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        self.machine.frame(pfn)
    }
    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        self.machine.pfn_of(ptr)
    }
    fn memmap_base(&self, slot: usize, bytes: usize) -> Option<*mut u8> {
        self.machine.memmap_base(slot, bytes)
    }
    fn memmap_back(
        &self,
        ptr: *mut u8,
        frames: PfnRange,
        tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        let left = self.tables.load(Relaxed);
        self.tables.store(left.saturating_sub(1), Relaxed);
        if left == 0 {
            // As a machine whose tables run out in the middle.
            let half = PfnRange::sized(frames.start, frames.pages() / 2);
            return half.pages() > 0 && !self.machine.memmap_back(ptr, half, tables);
        }
        self.machine.memmap_back(ptr, frames, tables)
    }
    fn memmap_unback(&self, ptr: *mut u8, bytes: usize, frame: &mut dyn FnMut(Pfn)) {
        self.machine.memmap_unback(ptr, bytes, frame);
    }
    fn direct_map_extend(&self, frames: PfnRange, tables: &mut dyn FnMut() -> Option<Pfn>) -> bool {
        self.machine.direct_map_extend(frames, tables)
    }
    fn irq_save(&self) -> (CpuId, IrqState) {
        let hook = if self.depth.load(Relaxed) > 0 {
            None
        } else {
            let mut hook = self.hook.lock().expect("no panic");
            if let Some((left, _)) = &mut *hook {
                *left = left.saturating_sub(1);
            }
            hook.take_if(|(left, _)| *left == 0)
        };
        if let Some((_, hook)) = hook {
            hook();
        }
        self.depth.fetch_add(1, Relaxed);
        self.machine.irq_save()
    }
    fn irq_restore(&self, cpu: CpuId, state: IrqState) {
        self.depth.fetch_sub(1, Relaxed);
        self.machine.irq_restore(cpu, state);
    }
    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        self.depth.fetch_add(1, Relaxed);
        self.machine.on_cpus(f);
        self.depth.fetch_sub(1, Relaxed);
    }
    fn now_ms(&self) -> u64 {
        self.machine.now_ms()
    }
    fn log(&self, level: LogLevel, line: core::fmt::Arguments<'_>) {
        self.machine.log(level, line);
    }
}

fn fateful() -> &'static Mm<Fateful> {
    let machine = Machine::new(Pfn(0), Pfn(8 << 18), 1).expect("address space");
    let platform =
        Fateful { machine, hook: Mutex::default(), depth: 0.into(), tables: u32::MAX.into() };
    let config = Config { hotplug_end: Pfn(8 << 18), ..Config::default() };
    let ram = [(PfnRange::new(Pfn(1), Pfn(4 * BLOCK)), NodeId(0))];
    Box::leak(Box::new(build(platform, &ram, &config).expect("a machine")))
}

/// A frame goes bad between any two steps of putting its memory out of use.
#[test]
fn a_frame_goes_bad_at_any_moment_of_going_out_of_use() {
    static HAPPENED: AtomicBool = AtomicBool::new(false);
    let mm = fateful();
    let range = PfnRange::sized(block(2).start, 4 * PAGEBLOCK_PAGES);
    let pfn = range.start.add(3 * PAGEBLOCK_PAGES / 2);
    let mut kinds = [0; 7];
    for step in 1.. {
        HAPPENED.store(false, Relaxed);
        let found = std::sync::Arc::new(Mutex::new(None));
        let slot = found.clone();
        let hook: Hook = Box::new(move || {
            HAPPENED.store(true, Relaxed);
            *slot.lock().expect("no panic") = Some(mm.poison_page(pfn));
        });
        *mm.platform().hook.lock().expect("no panic") = Some((step, hook));
        let gone = mm.offline(range);
        *mm.platform().hook.lock().expect("no panic") = None;
        if !HAPPENED.load(Relaxed) {
            assert_eq!(gone, Ok(range.pages()));
            break;
        }
        let found = found.lock().expect("no panic").take().expect("it happened");
        kinds[found.expect("RAM").page as usize] += 1;
        // It may have come just when it had to be free.
        if gone.is_ok() {
            check_bad(mm, &[pfn]);
            mm.online(range, OnlineType::Auto).expect("out of use");
        }
        check_bad(mm, &[pfn]);
        assert_eq!(mm.map().head_of(pfn).map(|(_, word)| word.ty()), Some(PageType::Poisoned));
        mm.unpoison_page(pfn).expect("it was bad");
        check_bad(mm, &[]);
    }
    for kind in [BadPage::Free, BadPage::Contig, BadPage::Offline] {
        assert!(kinds[kind as usize] > 0, "{kind:?} never: {kinds:?}");
    }
}

#[test]
fn what_cannot_be_described_takes_nothing() {
    let mm = fateful();
    mm.add_memory(block(32), NEW).expect("room for it");
    mm.remove_memory(block(32)).expect("out of use");
    mm.drain_all(None);
    let before = (mm.free_pages_total(), mm.added_map_pages());
    for tables in 0..4 {
        // Small pieces, so that there are several: nothing else is left.
        let gfp = Gfp::KERNEL | Gfp::NORETRY | Gfp::MEMALLOC | Gfp::NOWARN;
        let mut held = Vec::new();
        while let Ok(page) = mm.alloc_pages(Request::new(Order(6), gfp)) {
            held.push(page);
        }
        // Every other one, so that none are larger.
        let lower = |page: &mut Page| page.pfn.is_aligned(Order(7));
        for page in held.extract_if(.., lower).take(40) {
            mm.free_pages(page).expect("ours");
        }
        let [free, map] = [mm.free_pages_total(), mm.added_map_pages()];
        mm.platform().tables.store(tables, Relaxed);
        assert!(mm.add_memory(block(32), NEW).is_err(), "after {tables} pieces");
        mm.platform().tables.store(u32::MAX, Relaxed);
        mm.drain_all(None);
        mm.audit().expect("whole");
        assert_eq!([mm.free_pages_total(), mm.added_map_pages()], [free, map]);
        held.into_iter().for_each(|page| mm.free_pages(page).expect("ours"));
        mm.drain_all(None);
        assert_eq!((mm.free_pages_total(), mm.added_map_pages()), before);
    }
    mm.add_memory(block(32), NEW).expect("room for it");
    mm.audit().expect("whole");
}
