//! Moving what can be moved out of an isolated range, a batch at a time. May
//! call: `places`, `migrate`, `pressure`.

use super::isolate::Isolated;
use super::places::{Places, Sought};
use super::walk::{Kind, heads};
use crate::gfp::{Gfp, Page};
use crate::list::PageList;
use crate::lru::Turn;
use crate::migrate::{MigrateMode, Migrated};
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, PageType};
use crate::platform::Platform;
use crate::pressure::Pressure;
use crate::space::MapError;
use crate::types::{Order, Pfn, PfnRange};

/// Pages that are isolated and moved at once.
const BATCH: u32 = 32;

/// What an attempt to empty a range came to. That a page has stayed is nothing
/// to be told: whether the range is free now decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Evacuation {
    /// All that could be moved was asked to.
    Done,
    /// There was no place to move a page to.
    OutOfMemory,
}

impl<P: Platform> Mm<P> {
    /// Asks the owners of all movable pages in `range`, which `isolated` covers,
    /// to move them elsewhere, to memory of the same node if there is any. May
    /// wait if `gfp` allows; no lock held.
    pub(crate) fn evacuate(
        &self,
        isolated: &Isolated<'_, P>,
        range: PfnRange,
        gfp: Gfp,
        sought: Sought,
    ) -> Evacuation {
        debug_assert!(isolated.covers(range));
        let places = Places { zone: isolated.zone(), gfp, sought };
        let mode = if gfp.can_block() { MigrateMode::Sync } else { MigrateMode::Atomic };
        let (mut list, mut cached) = (PageList::new(), PageList::new());
        // What CPUs have put by is on no list, and cannot be isolated.
        self.lru_drain_all();
        let mut has_places = true;
        for (pfn, word) in heads(&self.map, range) {
            if Kind::of(word.ty()) != Kind::Movable {
                continue;
            }
            if word.order().0 > 0 {
                has_places = self.move_block_or_split(pfn, word, &places, mode);
            } else if self.isolate_seen(pfn, word, mode).is_ok() {
                if word.ty() == PageType::Lru && is_cached(self.map.page(pfn).head()) {
                    cached.push_back(&self.map, pfn);
                    if cached.len() == BATCH {
                        self.discard_or(&mut cached, &mut list, gfp);
                    }
                } else {
                    list.push_back(&self.map, pfn);
                }
            }
            if list.len() >= BATCH {
                has_places = !self.move_away(&mut list, &places, mode).out_of_memory;
            }
            if !has_places {
                break;
            }
        }
        if has_places {
            self.discard_or(&mut cached, &mut list, gfp);
            has_places = !self.move_away(&mut list, &places, mode).out_of_memory;
        }
        // What is left when there are no places stays where it is.
        self.putback_list(&mut cached);
        self.putback_list(&mut list);
        if has_places { Evacuation::Done } else { Evacuation::OutOfMemory }
    }

    /// Frees those of some cached pages that can be had again; the others are to
    /// be moved.
    fn discard_or(&self, cached: &mut PageList, list: &mut PageList, gfp: Gfp) {
        if !cached.is_empty() {
            self.discard(cached, gfp);
        }
        while let Some(pfn) = cached.pop_front(&self.map) {
            list.push_back(&self.map, pfn);
        }
    }

    /// Moves one larger block, or makes small pages of it, which go one by one the
    /// next time they are met. False if there is no memory for either.
    #[cold]
    fn move_block_or_split(
        &self,
        pfn: Pfn,
        word: HeadWord,
        places: &Places<'_>,
        mode: MigrateMode,
    ) -> bool {
        if !self.move_block_away(pfn, word.order(), places, mode).out_of_memory {
            return true;
        }
        word.ty() == PageType::Lru && places.gfp.can_block() && self.take_apart(pfn)
    }

    /// Moves one larger block, if its owner lets it go.
    #[cold]
    fn move_block_away(
        &self,
        pfn: Pfn,
        order: Order,
        places: &Places<'_>,
        mode: MigrateMode,
    ) -> Migrated {
        if self.isolate_movable_block(pfn, order, mode).is_err() {
            return Migrated::default();
        }
        let mut list = PageList::of_one(&self.map, pfn);
        // A large page can be taken apart: no reason to try hard.
        let hard = self.map.page(pfn).head().ty() != PageType::Lru;
        let mut target = || self.place_for_block(places, order, hard);
        let mut unused = |pfn| {
            let freed = self.free_pages(Page { pfn, order });
            debug_assert!(freed.is_ok(), "a target is an allocated block");
        };
        let result = self.migrate_blocks(&mut list, order, &mut target, &mut unused, mode);
        self.putback_list(&mut list);
        result
    }

    /// Makes small pages of a large one where it is, if it still is one and nobody
    /// else uses it. False if there is no memory for that. May wait.
    #[cold]
    fn take_apart(&self, pfn: Pfn) -> bool {
        let desc = self.map.page(pfn);
        if desc.head().ty() != PageType::Lru || !desc.get_unless_zero() {
            return true;
        }
        self.lock_page(desc);
        // Between the look and the reference it may have become something else.
        let result = match desc.head().ty() {
            PageType::Lru => self.split_page(pfn, Turn::Last),
            _ => Ok(()),
        };
        desc.unlock();
        self.put_counted(pfn, desc);
        result != Err(MapError::NoMemory)
    }

    /// Moves what is on the list; what stays goes back to its owners.
    fn move_away(&self, list: &mut PageList, places: &Places<'_>, mode: MigrateMode) -> Migrated {
        let mut targets = [Pfn(0); BATCH as usize];
        let (mut next, mut end) = (0, 0);
        let mut left = (list.len() as usize).min(targets.len());
        let mut target = || {
            if next == end {
                next = 0;
                end = self.places_for(places, &mut targets[..left.max(1)]);
                if end == 0 {
                    return None;
                }
            }
            left = left.saturating_sub(1);
            next += 1;
            Some(targets[next - 1])
        };
        let give_back = |pages: &[Pfn]| {
            let freed = self.free_bulk(pages);
            debug_assert!(freed.is_ok(), "a target is an allocated page");
        };
        let result = self.migrate_pages(list, &mut target, &mut |pfn| give_back(&[pfn]), mode);
        give_back(&targets[next..end]);
        self.putback_list(list);
        result
    }
}

/// Whether a page is a copy of what is on a device, or is to be.
fn is_cached(word: HeadWord) -> bool {
    word.ty() == PageType::Lru && !word.lru().contains(LruFlags::ANON)
}
