//! Bad frames that go out of use: cut out of a free block, or left out when the
//! block that they are in is freed. May call: `buddy`, `free`, `cma`.

use super::{BadPage, MAX_NOTED, NOBODY, Recovery};
use crate::audit::{AuditError, Auditor};
use crate::buddy::{Buddy, Placement};
use crate::memmap::natural_blocks;
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{Order, Pfn, PfnRange};
use crate::zone::Zone;

const BAD: HeadWord = HeadWord::new(PageType::Poisoned, Order(0));

impl<P: Platform> Mm<P> {
    /// Takes a frame out if it is nobody's: free on the buddy's lists, whatever
    /// list, or out of use with its pageblock. What it was.
    pub(super) fn take_idle(&self, zone: &Zone, pfn: Pfn) -> Option<BadPage> {
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        // It may have left the zone since somebody looked without the lock.
        let head = self.map.head_of(pfn).filter(|_| zone.owns(&self.map, pfn))?;
        match head.1.ty() {
            PageType::Buddy => {
                buddy.cut_out(PfnRange::sized(pfn, 1));
                self.map.page(pfn).set_head(BAD);
                zone.managed.fetch_sub(1, Relaxed);
            }
            PageType::Offline => self.map.leave_out(pfn, PageType::Offline),
            _ => return None,
        }
        drop(buddy);
        drop(cpu);
        self.enlist(&[pfn]);
        BadPage::of(head.1.ty())
    }

