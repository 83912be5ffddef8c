//! The memory map: a sparse virtual array of page descriptors, and beside it a
//! word for each pageblock. Holes cost nothing, and a pageblock that is free
//! since boot costs its word: its descriptors are *populated*, that is zeroed
//! and linked to, when somebody first wants the memory (see `deferred`). May
//! call: `page`, `sync`, `types`.

mod block;

use crate::page::{HeadWord, PageDesc, PageType};
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{
    MAX_ORDER, MigrateType, NodeId, Order, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn,
    PfnRange, ZoneKind,
};

pub use block::BlockInfo;

/// Links are 32 bits wide: frames from here on (16 TiB) are not used.
pub const PFN_LIMIT: Pfn = Pfn(u32::MAX as u64);

/// Pageblocks whose words share one page of the block array.
const BLOCKS_PER_REGION: u64 = (PAGE_SIZE / size_of::<BlockInfo>()) as u64;
/// Pages that such a region of blocks covers: 2 GiB.
const REGION_PAGES: u64 = BLOCKS_PER_REGION * PAGEBLOCK_PAGES;
const REGION_WORDS: usize = (PFN_LIMIT.0 / REGION_PAGES / 64 + 1) as usize;

/// Index of a zone in the manager's table: four zones a node.
pub const fn zone_index(node: NodeId, kind: ZoneKind) -> usize {
    node.0 as usize * crate::types::NR_ZONES + kind as usize
}

/// The descriptors of all pages. Shared by reference; all state is atomic.
pub struct MemMap {
    pages: *const PageDesc,
    blocks: *const BlockInfo,
    /// Where the arrays end.
    limit: Pfn,
    /// Where the last RAM ended that there has been.
    end: AtomicU64,
    /// One bit for each 2 GiB whose part of the block array is backed.
    regions: Regions,
    /// One bit for each 2 GiB in which some block is populated: scanners pass
    /// over the others at once.
    populated: Regions,
    /// Frames below lie in regions whose bits in `regions` are all set: on most
    /// machines those are all frames, and one look is enough.
    dense: AtomicU64,
}

/// Where the descriptors of a map are.
#[derive(Clone, Copy)]
pub(crate) struct Pages<'a> {
    map: &'a MemMap,
    pages: *const PageDesc,
}

impl<'a> Pages<'a> {
    /// As [`MemMap::page`].
    #[inline]
    pub(crate) fn at(self, pfn: Pfn) -> &'a PageDesc {
        debug_assert!(self.map.is_readable(pfn), "{pfn:?} has no descriptor");
        // SAFETY: what was a populated block once has descriptors that can be
        // read as long as the map lives.
        unsafe { &*self.pages.add(pfn.0 as usize) }
    }

    /// Those of `range`, which lies in one block of whatever order.
    #[inline]
    pub(crate) fn of(self, range: PfnRange) -> &'a [PageDesc] {
        debug_assert!(
            range.is_empty()
                || (self.map.is_readable(range.start)
                    && self.map.is_readable(Pfn(range.end.0 - 1))),
            "{range:?} has no descriptors"
        );
        // SAFETY: a block's pageblocks are populated together, and their
        // descriptors lie side by side in one array; all of it is atomics.
        unsafe {
            core::slice::from_raw_parts(
                self.pages.add(range.start.0 as usize),
                range.pages() as usize,
            )
        }
    }
}

/// A bit for each region.
struct Regions([AtomicU64; REGION_WORDS]);

impl Regions {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; REGION_WORDS])
    }

    /// Whether the bit of the region of `pfn`, below [`PFN_LIMIT`], is set.
    #[inline]
    fn has(&self, pfn: Pfn) -> bool {
        let region = pfn.0 / REGION_PAGES;
        let word = self.0.get((region / 64) as usize);
        word.is_some_and(|word| word.load(Relaxed) >> (region % 64) & 1 != 0)
    }

    fn set(&self, pfn: Pfn) {
        if !self.has(pfn) {
            let region = pfn.0 / REGION_PAGES;
            self.0[(region / 64) as usize].fetch_or(1 << (region % 64), Relaxed);
        }
    }
}

