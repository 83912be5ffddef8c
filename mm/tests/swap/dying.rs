//! Spaces that are killed while what they have in swap comes back.

use mm::block::{IoFailed, PageBytes, WriteFailed};
use mm::host::swap::SwapDisk;
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::space::{HugePages, MapFlags, Prot, SpaceRef};
use mm::swap::SwapDevice;
use mm::types::{CpuId, PAGE_SIZE};
use mm::{Config, Mm};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// A disk on whose next read somebody else does something.
struct Between {
    disk: SwapDisk,
    at_read: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl SwapDevice for Between {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn slots(&self) -> u32 {
        self.disk.slots()
    }

    fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), IoFailed> {
        let other = self.at_read.lock().expect("nobody panics").take();
        other.into_iter().for_each(|other| other());
        self.disk.read(slot, page)
    }

    fn write(&self, slot: u32, page: &PageBytes) -> Result<(), WriteFailed> {
        self.disk.write(slot, page)
    }
}

impl Between {
    fn set(&self, what: impl FnOnce() + Send + 'static) {
        *self.at_read.lock().expect("nobody panics") = Some(Box::new(what));
    }

    fn is_set(&self) -> bool {
        self.at_read.lock().expect("nobody panics").is_some()
    }
}

struct Stage {
    mm: &'static Mm<Machine>,
    disk: &'static Between,
    space: Arc<SpaceRef<'static>>,
    va: VirtAddr,
}

/// A program that has `pages` pages in swap.
fn stage(pages: u64) -> Stage {
    let mm: &'static Mm<Machine> =
        Box::leak(Box::new(pc(16, 2, &Config::default()).expect("a machine")));
    mm.slab_init().expect("slabs");
    mm.set_huge_pages(HugePages::Never);
    let disk: &'static Between = Box::leak(Box::new(Between {
        disk: SwapDisk::new("/dev/disk", 1024),
        at_read: Mutex::default(),
    }));
    mm.swapon(disk, None).expect("memory for its table");
    let space = mm.space_new("program").expect("a space");
    let va = mm.mmap(&space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    for i in 0..pages {
        mm.write_space(&space, va.add(i * PAGE), &[1]).expect("memory");
    }
    mm.reclaim_proactively(None, pages);
    assert_eq!((space.rss(), space.swapped()), (0, pages));
    Stage { mm, disk, space: Arc::new(space), va }
}

impl Stage {
    fn end(self) {
        let Self { mm, disk, space, .. } = self;
        assert!(!disk.is_set(), "the other was there");
        mm.space_put(Arc::try_unwrap(space).expect("the others have gone"));
        mm.lru_drain_all();
        assert_eq!(mm.swap_totals().used, 0);
        assert_eq!(mm.vmstat_value("nr_mlock"), Some(0));
        mm.audit().expect("whole");
    }
}

/// What is being read for a region that was to be locked, and is gone before it is
/// there, leaves neither page nor slot behind.
#[test]
fn one_who_was_about_to_lock_it() {
    let stage = stage(4);
    let (mm, space) = (stage.mm, stage.space.clone());
    stage.disk.set(move || mm.kill_space(&space).expect("its own"));
    // Whatever it is told: it is dead.
    let _ = stage.mm.mlock(&stage.space, stage.va, 4 * PAGE);
    assert_eq!((stage.space.rss(), stage.space.swapped()), (0, 0));
    stage.end();
}

/// That somebody waits to change its regions does not keep what is dying from being
/// taken, whoever has them just then.
#[test]
fn one_with_a_thread_that_waits() {
    let stage = stage(64);
    let (mm, space) = (stage.mm, stage.space.clone());
    let waiter = Arc::new(Mutex::new(None));
    let started = waiter.clone();
    stage.disk.set(move || {
        let other = space.clone();
        *started.lock().expect("nobody panics") = Some(thread::spawn(move || {
            mm.platform().run_on(CpuId(1));
            // Killed or not by then.
            let _ = mm.mmap(&other, None, PAGE, RW, MapFlags::empty());
        }));
        // Time for it to begin; if it takes longer, less is shown.
        thread::sleep(Duration::from_millis(50));
        mm.kill_space(&space).expect("its own");
        assert_eq!((space.rss(), space.swapped()), (0, 0), "it was not waited for");
    });
    let _ = stage.mm.write_space(&stage.space, stage.va, &[2]);
    let waiter = waiter.lock().expect("nobody panics").take();
    waiter.expect("it was there").join().expect("nobody panics");
    stage.end();
}

/// A device is emptied without what is dying: that is freed where it is.
#[test]
fn one_whose_device_goes() {
    let stage = stage(64);
    let (mm, space) = (stage.mm, stage.space.clone());
    let reads = mm.vmstat_value("pswpin");
    stage.disk.set(move || mm.kill_space(&space).expect("its own"));
    stage.mm.swapoff("/dev/disk").expect("nothing is kept on it");
    assert_eq!((stage.space.rss(), stage.space.swapped()), (0, 0));
    let read = mm.vmstat_value("pswpin").unwrap_or(0) - reads.unwrap_or(0);
    assert!(read < 64, "{read} were read for nobody");
    stage.end();
}
