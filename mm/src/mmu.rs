//! What regions and reclaim ask of page tables: entries that map a page, name a
//! swap slot, or say that a page is just being moved. The kernel has them in the
//! processor's tables, the host in a table of its own. Calls nothing; names types
//! of `types`.

use crate::types::{Order, PAGE_SIZE, PAGEBLOCK_ORDER, Pfn};
use core::fmt;
use core::ops::Range;

/// An address in an address space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct VirtAddr(pub u64);

impl VirtAddr {
    /// The number of its page.
    pub const fn page(self) -> u64 {
        self.0 / PAGE_SIZE as u64
    }

    /// The first byte of page `number`.
    pub const fn of_page(number: u64) -> Self {
        Self(number * PAGE_SIZE as u64)
    }

    /// The first byte of the page, or large page, that it is in.
    #[must_use]
    pub const fn align_down(self, size: MapSize) -> Self {
        Self(self.0 & !(size.bytes() - 1))
    }

    /// Whether a page of `size` may begin here.
    pub const fn is_aligned(self, size: MapSize) -> bool {
        self.0 & (size.bytes() - 1) == 0
    }

    /// The address `bytes` further on.
    #[must_use]
    pub const fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// How much one entry maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MapSize {
    /// A page of 4 KiB.
    Small,
    /// A large page of 2 MiB.
    Large,
}

impl MapSize {
    /// The order of the block that is mapped.
    pub const fn order(self) -> Order {
        match self {
            Self::Small => Order(0),
            Self::Large => PAGEBLOCK_ORDER,
        }
    }

    /// Bytes that are mapped.
    pub const fn bytes(self) -> u64 {
        self.order().bytes() as u64
    }
}

/// A place in swap: which device, and which of its slots. Fits a descriptor's
/// `private` word and an entry of a page table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SwapEntry(u32);

impl SwapEntry {
    /// Devices that can be told apart.
    pub const DEVICES: usize = 32;
    /// Slots of a device that can: 512 GiB of pages.
    pub const SLOTS: u32 = 1 << 27;

    /// Slot `slot` of device `device`; None beyond the limits above.
    pub const fn new(device: usize, slot: u32) -> Option<Self> {
        if device < Self::DEVICES && slot < Self::SLOTS {
            Some(Self((device as u32) << 27 | slot))
        } else {
            None
        }
    }

    /// The device.
    pub const fn device(self) -> usize {
        (self.0 >> 27) as usize
    }

    /// The slot.
    pub const fn slot(self) -> u32 {
        self.0 & (Self::SLOTS - 1)
    }

    /// Both in one word.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What [`bits`](Self::bits) came from.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// A page in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Its first frame.
    pub pfn: Pfn,
    /// How much is mapped.
    pub size: MapSize,
    /// It may be written.
    pub writable: bool,
    /// It has been written through this entry.
    pub dirty: bool,
    /// It has been used through this entry since that was last asked.
    pub young: bool,
}

/// What an entry of a page table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing is there.
    None,
    /// A page, which the processor uses without asking.
    Page(Mapping),
    /// The page is in that slot of swap; it may be in memory too, in the swap
    /// cache.
    Swap(SwapEntry),
    /// The page is just being moved from frame `pfn`: whoever needs it waits.
    /// What the mapping said is kept.
    Moving(Mapping),
}

/// An address space's tables, as the [`Mmu`] knows them (x86: the physical
/// address of the fourth level).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Root(pub u64);

/// Frames for tables, zeroed; None when there is none at hand.
pub type Frames<'a> = &'a mut dyn FnMut() -> Option<Pfn>;

/// The page tables of address spaces.
///
/// Entries are read and changed under a lock of the 2 MiB around them that the
/// caller keeps, which also keeps two from making the last table there; those
/// above may be made by two at once. Without it [`next_entry`](Self::next_entry)
/// may be called too, for a hint, as long as no tables are taken out. The
/// processor sets `dirty` and `young` meanwhile, so what has to be whole is one
/// method. Nothing here flushes but [`flush`](Self::flush): until then other CPUs
/// may use an entry as it was.
///
/// # Safety
///
/// A page that an entry maps is reached by nobody through it once the entry has
/// been replaced and [`flush`](Self::flush) has returned; `replace` returns what
/// was there at the moment of the exchange, `dirty` and `young` included; frames
/// that were handed in belong to the tables until they are handed back.
pub unsafe trait Mmu: Sync {
    /// The addresses that address spaces have.
    fn span(&self) -> Range<VirtAddr>;