// SAFETY: the pointers name arrays of atomics that live as long as the map.
unsafe impl Send for MemMap {}
// SAFETY: as above; there is nothing but atomics behind them.
unsafe impl Sync for MemMap {}

impl MemMap {
    /// Bytes of virtual space that the descriptors of frames below `end` take.
    pub const fn pages_bytes(end: Pfn) -> usize {
        (end.align_up(PAGEBLOCK_ORDER).0 as usize * size_of::<PageDesc>())
            .next_multiple_of(PAGE_SIZE)
    }

    /// Bytes of virtual space that the block words of frames below `end` take.
    pub const fn blocks_bytes(end: Pfn) -> usize {
        ((end.align_up(PAGEBLOCK_ORDER).0 / PAGEBLOCK_PAGES) as usize * size_of::<BlockInfo>())
            .next_multiple_of(PAGE_SIZE)
    }

    /// A map with room for frames below `limit` and no block known.
    ///
    /// # Safety
    /// `pages` and `blocks` are the bases of arrays of at least
    /// [`pages_bytes`](Self::pages_bytes) and
    /// [`blocks_bytes`](Self::blocks_bytes), used by nobody else, which live as
    /// long as the map; each part is backed before
    /// [`add_blocks`](Self::add_blocks) tells of it.
    pub unsafe fn new(pages: *mut u8, blocks: *mut u8, limit: Pfn) -> Self {
        Self {
            pages: pages.cast(),
            blocks: blocks.cast(),
            limit: limit.align_up(PAGEBLOCK_ORDER),
            end: AtomicU64::new(0),
            regions: Regions::new(),
            populated: Regions::new(),
            dense: AtomicU64::new(0),
        }
    }

    /// One past the last frame that the map can describe.
    pub fn limit(&self) -> Pfn {
        self.limit
    }

    /// One past the last frame that there is, or has been: what is searched for
    /// memory. It does not shrink.
    pub fn end(&self) -> Pfn {
        Pfn(self.end.load(Relaxed))
    }

    /// The pieces of the two arrays that have to be backed before the blocks of
    /// `range` (whole pageblocks) are added, as (pointer, bytes): descriptors,
    /// block words. The second is a whole number of pages of the array, and
    /// ranges that share a region of 2 GiB share such a page.
    pub fn backing(&self, range: PfnRange) -> [(*mut u8, usize); 2] {
        let region = |pfn: Pfn| pfn.0 / REGION_PAGES;
        let (first, last) = (region(range.start), region(Pfn(range.end.0 - 1)));
        [
            (
                self.pages.wrapping_add(range.start.0 as usize).cast_mut().cast(),
                range.pages() as usize * size_of::<PageDesc>(),
            ),
            (
                self.blocks.wrapping_add((first * BLOCKS_PER_REGION) as usize).cast_mut().cast(),
                (last - first + 1) as usize * PAGE_SIZE,
            ),
        ]
    }

    /// Makes the pageblocks of `range`, whole ones, known, not populated.
    ///
    /// # Safety
    /// What [`backing`](Self::backing) names for them is backed, and the part of
    /// the block words was zeroed when it was.
    pub unsafe fn add_blocks(
        &self,
        range: PfnRange,
        node: NodeId,
        zone: ZoneKind,
        ty: MigrateType,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { self.add_words(range, |word| word.init(node, zone, ty)) };
    }

