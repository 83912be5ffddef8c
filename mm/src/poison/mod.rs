//! Bad memory: a frame that a machine check, or somebody at the prompt, says is
//! broken is taken out for good (Linux mm/memory-failure.c). What is free goes at
//! once; what can be moved goes after it was moved; anything else is left where
//! it is and goes when its owner frees it. Once out it stays so, whatever becomes
//! of the memory around it, until that is no more.
//!
//! A frame that is left is *noted*, and the head of its block is marked: a free
//! on the fast way compares the whole head word and so goes the slow way, which
//! looks for the mark. So the fast way pays nothing. Contiguous ranges have no
//! fast way and need no mark: who frees them looks for notes under the zone's
//! lock, under which their heads cease to say Contig, and who has put a note
//! looks at the head under it. So one of the two sees what the other did.
//!
//! One at a time puts notes and marks. May call: `contig`, `buddy`, `cma`.

mod taken;

use crate::buddy::Buddy;
use crate::contig::{Purpose, Sought};
use crate::gfp::Gfp;
use crate::list::PageList;
use crate::memmap::BlockInfo;
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::platform::{LogLevel, Platform};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Lock, LockRank,
    Ordering::{Acquire, Relaxed, Release},
    may_wait,
};
use crate::types::{MigrateType, Pfn, PfnRange, ZoneKind};
use crate::zone::Zone;
use core::fmt;

/// Frames that can be noted at a time.
pub const MAX_NOTED: usize = 64;
/// Times that a frame's owner is asked to move it.
const ATTEMPTS: u32 = 20;
/// Times that a frame is waited for, in all, that is on its way from one hand to
/// another: a host may take a while with a block that it is told of.
const STALLS: u32 = 200;

/// What a bad frame was when it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadPage {
    /// Free.
    Free,
    /// Somebody's who could be asked to move it.
    Movable,
    /// Allocated.
    Kernel,
    /// In a slab.
    Slab,
    /// In a contiguous allocation.
    Contig,
    /// Never the manager's to give.
    Reserved,
    /// Taken out of use already.
    Offline,
}

impl BadPage {
    /// What a frame of that type is; None for one on its way somewhere, or out
    /// of use already.
    const fn of(ty: PageType) -> Option<Self> {
        match ty {
            PageType::Buddy => Some(Self::Free),
            PageType::Movable | PageType::Lru => Some(Self::Movable),
            PageType::Kernel | PageType::LargeKmalloc => Some(Self::Kernel),
            PageType::Slab => Some(Self::Slab),
            PageType::Contig => Some(Self::Contig),
            PageType::Reserved => Some(Self::Reserved),
            PageType::Offline => Some(Self::Offline),
            _ => None,
        }
    }

    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free buddy page",
            Self::Movable => "movable page",
            Self::Kernel => "kernel page",
            Self::Slab => "slab page",
            Self::Contig => "contiguous page",
            Self::Reserved => "reserved page",
            Self::Offline => "offline page",
        }
    }
}

/// What was done about a bad frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// It is out of use.
    Recovered,
    /// It is in use, noted, and goes when it is freed.
    Delayed,
    /// It stays: nobody will free it, or there is no room to note it.
    Ignored,
}

impl Recovery {
    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recovered => "Recovered",
            Self::Delayed => "Delayed",
            Self::Ignored => "Ignored",
        }
    }
}

/// What became of a bad frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poisoned {
    /// What it was.
    pub page: BadPage,
    /// What was done.
    pub recovery: Recovery,
}

impl fmt::Display for Poisoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.page.name(), self.recovery.name())
    }
}

/// Why nothing was done about a frame, or nothing undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoisonError {
    /// It is not RAM.
    NotRam,
    /// It is known to be bad.
    Already,
    /// It is on its way from one hand to another, and does not arrive.
    Busy,
    /// It is not known to be bad.
    NotPoisoned,
}

impl fmt::Display for PoisonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRam => "memory outside kernel control",
            Self::Already => "already hardware poisoned",
            Self::Busy => "page on its way somewhere",
            Self::NotPoisoned => "not hardware poisoned",
        })
    }
}

impl core::error::Error for PoisonError {}

/// A bad frame that is left where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Note {
    pfn: Pfn,
    page: BadPage,
    recovery: Recovery,
}

/// In place of a frame's number: of none.
const NOBODY: u64 = u64::MAX;

/// All bad frames.
pub(crate) struct BadPages {
    /// Somebody is at it: one at a time.
    busy: AtomicBool,
    /// The frame that somebody is at, who tells of it; [`NOBODY`] if there is
    /// none, or if its owner has freed it meanwhile.
    subject: AtomicU64,
    lists: Lock<Lists>,
    taken: AtomicU64,
    noted: AtomicU32,
}

