//! Address spaces whose pages go out and come back, on devices that fail and
//! devices that are switched off under them.

use crate::basics::disk;
use mm::host::swap::{FailPlan, SwapDisk};
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::page::LruFlags;
use mm::rmap::Unmap;
use mm::space::{Access, FaultError, HugePages, MapFlags, Prot, SpaceRef};
use mm::swap::{SwapOffError, SwapOutError};
use mm::types::{CpuId, Order, PAGE_SIZE, Pfn};
use mm::{Config, Mm};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const MIB: u64 = 16;
const PAGE: u64 = PAGE_SIZE as u64;

fn machine(cpus: u16) -> Mm<Machine> {
    let mm = pc(MIB, cpus, &Config::default()).expect("a machine");
    mm.slab_init().expect("slabs");
    mm.set_huge_pages(HugePages::Never);
    mm
}

/// Swaps the page at a frame out, if it is one that can be.
fn swap_out(mm: &Mm<Machine>, pfn: Pfn) -> Option<Result<(), SwapOutError>> {
    let desc = mm.map().try_page(pfn)?;
    if !mm.lru_isolate(pfn) {
        return None;
    }
    let small = desc.head().order() == Order(0) && desc.head().lru().contains(LruFlags::ANON);
    if !small || !desc.try_lock() {
        mm.lru_putback(pfn);
        return None;
    }
    let result = mm.swap_out(pfn, &mut |slot| {
        mm.try_unmap(pfn, Unmap::Swap(slot));
    });
    desc.unlock();
    if result.is_ok() {
        mm.lru_end_isolation(pfn);
        desc.set_count(1);
        mm.put_lru(pfn);
    } else {
        mm.lru_putback(pfn);
    }
    Some(result)
}

/// Swaps out what can be; how many pages went.
fn swap_all(mm: &Mm<Machine>) -> usize {
    mm.lru_drain_all();
    let frames = (0..MIB << 8).map(Pfn);
    frames.filter(|&pfn| swap_out(mm, pfn) == Some(Ok(()))).count()
}

/// A program: a region, and what its pages hold.
struct Program<'m> {
    mm: &'m Mm<Machine>,
    space: SpaceRef<'m>,
    va: VirtAddr,
    values: Vec<u64>,
}

impl<'m> Program<'m> {
    fn new(mm: &'m Mm<Machine>, pages: usize) -> Self {
        let space = mm.space_new("program").expect("a space");
        let rw = Prot::READ | Prot::WRITE;
        let va = mm.mmap(&space, None, pages as u64 * PAGE, rw, MapFlags::empty());
        Self { mm, space, va: va.expect("room"), values: vec![0; pages] }
    }

    fn fork(&self) -> Option<Self> {
        let space = self.mm.space_fork(&self.space, "child").ok()?;
        Some(Self { mm: self.mm, space, va: self.va, values: self.values.clone() })
    }

    fn access(
        &self,
        at: usize,
        access: Access,
        mut f: impl FnMut(*mut u64),
    ) -> Result<(), FaultError> {
        let va = self.va.add(at as u64 * PAGE);
        self.mm.access(&self.space, va, access, |page| f(page.cast()))
    }

    fn store(&mut self, at: usize, value: u64) -> Result<(), FaultError> {
        self.access(at, Access::Write, |word| {
            // SAFETY: a page of the space, whose only thread this is.
            unsafe {
                word.write(value);
                word.add(511).write(value);
            }
        })?;
        self.values[at] = value;
        Ok(())
    }

    fn check(&self, at: usize) -> Result<(), FaultError> {
        let mut found = [0; 2];
        self.access(at, Access::Read, |word| {
            // SAFETY: as above.
            found = unsafe { [word.read(), word.add(511).read()] };
        })?;
        assert_eq!(found, [self.values[at]; 2], "page {at}");
        Ok(())
    }

    fn check_all(&self) {
        (0..self.values.len()).for_each(|at| assert_eq!(self.check(at), Ok(())));
    }

    fn end(self) {
        self.mm.space_put(self.space);
    }
}

#[test]
fn shared_pages_go_out_once_and_come_back_to_all() {
    let mm = machine(1);
    let disk = disk("/dev/disk", 600);
    mm.swapon(disk, None).expect("a device");
    let mut parent = Program::new(&mm, 100);
    (0..100).for_each(|at| parent.store(at, at as u64).expect("memory"));
    let mut child = parent.fork().expect("memory");
    assert_eq!(swap_all(&mm), 100);
    assert_eq!((parent.space.swapped(), child.space.swapped()), (100, 100));
    assert_eq!((parent.space.rss(), disk.writes()), (0, 99), "one is all zeros");
    mm.audit().expect("whole");
    let grandchild = child.fork().expect("memory");
    (0..50).for_each(|at| child.store(at, 1000).expect("memory"));
    parent.check_all();
    mm.audit().expect("whole");
    grandchild.check_all();
    child.check_all();
    assert_eq!(disk.reads(), 99, "each page once");
    for program in [parent, child, grandchild] {
        assert_eq!(program.space.swapped(), 0);
        program.end();
        mm.audit().expect("whole");
    }
    assert_eq!(mm.swap_totals().used, 0);
}