    /// Writes the words of the pageblocks of `range`, whole ones that nobody
    /// knows of yet.
    ///
    /// # Safety
    /// The part of the block words that [`backing`](Self::backing) names for them
    /// is backed, and was zeroed when it was.
    pub(crate) unsafe fn add_words(&self, range: PfnRange, init: impl Fn(&BlockInfo)) {
        let mut region = range.start;
        while region < range.end {
            self.regions.set(region);
            region = Pfn((region.0 / REGION_PAGES + 1) * REGION_PAGES);
        }
        let first = self.blocks.wrapping_add((range.start.0 / PAGEBLOCK_PAGES) as usize);
        for block in 0..(range.pages() / PAGEBLOCK_PAGES) as usize {
            // SAFETY: the caller says that this part of the array is backed.
            init(unsafe { &*first.wrapping_add(block) });
        }
        self.end.fetch_max(range.end.0, Relaxed);
    }

    /// Gives the pageblock at `block`, out of use and of no zone, to a zone.
    /// With `populated` its descriptors describe it already; without, it is in
    /// use and deferred. Under the zone lock.
    pub(crate) fn join_zone(&self, block: Pfn, zone: usize, populated: bool, offline: bool) {
        self.word(block).join_zone(zone, populated, offline);
        if populated {
            self.populated.set(block);
        }
    }

    /// Writes the descriptors of the pageblock at `block` anew: out of use, as few
    /// blocks as can be. Frames that are out of use for good stay what they are.
    ///
    /// # Safety
    /// The block is out of use and of no zone, and the caller's alone; its
    /// descriptors are backed.
    pub(crate) unsafe fn describe_offline(&self, block: Pfn) {
        let mut start = block;
        let end = block.add(PAGEBLOCK_PAGES);
        for pfn in (block.0..end.0).map(Pfn) {
            // SAFETY: the caller says so. By atomic stores, since others may
            // still be looking at what the block was before.
            let page = unsafe { &*self.pages.wrapping_add(pfn.0 as usize) };
            if page.head().ty() == PageType::Poisoned {
                self.describe(PfnRange::new(start, pfn), PageType::Offline);
                start = pfn.add(1);
            } else {
                page.clear();
            }
        }
        self.describe(PfnRange::new(start, end), PageType::Offline);
    }

    /// Makes `pfn`, part of a block of type `ty` without an owner, a block of its
    /// own that is out of use for good; what is left of the block stays what it
    /// was, as natural blocks. Under the zone lock.
    pub(crate) fn leave_out(&self, pfn: Pfn, ty: PageType) {
        if let Some((head, word)) = self.head_of(pfn) {
            debug_assert!(word.ty() == ty, "{pfn:?} is {word:?}");
            let block = PfnRange::sized(head, word.order().pages());
            self.page(head).clear();
            self.describe(PfnRange::new(block.start, pfn), ty);
            self.describe(PfnRange::new(pfn.add(1), block.end), ty);
        }
        self.page(pfn).set_head(HeadWord::new(PageType::Poisoned, Order(0)));
    }

    /// Whether the word of `pfn` is backed, so that a part of the array need not
    /// be backed again.
    pub(crate) fn has_region(&self, pfn: Pfn) -> bool {
        self.regions.has(pfn)
    }

    /// Notes that the words of the region of `pfn` are backed, all zero.
    pub(crate) fn note_region(&self, pfn: Pfn) {
        self.regions.set(pfn);
    }

    /// The word of the pageblock that holds `pfn`, if there is RAM, be it in use
    /// or not.
    pub fn described(&self, pfn: Pfn) -> Option<&BlockInfo> {
        self.try_block_word(pfn).filter(|word| word.is_described())
    }

