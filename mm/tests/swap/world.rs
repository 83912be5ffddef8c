//! Programs' pages without programs: a table of entries, each of which has a
//! page, names a swap slot, or has nothing, and knows what it should read. Every
//! access looks whether that is there.

use mm::lru_page::LruPage;
use mm::mmu::SwapEntry;
use mm::page::{LruFlags, PageDesc};
use mm::platform::Platform;
use mm::swap::{SwapInError, SwapNames, SwapOffError, SwapOutError};
use mm::sync::{Cpu, Lock, LockRank};
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{Gfp, Mm, Request};

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    None,
    Page { pfn: Pfn, writable: bool, dirty: bool },
    Swap(SwapEntry),
}

/// An entry, and what its page holds.
#[derive(Clone, Copy, Debug)]
struct Pte {
    state: State,
    value: u64,
}

/// How an access ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Done,
    /// Nothing is mapped there.
    Nothing,
    Io,
    NoMemory,
}

pub(crate) struct World<'m, P: Platform> {
    pub(crate) mm: &'m Mm<P>,
    ptes: Vec<Lock<Pte>>,
}

/// Words of a page that are looked at.
const PLACES: [usize; 3] = [0, 200, PAGE_SIZE / 8 - 1];

impl<'m, P: Platform> World<'m, P> {
    pub(crate) fn new(mm: &'m Mm<P>, entries: usize) -> Self {
        let none = Pte { state: State::None, value: 0 };
        Self { mm, ptes: (0..entries).map(|_| Lock::new(LockRank::Pte, none)).collect() }
    }

    /// Runs `f` on an entry, locked: what accesses by it there are have ended.
    fn with<R>(&self, at: usize, f: impl FnOnce(&mut Pte) -> R) -> R {
        let cpu = Cpu::enter(self.mm.platform());
        let mut pte = self.ptes[at].lock(&cpu);
        let result = f(&mut pte);
        drop(pte);
        result
    }

    pub(crate) fn state(&self, at: usize) -> State {
        self.with(at, |pte| pte.state)
    }

    fn desc(&self, pfn: Pfn) -> &PageDesc {
        self.mm.map().try_page(pfn).expect("a page")
    }

    fn words(&self, pfn: Pfn) -> *mut u64 {
        self.mm.platform().frame(pfn).cast()
    }

    /// Writes what a page with that value holds; one of 0 is all zeros.
    fn fill(&self, pfn: Pfn, value: u64) {
        for place in PLACES {
            // SAFETY: a word of a page that the caller has mapped, under the lock
            // of the entry, or that nobody else has.
            unsafe { self.words(pfn).add(place).write(value) };
        }
    }

    fn check(&self, at: usize, pfn: Pfn, value: u64) {
        for place in PLACES {
            // SAFETY: as in `fill`.
            let found = unsafe { self.words(pfn).add(place).read() };
            assert_eq!(found, value, "word {place} of entry {at} in {pfn:?}");
        }
    }

    /// An anonymous page with one reference, on no list.
    fn fresh(&self) -> Option<Pfn> {
        let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NORETRY | Gfp::NOWARN;
        let page = self.mm.alloc_pages(Request::new(Order(0), gfp)).ok()?;
        let flags = LruFlags::ANON;
        self.mm.make_lru(page, LruPage { flags, owner: 0, index: 0 }).expect("allocated");
        Some(page.pfn)
    }

    /// Maps a new page that holds `value`; whether nothing was there, and a page
    /// to be had.
    pub(crate) fn map(&self, at: usize, value: u64) -> bool {
        let Some(pfn) = self.fresh() else { return false };
        // SAFETY: nobody else has the page.
        unsafe { self.mm.platform().frame(pfn).write_bytes(0, PAGE_SIZE) };
        self.fill(pfn, value);
        self.mm.lru_add(pfn);
        let state = State::Page { pfn, writable: true, dirty: true };
        self.install(at, state, value)
    }