#[test]
fn what_cannot_be_written_is_back_where_it_was() {
    let mm = machine(1);
    let (bad, good) = (disk("/dev/bad", 20), disk("/dev/good", 600));
    mm.swapon(bad, Some(9)).expect("a device");
    let mut parent = Program::new(&mm, 40);
    (0..40).for_each(|at| parent.store(at, 7).expect("memory"));
    let child = parent.fork().expect("memory");
    bad.fail_writes(FailPlan::Always);
    for _ in 0..5 {
        assert_eq!(swap_all(&mm), 0);
    }
    let tried = bad.writes();
    assert!((3..15).contains(&tried), "{tried}: it is spared more and more");
    assert_eq!(mm.swap_totals().total, 20 - tried, "each slot that failed is bad");
    assert_eq!((parent.space.swapped(), parent.space.rss()), (0, 40));
    mm.audit().expect("whole");
    // So the pages can go elsewhere at once.
    mm.swapon(good, Some(1)).expect("a device");
    let mut swapped = 0;
    for _ in 0..10 {
        swapped += swap_all(&mm);
    }
    assert_eq!((swapped, parent.space.rss()), (40, 0));
    assert_eq!(mm.swapoff("/dev/bad"), Ok(()));
    parent.check_all();
    child.check_all();
    mm.audit().expect("whole");
    parent.end();
    child.end();
}

#[test]
fn switching_off_without_memory_leaves_it_on() {
    let mm = machine(1);
    // More than there is memory for.
    let pages = (MIB << 8) as usize * 3 / 2;
    mm.swapon(disk("/dev/disk", 2 * pages as u32), None).expect("a device");
    let mut program = Program::new(&mm, pages);
    for at in 0..pages {
        if mm.free_pages_total() < 1000 {
            swap_all(&mm);
        }
        program.store(at, at as u64 + 1).expect("memory");
    }
    let before = program.space.swapped();
    assert!(before > 1000, "{before}");
    assert_eq!(mm.swapoff("/dev/disk"), Err(SwapOffError::NoMemory));
    mm.audit().expect("whole");
    for at in 0..pages {
        if mm.free_pages_total() < 1000 {
            swap_all(&mm);
        }
        assert_eq!(program.check(at), Ok(()));
    }
    mm.munmap(&program.space, program.va, pages as u64 * PAGE / 2).expect("mapped");
    assert_eq!(mm.swapoff("/dev/disk"), Ok(()), "there is memory now");
    assert_eq!(mm.swap_totals(), mm::swap::SwapTotals::default());
    (pages / 2..pages).for_each(|at| assert_eq!(program.check(at), Ok(())));
    program.end();
    mm.audit().expect("whole");
}

/// Programs on several CPUs that write, look, fork and end while one takes their
/// pages away, and another one the devices.
#[test]
fn programs_while_pages_and_devices_go() {
    const PROGRAMS: u16 = 2;
    let mm = machine(PROGRAMS + 2);
    let names = ["/dev/a", "/dev/b"];
    let disks: [&SwapDisk; 2] =
        [disk(names[0], 300), Box::leak(Box::new(SwapDisk::new(names[1], 900).discarding()))];
    for disk in disks {
        mm.swapon(disk, Some(1)).expect("a device");
        disk.fail_writes(FailPlan::Every(97));
        disk.fail_reads(FailPlan::Every(89));
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mm, over) = (&mm, &over);
        scope.spawn(move || {
            let _over = Over(over);
            mm.platform().run_on(CpuId(PROGRAMS));
            let mut swapped = 0;
            while !over.load(Relaxed) && swapped < 4000 {
                swapped += swap_all(mm);
            }
        });
        scope.spawn(move || {
            let _over = Over(over);
            mm.platform().run_on(CpuId(PROGRAMS + 1));
            while !over.load(Relaxed) {
                for (name, disk) in names.into_iter().zip(disks) {
                    match mm.swapoff(name) {
                        Ok(()) => {
                            mm.swapon(disk, Some(1)).expect("a device");
                        }
                        Err(SwapOffError::Io) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        });
        for cpu in 0..PROGRAMS {
            scope.spawn(move || {
                let _over = Over(over);
                mm.platform().run_on(CpuId(cpu));
                run(mm, u64::from(cpu), over);
            });
        }
    });
    assert!(disks.iter().map(|disk| disk.writes()).sum::<u64>() > 100);
    assert!(disks.iter().map(|disk| disk.reads()).sum::<u64>() > 100);
    mm.audit().expect("whole");
    for (name, disk) in names.into_iter().zip(disks) {
        disk.fail_reads(FailPlan::Never);
        assert_eq!(mm.swapoff(name), Ok(()));
    }
    mm.audit().expect("whole");
}

/// Who ends, or dies, ends all.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Writes and looks, and has children that do, until it is over.
fn run(mm: &Mm<Machine>, seed: u64, over: &AtomicBool) {
    const PAGES: usize = 150;
    let mut state = seed;
    let mut below = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut programs = vec![Program::new(mm, PAGES)];
    while !over.load(Relaxed) {
        let (who, at) = (below(programs.len()), below(PAGES));
        let result = match below(200) {
            0 if programs.len() < 3 => {
                programs.extend(programs[who].fork());
                Ok(())
            }
            1 if programs.len() > 1 => {
                programs.swap_remove(who).end();
                Ok(())
            }
            2..80 => programs[who].store(at, below(1 << 20) as u64),
            _ => programs[who].check(at),
        };
        assert!(matches!(result, Ok(()) | Err(FaultError::Io)), "{result:?}");
    }
    for program in programs {
        for at in 0..PAGES {
            while program.check(at) == Err(FaultError::Io) {}
        }
        program.end();
    }
}