struct Lists {
    /// Heads of type Poisoned, oldest first.
    taken: PageList,
    notes: [Option<Note>; MAX_NOTED],
}

impl BadPages {
    pub(crate) const fn new() -> Self {
        let lists = Lists { taken: PageList::new(), notes: [None; MAX_NOTED] };
        Self {
            busy: AtomicBool::new(false),
            subject: AtomicU64::new(NOBODY),
            lists: Lock::new(LockRank::Leaf, lists),
            taken: AtomicU64::new(0),
            noted: AtomicU32::new(0),
        }
    }
}

/// The right to say of frames that they are bad, or are no more.
struct Gate<'a>(&'a AtomicBool);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

impl Lists {
    fn note(&self, pfn: Pfn) -> Option<&Note> {
        self.notes.iter().flatten().find(|note| note.pfn == pfn)
    }
}

impl<P: Platform> Mm<P> {
    /// Takes a frame that was found bad out of use for good, as far as that can
    /// be: see [`Recovery`]. The outcome is logged. Waits for other CPUs and for
    /// pages to move; called with interrupts on and no lock held.
    ///
    /// # Errors
    /// See [`PoisonError`]; nothing has changed then.
    pub fn poison_page(&self, pfn: Pfn) -> Result<Poisoned, PoisonError> {
        let _gate = self.bad_gate();
        self.bad.subject.store(pfn.0, Relaxed);
        let result = self.take_out(pfn);
        let freed = self.bad.subject.swap(NOBODY, Relaxed) != pfn.0;
        match result {
            Ok(done) => self.log_bad(pfn, format_args!("recovery action for {done}")),
            Err(why) => self.log_bad(pfn, format_args!("{why}")),
        }
        let told = result.is_ok_and(|done| done.recovery == Recovery::Recovered);
        if freed && !told {
            self.log_freed(pfn);
        }
        result
    }

