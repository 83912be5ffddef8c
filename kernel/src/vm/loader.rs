//! The boot loader's page tables, which are in force when the kernel starts:
//! what they say, and a provisional direct map inside them that makes RAM
//! reachable while the kernel builds its own. Calls `layout`.

use crate::vm::layout;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::types::{Order, Pfn, PfnRange};
use x86_64::structures::paging::mapper::TranslateResult;
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{
    Page, PageTable, PageTableFlags, RecursivePageTable, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

/// GiB that the provisional map can reach: page tables are allocated below.
const REACH_GIB: usize = 4;

/// First frame that the provisional map does not reach.
pub(crate) const REACH: Pfn = Pfn((REACH_GIB as u64) << 18);

const ENTRIES: usize = 512;

/// Rights of the provisional map.
const WRITE: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::NO_EXECUTE);

/// A page table inside the kernel image.
#[repr(C, align(4096))]
struct StaticTable([AtomicU64; ENTRIES]);

impl StaticTable {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    fn set(&self, index: usize, addr: PhysAddr, flags: PageTableFlags) {
        let mut entry = PageTableEntry::new();
        entry.set_addr(addr, flags);
        // The bits of an entry are its address and its flags.
        let bits = entry.addr().as_u64() | entry.flags().bits();
        self.0[index].store(bits, Ordering::Release);
    }
}

static LEVEL_3: StaticTable = StaticTable::new();
static LEVEL_2: [StaticTable; REACH_GIB] = [const { StaticTable::new() }; REACH_GIB];

/// The loader's tables.
pub(crate) struct Loader {
    tables: RecursivePageTable<'static>,
}

impl Loader {
    /// Reaches the loader's tables by the entry of the fourth level that points
    /// to the table itself.
    ///
    /// # Safety
    ///
    /// The loader's tables must be in force, with such an entry at `recursive`,
    /// and nobody else may use it.
    pub(crate) unsafe fn new(recursive: u16) -> Option<Self> {
        let index = u64::from(recursive);
        if index >= ENTRIES as u64 {
            return None;
        }
        let addr = index << 39 | index << 30 | index << 21 | index << 12;
        let table: *mut PageTable = VirtAddr::new_truncate(addr).as_mut_ptr();
        // SAFETY: the caller vouches for the entry, which makes this address
        // the fourth level's table itself.
        let tables = RecursivePageTable::new(unsafe { &mut *table }).ok()?;
        let mut loader = Self { tables };
        loader.open_direct_map()?;
        Some(loader)
    }

    /// Puts a provisional direct map of nothing into the loader's tables.
    fn open_direct_map(&mut self) -> Option<()> {
        for (gib, table) in LEVEL_2.iter().enumerate() {
            LEVEL_3.set(gib, self.physical(table)?, WRITE);
        }
        let level_3 = self.physical(&LEVEL_3)?;
        let base: Page<Size4KiB> = Page::containing_address(VirtAddr::new(layout::DIRECT_MAP));
        let entry = &mut self.tables.level_4_table_mut()[base.p4_index()];
        // An entry that was not present is not in any translation cache.
        entry.set_addr(level_3, WRITE);
        Some(())
    }

    /// The physical address of what is mapped at `addr`.
    pub(crate) fn translate(&self, addr: u64) -> Option<u64> {
        let addr = VirtAddr::try_new(addr).ok()?;
        match self.tables.translate(addr) {
            TranslateResult::Mapped { frame, offset, .. } => {
                Some(frame.start_address().as_u64() + offset)
            }
            _ => None,
        }
    }

    /// Maps `range` at [`layout::DIRECT_MAP`], in pages of 2 MiB; what lies
    /// around it in such a page is reachable too, for the short time that these
    /// tables are in force. False if a part lies above [`REACH`].
    pub(crate) fn reach(&mut self, range: PfnRange) -> bool {
        let within = range.intersect(PfnRange::new(Pfn(0), REACH));
        let mut block = within.start.pageblock();
        while !within.is_empty() && block < within.end {
            let index = (block.0 >> 9) as usize;
            // Again an entry that was not present, or one that stays as it is.
            let table = &LEVEL_2[index / ENTRIES];
            let flags = WRITE | PageTableFlags::HUGE_PAGE;
            table.set(index % ENTRIES, PhysAddr::new(block.addr()), flags);
            block = block.add(Order(9).pages());
        }
        within == range
    }

    fn physical(&self, table: &'static StaticTable) -> Option<PhysAddr> {
        Some(PhysAddr::new(self.translate((&raw const *table) as u64)?))
    }
}
