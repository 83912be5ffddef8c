//! Moving pages of type Lru: everybody who maps one waits, its cache has the
//! other one in its place, and whoever used it goes on there (Linux
//! `migrate_pages_batch`, `folio_migrate_mapping`). May call: `lru`, `rmap`,
//! `swap`, the page caches.
//!
//! Pages are moved a batch at a time, so that all CPUs are told once for many.
//! Each is locked, then the entries of all are stopped; after the flush each is
//! frozen: from then on nobody can reach it, and its content and what is known of
//! it are final. Their users go on when all are at their new places. Nothing of the target is written before, so that there is nothing to
//! take back. With a batch begun nobody waits for anything but that flush: what
//! takes patience is moved alone.

use super::Emptied;
use super::batch::Migrated;
use crate::list::PageList;
use crate::lru::Turn;
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, PageDesc, PageFlags, PageType};
use crate::platform::Platform;
use crate::rmap::{Key, Places, Target};
use crate::sync::Ordering::Release;
use crate::types::{Order, Pfn};

/// Pages that are moved with one flush.
const BATCH: usize = 32;

/// A page that moves.
#[derive(Clone, Copy)]
struct Move {
    src: Pfn,
    dst: Pfn,
    step: Step,
    /// A cache has it.
    cached: bool,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing has been done, or all has been undone.
    Waits,
    /// It is locked.
    Locked,
    /// Its content is at `dst`, and `src` has no more references.
    Moved,
    /// The same, and `src` is free, `dst` not locked.
    Done,
    /// Nobody had it any more: `src` is free, `dst` not used.
    Gone,
}

impl Move {
    const NONE: Self = Self { src: Pfn(0), dst: Pfn(0), step: Step::Waits, cached: false };
}

impl<P: Platform> Mm<P> {
    /// Moves the isolated blocks of type Lru on `list`; those that something is
    /// in the way of go to `again`, those of drivers to `others`. What is left on
    /// `list` had no place to go to.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "what a pass over a list goes with")]
    pub(super) fn migrate_mapped(
        &self,
        list: &mut PageList,
        others: &mut PageList,
        order: Order,
        target: &mut dyn FnMut() -> Option<Pfn>,
        unused: &mut dyn FnMut(Pfn),
        patient: bool,
        again: &mut PageList,
        emptied: &mut Emptied,
        result: &mut Migrated,
    ) {
        let most = if patient { 1 } else { BATCH };
        while !list.is_empty() && !result.out_of_memory {
            let mut moves = [Move::NONE; BATCH];
            let (mut len, mut entries) = (0, 0);
            while len < most
                && let Some(src) = list.first()
            {
                if !self.is_mapped(src, order) {
                    list.pop_front(&self.map);
                    others.push_back(&self.map, src);
                    continue;
                }
                entries += self.map.page(src).mapcount() as usize;
                if len > 0 && entries > Places::MOST {
                    break;
                }
                // Before anything is locked: it may take waiting.
                let Some(dst) = target() else {
                    result.out_of_memory = true;
                    break;
                };
                list.take_front(&self.map);
                moves[len] = Move { src, dst, ..Move::NONE };
                len += 1;
            }
            let moves = &mut moves[..len];
            self.move_batch(moves, order, patient, emptied);
            for one in moves {
                match one.step {
                    Step::Moved | Step::Done => result.moved += order.pages() as u32,
                    Step::Gone => {
                        result.moved += order.pages() as u32;
                        unused(one.dst);
                    }
                    Step::Waits | Step::Locked => {
                        again.push_back(&self.map, one.src);
                        unused(one.dst);
                    }
                }
            }
        }
    }

    fn move_batch(&self, moves: &mut [Move], order: Order, patient: bool, emptied: &mut Emptied) {
        let mut pages = [Target { pfn: Pfn(0), key: None, stopped: 0 }; BATCH];
        let pages = &mut pages[..moves.len()];
        let mut places = Places::new();
        for (one, page) in moves.iter_mut().zip(&mut *pages) {
            page.pfn = one.src;
            page.key = self.begin_move(one, order, patient, emptied);
        }
        self.stop_users(pages, &mut places);
        self.flush_places(&places);
        for (one, page) in moves.iter_mut().zip(&*pages) {
            if one.step == Step::Locked && self.move_stopped(one, order, page.stopped) {
                one.step = Step::Moved;
            }
        }
        self.resume_users(&places, |page| {
            let one = &moves[page];
            if one.step == Step::Moved { one.dst } else { one.src }
        });
        self.let_go_places(&mut places);
        let (mut moved, mut len) = ([Pfn(0); BATCH], 0);
        for one in moves {
            let (to, from) = (self.map.page(one.dst), self.map.page(one.src));
            match one.step {
                Step::Moved => {
                    to.unlock();
                    self.forget_source(one.src, order, from, emptied);
                }
                Step::Done => {}
                Step::Locked => {
                    from.unlock();
                    continue;
                }
                Step::Waits | Step::Gone => continue,
            }
            moved[len] = one.dst;
            len += 1;
        }
        self.lru_list_all(&moved[..len], Turn::Last);
    }