    /// Puts what the caller has into an empty entry; gives it up if it is not.
    fn install(&self, at: usize, state: State, value: u64) -> bool {
        let done = self.with(at, |pte| {
            let empty = pte.state == State::None;
            if empty {
                if let State::Page { pfn, .. } = state {
                    self.mm.add_mapping(pfn);
                }
                *pte = Pte { state, value };
            }
            empty
        });
        if !done {
            self.give_up(state);
        }
        done
    }

    /// Drops what an entry had that names it no more; its mapping is off.
    fn give_up(&self, state: State) {
        match state {
            State::None => {}
            State::Page { pfn, .. } => {
                self.mm.swap_unmapped(pfn);
                self.mm.put_lru(pfn);
            }
            State::Swap(entry) => self.mm.swap_release(entry),
        }
    }

    /// Unmaps what is there.
    pub(crate) fn unmap(&self, at: usize) {
        let state = self.with(at, |pte| {
            let state = core::mem::replace(&mut pte.state, State::None);
            if let State::Page { pfn, .. } = state {
                self.mm.drop_mapping(pfn);
            }
            state
        });
        self.give_up(state);
    }

    /// Has an empty entry share what another one has.
    pub(crate) fn share(&self, from: usize, to: usize) {
        let (state, value) = self.with(from, |pte| {
            match &mut pte.state {
                State::None => {}
                State::Page { pfn, writable, .. } => {
                    *writable = false;
                    self.desc(*pfn).get();
                }
                State::Swap(entry) => {
                    if self.mm.swap_dup(*entry).is_err() {
                        return (State::None, 0);
                    }
                }
            }
            (pte.state, pte.value)
        });
        if state != State::None {
            self.install(to, state, value);
        }
    }

    /// Reads what is there and looks whether it is right; with `write` writes it.
    pub(crate) fn access(&self, at: usize, write: Option<u64>) -> Access {
        loop {
            let state = self.with(at, |pte| {
                let State::Page { pfn, writable, dirty } = &mut pte.state else {
                    return Err(pte.state);
                };
                self.check(at, *pfn, pte.value);
                if let Some(value) = write {
                    if !*writable {
                        // It stays while it is copied.
                        self.desc(*pfn).get();
                        return Err(pte.state);
                    }
                    self.fill(*pfn, value);
                    (*dirty, pte.value) = (true, value);
                }
                Ok(())
            });
            match state {
                Ok(()) => return Access::Done,
                Err(State::None) => return Access::Nothing,
                Err(State::Page { pfn, .. }) => {
                    let done = self.make_writable(at, pfn);
                    self.mm.put_lru(pfn);
                    if !done {
                        return Access::NoMemory;
                    }
                }
                Err(State::Swap(entry)) => match self.bring_back(at, entry, write.is_some()) {
                    Ok(()) | Err(SwapInError::Stale) => {}
                    Err(SwapInError::Io) => return Access::Io,
                    Err(SwapInError::NoMemory) => return Access::NoMemory,
                },
            }
        }
    }

    /// Lets an entry write to its page, or to a copy if others have it too.
    /// False if there is no memory for that.
    fn make_writable(&self, at: usize, pfn: Pfn) -> bool {
        let desc = self.desc(pfn);
        while !desc.try_lock() {
            self.mm.platform().stall();
        }
        let cached = || desc.head().lru().contains(LruFlags::SWAPCACHE);
        let alone = desc.mapcount() == 1 && (!cached() || self.mm.swap_take_over(pfn));
        if alone {
            self.with(at, |pte| {
                if let State::Page { pfn: now, writable, .. } = &mut pte.state
                    && *now == pfn
                {
                    // Alone still: nobody can have come by it but through here.
                    *writable = desc.mapcount() == 1;
                }
            });
        }
        desc.unlock();
        alone || self.copy(at, pfn)
    }

    fn copy(&self, at: usize, pfn: Pfn) -> bool {
        let Some(new) = self.fresh() else { return false };
        self.mm.lru_add(new);
        let replaced = self.with(at, |pte| {
            let State::Page { pfn: now, writable: false, .. } = pte.state else { return false };
            if now != pfn {
                return false;
            }
            // SAFETY: nobody writes to a page that this entry may not write to,
            // and nobody else has the new one.
            unsafe {
                self.mm.platform().frame(new).copy_from(self.mm.platform().frame(pfn), PAGE_SIZE);
            };
            self.mm.add_mapping(new);
            self.mm.drop_mapping(pfn);
            pte.state = State::Page { pfn: new, writable: true, dirty: true };
            true
        });
        if replaced {
            self.give_up(State::Page { pfn, writable: false, dirty: false });
        } else {
            self.mm.put_lru(new);
        }
        true
    }

