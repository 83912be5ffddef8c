//! Bad memory: frames that are taken out of use, from wherever they are, and are
//! not seen again. All are put back in the end, for they are as good as any.

use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::herd::Herd;
use crate::hold::Block;
use crate::{check, check_eq, check_ok, skip};
use mm::page::PageType;
use mm::platform::Platform;
use mm::poison::{BadPage, PoisonError, Poisoned, Recovery};
use mm::proc::KPageFlags;
use mm::types::{Order, Pfn};
use mm::{Gfp, Mm, Request};

suite! {
    /// Bad memory.
    Poison = "poison" {
        quick free_goes_at_once,
        quick in_use_goes_when_it_is_freed,
        quick movable_is_moved_first,
        quick no_memory_cannot_be_bad,
    }
}

/// Bad frames that are good again when this goes.
struct Bad<P: Platform> {
    mm: &'static Mm<P>,
    frames: [Option<Pfn>; 8],
}

impl<P: Platform> Bad<P> {
    const fn new(mm: &'static Mm<P>) -> Self {
        Self { mm, frames: [None; 8] }
    }

    fn poison(&mut self, pfn: Pfn) -> Result<Poisoned, PoisonError> {
        let done = self.mm.poison_page(pfn)?;
        if let Some(slot) = self.frames.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(pfn);
        }
        Ok(done)
    }

    fn is_out(&self, pfn: Pfn) -> bool {
        let word = self.mm.map().head_of(pfn);
        word.is_some_and(|(head, word)| head == pfn && word.ty() == PageType::Poisoned)
    }
}

impl<P: Platform> Drop for Bad<P> {
    fn drop(&mut self) {
        for pfn in self.frames.into_iter().flatten() {
            // What was refused has been logged.
            let _ = self.mm.unpoison_page(pfn);
        }
    }
}

const fn done(page: BadPage, recovery: Recovery) -> Result<Poisoned, PoisonError> {
    Ok(Poisoned { page, recovery })
}

fn free_goes_at_once<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let (before, managed) = (mm.taken_pages(), mm.managed_pages());
    let mut bad = Bad::new(mm);
    for order in [0, 3, 5, 9, 10] {
        let block = check_ok!(Block::alloc(mm, Request::new(Order(order), Gfp::KERNEL)));
        let pfn = block.pfn().add(Order(order).pages() / 3);
        check_ok!(block.free());
        check_eq!(bad.poison(pfn), done(BadPage::Free, Recovery::Recovered), "order {order}");
        check!(bad.is_out(pfn), "{pfn:?} is still in use");
        check_eq!(mm.kpageflags(pfn), KPageFlags::HWPOISON);
        check_eq!(mm.poison_page(pfn), Err(PoisonError::Already));
    }
    check_eq!(mm.taken_pages(), before + 5);
    check_eq!(mm.managed_pages(), managed - 5);
    drop(bad);
    check_eq!((mm.taken_pages(), mm.managed_pages()), (before, managed));
    Ok(())
}

fn in_use_goes_when_it_is_freed<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut bad = Bad::new(mm);
    for order in [0, 2, 4, 9, 10] {
        let mut block = check_ok!(Block::alloc(mm, Request::new(Order(order), Gfp::KERNEL)));
        let pfn = block.pfn().add(Order(order).pages() - 1);
        block.stamp(u64::from(order));
        check_eq!(bad.poison(pfn), done(BadPage::Kernel, Recovery::Delayed), "order {order}");
        check!(!bad.is_out(pfn), "{pfn:?} was taken from its owner");
        check!(mm.kpageflags(pfn).contains(KPageFlags::HWPOISON), "{pfn:?} is not marked");
        block.check_stamp(u64::from(order))?;
        check_ok!(block.free());
        check!(bad.is_out(pfn), "{pfn:?} of order {order} came back");
    }
    // A contiguous range; pages of the slab layer.
    let range = check_ok!(mm.alloc_contig_pages(100, Order(0), None, Pfn(0), Gfp::KERNEL));
    let pfn = range.start.add(50);
    check_eq!(bad.poison(pfn), done(BadPage::Contig, Recovery::Delayed));
    check_ok!(mm.free_contig_range(range));
    check!(bad.is_out(pfn), "{pfn:?} of a range came back");
    let large = check_ok!(mm.kmalloc(1 << 16, Gfp::KERNEL));
    let pfn = check_ok!(mm.platform().pfn_of(large.as_ptr())).add(3);
    check_eq!(bad.poison(pfn), done(BadPage::Kernel, Recovery::Delayed));
    check_ok!(mm.kfree(large));
    check!(bad.is_out(pfn), "{pfn:?} of a large kmalloc came back");
    Ok(())
}

fn movable_is_moved_first<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut herd = Herd::thorough(t.on);
    herd.fill(Gfp::KERNEL | Gfp::MOVABLE | Gfp::NOWARN, 64)?;
    let mut bad = Bad::new(mm);
    for _ in 0..4 {
        let Some(handle) = herd.top() else { skip!("no page can be had") };
        let pfn = check_ok!(t.on.arena.frame(mm, handle));
        check_eq!(bad.poison(pfn), done(BadPage::Movable, Recovery::Recovered));
        check!(bad.is_out(pfn), "{pfn:?} is still in use");
        check!(check_ok!(t.on.arena.frame(mm, handle)) != pfn, "{pfn:?} did not move");
    }
    herd.verify()?;
    herd.release()
}

fn no_memory_cannot_be_bad<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let before = mm.bad_pages();
    for pfn in [mm.map().end(), Pfn(u64::MAX >> 12), Pfn(u64::MAX)] {
        check_eq!(mm.poison_page(pfn), Err(PoisonError::NotRam), "{pfn:?}");
        check_eq!(mm.unpoison_page(pfn), Err(PoisonError::NotPoisoned), "{pfn:?}");
    }
    check_eq!(mm.bad_pages(), before);
    Ok(())
}