    /// Gives the pageblocks of `range`, whole ones, known and not populated,
    /// their descriptors: all tails, for the caller to describe before anybody
    /// else can come upon them.
    ///
    /// # Safety
    /// The blocks are the caller's alone: either no zone has them yet, or it
    /// holds the lock of theirs.
    pub(crate) unsafe fn populate(&self, range: PfnRange) {
        let mut at = range.start;
        while at < range.end {
            let first = self.pages.wrapping_add(at.0 as usize);
            if self.word(at).was_readable() {
                for pfn in 0..PAGEBLOCK_PAGES as usize {
                    // SAFETY: known blocks are backed. Whoever saw the block when
                    // it was another zone's, or before it left this one, may be
                    // reading: so these are atomic stores, through a shared
                    // reference. Nobody but the caller writes.
                    unsafe { &*first.wrapping_add(pfn) }.clear();
                }
            } else {
                // SAFETY: known blocks are backed, and nobody has looked at the
                // descriptors of this one, nor does so before it is populated:
                // it has been deferred ever since the boot. All zero is a tail.
                unsafe { first.cast_mut().write_bytes(0, PAGEBLOCK_PAGES as usize) };
            }
            at = at.add(PAGEBLOCK_PAGES);
        }
        // The first one last: whoever finds that populated, without a lock, goes
        // by it for all of a deferred block.
        let mut block = range.end;
        while block > range.start {
            block = Pfn(block.0 - PAGEBLOCK_PAGES);
            let word = self.word(block);
            debug_assert!(word.is_known() && !word.is_populated(), "{block:?} is populated");
            word.set_populated();
            self.populated.set(block);
        }
    }

    /// The word of the pageblock that holds `pfn`, which lies in a region that
    /// is backed.
    #[inline]
    pub(crate) fn word(&self, pfn: Pfn) -> &BlockInfo {
        debug_assert!(pfn < self.limit && self.regions.has(pfn), "{pfn:?} has no block");
        // SAFETY: that part of the array is backed.
        unsafe { &*self.blocks.add((pfn.0 / PAGEBLOCK_PAGES) as usize) }
    }

    /// The word of the pageblock that holds `pfn`, if it has RAM: zone, node
    /// and type, whether or not its pages have descriptors yet.
    pub fn info(&self, pfn: Pfn) -> Option<&BlockInfo> {
        self.try_block_word(pfn).filter(|word| word.is_known())
    }

    /// Whether `pfn` is RAM without a descriptor: free since boot. Stable under
    /// the zone lock, a hint without.
    pub fn is_deferred(&self, pfn: Pfn) -> bool {
        self.info(pfn).is_some_and(|word| !word.is_populated())
    }

    /// The word of the pageblock that holds `pfn`, if the block is populated.
    #[inline]
    pub fn try_block(&self, pfn: Pfn) -> Option<&BlockInfo> {
        self.try_block_word(pfn).filter(|block| block.is_populated())
    }

    /// The word of the pageblock that holds `pfn`, if it is backed; the block
    /// need not be populated, nor RAM.
    #[inline]
    pub(crate) fn try_block_word(&self, pfn: Pfn) -> Option<&BlockInfo> {
        if self.has_word(pfn) { Some(self.word(pfn)) } else { None }
    }

    /// Whether the pageblock that holds `pfn` has a word.
    #[inline]
    pub(crate) fn has_word(&self, pfn: Pfn) -> bool {
        pfn.0 < self.dense.load(Relaxed) || pfn < self.limit && self.regions.has(pfn)
    }

    /// Whether `pfn` has a descriptor.
    #[inline]
    pub(crate) fn has_page(&self, pfn: Pfn) -> bool {
        self.has_word(pfn) && self.word(pfn).is_populated()
    }

    /// Notes how far from frame 0 on all regions have words, after some came.
    pub(crate) fn note_dense(&self) {
        // Words beyond the last RAM are backed up to the end of its region.
        let end = self.end().0;
        let mut regions = (0..end).step_by(REGION_PAGES as usize);
        let hole = regions.find(|&at| !self.regions.has(Pfn(at)));
        self.dense.store(hole.unwrap_or(end), Relaxed);
    }

    /// The word of the pageblock that holds `pfn`, which is populated: a page
    /// that some list or owner named.
    #[inline]
    pub(crate) fn block(&self, pfn: Pfn) -> &BlockInfo {
        debug_assert!(self.is_readable(pfn), "{pfn:?} has no block");
        self.word(pfn)
    }

