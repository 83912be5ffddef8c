//! Page tables for memory that comes and goes while the kernel runs: the direct
//! map extended and withdrawn, the memory map's frames taken back. Calls
//! `tables`, `layout`.

use super::layout;
use super::tables::{
    flush_everywhere, frame_ptr, last_entry, map_one, pfn_of_frame, put, with_tables, zero_frame,
};
use mm::types::{Order, PAGE_SIZE, Pfn, PfnRange};
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{
    Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, Size2MiB, Translate,
};

/// The direct map of what is added, in pages of 2 MiB: so a part of it can go
/// without a page being split.
const LARGE: Order = Order(9);

fn direct(pfn: Pfn) -> VirtAddr {
    VirtAddr::new(layout::DIRECT_MAP + pfn.addr())
}

/// Makes `frames`, in whole pages of 2 MiB, part of the direct map; `source`
/// gives frames for tables. False, and none of them is, if that ran dry or
/// something is there already.
pub(crate) fn extend_direct_map(frames: PfnRange, source: &mut dyn FnMut() -> Option<Pfn>) -> bool {
    let fits = frames.end.addr() <= layout::DIRECT_MAP_LEN
        && frames.start.is_aligned(LARGE)
        && frames.end.is_aligned(LARGE);
    let mapped = with_tables(|tables| {
        let mut at = frames.start;
        while fits && at < frames.end {
            if !map_one::<Size2MiB>(tables, direct(at), at, source) {
                // Nobody has been told of these, and they are nobody's.
                unmap(tables, PfnRange::new(frames.start, at));
                return false;
            }
            at = at.add(LARGE.pages());
        }
        fits
    });
    mapped.unwrap_or(false)
}

/// Takes `frames`, which came by [`extend_direct_map`], out of the direct map, and
/// has all CPUs forget where they were. The frames of tables that are empty then
/// go to `table`. Interrupts on, no lock held.
pub(crate) fn withdraw_direct_map(frames: PfnRange, table: &mut dyn FnMut(Pfn)) {
    with_tables(|tables| unmap(tables, frames));
    let range = direct(frames.start).as_u64()..direct(frames.end).as_u64();
    flush_everywhere(range.clone());
    let mut at = frames.start;
    while at < frames.end {
        let empty = with_tables(|tables| take_empty_table(tables, direct(at))).flatten();
        if let Some(pfn) = empty {
            // A walk that is under way may still be reading it.
            flush_everywhere(range.clone());
            table(pfn);
        }
        at = at.align_down(Order(18)).add(Order(18).pages());
    }
}

/// Whether a frame is part of the direct map.
pub(crate) fn is_direct(pfn: Pfn) -> bool {
    with_tables(|tables| tables.translate_addr(direct(pfn)).is_some()).unwrap_or(false)
}

fn unmap(tables: &mut OffsetPageTable<'_>, frames: PfnRange) {
    let mut at = frames.start;
    while at < frames.end {
        let page = Page::<Size2MiB>::containing_address(direct(at));
        if let Ok((_, flush)) = tables.unmap(page) {
            // The caller tells everybody.
            flush.ignore();
        }
        at = at.add(LARGE.pages());
    }
}

/// Takes the table of the second level that maps `addr` out of the third, if it
/// is there and empty.
fn take_empty_table(tables: &mut OffsetPageTable<'_>, addr: VirtAddr) -> Option<Pfn> {
    let third = tables.level_4_table_mut()[addr.p4_index()].frame().ok()?;
    let third: *mut PageTable = frame_ptr(pfn_of_frame(third)).cast();
    // SAFETY: tables lie in the direct map, and the lock is held.
    let third = unsafe { &mut *third };
    let entry = &mut third[addr.p3_index()];
    if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
        return None;
    }
    let second = pfn_of_frame(entry.frame().ok()?);
    let table: *const PageTable = frame_ptr(second).cast();
    // SAFETY: as above.
    let empty = unsafe { &*table }.iter().all(PageTableEntry::is_unused);
    empty.then(|| {
        entry.set_unused();
        second
    })
}

/// Takes back the frames behind `bytes` bytes from `start` on, as far as there
/// are any in pages of 4 KiB: each is told to `frame`, which may only note it.
/// Zero is read there from then on, and nothing can be written. Interrupts on,
/// no lock held.
pub(crate) fn take_frames(start: u64, bytes: usize, frame: &mut dyn FnMut(Pfn)) {
    let read = PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE;
    with_tables(|tables| {
        let Some(zero) = zero_frame(tables) else { return };
        for addr in (start..start + bytes as u64).step_by(PAGE_SIZE) {
            let Some(entry) = last_entry(tables, VirtAddr::new(addr)) else { continue };
            let Ok(old) = entry.frame() else { continue };
            put(entry, zero, read);
            if old != zero {
                frame(pfn_of_frame(old));
            }
        }
    });
    flush_everywhere(start..start + bytes as u64);
}
