//! Where groups are: pages of them, found by number. A page of which no group is
//! used goes back when memory is wanted. May call: `alloc`, `free`.
//!
//! ```text
//! dirs[table >> 10] -> page of words [table & 1023] -> page of groups [number % GROUPS]
//! ```

use super::group::Group;
use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{NIL, link, linked};
use crate::platform::Platform;
use crate::reclaim::{Shrinker, Shrunk};
use crate::sync::{AtomicU32, Cpu, Lock, LockRank, Ordering, Ordering::Relaxed};
use crate::types::{NodeId, Order, PAGE_SIZE, Pfn};

/// Pages of words that name tables, at most.
const DIRS: usize = 64;
/// Words in such a page.
const DIR: u32 = (PAGE_SIZE / size_of::<u32>()) as u32;
/// Groups in a table.
pub(super) const GROUPS: u32 = ((PAGE_SIZE - size_of::<Head>()) / size_of::<Group>()) as u32;
/// Tables that are given back after one wait for the other CPUs.
const BATCH: usize = 16;

/// A page of groups.
#[repr(C)]
struct Table {
    head: Head,
    groups: [Group; GROUPS as usize],
}

const _: () = assert!(size_of::<Table>() <= PAGE_SIZE);

/// What is known of a table; changes under the lock of [`Made`].
#[repr(align(8))]
struct Head {
    used: AtomicU32,
    /// The first free group, by its place in the table.
    free: AtomicU32,
    /// Its neighbours in the list that it is in.
    next: AtomicU32,
    prev: AtomicU32,
}

/// All groups of a machine.
pub(crate) struct Groups {
    dirs: [AtomicU32; DIRS],
    made: Lock<Made>,
}

struct Made {
    /// Tables with used and with free groups.
    partial: u32,
    /// Tables of which no group is used.
    empty: u32,
    empties: u64,
    /// No table of a lower number is missing.
    lowest: u32,
}

/// Why a table could not be entered.
enum NotEntered {
    /// A page of words is needed for it.
    NeedsDir,
    /// There are as many as can be told apart.
    Full,
}

impl Groups {
    pub(crate) const fn new() -> Self {
        let made = Made { partial: NIL, empty: NIL, empties: 0, lowest: 0 };
        Self { dirs: [const { AtomicU32::new(NIL) }; DIRS], made: Lock::new(LockRank::Leaf, made) }
    }
}

impl<P: Platform> Mm<P> {
    fn group_word(&self, dir: Pfn, at: u32) -> &AtomicU32 {
        // SAFETY: such a page was filled with words before it was entered, and
        // is never given back.
        unsafe { &*self.platform.frame(dir).cast::<AtomicU32>().add((at % DIR) as usize) }
    }

    /// The table of that number, if there is one.
    ///
    /// # Safety
    /// For as long as the result is used the caller has a group of the table, or
    /// the lock of those that are made, or has had his CPU's token since before
    /// the call.
    unsafe fn group_table(&self, number: u32) -> Option<&Table> {
        let dir = self.groups.dirs.get((number / DIR) as usize)?.load(Ordering::Acquire);
        let page = self.group_word(linked(dir)?, number % DIR).load(Ordering::Acquire);
        let table = self.platform.frame(linked(page)?).cast::<Table>();
        // SAFETY: filled before it was entered. Whoever takes it out sees under
        // the lock that no group of it is used, and waits for all CPUs' tokens.
        Some(unsafe { &*table })
    }

    /// The group of that number, if there is one; used or not.
    ///
    /// # Safety
    /// The caller has the group, or has had his CPU's token since before the call
    /// for as long as the result is used.
    pub(super) unsafe fn group(&self, number: u32) -> Option<&Group> {
        // SAFETY: the caller's word.
        let table = unsafe { self.group_table(number / GROUPS) }?;
        table.groups.get((number % GROUPS) as usize)
    }