    /// Tables without any entry. None if `frames` ran dry.
    fn new_root(&self, frames: Frames<'_>) -> Option<Root>;

    /// Hands back all frames of tables; no CPU uses them, and nothing is mapped.
    fn free_root(&self, root: Root, freed: &mut dyn FnMut(Pfn));

    /// Makes the tables that an entry of `size` at `va` needs. Called with a spin
    /// lock held, as are all of those below but the last four. False if `frames`
    /// ran dry, or a large page is mapped there already where a small one is
    /// asked for, or small ones where a large one is.
    fn prepare(&self, root: Root, va: VirtAddr, size: MapSize, frames: Frames<'_>) -> bool;

    /// The entry for `va`: a large page if one covers it.
    fn get(&self, root: Root, va: VirtAddr) -> Entry;

    /// Puts `entry` in place of the one at `va`, in one step; returns that.
    /// `size` is which level's entry is meant: that of `entry` if it maps
    /// something. The tables are there ([`prepare`](Self::prepare)).
    fn replace(&self, root: Root, va: VirtAddr, size: MapSize, entry: Entry) -> Entry;

    /// Has the entry of `size` at `va` say Moving if it maps the page at `pfn`, in
    /// one step; returns what it said last. None: it does not map that page, and
    /// has not changed.
    fn stop(&self, root: Root, va: VirtAddr, size: MapSize, pfn: Pfn) -> Option<Mapping> {
        let Entry::Page(seen) = self.get(root, va) else { return None };
        if seen.pfn != pfn || seen.size != size {
            return None;
        }
        match self.replace(root, va, size, Entry::Moving(seen)) {
            Entry::Page(last) if last != seen => {
                // It has been used in between.
                self.replace(root, va, size, Entry::Moving(last));
                Some(last)
            }
            _ => Some(seen),
        }
    }

    /// Has the entry at `va`, which says Moving, map a page as `mapping` says.
    fn resume(&self, root: Root, va: VirtAddr, mapping: Mapping) {
        let was = self.replace(root, va, mapping.size, Entry::Page(mapping));
        debug_assert!(matches!(was, Entry::Moving(_)), "{was:?} is the mover's");
    }

    /// Takes the right to write from the entry at `va`, in one step, if it maps
    /// a page.
    fn write_protect(&self, root: Root, va: VirtAddr);

    /// Takes `young` from the entry at `va`; whether it was.
    fn make_old(&self, root: Root, va: VirtAddr) -> bool;

    /// Takes `dirty` from the entry at `va`; whether it was. To be sure that
    /// nobody writes without setting it again, flush.
    fn make_clean(&self, root: Root, va: VirtAddr) -> bool;

    /// Replaces the entry of the large page at `va`, which may say Moving, by 512
    /// of small ones that say the same, in one step. False if `frames` ran dry or no
    /// large page is there.
    fn split(&self, root: Root, va: VirtAddr, frames: Frames<'_>) -> bool;

    /// The first entry that is not None at or after `from` and before `to`. Asked
    /// without the lock: what is to stay there must at no moment be None.
    fn next_entry(
        &self,
        root: Root,
        from: VirtAddr,
        to: VirtAddr,
    ) -> Option<(VirtAddr, MapSize, Entry)>;

    /// Takes out the tables whose span lies in `range`, which map nothing, and
    /// hands them back. Nobody else uses this address space meanwhile. Waits for
    /// other CPUs.
    fn free_tables(&self, root: Root, range: Range<VirtAddr>, freed: &mut dyn FnMut(Pfn));

    /// Returns when no CPU uses an entry of `range` any more that has been
    /// replaced. Interrupts on, no lock held; may wait.
    fn flush(&self, root: Root, range: Range<VirtAddr>);

    /// Frames that the tables of `root` take: walks them all. Nobody takes any
    /// out or puts any in meanwhile.
    fn table_pages(&self, root: Root) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_entry_is_device_and_slot() {
        let entry = SwapEntry::new(31, SwapEntry::SLOTS - 1);
        assert_eq!(entry.map(|e| (e.device(), e.slot())), Some((31, SwapEntry::SLOTS - 1)));
        assert_eq!(entry.map(|e| SwapEntry::from_bits(e.bits())), entry);
        assert!(SwapEntry::new(32, 0).is_none() && SwapEntry::new(0, SwapEntry::SLOTS).is_none());
    }
}