    /// Waits for its turn.
    fn bad_gate(&self) -> Gate<'_> {
        may_wait(&self.platform, "a bad page");
        let busy = &self.bad.busy;
        while busy.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            self.platform.stall();
        }
        Gate(busy)
    }

    /// Frames known to be bad, in use or not (`HardwareCorrupted`).
    pub fn bad_pages(&self) -> u64 {
        self.taken_pages() + u64::from(self.bad.noted.load(Relaxed))
    }

    /// Bad frames that are out of use. Any context.
    pub fn taken_pages(&self) -> u64 {
        self.bad.taken.load(Relaxed)
    }

    /// Whether a frame that may be in use is known to be bad. Any context, a
    /// zone's lock held or not.
    pub(crate) fn is_noted(&self, pfn: Pfn) -> bool {
        if self.bad.noted.load(Relaxed) == 0 {
            return false;
        }
        let cpu = self.enter();
        self.bad.lists.lock(&cpu).note(pfn).is_some()
    }

    fn take_out(&self, pfn: Pfn) -> Result<Poisoned, PoisonError> {
        let head = |pfn| {
            let _walk = self.look_around();
            self.map.head_of(pfn).map(|(_, word)| word.ty())
        };
        if pfn >= self.map.end() {
            return Err(PoisonError::NotRam);
        }
        match head(pfn) {
            Some(PageType::Hole) => return Err(PoisonError::NotRam),
            Some(PageType::Poisoned) => return Err(PoisonError::Already),
            _ if self.is_noted(pfn) => return Err(PoisonError::Already),
            _ if self.has_taken(PfnRange::sized(pfn, 1)) => return Err(PoisonError::Already),
            _ => {}
        }
        let mut was = BadPage::Free;
        let (mut attempts, mut stalls) = (0, 0);
        while attempts < ATTEMPTS && stalls < STALLS {
            // Memory may leave its zone, and join another, at any time.
            let word = self.map.described(pfn).ok_or(PoisonError::NotRam)?;
            if !word.is_known() {
                if self.take_of_no_zone(pfn) {
                    self.forget_note(pfn);
                    return Ok(Poisoned { page: BadPage::Offline, recovery: Recovery::Recovered });
                }
                attempts += 1;
                continue;
            }
            let zone = &self.zones[word.zone_index()];
            self.populate(zone, PfnRange::sized(pfn, 1));
            if let Some(is) = self.take_idle(zone, pfn) {
                self.forget_note(pfn);
                let page = if was == BadPage::Free { is } else { was };
                return Ok(Poisoned { page, recovery: Recovery::Recovered });
            }
            let ty = head(pfn);
            if ty == Some(PageType::Poisoned) {
                // Its owner has freed it since it was noted, or it was moved; and
                // maybe before it was noted once more.
                self.forget_note(pfn);
                return Ok(Poisoned { page: was, recovery: Recovery::Recovered });
            }
            match ty.and_then(BadPage::of) {
                Some(BadPage::Free | BadPage::Offline) => {}
                Some(page) => {
                    was = page;
                    if let Some(recovery) = self.leave(zone, pfn, page) {
                        return Ok(Poisoned { page, recovery });
                    }
                    attempts += 1;
                }
                None => {
                    self.drain_all(Some(zone));
                    self.platform.stall();
                    stalls += 1;
                }
            }
        }
        let zone = self.map.info(pfn).and_then(|word| self.zones.get(word.zone_index()));
        let settled = zone.and_then(|zone| self.settled_head(zone, pfn));
        if settled.is_some_and(|(_, word)| word.is_bad()) {
            // Nobody could be moved to move it.
            return Ok(Poisoned { page: was, recovery: Recovery::Delayed });
        }
        // Its owner has freed it with the note that was there, or before it was noted
        // once more: then it is out of use, or will be in a moment.
        let claimed = self.forget_note(pfn).is_none() && was != BadPage::Free;
        if claimed || head(pfn) == Some(PageType::Poisoned) {
            return Ok(Poisoned { page: was, recovery: Recovery::Recovered });
        }
        Err(PoisonError::Busy)
    }

    /// Notes a frame that is in use, and asks its owner to move it if that can
    /// be done. None: it is to be looked at again.
    fn leave(&self, zone: &Zone, pfn: Pfn, page: BadPage) -> Option<Recovery> {
        let recovery = match page {
            BadPage::Reserved => Recovery::Ignored,
            _ => Recovery::Delayed,
        };
        if !self.note(Note { pfn, page, recovery }) {
            return Some(Recovery::Ignored);
        }
        if matches!(page, BadPage::Movable | BadPage::Kernel | BadPage::Slab) {
            self.mark(pfn);
            if page == BadPage::Movable {
                self.move_out(zone, pfn);
            }
            // A free that had read the head word before the mark was there is
            // done when each CPU has answered.
            self.drain_all(Some(zone));
        }
        let (_, word) = self.settled_head(zone, pfn)?;
        match BadPage::of(word.ty()) {
            // Whoever has isolated it just now may put it back: try once more.
            Some(BadPage::Movable) => None,
            Some(BadPage::Kernel | BadPage::Slab) => word.is_bad().then_some(recovery),
            Some(BadPage::Free | BadPage::Offline) | None => None,
            // Those who free it look at the notes.
            Some(now) => (now == page).then_some(recovery),
        }
    }

    /// The head of the block that `pfn` is in, and nobody in the middle of taking
    /// a contiguous range, or of giving one back.
    fn settled_head(&self, zone: &Zone, pfn: Pfn) -> Option<(Pfn, HeadWord)> {
        let cpu = self.enter();
        let _lists = Buddy::lock(&self.map, zone, &cpu);
        self.map.head_of(pfn)
    }

    /// Marks the head of the allocated block that `pfn` is in. Waits for whoever
    /// is moving it: what comes of that is told by the head alone, whose word may
    /// be put back as it was.
    fn mark(&self, pfn: Pfn) {
        let _walk = self.look_around();
        while let Some((head, word)) = self.map.head_of(pfn) {
            if !word.ty().is_allocated() || word.ty() == PageType::Contig {
                return;
            }
            if word.flags().contains(PageFlags::LOCKED) {
                self.platform.stall();
            } else if self.map.page(head).replace_head(word, word.with(PageFlags::BAD)) {
                return;
            }
        }
    }

    /// Asks the owner of the block that holds `pfn` to move it. The frame is out
    /// of use as soon as the last reference to it is gone.
    fn move_out(&self, zone: &Zone, pfn: Pfn) {
        let purpose = match self.map.block(pfn).migratetype() {
            MigrateType::Cma => self.cma_purpose(pfn).unwrap_or(Purpose::General),
            _ => Purpose::General,
        };
        let range = PfnRange::sized(pfn, 1);
        match self.isolate(zone, range, purpose) {
            Ok(isolated) => {
                let gfp = Gfp::KERNEL | Gfp::RETRY_MAYFAIL;
                self.evacuate(&isolated, range, gfp, Sought::Anyhow);
            }
            // Somebody else is emptying the pageblock.
            Err(_) => self.platform.stall(),
        }
    }

    /// Notes a bad frame. False: there is no room.
    fn note(&self, note: Note) -> bool {
        let cpu = self.enter();
        let mut lists = self.bad.lists.lock(&cpu);
        let known = lists.notes.iter().position(|old| old.is_some_and(|n| n.pfn == note.pfn));
        let Some(at) = known.or_else(|| lists.notes.iter().position(Option::is_none)) else {
            return false;
        };
        if lists.notes[at].replace(note).is_none() {
            self.bad.noted.fetch_add(1, Relaxed);
        }
        true
    }

    fn forget_note(&self, pfn: Pfn) -> Option<Note> {
        let cpu = self.enter();
        let mut lists = self.bad.lists.lock(&cpu);
        let at = lists.notes.iter().position(|note| note.is_some_and(|n| n.pfn == pfn))?;
        self.bad.noted.fetch_sub(1, Relaxed);
        lists.notes[at].take()
    }

    /// Gives a bad frame back to whom it would be if it were good. For tests:
    /// memory does not get well. Context as [`poison_page`](Self::poison_page).
    ///
    /// # Errors
    /// [`PoisonError::NotPoisoned`].
    pub fn unpoison_page(&self, pfn: Pfn) -> Result<(), PoisonError> {
        let _gate = self.bad_gate();
        if self.forget_note(pfn).is_some() {
            self.unmark(pfn);
        } else if !self.return_taken(pfn) {
            return Err(PoisonError::NotPoisoned);
        }
        let line = format_args!("Unpoison: {pfn} is as good as any other again");
        self.platform.log(LogLevel::Info, line);
        Ok(())
    }

    /// Takes the mark away from the block that `pfn` is in, unless another frame
    /// in it is noted.
    fn unmark(&self, pfn: Pfn) {
        let _walk = self.look_around();
        while let Some((head, word)) = self.map.head_of(pfn) {
            let block = PfnRange::sized(head, word.order().pages());
            let other = |note: &Note| block.contains(note.pfn);
            let cpu = self.enter();
            let kept = self.bad.lists.lock(&cpu).notes.iter().flatten().any(other);
            drop(cpu);
            if !word.is_bad()
                || kept
                || self.map.page(head).replace_head(word, word.without(PageFlags::BAD))
            {
                return;
            }
        }
    }

    fn log_freed(&self, pfn: Pfn) {
        self.log_bad(pfn, format_args!("recovery action for freed page: Recovered"));
    }

    fn log_bad(&self, pfn: Pfn, what: fmt::Arguments<'_>) {
        self.platform.log(LogLevel::Error, format_args!("Memory failure: {pfn}: {what}"));
    }

    /// Writes `/sys/kernel/debug/quarry/poisoned`: how many frames are bad, and a
    /// line for each, those out of use first.
    pub(crate) fn write_poisoned(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        const CHUNK: usize = 32;
        let (bad, taken) = (self.bad_pages(), self.taken_pages());
        writeln!(out, "bad frames: {bad}, {taken} of them out of use")?;
        let mut skip = 0;
        loop {
            let mut frames = [None; CHUNK];
            {
                let cpu = self.enter();
                let lists = self.bad.lists.lock(&cpu);
                let taken = lists.taken.iter(&self.map).skip(skip);
                frames.iter_mut().zip(taken).for_each(|(slot, pfn)| *slot = Some(pfn));
            }
            for pfn in frames.into_iter().flatten() {
                self.write_bad(pfn, format_args!("out of use"), out)?;
            }
            if frames[CHUNK - 1].is_none() {
                break;
            }
            skip += CHUNK;
        }
        let cpu = self.enter();
        let notes = self.bad.lists.lock(&cpu).notes;
        drop(cpu);
        for Note { pfn, page, recovery } in notes.into_iter().flatten() {
            let stays =
                if recovery == Recovery::Ignored { ", stays" } else { ", until it is freed" };
            self.write_bad(pfn, format_args!("{}{stays}", page.name()), out)?;
        }
        Ok(())
    }

    fn write_bad(
        &self,
        pfn: Pfn,
        what: fmt::Arguments<'_>,
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        let word = self.map.described(pfn);
        let node = word.map_or(0, |word| word.node().0);
        let zone = word.filter(|word| word.is_known()).map(BlockInfo::zone_kind);
        let kind = zone.map_or("none", ZoneKind::name);
        writeln!(out, "{pfn} node={node} zone={kind} {what}")
    }
}

impl HeadWord {
    /// Whether a frame of the block is noted as bad.
    #[inline]
    pub(crate) const fn is_bad(self) -> bool {
        self.0 & PageFlags::BAD.bits() != 0
    }
}
