//! Memory that goes out of use and comes back: nothing of it is handed out
//! meanwhile, what moved out of it is whole, and everything counts as before.

use super::{Ground, QUICK_PAGES, suite};
use crate::case::{CaseResult, Test};
use crate::herd::Herd;
use crate::{check, check_eq, check_ok, fail, skip};
use mm::hotplug::{HotplugError, MEMORY_BLOCK_PAGES, OnlineType};
use mm::platform::Platform;
use mm::proc::KPageFlags;
use mm::types::{PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::zone::Zone;
use mm::{Gfp, Mm};

suite! {
    /// Memory that comes and goes.
    Hotplug = "hotplug" {
        quick two_mib_go_and_come_back,
        quick a_memory_block_goes_and_comes_back,
        quick movable_pages_make_way,
        quick what_stays_is_refused,
        full every_block_in_turn,
    }
}

/// Present and managed pages of all zones.
fn sizes<P: Platform>(mm: &Mm<P>) -> (u64, u64) {
    let sum = |f: fn(&Zone) -> u64| mm.zones().iter().map(f).sum();
    (sum(Zone::present), sum(Zone::managed))
}

/// Puts `range` out of use, looks at it, and puts it back; false if something in
/// it stays.
fn there_and_back<P: Platform>(mm: &Mm<P>, range: PfnRange) -> CaseResult<bool> {
    let before = sizes(mm);
    match mm.offline(range) {
        Ok(pages) => check_eq!(pages, range.pages(), "pages put out of use of {range:?}"),
        Err(HotplugError::Busy(_) | HotplugError::NoMemory) => {
            check_eq!(sizes(mm), before, "after failing to put {range:?} out of use");
            return Ok(false);
        }
        Err(why) => fail!("{range:?} out of use: {why}"),
    }
    let whole = range.pages() == MEMORY_BLOCK_PAGES;
    let seen = if whole { KPageFlags::NOPAGE } else { KPageFlags::OFFLINE };
    let looks = looks_offline(mm, range, seen);
    let gone = sizes(mm);
    // Whatever was wrong: the machine needs its memory.
    let back = mm.online(range, OnlineType::Auto);
    looks?;
    check_eq!(back, Ok(range.pages()), "{range:?} back into use");
    let left = if whole { before.0 - range.pages() } else { before.0 };
    check_eq!(gone, (left, before.1 - range.pages()), "without {range:?}");
    check_eq!(sizes(mm), before, "with {range:?} again");
    Ok(true)
}

fn looks_offline<P: Platform>(mm: &Mm<P>, range: PfnRange, seen: KPageFlags) -> CaseResult {
    for pfn in [range.start, range.start.add(77), Pfn(range.end.0 - 1)] {
        check_eq!(mm.kpageflags(pfn), seen, "of {pfn:?}");
        check!(
            mm.map().described(pfn).is_some_and(mm::memmap::BlockInfo::is_offline),
            "{pfn:?} is in use"
        );
    }
    check_eq!(mm.offline(range), Err(HotplugError::Already));
    Ok(())
}

fn two_mib_go_and_come_back<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for block in mm.memory_blocks() {
        for at in (0..MEMORY_BLOCK_PAGES).step_by(PAGEBLOCK_PAGES as usize) {
            let range = PfnRange::sized(block.range.start.add(at), PAGEBLOCK_PAGES);
            let whole = mm.pageblock_census(range.start).is_some_and(|census| census.is_whole());
            if whole && there_and_back(mm, range)? {
                return Ok(());
            }
        }
    }
    skip!("no pageblock is free");
}

fn a_memory_block_goes_and_comes_back<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for block in mm.memory_blocks().filter(|block| block.offline == 0) {
        if mm.is_removable(&block) && there_and_back(mm, block.range)? {
            return Ok(());
        }
    }
    skip!("no memory block can be emptied");
}

fn movable_pages_make_way<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut herd = Herd::sparse(t.on);
    // Enough that the last of them lie among their like.
    let most = (mm.free_pages_total() / 4).min(QUICK_PAGES / 16);
    herd.fill(Gfp::KERNEL | Gfp::HIGHMEM | Gfp::MOVABLE | Gfp::NOWARN, most)?;
    let mut frames = [Pfn(0); 16];
    if herd.pages() < frames.len() as u64 {
        skip!("too little memory");
    }
    herd.frames(&mut frames)?;
    let mut moved = 0;
    for frame in frames {
        let range = PfnRange::sized(frame.pageblock(), PAGEBLOCK_PAGES);
        let inside = herd.count(|pfn| range.contains(pfn))?;
        // Kernel memory may have come to lie there too.
        match mm.offline(range) {
            Ok(_) => {
                let left = herd.count(|pfn| range.contains(pfn));
                let verified = herd.verify();
                check_eq!(mm.online(range, OnlineType::Auto), Ok(range.pages()));
                check_eq!(left?, 0, "pages left behind");
                verified?;
                moved += inside;
            }
            Err(HotplugError::Busy(_) | HotplugError::NoMemory | HotplugError::Invalid(_)) => {}
            Err(why) => fail!("{range:?} out of use: {why}"),
        }
    }
    herd.verify()?;
    herd.release()?;
    if moved == 0 {
        skip!("kernel memory lies beside each of them");
    }
    Ok(())
}

fn what_stays_is_refused<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let before = sizes(mm);
    let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY;
    let kernel = check_ok!(mm.alloc_contig_pages(3, mm::types::Order(0), None, Pfn(0), gfp));
    let block = PfnRange::sized(kernel.start.pageblock(), PAGEBLOCK_PAGES);
    let refused = mm.offline(block);
    let freed = mm.free_contig_range(kernel);
    // The manager's own tables may lie there, or a hole.
    check!(
        matches!(refused, Err(HotplugError::Busy(_) | HotplugError::Invalid(_))),
        "{block:?} went out of use: {refused:?}"
    );
    check_eq!(freed, Ok(()));
    check_eq!(sizes(mm), before);
    let odd = PfnRange::sized(block.start.add(1), PAGEBLOCK_PAGES);
    check!(matches!(mm.offline(odd), Err(HotplugError::Invalid(_))), "{odd:?} is no pageblock");
    let nowhere = PfnRange::sized(mm.map().end(), PAGEBLOCK_PAGES);
    check!(matches!(mm.offline(nowhere), Err(HotplugError::Invalid(_))), "there is no memory");
    Ok(())
}

/// All of a machine, a memory block at a time, whatever lies there.
fn every_block_in_turn<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut herd = Herd::sparse(t.on);
    herd.fill(Gfp::KERNEL | Gfp::HIGHMEM | Gfp::MOVABLE | Gfp::NOWARN, mm.free_pages_total() / 4)?;
    let mut went = 0u64;
    for number in 0..mm.map().end().0.div_ceil(MEMORY_BLOCK_PAGES) {
        let Some(block) = mm.memory_block(number) else { continue };
        if block.offline == 0 && mm.is_removable(&block) {
            went += u64::from(there_and_back(mm, block.range)?);
        }
    }
    herd.verify()?;
    herd.release()?;
    if went == 0 {
        skip!("no memory block can be emptied");
    }
    Ok(())
}
