//! Pages that go out together and come back before anybody asks, through reclaim
//! and faults as programs have them; and failures at every one of these.

use mm::block::{BlockRead, BlockWrite, IoFailed, PageBytes, WriteFailed};
use mm::host::swap::{FailPlan, SwapDisk};
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::space::{Access, FaultError, HugePages, MapFlags, Prot, SpaceRef};
use mm::swap::SwapDevice;
use mm::types::PAGE_SIZE;
use mm::{Config, Mm};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PAGE: u64 = PAGE_SIZE as u64;

/// A disk that knows how much it was asked for at a time.
struct Watched {
    disk: SwapDisk,
    most_written: AtomicUsize,
    most_read: AtomicUsize,
    /// Calls for reads.
    calls: AtomicUsize,
}

impl SwapDevice for Watched {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn slots(&self) -> u32 {
        self.disk.slots()
    }

    fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), IoFailed> {
        self.disk.read(slot, page)
    }

    fn write(&self, slot: u32, page: &PageBytes) -> Result<(), WriteFailed> {
        self.disk.write(slot, page)
    }

    fn read_batch(&self, batch: &mut [BlockRead<'_>]) {
        self.calls.fetch_add(1, Relaxed);
        self.most_read.fetch_max(batch.len(), Relaxed);
        self.disk.read_batch(batch);
    }

    fn write_batch(&self, batch: &mut [BlockWrite<'_>]) {
        self.most_written.fetch_max(batch.len(), Relaxed);
        self.disk.write_batch(batch);
    }
}

/// A machine of 8 MiB and a disk, and a program of `pages` pages there.
struct World {
    mm: &'static Mm<Machine>,
    disk: &'static Watched,
    /// What the two refer to.
    boxes: (*mut Mm<Machine>, *mut Watched),
    space: SpaceRef<'static>,
    va: VirtAddr,
    pages: u64,
}

impl World {
    fn new(pages: u64) -> Self {
        let mm = pc(8, 1, &Config::default()).expect("a machine");
        let boxed = Box::into_raw(Box::new(mm));
        // SAFETY: just made, and nothing but shared references is made of it until
        // `end`, or for ever.
        let mm: &'static Mm<Machine> = unsafe { &*boxed };
        mm.slab_init().expect("slabs");
        mm.set_huge_pages(HugePages::Never);
        let disk = Box::into_raw(Box::new(Watched {
            disk: SwapDisk::new("/dev/vda", 8192),
            most_written: AtomicUsize::new(0),
            most_read: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
        }));
        let boxes = (boxed, disk);
        // SAFETY: as above.
        let disk: &'static Watched = unsafe { &*disk };
        mm.swapon(disk, None).expect("memory for its table");
        let space = mm.space_new("program").expect("a space");
        let prot = Prot::READ | Prot::WRITE;
        let va = mm.mmap(&space, None, pages * PAGE, prot, MapFlags::empty()).expect("room");
        Self { mm, disk, boxes, space, va, pages }
    }

    fn access(
        &self,
        page: u64,
        access: Access,
        mut f: impl FnMut(*mut u64),
    ) -> Result<(), FaultError> {
        let va = self.va.add(page * PAGE);
        self.mm.access(&self.space, va, access, |page| f(page.cast()))
    }

    fn store(&self, page: u64, value: u64) -> Result<(), FaultError> {
        self.access(page, Access::Write, |word| {
            // SAFETY: a page of the space, whose only thread this is.
            unsafe {
                word.write(value);
                word.add(511).write(!value);
            }
        })
    }

    fn check(&self, page: u64, value: u64) -> Result<(), FaultError> {
        let mut found = [0; 2];
        self.access(page, Access::Read, |word| {
            // SAFETY: as above.
            found = unsafe { [word.read(), word.add(511).read()] };
        })?;
        assert_eq!(found, [value, !value], "page {page}");
        Ok(())
    }

    fn event(&self, key: &str) -> u64 {
        self.mm.vmstat_value(key).unwrap_or_else(|| panic!("no {key}"))
    }

    /// Ends the program, then the machine.
    fn end(self) {
        let Self { mm, boxes, space, .. } = self;
        mm.space_put(space);
        mm.audit().expect("whole");
        assert_eq!(mm.swap_totals().used, 0);
        // SAFETY: made of boxes, and the space was the last that referred to them.
        unsafe {
            drop(Box::from_raw(boxes.0));
            drop(Box::from_raw(boxes.1));
        }
    }

    /// Everything is there, once the disk is well again.
    fn whole(&self) {
        self.disk.disk.fail_reads(FailPlan::Never);
        self.disk.disk.fail_writes(FailPlan::Never);
        self.mm.audit().expect("whole");
        for page in 0..self.pages {
            assert_eq!(self.check(page, page + 1), Ok(()));
        }
        self.mm.audit().expect("whole");
    }
}

fn filled(pages: u64) -> World {
    let world = World::new(pages);
    (0..pages).for_each(|page| world.store(page, page + 1).expect("memory or swap"));
    world
}

#[test]
fn what_goes_out_goes_together() {
    let world = filled(3000);
    assert_eq!(world.disk.most_written.load(Relaxed), 32, "as many as are isolated at a time");
    assert_eq!(world.event("pswpout"), world.disk.disk.writes());
    world.whole();
}

#[test]
fn who_comes_back_in_order_finds_what_follows() {
    for (direction, cluster, most) in [(true, 3, 8), (false, 3, 8), (true, 5, 32), (true, 0, 1)] {
        let world = filled(3000);
        world.mm.set_page_cluster(cluster);
        let calls = world.disk.calls.load(Relaxed);
        let read = world.event("pswpin");
        for at in 0..3000 {
            let page = if direction { at } else { 2999 - at };
            assert_eq!(world.check(page, page + 1), Ok(()));
        }
        let calls = (world.disk.calls.load(Relaxed) - calls) as u64;
        let read = world.event("pswpin") - read;
        let (ahead, hits) = (world.event("swap_ra"), world.event("swap_ra_hit"));
        assert_eq!(world.disk.most_read.load(Relaxed), most);
        assert_eq!(world.event("pswpin"), world.disk.disk.reads());
        assert_eq!(read, calls + ahead, "one of each call was asked for");
        if cluster == 0 {
            assert_eq!((ahead, hits), (0, 0));
        } else {
            assert!(hits * 10 > ahead * 9, "{hits} of {ahead} were of use");
            assert!(calls * 5 < read, "{calls} calls for {read} pages");
        }
        world.whole();
    }
}

#[test]
fn who_comes_back_at_random_reads_little_in_vain() {
    let world = filled(3000);
    let mut page = 1;
    for _ in 0..2000 {
        page = page * 1_103 % 2999;
        assert_eq!(world.check(page, page + 1), Ok(()));
    }
    let (read, ahead) = (world.event("pswpin"), world.event("swap_ra"));
    assert!(ahead * 4 < read, "{ahead} of {read}");
    world.whole();
}

#[test]
fn a_write_that_fails_loses_nothing_whichever_it_is() {
    const PAGES: u64 = 2300;
    let world = filled(PAGES);
    let writes = world.disk.disk.writes();
    world.end();
    assert!(writes > 60, "{writes}");
    let mut failed = 0;
    for nth in 1..=writes {
        let world = World::new(PAGES);
        world.disk.disk.fail_writes(FailPlan::Nth(nth));
        (0..PAGES).for_each(|page| world.store(page, page + 1).expect("memory or swap"));
        failed += 8192 - world.mm.swap_totals().total;
        if nth % 16 == 1 {
            world.whole();
        } else {
            world.mm.audit().expect("whole");
        }
        world.end();
    }
    assert_eq!(failed, writes, "one slot each time is bad");
}

#[test]
fn a_read_that_fails_loses_nothing_whichever_it_is() {
    const PAGES: u64 = 2300;
    // The first ones went first.
    const READ: u64 = 64;
    let reads = |world: &World| {
        let failed = |page: &u64| world.check(*page, page + 1) == Err(FaultError::Io);
        (0..READ).filter(failed).count()
    };
    let world = filled(PAGES);
    assert_eq!(reads(&world), 0);
    let count = world.disk.disk.reads();
    assert!(count >= READ, "{count}");
    world.end();
    let mut told = 0;
    for nth in 1..=count {
        let world = filled(PAGES);
        world.disk.disk.fail_reads(FailPlan::Nth(nth));
        let failed = reads(&world);
        // What nobody had asked for is read again when somebody does.
        assert!(failed <= 1, "{failed} at {nth}");
        told += failed as u64;
        if nth % 16 == 1 {
            world.whole();
        }
        assert_eq!(world.mm.swap_totals().total, 8192, "a slot that cannot be read is not bad");
        world.end();
    }
    assert!(0 < told && told < count, "{told} of {count} were asked for");
}

#[test]
fn a_disk_that_fails_always_and_recovers() {
    let world = World::new(2300);
    world.disk.disk.fail_writes(FailPlan::Every(3));
    (0..2300).for_each(|page| world.store(page, page + 1).expect("memory or swap"));
    world.disk.disk.fail_reads(FailPlan::Every(5));
    let mut failed = 0;
    for page in 0..2300 {
        while world.check(page, page + 1) == Err(FaultError::Io) {
            failed += 1;
        }
    }
    assert!(failed > 0);
    world.whole();
    world.mm.space_put(world.space);
    assert_eq!(world.mm.swapoff("/dev/vda"), Ok(()));
}