    fn bring_back(&self, at: usize, entry: SwapEntry, write: bool) -> Result<(), SwapInError> {
        let back = self.mm.swap_in(entry, &mut || self.fresh())?;
        let desc = self.desc(back.pfn);
        self.with(at, |pte| {
            if pte.state == State::Swap(entry) {
                desc.get();
                self.mm.add_mapping(back.pfn);
                pte.state = State::Page { pfn: back.pfn, writable: false, dirty: false };
                self.mm.swap_free(entry);
            }
        });
        if write || self.mm.swap_is_half_full() {
            self.mm.swap_take_over(back.pfn);
        }
        desc.unlock();
        // If it came too late the page may be nobody's.
        self.mm.swap_unmapped(back.pfn);
        self.mm.put_lru(back.pfn);
        self.mm.swap_settle();
        Ok(())
    }

    /// Swaps the page of an entry out, if it has one that can be had.
    pub(crate) fn swap_out(&self, at: usize) -> Option<Result<(), SwapOutError>> {
        let State::Page { pfn, .. } = self.state(at) else { return None };
        if !self.mm.lru_isolate(pfn) {
            return None;
        }
        let desc = self.desc(pfn);
        if !desc.try_lock() {
            self.mm.lru_putback(pfn);
            return None;
        }
        let result = self.mm.swap_out(pfn, &mut |entry| self.unmap_all(pfn, entry));
        desc.unlock();
        if result.is_ok() {
            self.mm.lru_end_isolation(pfn);
            // As reclaim frees it.
            desc.set_count(1);
            self.mm.put_lru(pfn);
        } else {
            self.mm.lru_putback(pfn);
        }
        Some(result)
    }

    /// Has every entry that maps the page name its slot.
    fn unmap_all(&self, pfn: Pfn, entry: SwapEntry) {
        let desc = self.desc(pfn);
        for at in 0..self.ptes.len() {
            self.with(at, |pte| {
                if let State::Page { pfn: mapped, dirty, .. } = pte.state
                    && mapped == pfn
                    && self.mm.swap_dup(entry).is_ok()
                {
                    if dirty {
                        desc.set_lru(LruFlags::DIRTY);
                    }
                    pte.state = State::Swap(entry);
                    self.mm.drop_mapping(pfn);
                    let last = desc.put();
                    assert!(!last, "the cache has a reference");
                }
            });
        }
    }

    /// Brings back all that is on a device.
    pub(crate) fn swapoff(&self, name: &str) -> Result<(), SwapOffError> {
        self.mm.swapoff_with(name, &mut |index| {
            for at in 0..self.ptes.len() {
                match self.state(at) {
                    State::Swap(entry) if entry.device() == index => {}
                    _ => continue,
                }
                match self.access(at, None) {
                    Access::Done | Access::Nothing => {}
                    Access::Io => return Err(SwapOffError::Io),
                    Access::NoMemory => return Err(SwapOffError::NoMemory),
                }
            }
            Ok(())
        })
    }

    /// All is whole, at rest.
    pub(crate) fn audit(&self) {
        let mut names = SwapNames::default();
        for at in 0..self.ptes.len() {
            if let State::Swap(entry) = self.state(at) {
                names.add(entry, 1);
            }
        }
        self.mm.audit_naming(names).expect("whole");
    }

    /// How many entries name slots.
    pub(crate) fn swapped(&self) -> usize {
        (0..self.ptes.len()).filter(|&at| matches!(self.state(at), State::Swap(_))).count()
    }

    /// Unmaps everything.
    pub(crate) fn clear(&self) {
        (0..self.ptes.len()).for_each(|at| self.unmap(at));
        self.mm.lru_drain_all();
    }
}