    /// Whether the descriptor of `pfn` can be read: its pageblock is populated,
    /// or was when somebody without a lock looked.
    pub(crate) fn is_readable(&self, pfn: Pfn) -> bool {
        self.try_block_word(pfn).is_some_and(BlockInfo::is_readable)
    }

    /// The descriptor of `pfn`, if its pageblock is populated.
    #[inline]
    pub fn try_page(&self, pfn: Pfn) -> Option<&PageDesc> {
        self.try_block(pfn)?;
        Some(self.page(pfn))
    }

    /// The descriptors, for loops that look at many and write to some: nothing
    /// that they write changes where these are.
    #[inline]
    pub(crate) fn pages(&self) -> Pages<'_> {
        Pages { map: self, pages: self.pages }
    }

    /// The descriptor of `pfn`, whose pageblock is populated.
    #[inline]
    pub(crate) fn page(&self, pfn: Pfn) -> &PageDesc {
        debug_assert!(self.is_readable(pfn), "{pfn:?} has no descriptor");
        // SAFETY: the descriptors of what is or was a populated block are backed.
        unsafe { &*self.pages.add(pfn.0 as usize) }
    }

    /// The first frame of the first populated pageblock that ends after `pfn`;
    /// [`end`](Self::end) if there is none.
    pub fn next_populated(&self, pfn: Pfn) -> Pfn {
        let end = self.end();
        let mut block = pfn.pageblock();
        while block < end {
            if !self.populated.has(block) {
                block = Pfn((block.0 / REGION_PAGES + 1) * REGION_PAGES);
            } else if self.word(block).is_populated() {
                return block;
            } else {
                block = block.add(PAGEBLOCK_PAGES);
            }
        }
        end
    }

    /// The first frame of the last populated pageblock that begins at or before
    /// `pfn`, if there is one.
    pub fn prev_populated(&self, pfn: Pfn) -> Option<Pfn> {
        let mut block = pfn.min(Pfn(self.end().0.checked_sub(1)?)).pageblock();
        loop {
            if !self.populated.has(block) {
                let region = Pfn(block.0 / REGION_PAGES * REGION_PAGES);
                block = Pfn(region.0.checked_sub(PAGEBLOCK_PAGES)?);
            } else if self.word(block).is_populated() {
                return Some(block);
            } else {
                block = Pfn(block.0.checked_sub(PAGEBLOCK_PAGES)?);
            }
        }
    }

    /// The pageblocks that `range` touches and that have RAM, populated or not,
    /// lowest first: first frame and word.
    pub(crate) fn known_blocks(&self, range: PfnRange) -> impl Iterator<Item = (Pfn, &BlockInfo)> {
        self.described_blocks(range).filter(|(_, word)| word.is_known())
    }

    /// As [`known_blocks`](Self::known_blocks), those of no zone too.
    pub(crate) fn described_blocks(
        &self,
        range: PfnRange,
    ) -> impl Iterator<Item = (Pfn, &BlockInfo)> {
        let end = range.end.min(self.end());
        let mut at = range.start.pageblock();
        core::iter::from_fn(move || {
            while at < end {
                let block = at;
                if !self.regions.has(block) {
                    at = Pfn((block.0 / REGION_PAGES + 1) * REGION_PAGES);
                    continue;
                }
                at = block.add(PAGEBLOCK_PAGES);
                let word = self.word(block);
                if word.is_described() {
                    return Some((block, word));
                }
            }
            None
        })
    }

    /// The last pageblock of zone number `zone` in `range`, if it has any there.
    pub(crate) fn last_of_zone(&self, range: PfnRange, zone: usize) -> Option<Pfn> {
        let mut at = range.end.min(self.end());
        while at > range.start {
            let block = Pfn(at.0 - 1).pageblock();
            at = block;
            if !self.regions.has(block) {
                at = Pfn(block.0 / REGION_PAGES * REGION_PAGES);
                continue;
            }
            let word = self.word(block);
            if word.is_known() && word.zone_index() == zone {
                return Some(block);
            }
        }
        None
    }

    /// The first frame, a multiple of the largest order, of the first deferred
    /// block at or after `pfn` and before `end`, with its word.
    pub(crate) fn next_deferred(&self, pfn: Pfn, end: Pfn) -> Option<(Pfn, &BlockInfo)> {
        let mut at = pfn.align_down(MAX_ORDER);
        while at < end.min(self.end()) {
            if !self.regions.has(at) {
                at = Pfn((at.0 / REGION_PAGES + 1) * REGION_PAGES);
                continue;
            }
            let word = self.word(at);
            if word.is_known() && !word.is_populated() {
                return Some((at, word));
            }
            at = at.add(MAX_ORDER.pages());
        }
        None
    }

    /// The head of the block that `pfn` lies in, with its word as read: `pfn`
    /// itself or the nearest head before it that covers it. None for a frame
    /// that nothing covers.
    ///
    /// Blocks are naturally aligned, so at most eleven words are read.
    pub fn head_of(&self, pfn: Pfn) -> Option<(Pfn, HeadWord)> {
        self.try_block(pfn)?;
        let mut order = Order(0);
        while order <= MAX_ORDER {
            let head = pfn.align_down(order);
            // An order-10 head may lie in the block before, which is present
            // when it has such a head.
            let word = self.try_page(head)?.head();
            if word != HeadWord::TAIL {
                return (word.order() >= order).then_some((head, word));
            }
            order = Order(order.0 + 1);
        }
        None
    }

    /// Describes `range`, no matter how aligned, as heads of type `ty` and of
    /// the largest natural orders. Only while the frames belong to nobody else.
    pub fn describe(&self, range: PfnRange, ty: PageType) {
        for (pfn, order) in natural_blocks(range) {
            self.page(pfn).set_head(HeadWord::new(ty, order));
        }
    }
}

