//! Many single pages at once: one token and one look at the zone for all of
//! them. May call: `alloc`, `free`, `pcp`, `buddy`, `zone`.

use crate::buddy::Buddy;
use crate::fast::may_free;
use crate::gfp::{AllocError, AllocFlags, FreeError, Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::pcp::{Demand, list_index};
use crate::platform::Platform;
use crate::pressure::Attempt;
use crate::sync::Ordering::Relaxed;
use crate::types::{MigrateType, NodeId, Order, Pfn};
use crate::zone::{Mark, Zone};
use core::panic::Location;

/// A batch as large as the zone has it.
const BATCH: u32 = u32::MAX;

/// Most pages that one hold of the token frees: others want the CPU too.
const CHUNK: usize = 256;

/// The head word of an allocated single page.
const KERNEL: HeadWord = HeadWord::new(PageType::Kernel, Order(0));
/// That of one off the lists and not handed out yet.
const HELD: HeadWord = HeadWord::new(PageType::Held, Order(0));

impl<P: Platform> Mm<P> {
    /// Allocates up to `out.len()` single pages at once, all into `out` from
    /// its start; returns how many. Fewer than asked for is not an error; with
    /// none to be had in bulk, one is allocated as usual. Context as for
    /// [`alloc_pages`](Self::alloc_pages).
    ///
    /// # Errors
    /// When not even one page could be had.
    #[track_caller]
    pub fn alloc_bulk(
        &self,
        gfp: Gfp,
        node: Option<NodeId>,
        out: &mut [Pfn],
    ) -> Result<usize, AllocError> {
        let at = Location::caller();
        let attempt = self.attempt(Request { order: Order(0), gfp, node })?;
        let plain = self.tunables.plain.load(Relaxed);
        // One by one, if some are to fail.
        let bulky = plain || !self.faults.are_armed();
        let low = |zone: &Zone| zone.mark(Mark::Low);
        let mut got = if bulky { self.bulk(&attempt, low, BATCH, out, at) } else { 0 };
        if got == 0 && !out.is_empty() {
            out[0] = self.alloc_pages(attempt.request)?.pfn;
            got = 1;
        }
        Ok(got)
    }

    /// As [`alloc_bulk`](Self::alloc_bulk), but takes only what a zone has above
    /// its `level`: nobody is asked for more, or woken, and that some are to fail is
    /// for the caller to see to. None is 0. Any context.
    #[track_caller]
    pub(crate) fn alloc_spare(
        &self,
        attempt: &Attempt,
        level: fn(&Zone) -> u64,
        out: &mut [Pfn],
    ) -> usize {
        let at = Location::caller();
        let mut wanted = out.len();
        loop {
            // What else were put on this CPU's list would be lacking to the zone.
            let got = self.bulk(attempt, level, 1, &mut out[..wanted], at);
            if got > 0 || wanted <= 1 {
                return got;
            }
            // One may be there where not all are.
            wanted = 1;
        }
    }

    /// Takes pages from the lists alone, from one zone that stays above its `level`.
    /// This CPU's list is filled with a `batch` at least, as far as the zone says so.
    #[inline(always)]
    fn bulk(
        &self,
        attempt: &Attempt,
        level: fn(&Zone) -> u64,
        batch: u32,
        out: &mut [Pfn],
        at: &'static Location<'static>,
    ) -> usize {
        let gfp = attempt.request.gfp;
        let dressed = !self.tunables.plain.load(Relaxed) || gfp.contains(Gfp::ZERO);
        // What is Kernel already may carry a mark that `hand_out` knows nothing of.
        let word = if dressed { HELD } else { KERNEL };
        let got = self.bulk_from_pcp(attempt, level, batch, word, out);
        if dressed {
            for &pfn in &out[..got] {
                self.hand_out(&attempt.request, (pfn, false), at);
            }
        }
        got
    }

    /// Takes pages from the first zone that can spare all of them.
    #[inline(always)]
    fn bulk_from_pcp(
        &self,
        attempt: &Attempt,
        level: fn(&Zone) -> u64,
        batch: u32,
        word: HeadWord,
        out: &mut [Pfn],
    ) -> usize {
        let Request { gfp, node, .. } = attempt.request;
        let node = node.unwrap_or_default();
        let ty = attempt.migratetype;
        if ty == MigrateType::Movable && !attempt.flags.contains(AllocFlags::CMA) {
            return 0;
        }
        for zone in self.zonelist(node, attempt.class) {
            if zone.node != node && gfp.contains(Gfp::THISNODE) {
                break;
            }
            let mark = level(zone) + out.len() as u64;
            if zone.managed() == 0
                || !zone.watermark_ok(Order(0), mark, attempt.class, attempt.flags)
            {
                continue;
            }
            let batch = zone.pcp_batch().min(batch);
            let got = self.bulk_from_zone(zone, ty, attempt.flags, batch, word, out);
            if got > 0 {
                return got;
            }
        }
        0
    }

    /// Takes pages from this CPU's list of one zone, filled anew as often as it
    /// takes. They get `word` for a head.
    fn bulk_from_zone(
        &self,
        zone: &Zone,
        ty: MigrateType,
        flags: AllocFlags,
        batch: u32,
        word: HeadWord,
        out: &mut [Pfn],
    ) -> usize {
        let Some(index) = list_index(Order(0), ty) else { return 0 };
        let cpu = self.enter();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe {
            self.pcp(cpu.id(), zone).with(|pcp| {
                let mut got = 0;
                loop {
                    got += pcp.pop_many(&self.map, index, word, &mut out[got..]);
                    if got == out.len() {
                        return got;
                    }
                    let mut buddy = Buddy::lock(&self.map, zone, &cpu);
                    let boost = self.tunables.boost_factor.load(Relaxed);
                    // The caller has said how long the run is.
                    let least = batch.max((out.len() - got) as u32);
                    let want = Demand { least, most: least };
                    if pcp.refill(&mut buddy, index, ty, want, flags, boost) == 0 {
                        return got;
                    }
                }
            })
        }
    }

    /// Frees single pages in bulk; stops at the first that may not be freed.
    /// From any context.
    ///
    /// # Errors
    /// As [`free_pages`](Self::free_pages), with the index of the culprit.
    pub fn free_bulk(&self, pages: &[Pfn]) -> Result<(), (usize, FreeError)> {
        let mut at = 0;
        while at < pages.len() {
            let done = self.free_run(&pages[at..]);
            at += done;
            if done == 0 {
                // Something special, or a mistake.
                let page = Page { pfn: pages[at], order: Order(0) };
                self.free_pages(page).map_err(|e| (at, e))?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Frees the first of `pages` to this CPU's lists, as many as are plain and
    /// of one pageblock; returns how many.
    fn free_run(&self, pages: &[Pfn]) -> usize {
        let Some(&first) = pages.first() else { return 0 };
        let Some(block) = self.map.try_block_word(first) else { return 0 };
        if !self.tunables.plain.load(Relaxed) {
            return 0;
        }
        let cpu = self.enter();
        // The same checks as in `free_hit`, in the same order.
        let Some((index, ty)) = block.plain() else { return 0 };
        let Some(list) = list_index(Order(0), ty) else { return 0 };
        let zone = &self.zones[index];
        let may_free = |word| may_free(word, Order(0));
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let (done, count) = unsafe {
            self.pcp(cpu.id(), zone).with(|pcp| {
                let pages = &pages[..pages.len().min(CHUNK)];
                let block = first.pageblock();
                let done = pcp.push_many(&self.map, list, block, pages, may_free);
                (done, pcp.count)
            })
        };
        if count >= zone.pcp_high() {
            self.shed(&cpu, zone);
        }
        done
    }
}
