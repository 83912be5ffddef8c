//! All that gives memory back, on all CPUs at once: blocks go out of use and come
//! back, a device hears of free memory, a balloon grows and shrinks, frames go
//! bad, an area is wanted back, zones are compacted. Between the rounds nothing
//! may contradict anything, and in the end all is there.

use super::balloon::Lent;
use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::crew::Team;
use crate::hold::Block;
use crate::rng::Rng;
use crate::{check, check_eq, check_ok, fail};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::balloon::Terms;
use mm::hotplug::{HotplugError, MEMORY_BLOCK_PAGES, OnlineType};
use mm::platform::Platform;
use mm::poison::PoisonError;
use mm::report::{NoPass, ReportDevice, ReportFailed};
use mm::types::{Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Gfp, Request};

suite! {
    /// Everything that gives memory back, at once.
    Giveback = "giveback" {
        full all_at_once,
    }
}

const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// Pages that the balloon has at most.
const LENT: u64 = 1 << 12;

/// A device that is content with all it hears.
struct Content;

impl ReportDevice for Content {
    fn report(&self, _: &[PfnRange]) -> Result<(), ReportFailed> {
        Ok(())
    }

    fn preserves(&self, _: u8) -> bool {
        // Nothing is done to the blocks.
        true
    }
}

static CONTENT: Content = Content;

/// How often each came about.
#[derive(Default)]
struct Done {
    gone: AtomicU64,
    reported: AtomicU64,
    bad: AtomicU64,
    ranges: AtomicU64,
}

/// Times that all stand still and are looked at.
const ROUNDS: u64 = 4;
/// What each CPU does in a round.
const STEPS: u64 = 300;

fn all_at_once<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let lent = Lent::new(t.on, Terms { deflate_on_oom: true })?;
    let most = (mm.available_pages() / 8).min(LENT);
    // Where the machine has a device of its own that one hears of it.
    let ours = mm.report_register(&CONTENT, None).is_ok();
    let done = Done::default();
    let steps = t.on.crew().patience(STEPS);
    let workers = t.on.crew().cpus().clamp(1, super::MAX_WORKERS);
    let mut result = Ok(());
    for _ in 0..ROUNDS {
        let seed = t.rng.next_u64();
        result = Team::run(t.on.crew(), workers, &|worker| {
            let mut rng = Rng::new(seed ^ u64::from(worker.number) << 56);
            for _ in 0..steps {
                if worker.is_over() {
                    break;
                }
                step(t.on, &mut rng, most, &done)?;
            }
            Ok(())
        });
        result = result.and_then(|()| {
            check_ok!(mm.audit());
            Ok(())
        });
        if result.is_err() {
            break;
        }
    }
    if ours {
        mm.report_unregister();
    }
    result?;
    let [gone, reported, bad, ranges] =
        [&done.gone, &done.reported, &done.bad, &done.ranges].map(|count| count.load(Relaxed));
    t.note(format_args!(
        "{workers} CPUs: {gone} times memory went and came, {reported} pages reported, \
         {bad} bad frames, {ranges} ranges"
    ));
    check!(bad > 0 && ranges > 0, "{bad} bad frames, {ranges} ranges");
    lent.end()
}

/// One thing at random.
fn step<P: Platform>(on: &Ground<P>, rng: &mut Rng, most: u64, done: &Done) -> CaseResult {
    let mm = on.mm;
    match rng.below(20) {
        0..3 => there_and_back(on, rng, done),
        3..6 => match mm.report_now() {
            Ok(pages) => {
                done.reported.fetch_add(pages, Relaxed);
                Ok(())
            }
            Err(NoPass::Busy | NoPass::NoDevice | NoPass::Off) => Ok(()),
        },
        6..10 => {
            check_ok!(on.lender.balloon.toward(mm, rng.below(most + 1)));
            Ok(())
        }
        10 => goes_bad(on, rng, done),
        11..16 => {
            let pages = 1 + rng.below(PAGEBLOCK_PAGES);
            let Ok(range) = mm.alloc_contig_pages(pages, Order(0), None, Pfn(0), TRY) else {
                return Ok(());
            };
            check_ok!(mm.free_contig_range(range));
            done.ranges.fetch_add(1, Relaxed);
            Ok(())
        }
        16 => {
            mm.compact_memory(None);
            Ok(())
        }
        _ => {
            let gfp = if rng.percent(50) { TRY } else { TRY | Gfp::MOVABLE };
            let orders = [0, 0, 2, 4, 9, 10];
            let order = Order(rng.pick(&orders).unwrap_or(0));
            // Full is full.
            drop(Block::alloc(mm, Request::new(order, gfp)));
            Ok(())
        }
    }
}

/// A pageblock that nothing is in goes out of use and comes back.
fn there_and_back<P: Platform>(on: &Ground<P>, rng: &mut Rng, done: &Done) -> CaseResult {
    let mm = on.mm;
    let blocks = mm.memory_blocks().count();
    let Some(block) = mm.memory_blocks().nth(rng.index(blocks.max(1))) else { return Ok(()) };
    let at = rng.below(MEMORY_BLOCK_PAGES / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
    let range = PfnRange::sized(block.range.start.add(at), PAGEBLOCK_PAGES);
    if !mm.pageblock_census(range.start).is_some_and(|census| census.is_whole()) {
        return Ok(());
    }
    match mm.offline(range) {
        Ok(_) => {}
        // Another is at it, or has something there by now.
        Err(
            HotplugError::Busy(_)
            | HotplugError::NoMemory
            | HotplugError::Already
            | HotplugError::Invalid(_),
        ) => return Ok(()),
        Err(why) => fail!("{range:?} out of use: {why}"),
    }
    done.gone.fetch_add(1, Relaxed);
    match mm.online(range, OnlineType::Auto) {
        // Whoever has seen it out of use may be the one who puts it back.
        Ok(_) | Err(HotplugError::Already) => Ok(()),
        Err(why) => fail!("{range:?} back into use: {why}"),
    }
}

/// A frame of a block goes bad, the block is freed without it, and the frame gets
/// well.
fn goes_bad<P: Platform>(on: &Ground<P>, rng: &mut Rng, done: &Done) -> CaseResult {
    let mm = on.mm;
    let order = Order(rng.below(4) as u8);
    let Ok(block) = Block::alloc(mm, Request::new(order, TRY)) else { return Ok(()) };
    let pfn = block.pfn().add(rng.below(order.pages()));
    match mm.poison_page(pfn) {
        Ok(_) => {}
        // There is no room for a note, say.
        Err(PoisonError::Busy | PoisonError::Already) => return Ok(()),
        Err(why) => fail!("{pfn:?}: {why}"),
    }
    drop(block);
    done.bad.fetch_add(1, Relaxed);
    check_eq!(mm.unpoison_page(pfn), Ok(()), "{pfn:?} gets well");
    Ok(())
}
