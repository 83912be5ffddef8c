//! Free page reporting: blocks go out and come back, whatever the device makes
//! of them. With devices of the suite's own; where the machine has a real one,
//! that one is left alone.

use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::crew::Team;
use crate::hold::Block;
use crate::rng::Rng;
use crate::{check, check_eq, check_ok, fail, skip};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use mm::platform::Platform;
use mm::report::{NoPass, RegisterError, ReportDevice, ReportFailed};
use mm::types::{MAX_ORDER, Order, PfnRange};
use mm::{Gfp, Mm, Request};

suite! {
    /// Free page reporting.
    Reporting = "reporting" {
        quick what_is_free_is_told_once,
        quick what_fails_comes_back,
        quick a_device_that_goes_is_let_go,
        quick a_thousand_passes_against_all_cpus,
    }
}

/// What a device says to a batch.
enum Answer {
    Always(Result<(), ReportFailed>),
    /// Now this, now that, for all machines in turn.
    Varied(AtomicU32),
}

impl ReportDevice for Answer {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        if blocks.is_empty() || blocks.len() > mm::report::policy::CAPACITY {
            // Never again: the case sees that it is gone.
            return Err(ReportFailed::Gone);
        }
        match self {
            Self::Always(answer) => *answer,
            Self::Varied(turn) => match turn.fetch_add(1, Relaxed) % 5 {
                1 => Err(ReportFailed::Refused),
                3 => Err(ReportFailed::Gone),
                _ => Ok(()),
            },
        }
    }

    fn preserves(&self, _pattern: u8) -> bool {
        // Nothing is done to the blocks.
        true
    }
}

static WILLING: Answer = Answer::Always(Ok(()));
static UNWILLING: Answer = Answer::Always(Err(ReportFailed::Refused));
static LEAVING: Answer = Answer::Always(Err(ReportFailed::Gone));
static FICKLE: Answer = Answer::Varied(AtomicU32::new(0));

/// A device that is registered while this lives.
struct Registered<P: Platform + 'static>(&'static Mm<P>);

impl<P: Platform + 'static> Registered<P> {
    /// Registers `device`, for blocks small enough that any machine has some.
    fn new(mm: &'static Mm<P>, device: &'static dyn ReportDevice) -> CaseResult<Self> {
        match mm.report_register(device, Some(Order(4))) {
            Ok(()) => Ok(Self(mm)),
            Err(RegisterError::Busy) => skip!("the machine has a device of its own"),
            Err(why) => fail!("{why}"),
        }
    }
}

impl<P: Platform + 'static> Drop for Registered<P> {
    fn drop(&mut self) {
        self.0.report_unregister();
    }
}

/// Makes a pass, after the one that the worker may be making; its pages.
fn pass<P: Platform>(ground: &Ground<P>) -> CaseResult<u64> {
    loop {
        match ground.mm.report_now() {
            Ok(pages) => return Ok(pages),
            Err(NoPass::Busy) => ground.crew().pause(),
            Err(why) => fail!("{why}"),
        }
    }
}

fn what_is_free_is_told_once<P: Platform + 'static>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let device = Registered::new(mm, &WILLING)?;
    let mut told = 0;
    // A pass tells a share of each list.
    loop {
        let pages = pass(t.on)?;
        told += pages;
        if pages == 0 {
            break;
        }
    }
    check_eq!(pass(t.on)?, 0, "pages told again");
    if mm.report_stats().pages == 0 {
        skip!("no zone has enough free");
    }
    t.note(format_args!("{told} pages told"));
    let known = mm.reported_pages();
    {
        let request = Request::new(MAX_ORDER, Gfp::KERNEL | Gfp::NOWARN);
        let Ok(_block) = Block::alloc(mm, request) else { skip!("no block of 4 MiB") };
        check!(mm.reported_pages() <= known, "more is known as memory is used");
    }
    drop(device);
    check_ok!(mm.audit());
    Ok(())
}

fn what_fails_comes_back<P: Platform + 'static>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let device = Registered::new(mm, &UNWILLING)?;
    let (known, before) = (mm.reported_pages(), mm.report_stats());
    let out = |mm: &Mm<P>| mm.zones().iter().map(mm::zone::Zone::pages_out).sum::<u64>();
    for _ in 0..t.on.crew().patience(100) {
        check_eq!(pass(t.on)?, 0, "pages told to a device that refuses");
    }
    let after = mm.report_stats();
    check!(mm.reported_pages() <= known, "marked though the device refused");
    drop(device);
    check_eq!(out(mm), 0, "pages that are still out");
    check_ok!(mm.audit());
    if after.failures == before.failures {
        skip!("there was nothing to tell");
    }
    Ok(())
}

fn a_device_that_goes_is_let_go<P: Platform + 'static>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for _ in 0..10 {
        let device = Registered::new(mm, &LEAVING)?;
        let failures = mm.report_stats().failures;
        // Something to tell, if there are such blocks at all.
        let request = Request::new(MAX_ORDER, Gfp::KERNEL | Gfp::NOWARN);
        drop(Block::alloc(mm, request));
        match mm.report_now() {
            Ok(pages) => check_eq!(pages, 0, "pages told to a device that went"),
            Err(NoPass::Busy | NoPass::NoDevice) => {}
            Err(why) => fail!("{why}"),
        }
        if mm.report_stats().failures > failures {
            check!(!mm.report_unregister(), "a device that went is still there");
        }
        drop(device);
    }
    check_ok!(mm.audit());
    Ok(())
}

fn a_thousand_passes_against_all_cpus<P: Platform + 'static>(
    t: &mut Test<'_, Ground<P>>,
) -> CaseResult {
    const WORKERS: u16 = 4;
    let ground = *t.on;
    let mm = ground.mm;
    // Whoever has a device of his own keeps it.
    drop(Registered::new(mm, &WILLING)?);
    let workers = ground.crew().cpus().min(WORKERS);
    let (passes, seed) = (ground.crew().patience(1000), t.rng.next_u64());
    let before = mm.report_stats();
    Team::run(ground.crew(), workers, &|worker| {
        let mut rng = Rng::new(seed ^ u64::from(worker.number) << 56);
        for n in 0..passes {
            if worker.number == 0 {
                let _ = mm.report_register(&FICKLE, Some(Order(5)));
                if n % 7 == 0 {
                    mm.report_unregister();
                }
                let _ = mm.report_now();
            }
            let order = Order([0, 3, 6, 9, 10][rng.below(5) as usize]);
            let gfp = Gfp::NOWAIT | Gfp::MOVABLE | Gfp::NOWARN;
            if let Ok(mut block) = Block::alloc(mm, Request::new(order, gfp)) {
                block.stamp(n);
                block.check_stamp(n)?;
            }
        }
        Ok(())
    })?;
    mm.report_unregister();
    let after = mm.report_stats();
    t.note(format_args!(
        "{} passes, {} batches, {} failures",
        after.passes - before.passes,
        after.batches - before.batches,
        after.failures - before.failures
    ));
    mm.drain_all(None);
    check_ok!(mm.audit());
    Ok(())
}
