//! A machine with a device, and what tests do to its pages from outside.

pub(crate) mod corpus;

use mm::host::{Machine, pc};
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{Config, Gfp, Mm, Page, Request};
use zram::{PageBytes, Zram};

/// RAM of a machine, in MiB: little where each access is interpreted.
pub(crate) const MIB: u64 = if cfg!(miri) { 4 } else { 32 };

pub(crate) type Guest = Mm<Machine>;
pub(crate) type Device = &'static Zram<Machine>;

pub(crate) fn machine(mib: u64, cpus: u16) -> &'static Guest {
    Box::leak(Box::new(pc(mib, cpus, &Config::default()).expect("a machine")))
}

pub(crate) fn device(mm: &Guest, slots: u32) -> Device {
    let zram: Device = Box::leak(Box::new(Zram::new("/dev/zram0")));
    zram.set_up(mm, slots).expect("a device");
    zram
}

/// Pages that are free, on whatever list.
#[allow(dead_code)]
pub(crate) fn free_pages(mm: &Guest) -> u64 {
    mm.drain_all(None);
    mm.free_pages_total()
}

#[allow(dead_code)]
pub(crate) fn audit(mm: &Guest, zram: Device) {
    if let Err(e) = zram.audit(mm) {
        panic!("the device: {e}");
    }
    if let Err(e) = mm.audit() {
        panic!("the manager: {e}");
    }
}

#[allow(dead_code)]
pub(crate) fn read(mm: &Guest, zram: Device, slot: u32) -> PageBytes {
    let mut page = [0xa5; PAGE_SIZE];
    zram.read(mm, slot, &mut page).expect("a page");
    page
}

/// The frames that hold objects.
#[allow(dead_code)]
pub(crate) fn frames(mm: &Guest) -> Vec<Pfn> {
    let movable = |pfn: &Pfn| {
        mm.map().try_page(*pfn).is_some_and(|desc| desc.head().ty() == PageType::Movable)
    };
    (0..mm.map().end().0).map(Pfn).filter(movable).collect()
}

/// Takes some frames away from their owner for a while: to be moved or put back.
#[allow(dead_code)]
pub(crate) fn isolate(mm: &Guest, frames: &[Pfn]) -> PageList {
    let mut list = PageList::new();
    for &pfn in frames {
        if mm.isolate_movable(pfn, MigrateMode::Sync).is_ok() {
            list.push_back(mm.map(), pfn);
        }
    }
    list
}

/// Moves what was isolated; how many pages moved. What did not is put back.
#[allow(dead_code)]
pub(crate) fn migrate(mm: &Guest, list: &mut PageList) -> u32 {
    let request = Request::new(Order(0), Gfp::NOWAIT | Gfp::HIGHMEM | Gfp::MOVABLE | Gfp::NOWARN);
    let mut target = || mm.alloc_pages_spared(request).ok().map(|page| page.pfn);
    let mut unused = |pfn| {
        mm.free_pages(Page { pfn, order: Order(0) }).expect("an unused target");
    };
    let result = mm.migrate_pages(list, &mut target, &mut unused, MigrateMode::Sync);
    mm.putback_list(list);
    result.moved
}

/// Changes a byte of a frame behind everybody's back.
#[allow(dead_code)]
pub(crate) fn damage(mm: &Guest, pfn: Pfn, at: usize, value: u8) {
    // SAFETY: a frame of RAM; nobody else reads or writes it meanwhile.
    unsafe { mm.platform().frame(pfn).add(at % PAGE_SIZE).write(value) };
}
