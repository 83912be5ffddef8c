//! The memory map: every frame of RAM has one state, found from any frame of
//! its block, and nothing else has any.

use super::{Ground, blocks_of, suite};
use crate::case::{CaseResult, Test};
use crate::hold::{Block, WORDS};
use crate::{check, check_eq, check_ok, skip};
use mm::page::{HeadWord, PageDesc, PageType};
use mm::platform::Platform;
use mm::types::{MAX_ORDER, Order, PAGE_SIZE, PAGEBLOCK_PAGES, Pfn};
use mm::{Gfp, Request};

suite! {
    /// The memory map.
    Memmap = "memmap" {
        quick heads_cover_every_zone,
        quick deferred_blocks_have_no_heads,
        quick nothing_outside,
        quick low_frames_are_kept,
        quick tails_find_their_head,
        quick frames_are_distinct,
    }
}

/// Pageblocks of one zone that are walked; more would touch a large machine's
/// descriptors for nothing.
const WALKED_BLOCKS: usize = 4096;

fn heads_cover_every_zone<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for (index, zone) in mm.zones().iter().enumerate() {
        let (mut present, mut blocks) = (0, 0);
        let mut covered = Pfn(0);
        for block in blocks_of(mm, index).take(WALKED_BLOCKS) {
            blocks += 1;
            // The block before may have a head that covers this one too.
            let mut pfn = covered.max(block);
            while pfn < block.add(PAGEBLOCK_PAGES) {
                let head = check_ok!(mm.map().try_page(pfn)).head();
                check!(head.ty() != PageType::Tail, "no block covers {pfn:?}");
                check!(pfn.is_aligned(head.order()), "{pfn:?} is no place for {head:?}");
                if head.ty() != PageType::Hole {
                    present += head.order().pages();
                }
                pfn = pfn.add(head.order().pages());
            }
            covered = pfn;
        }
        if blocks < WALKED_BLOCKS {
            let all = present + zone.deferred_pages();
            check_eq!(all, zone.present(), "pages of {}", zone.kind.name());
        } else {
            check!(present <= zone.present(), "more pages than {} has", zone.kind.name());
        }
    }
    Ok(())
}

fn deferred_blocks_have_no_heads<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let (mm, mut looked_at) = (t.on.mm, 0);
    for zone in mm.zones() {
        let span = zone.span();
        let mut seen = 0;
        for at in (span.start.0..span.end.0).step_by(PAGEBLOCK_PAGES as usize).map(Pfn) {
            let Some(info) = mm.map().info(at).filter(|_| mm.map().is_deferred(at)) else {
                continue;
            };
            check!(mm.map().try_page(at).is_none(), "{at:?} is deferred and has a descriptor");
            check!(mm.map().head_of(at).is_none(), "{at:?} is deferred and has a head");
            seen += if info.zone_index() == zone.index() { PAGEBLOCK_PAGES } else { 0 };
            looked_at += 1;
            if looked_at == WALKED_BLOCKS {
                return Ok(());
            }
        }
        check_eq!(seen, zone.deferred_pages(), "deferred pages of {}", zone.kind.name());
    }
    t.note(format_args!("{looked_at} deferred pageblocks"));
    Ok(())
}

fn nothing_outside<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let map = t.on.mm.map();
    for pfn in [map.end(), map.end().add(1), Pfn(u64::MAX >> 12), Pfn(u64::MAX)] {
        check!(map.try_page(pfn).is_none(), "{pfn:?} has a descriptor");
        check!(map.head_of(pfn).is_none(), "{pfn:?} has a head");
    }
    // Holes between pieces of RAM: as many as there are blocks without a word.
    let mut holes = 0u64;
    let mut at = Pfn(0);
    for index in 0..t.on.mm.zones().len() {
        for block in blocks_of(t.on.mm, index).take(WALKED_BLOCKS) {
            if at < block && map.info(at).is_none() {
                check!(map.try_page(at).is_none(), "{at:?} has a descriptor and no block");
                holes += 1;
            }
            at = block.add(PAGEBLOCK_PAGES);
        }
    }
    t.note(format_args!("{holes} holes"));
    Ok(())
}

fn low_frames_are_kept<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let map = t.on.mm.map();
    // Frame 0, and the VGA and BIOS window of a PC.
    for pfn in [Pfn(0)].into_iter().chain((0xa0..0x100).map(Pfn)) {
        let Some((_, head)) = map.head_of(pfn) else { continue };
        check!(matches!(head.ty(), PageType::Hole | PageType::Reserved), "{pfn:?} is {head:?}");
    }
    Ok(())
}

fn tails_find_their_head<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut tried = 0;
    for order in (0..=MAX_ORDER.0).map(Order) {
        let request = Request::new(order, Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY);
        let Ok(block) = Block::alloc(mm, request) else { continue };
        tried += 1;
        let pfn = block.pfn();
        let word = check_ok!(mm.map().try_page(pfn)).head();
        check!(word.is(PageType::Kernel, order), "{pfn:?} is {word:?}, not allocated {order}");
        for i in 1..order.pages() {
            let tail = pfn.add(i);
            check!(
                mm.map().try_page(tail).is_some_and(PageDesc::is_clear),
                "{tail:?} of {pfn:?} is not clear"
            );
        }
        let last = pfn.add(order.pages() - 1);
        for tail in [pfn, pfn.add(order.pages() / 2), last] {
            check_eq!(mm.map().head_of(tail), Some((pfn, word)), "head of {tail:?}");
        }
        check_ok!(block.free());
        let free = check_ok!(mm.map().head_of(pfn)).1;
        check!(is_free(free) && free.order() >= order, "{pfn:?} is {free:?}, freed {order}");
    }
    check!(tried > 0, "not even one page to be had");
    Ok(())
}

fn is_free(head: HeadWord) -> bool {
    matches!(head.ty(), PageType::Buddy | PageType::Pcp)
}

fn frames_are_distinct<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let gfps = [Gfp::KERNEL, Gfp::KERNEL | Gfp::DMA, Gfp::KERNEL | Gfp::DMA32];
    let mut held: [Option<Block<'_, P>>; 48] = [const { None }; 48];
    for (i, slot) in held.iter_mut().enumerate() {
        let gfp = gfps[i % gfps.len()] | Gfp::NOWARN | Gfp::NORETRY;
        *slot = Block::alloc(mm, Request::new(Order(0), gfp)).ok();
        if let Some(block) = slot {
            let own = block.pfn().0;
            block.words().fill(own);
        }
    }
    let mut seen = 0;
    for block in held.iter_mut().flatten() {
        seen += 1;
        let pfn = block.pfn();
        let foreign = block.words().iter().position(|&word| word != pfn.0);
        check_eq!(foreign, None, "word of {pfn:?} that is not its own, of {WORDS}");
        let frame = mm.platform().frame(pfn);
        for offset in [0, 1, PAGE_SIZE - 1] {
            let found = mm.platform().pfn_of(frame.wrapping_add(offset));
            check_eq!(found, Some(pfn), "frame of byte {offset} of {pfn:?}");
        }
    }
    if seen == 0 {
        skip!("no page to be had");
    }
    Ok(())
}