    /// Takes a free group. None if there is none.
    fn group_take(&self) -> Option<u32> {
        let cpu = self.enter();
        let mut made = self.groups.made.lock(&cpu);
        // What is used already is filled first.
        let number = if made.partial == NIL { made.empty } else { made.partial };
        // SAFETY: under the lock.
        let table = unsafe { self.group_table(number) }?;
        let head = &table.head;
        if head.used.load(Relaxed) == 0 {
            self.unlink_table(&mut made.empty, head);
            made.empties -= 1;
            self.link_table(&mut made.partial, number, head);
        }
        let at = head.free.load(Relaxed);
        let next = table.groups.get(at as usize)?.next_free.swap(NIL, Relaxed);
        head.free.store(next, Relaxed);
        head.used.fetch_add(1, Relaxed);
        if next == NIL {
            self.unlink_table(&mut made.partial, head);
        }
        Some(number * GROUPS + at)
    }

    /// A group without members. May wait; no lock held.
    pub(crate) fn group_new(&self) -> Result<u32, AllocError> {
        loop {
            if let Some(group) = self.group_take() {
                return Ok(group);
            }
            self.groups_grow()?;
        }
    }

    /// Gives a group without members up.
    pub(crate) fn group_free(&self, group: u32) {
        let (number, at) = (group / GROUPS, group % GROUPS);
        let cpu = self.enter();
        let mut made = self.groups.made.lock(&cpu);
        // SAFETY: under the lock.
        let Some(table) = (unsafe { self.group_table(number) }) else { return };
        let (head, Some(group)) = (&table.head, table.groups.get(at as usize)) else { return };
        let next = head.free.swap(at, Relaxed);
        group.next_free.store(next, Relaxed);
        if next == NIL {
            self.link_table(&mut made.partial, number, head);
        }
        if head.used.fetch_sub(1, Relaxed) == 1 {
            self.unlink_table(&mut made.partial, head);
            self.link_table(&mut made.empty, number, head);
            made.empties += 1;
        }
    }

    /// Puts a table in front of the list that begins at `first`.
    fn link_table(&self, first: &mut u32, number: u32, head: &Head) {
        let next = core::mem::replace(first, number);
        head.next.store(next, Relaxed);
        head.prev.store(NIL, Relaxed);
        // SAFETY: the caller has the lock, as `first` shows.
        if let Some(next) = unsafe { self.group_table(next) } {
            next.head.prev.store(number, Relaxed);
        }
    }

    /// Takes a table out of the list that begins at `first`.
    fn unlink_table(&self, first: &mut u32, head: &Head) {
        let (prev, next) = (head.prev.load(Relaxed), head.next.load(Relaxed));
        // SAFETY: the caller has the lock, as `first` shows.
        let (before, after) = unsafe { (self.group_table(prev), self.group_table(next)) };
        match before {
            Some(before) => before.head.next.store(next, Relaxed),
            None => *first = next,
        }
        if let Some(after) = after {
            after.head.prev.store(prev, Relaxed);
        }
    }

    /// Adds a table.
    fn groups_grow(&self) -> Result<(), AllocError> {
        let request = Request::new(Order(0), Gfp::KERNEL);
        let page = self.alloc_pages(request)?;
        self.fill_table(page.pfn);
        let mut dir = None;
        let entered = loop {
            match self.enter_table(page.pfn, &mut dir) {
                Ok(()) => break Ok(()),
                Err(NotEntered::Full) => break Err(AllocError::NoMemory),
                Err(NotEntered::NeedsDir) => match self.alloc_pages(request) {
                    Ok(new) => dir = Some(new),
                    Err(why) => break Err(why),
                },
            }
        };
        let unused = if entered.is_ok() { None } else { Some(page) };
        for page in [dir, unused].into_iter().flatten() {
            let _ = self.free_pages(page);
        }
        entered
    }

    /// Makes a page of ours a table of free groups.
    fn fill_table(&self, page: Pfn) {
        let table = self.platform.frame(page).cast::<Table>();
        let head = Head {
            used: AtomicU32::new(0),
            free: AtomicU32::new(0),
            next: AtomicU32::new(NIL),
            prev: AtomicU32::new(NIL),
        };
        // SAFETY: the page is ours alone and has room for a table.
        unsafe { (&raw mut (*table).head).write(head) };
        for at in 0..GROUPS {
            let next = if at + 1 < GROUPS { at + 1 } else { NIL };
            // SAFETY: as above.
            unsafe { (&raw mut (*table).groups[at as usize]).write(Group::new(next)) };
        }
    }

