//! Moving a page of type Lru: everybody who maps it waits, its cache has the
//! other one in its place, and whoever used it goes on there (Linux
//! `move_to_new_folio`, `folio_migrate_mapping`). May call: `lru`, `rmap`,
//! `swap`, the page caches.
//!
//! The source is locked, then unmapped, then frozen: from then on nobody can
//! reach it, and its content and what is known of it are final. Nothing of the
//! target is written before, so that there is nothing to take back.

use super::{Emptied, MigrateError};
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, PageDesc, PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Release;
use crate::types::{Order, Pfn};

impl<P: Platform> Mm<P> {
    /// Moves an isolated block of type Lru to `dst`, another of the same order
    /// that is the caller's. Ok(false): nobody had it any more, and `dst` is
    /// still the caller's.
    #[inline(never)]
    pub(super) fn migrate_lru(
        &self,
        dst: Pfn,
        src: Pfn,
        order: Order,
        patient: bool,
        emptied: &mut Emptied,
    ) -> Result<bool, MigrateError> {
        let from = self.map.page(src);
        if patient {
            self.lock_page(from);
        } else if !from.try_lock() {
            return Err(MigrateError::Again);
        }
        // Only the isolation has it: it is free but for that.
        if from.freeze(1) {
            self.forget_source(src, order, from, emptied);
            return Ok(false);
        }
        let moved = self.move_lru(dst, src, order);
        match moved {
            Ok(()) => self.forget_source(src, order, from, emptied),
            Err(_) => from.unlock(),
        }
        moved.map(|()| true)
    }

    /// Frees a block that is locked and frozen.
    fn forget_source(&self, pfn: Pfn, order: Order, desc: &PageDesc, emptied: &mut Emptied) {
        self.lru_end_isolation(pfn);
        desc.unlock();
        self.free_emptied_page(pfn, order, desc, emptied);
    }

    /// Moves a locked block, which is frozen after that.
    fn move_lru(&self, dst: Pfn, src: Pfn, order: Order) -> Result<(), MigrateError> {
        let (to, from) = (self.map.page(dst), self.map.page(src));
        let flags = from.head().lru();
        if flags.contains(LruFlags::WRITEBACK) {
            return Err(MigrateError::Again);
        }
        let key = self.rmap_key(from).filter(|_| from.mapcount() > 0);
        let cached = !flags.contains(LruFlags::ANON) || flags.contains(LruFlags::SWAPCACHE);
        let of_cache = u32::from(cached);
        // Ours and the cache's. One more is somebody's who uses it just now.
        let unmapped = key.is_none() || self.start_moving(src);
        if !unmapped || !from.freeze(1 + of_cache) {
            if let Some(key) = key {
                self.end_moving(key, src, src);
            }
            return Err(MigrateError::Again);
        }
        if order == Order(0) {
            self.copy_frame(dst, src);
        } else {
            self.copy_block(dst, src, order);
        }
        self.dress_lru(to, from, order, 1 + of_cache);
        if flags.contains(LruFlags::SWAPCACHE) {
            self.swap_move(dst, src);
        } else if let Some(ops) = self.cache_ops(from).filter(|_| cached) {
            ops.replace(self, dst, src);
        }
        if let Some(key) = key {
            self.end_moving(key, src, dst);
        }
        to.unlock();
        self.lru_add(dst);
        self.put_lru(dst);
        Ok(())
    }

    /// Makes a target what the page was that moves there: locked, on no list.
    fn dress_lru(&self, to: &PageDesc, from: &PageDesc, order: Order, count: u32) {
        to.set_owner(from.owner());
        to.set_both(from.both());
        to.set_inuse(0);
        to.set_next(0);
        to.set_prev(0);
        let kept = to.head().flags() & PageFlags::KEPT;
        let flags = from.head().lru() - LruFlags::LISTED;
        let word = HeadWord::new(PageType::Lru, order).with(kept | PageFlags::LOCKED);
        to.set_head(word.with_lru(flags));
        to.count_word().store(count, Release);
    }
}
