//! Page tables of address spaces, as the memory manager asks for them: the
//! processor's, in the lower half; the upper half is shared with the kernel's
//! own tables. Calls `tables`, `roots`, `quarry_kernel::pagetable`.

use super::roots;
use super::tables::{self, frame_ptr};
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Release};
use mm::mmu::{Entry, Frames, MapSize, Mapping, Mmu, Root, VirtAddr};
use mm::types::{PAGE_SIZE, Pfn};
use quarry_kernel::pagetable::{ENTRIES, SPAN, Table, TableFrames, Tables};
use x86_64::instructions::tlb;
use x86_64::structures::idt::PageFaultErrorCode;

/// Tables lie in the direct map.
struct Direct;

// SAFETY: the direct map has all RAM, and frames of tables are used for nothing
// else.
unsafe impl TableFrames for Direct {
    fn table(&self, pfn: Pfn) -> &Table {
        // SAFETY: as above; a table is all atomics.
        unsafe { &*frame_ptr(pfn).cast::<Table>() }
    }
}

fn at(root: Root) -> Tables<'static, Direct> {
    Tables::new(&Direct, root)
}

/// Pages from which on it is cheaper to forget all translations (as in Linux).
const CEILING: u64 = 33;

/// The bits that the processor sets in an entry.
const USED: u64 = 0x60;

/// The address spaces of this machine.
#[derive(Debug)]
pub(crate) struct Spaces;

// SAFETY: entries are exchanged in one step, what is taken from them is told to
// all CPUs that may know them by `flush`, and frames are handed back when no
// CPU has the tables in force, or all have forgotten those that were taken out.
unsafe impl Mmu for Spaces {
    fn span(&self) -> Range<VirtAddr> {
        SPAN
    }

    fn new_root(&self, frames: Frames<'_>) -> Option<Root> {
        let kernel = tables::root()?;
        let root = frames()?;
        let (from, to) = (Direct.table(kernel), Direct.table(root));
        // What is added to the kernel's later comes by a fault.
        for (from, to) in from.iter().zip(to).skip(ENTRIES / 2) {
            to.store(from.load(Acquire), Release);
        }
        Some(Root(root.addr()))
    }

    fn free_root(&self, root: Root, freed: &mut dyn FnMut(Pfn)) {
        roots::retire(root);
        at(root).free_all(freed);
    }

    fn prepare(&self, root: Root, va: VirtAddr, size: MapSize, frames: Frames<'_>) -> bool {
        at(root).prepare(va, size, frames)
    }

    fn get(&self, root: Root, va: VirtAddr) -> Entry {
        at(root).get(va)
    }

    fn replace(&self, root: Root, va: VirtAddr, size: MapSize, entry: Entry) -> Entry {
        at(root).replace(va, size, entry)
    }

    fn stop(&self, root: Root, va: VirtAddr, size: MapSize, pfn: Pfn) -> Option<Mapping> {
        at(root).stop(va, size, pfn)
    }

    fn resume(&self, root: Root, va: VirtAddr, mapping: Mapping) {
        at(root).resume(va, mapping);
    }

    fn write_protect(&self, root: Root, va: VirtAddr) {
        at(root).write_protect(va);
    }

    fn make_old(&self, root: Root, va: VirtAddr) -> bool {
        at(root).make_old(va)
    }

    fn make_clean(&self, root: Root, va: VirtAddr) -> bool {
        at(root).make_clean(va)
    }

    fn split(&self, root: Root, va: VirtAddr, frames: Frames<'_>) -> bool {
        at(root).split(va, frames)
    }

    fn next_entry(
        &self,
        root: Root,
        from: VirtAddr,
        to: VirtAddr,
    ) -> Option<(VirtAddr, MapSize, Entry)> {
        at(root).next_entry(from, to)
    }

    fn free_tables(&self, root: Root, range: Range<VirtAddr>, freed: &mut dyn FnMut(Pfn)) {
        let tables = at(root);
        let out = tables.take_out(range);
        if !out.is_empty() {
            roots::on_users(root, &tlb::flush_all);
            tables.hand_back(out, freed);
        }
    }

    fn flush(&self, root: Root, range: Range<VirtAddr>) {
        roots::on_users(root, &|| {
            if range.end.0.saturating_sub(range.start.0) / PAGE_SIZE as u64 > CEILING {
                tlb::flush_all();
                return;
            }
            for addr in (range.start.0..range.end.0).step_by(PAGE_SIZE) {
                tlb::flush(x86_64::VirtAddr::new(addr));
            }
        });
    }

    fn table_pages(&self, root: Root) -> u64 {
        at(root).pages()
    }
}

/// Makes an access to `addr` in the upper half good that failed because the
/// tables in force were made before the kernel's reached there. False if that
/// was not why. Takes no lock; interrupts off.
pub(crate) fn catch_up(addr: u64, code: PageFaultErrorCode) -> bool {
    let Some(kernel) = tables::root().filter(|_| roots::is_foreign()) else { return false };
    let (frame, _) = x86_64::registers::control::Cr3::read();
    let index = (addr >> 39) as usize % ENTRIES;
    let theirs = &Direct.table(tables::pfn_of_frame(frame))[index];
    let ours = Direct.table(kernel)[index].load(Acquire);
    // The processor notes in each that it was used.
    let same = |a: u64, b: u64| (a ^ b) & !USED == 0;
    if ours & 1 == 0 {
        return false;
    }
    if same(theirs.load(Acquire), ours) {
        // Another CPU that has these tables in force too may have been quicker.
        return !code.contains(PageFaultErrorCode::PROTECTION_VIOLATION) && tables::is_mapped(addr);
    }
    theirs.store(ours, Release);
    true
}