    /// Enters a table under the lowest number that is free; takes `dir` if a page
    /// of words is needed.
    fn enter_table(&self, page: Pfn, dir: &mut Option<Page>) -> Result<(), NotEntered> {
        let cpu = self.enter();
        let mut made = self.groups.made.lock(&cpu);
        let mut number = made.lowest;
        let word = loop {
            let entry = self.groups.dirs.get((number / DIR) as usize).ok_or(NotEntered::Full)?;
            if entry.load(Relaxed) == NIL {
                let new = dir.take().ok_or(NotEntered::NeedsDir)?;
                // SAFETY: the page is ours alone; all words become NIL.
                unsafe { self.platform.frame(new.pfn).write_bytes(0xff, PAGE_SIZE) };
                entry.store(link(new.pfn), Ordering::Release);
            }
            let words = linked(entry.load(Relaxed)).ok_or(NotEntered::Full)?;
            let word = self.group_word(words, number % DIR);
            if word.load(Relaxed) == NIL {
                break word;
            }
            number += 1;
        };
        word.store(link(page), Ordering::Release);
        made.lowest = number + 1;
        // SAFETY: under the lock.
        if let Some(table) = unsafe { self.group_table(number) } {
            self.link_table(&mut made.empty, number, &table.head);
            made.empties += 1;
        }
        Ok(())
    }

    /// Takes a table of which no group is used out of everybody's sight. Its page
    /// is to be freed when all CPUs have been waited for.
    fn take_empty_table(&self) -> Option<Pfn> {
        let cpu = self.enter();
        let mut made = self.groups.made.lock(&cpu);
        let number = made.empty;
        // SAFETY: under the lock.
        let head = unsafe { &self.group_table(number)?.head };
        let dir = linked(self.groups.dirs.get((number / DIR) as usize)?.load(Relaxed))?;
        self.unlink_table(&mut made.empty, head);
        made.empties -= 1;
        made.lowest = made.lowest.min(number);
        linked(self.group_word(dir, number % DIR).swap(NIL, Relaxed))
    }

    /// Gives back up to `most` pages of groups that no region needs; returns how
    /// many. Waits for all CPUs: called with interrupts on and no lock held.
    pub fn shrink_groups(&self, most: u64) -> u64 {
        let mut given = 0;
        loop {
            let want = most.saturating_sub(given).min(BATCH as u64) as usize;
            let mut tables = [None; BATCH];
            let mut taken = 0;
            while taken < want
                && let Some(table) = self.take_empty_table()
            {
                tables[taken] = Some(table);
                taken += 1;
            }
            if taken == 0 {
                return given;
            }
            // Whoever has found one by a number that is out of date holds his
            // CPU's token for as long as he looks.
            Cpu::on_each(&self.platform, &|_| ());
            for pfn in tables.into_iter().flatten() {
                let _ = self.free_pages(Page { pfn, order: Order(0) });
            }
            given += taken as u64;
        }
    }
}

/// Pages of groups that no region needs; an object is a page.
pub(crate) struct FreeGroups;

impl<P: Platform> Shrinker<P> for FreeGroups {
    fn count(&self, mm: &Mm<P>, node: NodeId) -> u64 {
        // They are not kept by node: they are the first one's business.
        if node != NodeId(0) {
            return 0;
        }
        let cpu = mm.enter();
        mm.groups.made.lock(&cpu).empties
    }

    fn scan(&self, mm: &Mm<P>, _node: NodeId, scan: u64) -> Option<Shrunk> {
        let pages = mm.shrink_groups(scan);
        (pages > 0).then_some(Shrunk { objects: pages, pages })
    }

    /// They need not be read from anywhere.
    fn seeks(&self) -> u32 {
        1
    }
}
