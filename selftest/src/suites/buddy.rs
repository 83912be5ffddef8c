//! The buddy and the lists before it: blocks are whole, distinct and aligned,
//! come back together when they are freed, and wrong frees change nothing.

use super::{Ground, free_blocks, suite};
use crate::case::{CaseResult, Level, Test};
use crate::hold::{Block, Held, Hoard};
use crate::{check, check_eq, check_ok, fail, skip};
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{MAX_ORDER, MigrateType, NR_ORDERS, Order, Pfn};
use mm::{AllocError, FreeError, Gfp, Page, Request};

suite! {
    /// The buddy allocator.
    Buddy = "buddy" {
        quick every_order,
        quick halves_merge_again,
        quick bulk,
        quick pages_come_zeroed,
        quick impossible_requests_fail,
        quick wrong_frees_change_nothing,
        quick cpu_lists_drain,
        quick mobility_is_grouped,
        quick random_ops,
        full long_random_ops,
    }
}

/// Ordinary memory, or a quiet failure.
const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

fn every_order<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut held: [Option<Block<'_, P>>; NR_ORDERS] = [const { None }; NR_ORDERS];
    for (order, slot) in (0..).map(Order).zip(&mut held) {
        let Ok(mut block) = Block::alloc(mm, Request::new(order, TRY)) else {
            check!(order.0 > 3, "no block of order {order}");
            t.note(format_args!("no block of order {order}"));
            continue;
        };
        check_eq!(block.page().order, order);
        check!(block.pfn().is_aligned(order), "{:?} is no place for order {order}", block.pfn());
        block.stamp(u64::from(order.0));
        *slot = Some(block);
    }
    // Overlapping blocks would have overwritten each other.
    for mut block in held.into_iter().flatten() {
        block.check_stamp(u64::from(block.page().order.0))?;
        check_ok!(block.free());
    }
    Ok(())
}

fn halves_merge_again<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    mm.drain_all(None);
    let before = free_blocks(mm);
    let budget = (mm.free_pages_total() / 4).min(4096);
    let mut held = Held::new(mm, t.scratch);
    while held.pages() < budget && !held.is_full() {
        let order = Order(t.rng.below(7) as u8);
        let Ok(block) = Block::alloc(mm, Request::new(order, TRY)) else { break };
        held.put(block);
    }
    let pages = held.pages();
    while let Some(block) = held.take(t.rng.index(held.len())) {
        check_ok!(block.free());
    }
    mm.drain_all(None);
    let after = free_blocks(mm);
    let total = |blocks: [u64; NR_ORDERS]| -> u64 {
        blocks.iter().zip(0..).map(|(&n, order)| n << order).sum()
    };
    check_eq!(total(after), total(before), "free pages");
    // What was split for these blocks is whole again: never more, smaller ones.
    let (was, is) = (before.iter().sum::<u64>(), after.iter().sum::<u64>());
    check!(is <= was, "{pages} pages came back as {is} blocks, not {was}");
    Ok(())
}

fn bulk<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the refusals logged now are provoked"));
    for gfp in [TRY, TRY | Gfp::MOVABLE, TRY | Gfp::DMA] {
        let mut pages = [Pfn(0); 100];
        let want = 1 + t.rng.index(pages.len());
        let got = check_ok!(mm.alloc_bulk(gfp, None, &mut pages[..want]));
        check!((1..=want).contains(&got), "{got} pages of {want}");
        let pages = &mut pages[..got];
        let mut wrong = None;
        for &pfn in pages.iter() {
            let head = mm.map().try_page(pfn).map(mm::page::PageDesc::head);
            if !head.is_some_and(|head| head.is(PageType::Kernel, Order(0))) {
                wrong = Some((pfn, head));
            }
        }
        pages.sort_unstable();
        let twice = pages.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let freed = mm.free_bulk(pages);
        check_eq!(wrong, None, "a page that is not allocated");
        check_eq!(twice, None, "a page that was handed out twice");
        check_eq!(freed, Ok(()));
        check_eq!(
            mm.free_bulk(&pages[..1]),
            Err((0, FreeError::DoubleFree)),
            "freeing {:?} again",
            pages[0]
        );
    }
    Ok(())
}

fn pages_come_zeroed<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for order in [0, 1, 4].map(Order) {
        let mut dirty = Hoard::new(mm);
        for _ in 0..8 {
            let Ok(mut block) = Block::alloc(mm, Request::new(order, TRY)) else { break };
            block.words().fill(u64::MAX);
            dirty.push(block);
        }
        dirty.release()?;
        for _ in 0..8 {
            let Ok(mut block) = Block::alloc(mm, Request::new(order, TRY | Gfp::ZERO)) else {
                break;
            };
            let at = block.words().iter().position(|&word| word != 0);
            check_eq!(at, None, "word of {:?}, order {order}, that is not zero", block.pfn());
        }
    }
    Ok(())
}

fn impossible_requests_fail<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    for (order, gfp) in [
        (11, Gfp::KERNEL),
        (255, Gfp::KERNEL),
        (0, Gfp::KERNEL | Gfp::DMA | Gfp::DMA32),
        (0, Gfp::KERNEL | Gfp::DMA | Gfp::HIGHMEM),
        (0, Gfp::KERNEL | Gfp::MOVABLE | Gfp::RECLAIMABLE),
    ] {
        match t.on.mm.alloc_pages(Request::new(Order(order), gfp)) {
            Err(AllocError::Invalid(_)) => {}
            Err(why) => fail!("order {order}, {gfp:?}: {why}"),
            Ok(page) => {
                let _ = t.on.mm.free_pages(page);
                fail!("order {order}, {gfp:?} was served");
            }
        }
    }
    Ok(())
}