    /// Frees a block of which a frame may be noted as bad: what is bad goes out
    /// of use, the rest to the buddy. The block, whose head the caller has taken
    /// from its owner, is the caller's alone. Any context.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_without_bad(&self, block: PfnRange) {
        self.return_without_bad(block);
        let cpu = self.enter();
        self.count_freed(self.zone_at(block.start), block.pages(), &cpu);
    }

    /// As [`free_without_bad`](Self::free_without_bad), of what was never counted
    /// as allocated.
    #[cold]
    pub(crate) fn return_without_bad(&self, block: PfnRange) {
        let mut bad = [Pfn(0); MAX_NOTED];
        let bad = self.claim_notes(block, &mut bad);
        let ends = bad.iter().copied().chain([block.end]);
        let good = || {
            let mut start = block.start;
            ends.clone().flat_map(move |end| {
                let piece = PfnRange::new(start, end);
                start = end.add(1);
                natural_blocks(piece)
            })
        };
        good().for_each(|(pfn, order)| self.scrub(pfn, order));
        let zone = self.zone_at(block.start);
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        for (pfn, _) in natural_blocks(block) {
            self.map.page(pfn).clear();
        }
        // Before anything merges.
        bad.iter().for_each(|&pfn| self.map.page(pfn).set_head(BAD));
        let listed = good().map(|(pfn, order)| buddy.free(pfn, order, Placement::Auto)).max();
        zone.managed.fetch_sub(bad.len() as u64, Relaxed);
        drop(buddy);
        drop(cpu);
        self.note_freed(zone, listed.unwrap_or_default());
        self.enlist_freed(bad);
    }

    /// Lists frames that were noted and that their owner has given up.
    pub(crate) fn enlist_freed(&self, frames: &[Pfn]) {
        if frames.is_empty() {
            return;
        }
        self.enlist(frames);
        for &pfn in frames {
            // One event, one line: whoever has it freed tells of it.
            let subject = &self.bad.subject;
            if subject.compare_exchange(pfn.0, NOBODY, Relaxed, Relaxed).is_err() {
                self.log_freed(pfn);
            }
        }
    }

    /// Whether some frame is noted: whoever frees what carries no mark has to
    /// look for it, with the lock of the zone held under which he has made its
    /// heads Held.
    #[inline]
    pub(crate) fn has_notes(&self) -> bool {
        self.bad.noted.load(Relaxed) > 0
    }

    /// Takes the notes of frames in `block` away; the frames, sorted.
    pub(crate) fn claim_notes<'a>(
        &self,
        block: PfnRange,
        out: &'a mut [Pfn; MAX_NOTED],
    ) -> &'a [Pfn] {
        let mut len = 0;
        let cpu = self.enter();
        let mut lists = self.bad.lists.lock(&cpu);
        for slot in &mut lists.notes {
            if let Some(note) = slot.take_if(|note| block.contains(note.pfn)) {
                out[len] = note.pfn;
                len += 1;
            }
        }
        drop(lists);
        drop(cpu);
        self.bad.noted.fetch_sub(len as u32, Relaxed);
        out[..len].sort_unstable();
        &out[..len]
    }

    /// Lists frames that are out of use for good, and has what depends on the number of
    /// managed pages follow.
    pub(crate) fn enlist(&self, frames: &[Pfn]) {
        let cpu = self.enter();
        let mut lists = self.bad.lists.lock(&cpu);
        frames.iter().for_each(|&pfn| lists.taken.push_back(&self.map, pfn));
        drop(lists);
        drop(cpu);
        self.bad.taken.fetch_add(frames.len() as u64, Relaxed);
        frames.iter().for_each(|&pfn| self.cma_withhold(pfn));
        self.recompute_watermarks();
    }

    /// Frees a frame that is out of use for good, if `pfn` is one, or has it be
    /// out of use like all around it.
    pub(super) fn return_taken(&self, pfn: Pfn) -> bool {
        let _gate = self.hotplug_gate();
        if pfn >= self.map.end() || self.strike_off(PfnRange::sized(pfn, 1)) == 0 {
            return false;
        }
        let Some(word) = self.map.described(pfn) else { return false };
        let page = self.map.page(pfn);
        if !word.is_known() {
            page.clear();
            return true;
        }
        let zone = self.zone_at(pfn);
        if !word.is_offline() {
            self.scrub(pfn, Order(0));
        }
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        page.clear();
        let mut listed = Order(0);
        if word.is_offline() {
            // SAFETY: out of use, and who changes that waits at the gate; the
            // zone lock keeps others from its descriptors.
            unsafe { self.map.describe_offline(pfn.pageblock()) };
        } else {
            zone.managed.fetch_add(1, Relaxed);
            listed = buddy.free(pfn, Order(0), Placement::Auto);
        }
        drop(buddy);
        drop(cpu);
        self.note_freed(zone, listed);
        self.cma_relent(pfn);
        self.recompute_watermarks();
        true
    }

    /// Takes the frames of `range` that are out of use for good off their list;
    /// how many those are. What their descriptors say is the caller's to change.
    pub(crate) fn strike_off(&self, range: PfnRange) -> u64 {
        let mut gone = 0;
        let cpu = self.enter();
        let mut lists = self.bad.lists.lock(&cpu);
        let mut at = lists.taken.first();
        while let Some(pfn) = at {
            at = lists.taken.next(&self.map, pfn);
            if range.contains(pfn) {
                lists.taken.remove(&self.map, pfn);
                gone += 1;
            }
        }
        drop(lists);
        drop(cpu);
        self.bad.taken.fetch_sub(gone, Relaxed);
        gone
    }

    /// Whether a frame of `range` is out of use for good. Stable for those who
    /// keep others from the range.
    pub(crate) fn has_taken(&self, range: PfnRange) -> bool {
        if self.taken_pages() == 0 {
            return false;
        }
        let cpu = self.enter();
        let lists = self.bad.lists.lock(&cpu);
        lists.taken.iter(&self.map).any(|pfn| range.contains(pfn))
    }

    /// What is listed is what descriptors say, and whoever will free a noted
    /// frame will find that it is.
    pub(crate) fn audit_bad(&self, auditor: &mut Auditor) -> Result<(), AuditError> {
        let cpu = self.enter();
        let lists = self.bad.lists.lock(&cpu);
        let mut listed = 0;
        for pfn in lists.taken.iter(&self.map) {
            auditor.holds("a bad page on its list", pfn, self.map.page(pfn).head() == BAD)?;
            listed += 1;
            // A loop would never end.
            auditor.holds("length of the list", pfn, listed <= u64::from(lists.taken.len()))?;
        }
        let outside = self.bad_of_no_zone();
        auditor.equal("bad pages listed", None, auditor.report.poisoned + outside, listed)?;
        auditor.equal("bad pages out of use", None, listed, self.taken_pages())?;
        let mut noted = 0;
        for note in lists.notes.iter().flatten() {
            noted += 1;
            let word = self.map.head_of(note.pfn).map_or(HeadWord::TAIL, |(_, word)| word);
            let fine = match word.ty() {
                PageType::Contig => true,
                PageType::Reserved => note.recovery == Recovery::Ignored,
                ty => ty.is_allocated() && word.flags().contains(PageFlags::BAD),
            };
            auditor.holds("a bad page in use", note.pfn, fine)?;
        }
        let counted = u64::from(self.bad.noted.load(Relaxed));
        auditor.equal("bad pages in use", None, noted, counted)
    }
}