    /// Locks a page; returns where its users are to be found, if there are any.
    fn begin_move(
        &self,
        one: &mut Move,
        order: Order,
        patient: bool,
        emptied: &mut Emptied,
    ) -> Option<Key> {
        let from = self.map.page(one.src);
        if patient {
            self.lock_page(from);
        } else if !from.try_lock() {
            return None;
        }
        // Only the isolation has it: it is free but for that.
        if from.freeze(1) {
            self.end_locked(one.src, from.head());
            self.forget_source(one.src, order, from, emptied);
            one.step = Step::Gone;
            return None;
        }
        let flags = from.head().lru();
        if flags.contains(LruFlags::WRITEBACK) {
            from.unlock();
            return None;
        }
        one.step = Step::Locked;
        one.cached = !flags.contains(LruFlags::ANON) || flags.contains(LruFlags::SWAPCACHE);
        let mapped = from.mapcount() as usize;
        if mapped > Places::MOST {
            one.step = self.move_shared(one, order, emptied);
            return None;
        }
        self.rmap_key(from).filter(|_| mapped > 0)
    }

    /// Moves the content of a locked page, of which `mapped` entries are stopped,
    /// and all that is known of it, if nobody else uses it.
    fn move_stopped(&self, one: &Move, order: Order, mapped: u32) -> bool {
        let from = self.map.page(one.src);
        // Ours, the cache's and the entries'. One more is somebody's who uses it
        // just now, or an entry's that nobody finds just now.
        let count = 1 + u32::from(one.cached) + mapped;
        if from.mapcount() != mapped || !from.freeze(count) {
            return false;
        }
        self.move_content(one, order, count, mapped);
        true
    }

    /// Moves a locked page that is mapped ever so often.
    #[cold]
    fn move_shared(&self, one: &Move, order: Order, emptied: &mut Emptied) -> Step {
        let (to, from) = (self.map.page(one.dst), self.map.page(one.src));
        let Some(key) = self.rmap_key(from) else { return Step::Locked };
        let count = 1 + u32::from(one.cached);
        if self.start_moving(one.src).is_none() || !from.freeze(count) {
            self.end_moving(key, one.src, one.src);
            from.unlock();
            return Step::Waits;
        }
        self.move_content(one, order, count, 0);
        self.end_moving(key, one.src, one.dst);
        to.unlock();
        self.forget_source(one.src, order, from, emptied);
        Step::Done
    }

    /// Makes the target what a frozen page was, with `count` references.
    fn move_content(&self, one: &Move, order: Order, count: u32, mapped: u32) {
        let &Move { src, dst, cached, .. } = one;
        let (to, from) = (self.map.page(dst), self.map.page(src));
        if order == Order(0) {
            self.copy_frame(dst, src);
        } else {
            self.copy_block(dst, src, order);
        }
        dress_lru(to, from, order, count, mapped);
        self.count_moved(dst, src, to);
        if cached {
            self.move_in_cache(dst, src);
        }
    }

    #[cold]
    fn move_in_cache(&self, dst: Pfn, src: Pfn) {
        let from = self.map.page(src);
        if from.head().lru().contains(LruFlags::SWAPCACHE) {
            self.swap_move(dst, src);
        } else if let Some(ops) = self.cache_ops(from) {
            ops.replace(self, dst, src);
        }
    }

    /// Frees a block that is locked and frozen.
    fn forget_source(&self, pfn: Pfn, order: Order, desc: &PageDesc, emptied: &mut Emptied) {
        self.lru_end_isolation(pfn);
        desc.unlock();
        self.free_emptied_page(pfn, order, desc, emptied);
    }
}

/// Makes a target what the page was that moves there: locked, on no list.
fn dress_lru(to: &PageDesc, from: &PageDesc, order: Order, count: u32, mapped: u32) {
    to.set_owner(from.owner());
    to.set_both(from.both());
    to.set_inuse(mapped);
    to.set_next(0);
    to.set_prev(0);
    let flags = from.head().lru() - LruFlags::LISTED;
    to.remake(HeadWord::new(PageType::Lru, order).with(PageFlags::LOCKED).with_lru(flags));
    to.count_word().store(count, Release);
}
