//! Moving single pages: what they hold and who owns them goes along, whatever
//! their owner does meanwhile.

use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::herd::Herd;
use crate::hold::Block;
use crate::{check, check_eq, check_ok, skip};
use mm::list::PageList;
use mm::migrate::{MigrateMode, Migrated, NotIsolated};
use mm::page::{PageFlags, PageType};
use mm::platform::Platform;
use mm::types::{Order, Pfn};
use mm::{Gfp, Mm, Page, Request};

suite! {
    /// Migration of movable pages.
    Migrate = "migrate" {
        quick content_goes_along,
        quick put_back_pages_stay,
        quick freed_while_isolated,
        quick isolated_once_only,
        quick pinned_pages_stay,
        quick nowhere_to_go,
        quick only_movable_pages_are_isolated,
    }
}

const TRY: Gfp = Gfp::HIGHUSER_MOVABLE.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// A herd of `pages` movable pages.
fn herd_of<P: Platform>(ground: &Ground<P>, pages: u64) -> CaseResult<Herd<P>> {
    let mut herd = Herd::thorough(ground);
    herd.fill(TRY, pages)?;
    if herd.pages() < pages {
        skip!("no memory for {pages} pages");
    }
    Ok(herd)
}

/// Pages isolated by a case: put back when it ends.
struct Isolated<P: Platform> {
    mm: &'static Mm<P>,
    list: PageList,
}

impl<P: Platform> Isolated<P> {
    /// Those of `frames` that can be isolated.
    fn of(mm: &'static Mm<P>, frames: &[Pfn]) -> Self {
        let mut list = PageList::new();
        for &pfn in frames {
            if mm.isolate_movable(pfn, MigrateMode::Sync).is_ok() {
                list.push_back(mm.map(), pfn);
            }
        }
        Self { mm, list }
    }

    /// Moves them to frames from `target`.
    fn move_to(&mut self, target: &mut dyn FnMut() -> Option<Pfn>) -> Migrated {
        let mm = self.mm;
        let mut unused = |pfn| {
            // A refusal shows in the tally.
            let _ = mm.free_pages(Page { pfn, order: Order(0) });
        };
        mm.migrate_pages(&mut self.list, target, &mut unused, MigrateMode::Sync)
    }

    /// Moves them to fresh pages.
    fn move_all(&mut self) -> Migrated {
        let mm = self.mm;
        self.move_to(&mut || mm.alloc_pages(Request::new(Order(0), TRY)).ok().map(|page| page.pfn))
    }
}

impl<P: Platform> Drop for Isolated<P> {
    fn drop(&mut self) {
        self.mm.putback_list(&mut self.list);
    }
}

fn content_goes_along<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let herd = herd_of(t.on, 64)?;
    let (mut before, mut after) = ([Pfn(0); 64], [Pfn(0); 64]);
    herd.frames(&mut before)?;
    let mut isolated = Isolated::of(mm, &before);
    check_eq!(isolated.list.len(), 64, "pages isolated");
    let moved = isolated.move_all();
    drop(isolated);
    check_eq!((moved.moved, moved.failed), (64, 0), "pages moved and not");
    herd.verify()?;
    herd.frames(&mut after)?;
    for (was, is) in before.into_iter().zip(after) {
        check!(was != is, "the page in {was:?} was not moved");
        let head = check_ok!(mm.map().try_page(is)).head();
        check!(head.is(PageType::Movable, Order(0)), "{is:?} is {head:?}");
        let busy = PageFlags::ISOLATED | PageFlags::LOCKED | PageFlags::RELEASED;
        check!(!head.flags().intersects(busy), "{is:?} is still {head:?}");
    }
    herd.release()
}

fn put_back_pages_stay<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let herd = herd_of(t.on, 16)?;
    let (mut before, mut after) = ([Pfn(0); 16], [Pfn(0); 16]);
    herd.frames(&mut before)?;
    for round in 0..2 {
        let isolated = Isolated::of(mm, &before);
        check_eq!(isolated.list.len(), 16, "pages isolated in round {round}");
        drop(isolated);
        herd.frames(&mut after)?;
        check_eq!(after, before, "frames");
    }
    herd.release()
}

fn freed_while_isolated<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    for migrate in [false, true] {
        let mut herd = herd_of(t.on, 4)?;
        let mut frames = [Pfn(0); 4];
        herd.frames(&mut frames)?;
        let mut isolated = Isolated::of(mm, &frames);
        // Their owner lets go of two of the four.
        for _ in 0..2 {
            check_ok!(arena.free(mm, check_ok!(herd.pop()?)));
        }
        if migrate {
            let moved = isolated.move_all();
            check_eq!((moved.moved, moved.failed), (4, 0), "pages gone and not");
        }
        drop(isolated);
        for &pfn in &frames[..2] {
            let head = check_ok!(mm.map().head_of(pfn)).1;
            check!(matches!(head.ty(), PageType::Buddy | PageType::Pcp), "{pfn:?} is {head:?}");
        }
        herd.release()?;
    }
    Ok(())
}

fn isolated_once_only<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let herd = herd_of(t.on, 1)?;
    let mut frame = [Pfn(0)];
    herd.frames(&mut frame)?;
    let isolated = Isolated::of(mm, &frame);
    check_eq!(isolated.list.len(), 1, "pages isolated");
    check_eq!(mm.isolate_movable(frame[0], MigrateMode::Sync), Err(NotIsolated));
    drop(isolated);
    check_eq!(Isolated::of(mm, &frame).list.len(), 1, "pages isolated after putback");
    herd.release()
}

fn pinned_pages_stay<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    let herd = herd_of(t.on, 1)?;
    let handle = check_ok!(herd.top());
    let pfn = check_ok!(arena.pin(mm, handle));
    let refused = mm.isolate_movable(pfn, MigrateMode::Sync);
    check_ok!(arena.unpin(mm, handle));
    check_eq!(refused, Err(NotIsolated));
    check_eq!(Isolated::of(mm, &[pfn]).list.len(), 1, "pages isolated when unpinned");
    herd.release()
}

fn nowhere_to_go<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let herd = herd_of(t.on, 8)?;
    let (mut before, mut after) = ([Pfn(0); 8], [Pfn(0); 8]);
    herd.frames(&mut before)?;
    let mut isolated = Isolated::of(mm, &before);
    // Room for three of the eight.
    let mut room = 3;
    let moved = isolated.move_to(&mut || {
        if room == 0 {
            return None;
        }
        room -= 1;
        mm.alloc_pages(Request::new(Order(0), TRY)).ok().map(|page| page.pfn)
    });
    drop(isolated);
    check_eq!((moved.moved, moved.failed), (3, 5), "pages moved and not");
    check!(moved.out_of_memory, "it was not said that memory was short");
    herd.frames(&mut after)?;
    let stayed = before.iter().zip(&after).filter(|(was, is)| was == is).count();
    check_eq!(stayed, 5, "pages that stayed");
    herd.release()
}

fn only_movable_pages_are_isolated<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let block = check_ok!(Block::alloc(mm, Request::new(Order(1), TRY)));
    let pfn = block.pfn();
    for pfn in [pfn, pfn.add(1), Pfn(0), mm.map().end(), Pfn(u64::MAX)] {
        check_eq!(mm.isolate_movable(pfn, MigrateMode::Sync), Err(NotIsolated), "{pfn:?}");
    }
    check_ok!(block.free());
    check_eq!(mm.isolate_movable(pfn, MigrateMode::Sync), Err(NotIsolated), "{pfn:?}, free");
    Ok(())
}