fn wrong_frees_change_nothing<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the refusals logged now are provoked"));
    let mut block = check_ok!(Block::alloc(mm, Request::new(Order(2), TRY)));
    block.stamp(7);
    let Page { pfn, order } = block.page();
    let freed = |pfn, order| mm.free_pages(Page { pfn, order });
    check_eq!(freed(pfn, Order(0)), Err(FreeError::WrongOrder { is: order }));
    check_eq!(freed(pfn, Order(9)), Err(FreeError::WrongOrder { is: order }));
    check_eq!(freed(pfn, Order(200)), Err(FreeError::WrongOrder { is: order }));
    check_eq!(freed(pfn.add(2), Order(1)), Err(FreeError::NotHead));
    check_eq!(freed(mm.map().end(), Order(0)), Err(FreeError::NotManaged));
    check_eq!(freed(Pfn(u64::MAX >> 12), Order(0)), Err(FreeError::NotManaged));
    // Frame 0 is never handed out; it may or may not have a descriptor.
    check_eq!(freed(Pfn(0), Order(0)), Err(FreeError::NotManaged));
    block.check_stamp(7)?;
    check_ok!(block.free());
    check_eq!(freed(pfn, order), Err(FreeError::DoubleFree));
    check_eq!(freed(pfn.add(1), Order(0)), Err(FreeError::DoubleFree));
    Ok(())
}

fn cpu_lists_drain<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let block = check_ok!(Block::alloc(mm, Request::new(Order(0), TRY)));
    let zone = &mm.zones()[check_ok!(mm.map().try_block(block.pfn())).zone_index()];
    check_ok!(block.free());
    let (held, free) = (mm.pcp_pages(zone), zone.free_pages());
    check!(held > 0, "the page that was freed is not on the CPU's list");
    check_eq!(mm.drain_all(Some(zone)), held, "pages drained");
    check_eq!(mm.pcp_pages(zone), 0, "pages left on CPU lists");
    check_eq!(zone.free_pages(), free + held, "free pages");
    Ok(())
}

fn mobility_is_grouped<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    if mm.free_pages_total() < 8192 {
        skip!("less than 32 MiB free: types may have to mix");
    }
    for (gfp, ty) in [
        (TRY, MigrateType::Unmovable),
        (TRY | Gfp::MOVABLE, MigrateType::Movable),
        (TRY | Gfp::RECLAIMABLE, MigrateType::Reclaimable),
    ] {
        let mut hoard = Hoard::new(mm);
        let mut strays = 0;
        for _ in 0..256 {
            let block = check_ok!(Block::alloc(mm, Request::new(Order(0), gfp)));
            let found = check_ok!(mm.map().try_block(block.pfn())).migratetype();
            let lent = ty == MigrateType::Movable && found == MigrateType::Cma;
            strays += u32::from(found != ty && !lent);
            hoard.push(block);
        }
        hoard.release()?;
        check_eq!(strays, 0, "pages of 256 outside blocks of type {}", ty.name());
    }
    Ok(())
}

fn random_ops<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    ops(t, 3000)
}

fn long_random_ops<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    ops(t, 200_000)
}

/// Allocates and frees at random, all orders and kinds; each block keeps its
/// stamp as long as it is held.
fn ops<P: Platform>(t: &mut Test<'_, Ground<P>>, ops: u32) -> CaseResult {
    let mm = t.on.mm;
    let most = if t.level < Level::Full { 8192 } else { super::QUICK_PAGES };
    let budget = (mm.free_pages_total() / 2).min(most);
    let kinds = [
        TRY,
        TRY | Gfp::MOVABLE,
        TRY | Gfp::RECLAIMABLE,
        TRY | Gfp::DMA,
        Gfp::ATOMIC | Gfp::NOWARN,
    ];
    let mut held = Held::new(mm, t.scratch);
    let (mut served, mut refused) = (0, 0);
    for op in 0..u64::from(ops) {
        // Grow and shrink in turns, so that all densities are seen.
        let growing = op / 500 % 2 == 0;
        let allocate = t.rng.percent(if growing { 65 } else { 35 });
        if allocate && held.pages() < budget && !held.is_full() {
            // Small orders are common, each larger one rarer.
            let order = Order((t.rng.next_u64() | 1 << MAX_ORDER.0).trailing_zeros() as u8);
            let gfp = kinds[t.rng.index(kinds.len())];
            match Block::alloc(mm, Request::new(order, gfp)) {
                Ok(mut block) => {
                    check!(block.pfn().is_aligned(order), "{:?} of order {order}", block.pfn());
                    block.stamp(u64::from(order.0));
                    held.put(block);
                    served += 1;
                }
                Err(AllocError::NoMemory) => refused += 1,
                Err(why) => fail!("order {order}, {gfp:?}: {why}"),
            }
        } else if let Some(mut block) = held.take(t.rng.index(held.len())) {
            block.check_stamp(u64::from(block.page().order.0))?;
            check_ok!(block.free());
        }
    }
    while let Some(mut block) = held.take(0) {
        block.check_stamp(u64::from(block.page().order.0))?;
        check_ok!(block.free());
    }
    drop(held);
    t.note(format_args!("{served} blocks served, {refused} refused"));
    Ok(())
}
