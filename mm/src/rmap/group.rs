//! The table of groups. May call: `alloc`.

use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{NIL, link, linked};
use crate::platform::Platform;
use crate::space::region::{ByGroup, Region};
use crate::sync::{AtomicU32, Cpu, Lock, LockGuard, LockRank, Ordering};
use crate::types::{Order, PAGE_SIZE, Pfn};
use core::ptr::NonNull;
use intrusive_collections::{LinkedList, UnsafeRef};

/// Pages of words that name pages of groups, at most.
const DIRS: usize = 64;
/// Words in such a page.
const DIR: u32 = (PAGE_SIZE / size_of::<u32>()) as u32;
/// Groups in a page of groups.
const GROUPS: u32 = (PAGE_SIZE / size_of::<Group>()) as u32;

/// The regions that may have a group's pages, oldest first.
pub(crate) type Members = LinkedList<ByGroup>;

struct Group {
    members: Lock<Members>,
    /// The next free group, of one that is free.
    next_free: AtomicU32,
}

/// All groups of a machine.
pub(crate) struct Groups {
    dirs: [AtomicU32; DIRS],
    made: Lock<Made>,
}

struct Made {
    groups: u32,
    free: u32,
}

impl Groups {
    pub(crate) const fn new() -> Self {
        Self {
            dirs: [const { AtomicU32::new(NIL) }; DIRS],
            made: Lock::new(LockRank::Leaf, Made { groups: 0, free: NIL }),
        }
    }
}

impl<P: Platform> Mm<P> {
    /// The group of that number, if there ever was one.
    fn group(&self, number: u32) -> Option<&Group> {
        let table = number / GROUPS;
        let dir = self.groups.dirs.get((table / DIR) as usize)?.load(Ordering::Acquire);
        let page = self.group_word(linked(dir)?, table % DIR).load(Ordering::Acquire);
        let first = self.platform.frame(linked(page)?).cast::<Group>();
        // SAFETY: a page that the table names was filled with groups before, and
        // is never given back.
        Some(unsafe { &*first.add((number % GROUPS) as usize) })
    }

    fn group_word(&self, dir: Pfn, at: u32) -> &AtomicU32 {
        // SAFETY: such a page was filled with words before it was entered, and
        // is never given back.
        unsafe { &*self.platform.frame(dir).cast::<AtomicU32>().add((at % DIR) as usize) }
    }

    /// The regions of a group, locked; None if there never was such a group.
    pub(crate) fn members<'a>(
        &'a self,
        group: u32,
        cpu: &Cpu<'a, P>,
    ) -> Option<LockGuard<'a, Members>> {
        Some(self.group(group)?.members.lock(cpu))
    }

    /// A group without members. May wait; no lock held.
    pub(crate) fn group_new(&self) -> Result<u32, AllocError> {
        loop {
            {
                let cpu = self.enter();
                let mut made = self.groups.made.lock(&cpu);
                if let Some(group) = self.group(made.free) {
                    let next = group.next_free.swap(NIL, Ordering::Relaxed);
                    return Ok(core::mem::replace(&mut made.free, next));
                }
            }
            self.groups_grow()?;
        }
    }

    /// Has a region found by whoever walks its group. It is alive until
    /// [`group_leave`](Self::group_leave).
    pub(crate) fn group_join(&self, region: NonNull<Region>) {
        // SAFETY: the caller's region is alive.
        let group = unsafe { region.as_ref() }.group;
        let cpu = self.enter();
        if let Some(mut members) = self.members(group, &cpu) {
            // SAFETY: alive until it leaves, and nobody has a `&mut` to it.
            members.push_back(unsafe { UnsafeRef::from_raw(region.as_ptr()) });
        }
    }

    /// Takes a region that maps nothing any more out of its group, and gives the
    /// group up if it was the last.
    pub(crate) fn group_leave(&self, region: &Region) {
        let cpu = self.enter();
        let Some(mut members) = self.members(region.group, &cpu) else { return };
        // SAFETY: a region is in the list of the group that it names.
        let _ = unsafe { members.cursor_mut_from_ptr(region) }.remove();
        let empty = members.is_empty();
        drop(members);
        drop(cpu);
        // Who joins does so as a copy of a member: there will be none.
        if empty {
            self.group_free(region.group);
        }
    }

    /// Gives a group without members up.
    pub(crate) fn group_free(&self, number: u32) {
        let Some(group) = self.group(number) else { return };
        let cpu = self.enter();
        let mut made = self.groups.made.lock(&cpu);
        group.next_free.store(core::mem::replace(&mut made.free, number), Ordering::Relaxed);
    }

    /// Adds a page of groups.
    fn groups_grow(&self) -> Result<(), AllocError> {
        let request = Request::new(Order(0), Gfp::KERNEL);
        let page = self.alloc_pages(request)?;
        let mut dir = match self.alloc_pages(request) {
            Ok(dir) => Some(dir),
            Err(why) => {
                let _ = self.free_pages(page);
                return Err(why);
            }
        };
        let added = {
            let cpu = self.enter();
            let mut made = self.groups.made.lock(&cpu);
            self.groups_add(&mut made, page.pfn, &mut dir)
        };
        if let Some(dir) = dir {
            let _ = self.free_pages(dir);
        }
        if !added {
            let _ = self.free_pages(page);
            return Err(AllocError::NoMemory);
        }
        Ok(())
    }

    /// Fills `page` with free groups and enters it; takes `dir` if a page of
    /// words is needed. False if the table is full.
    fn groups_add(&self, made: &mut Made, page: Pfn, dir: &mut Option<Page>) -> bool {
        let table = made.groups / GROUPS;
        let Some(entry) = self.groups.dirs.get((table / DIR) as usize) else { return false };
        if entry.load(Ordering::Relaxed) == NIL {
            let Some(new) = dir.take() else { return false };
            // SAFETY: the page is ours alone; all words become NIL.
            unsafe { self.platform.frame(new.pfn).write_bytes(0xff, PAGE_SIZE) };
            entry.store(link(new.pfn), Ordering::Release);
        }
        let Some(dir) = linked(entry.load(Ordering::Relaxed)) else { return false };
        let first = made.groups;
        for i in 0..GROUPS {
            let next = if i + 1 < GROUPS { first + i + 1 } else { made.free };
            let group = Group {
                members: Lock::new(LockRank::Rmap, LinkedList::new(ByGroup::new())),
                next_free: AtomicU32::new(next),
            };
            // SAFETY: the page is ours alone and holds that many groups.
            unsafe { self.platform.frame(page).cast::<Group>().add(i as usize).write(group) };
        }
        self.group_word(dir, table % DIR).store(link(page), Ordering::Release);
        made.free = first;
        made.groups += GROUPS;
        true
    }
}