/// Cuts a range into naturally aligned blocks of orders up to [`MAX_ORDER`],
/// lowest first, as few as can be.
pub fn natural_blocks(range: PfnRange) -> impl Iterator<Item = (Pfn, Order)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let fit = 63 - range.end.0.saturating_sub(at.0).leading_zeros();
        let order = Order(at.0.trailing_zeros().min(fit).min(u32::from(MAX_ORDER.0)) as u8);
        let item = (at, order);
        at = at.add(order.pages());
        Some(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn natural_blocks_cover_exactly() {
        let range = PfnRange::new(Pfn(3), Pfn(4097));
        let blocks: Vec<_> = natural_blocks(range).collect();
        let mut at = range.start;
        for &(pfn, order) in &blocks {
            assert_eq!(pfn, at);
            assert!(pfn.is_aligned(order));
            at = pfn.add(order.pages());
        }
        assert_eq!(at, range.end);
        assert_eq!(blocks.first(), Some(&(Pfn(3), Order(0))));
        assert_eq!(blocks.last(), Some(&(Pfn(4096), Order(0))));
        assert_eq!(natural_blocks(PfnRange::new(Pfn(5), Pfn(5))).count(), 0);
    }

    /// Who looked at a block without a lock may go on when it has left its zone.
    #[cfg(feature = "host")]
    #[test]
    fn what_was_populated_can_be_read() {
        use crate::host::pc;
        use crate::hotplug::MEMORY_BLOCK_PAGES;
        use crate::setup::Config;
        let mm = pc(512, 1, &Config::default()).expect("a machine");
        let start = Pfn(mm.map.end().0 / 2);
        mm.offline(PfnRange::sized(start, MEMORY_BLOCK_PAGES)).expect("free memory");
        let block = PfnRange::sized(start, PAGEBLOCK_PAGES);
        assert!(!mm.map.has_page(block.start) && mm.map.is_readable(block.start));
        let pages = mm.map.pages().of(block);
        assert_eq!(pages.len() as u64, PAGEBLOCK_PAGES);
        assert!(core::ptr::eq(&raw const pages[7], mm.map.page(start.add(7))));
    }
}
