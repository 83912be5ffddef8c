//! Free page reporting: passes against those who allocate, free, want a range,
//! or take leave of the device.

use crate::run::explore;
use crate::stage::{Part, Play, Stage};
use mm::page::{PageFlags, PageType};
use mm::platform::Worker;
use mm::report::{NoPass, ReportDevice, ReportFailed, ReportState};
use mm::types::{Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Gfp, Mm, Page};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const MIB: u64 = 16;
/// Small enough for a batch to be less than the machine has.
const ORDER: Order = Order(4);

/// A device that knows which frames it was told of since they were last in use.
#[derive(Default)]
struct Host {
    told: Mutex<BTreeSet<Pfn>>,
    used: Mutex<BTreeSet<Pfn>>,
    closed: AtomicBool,
}

fn frames(range: PfnRange) -> impl Iterator<Item = Pfn> {
    (range.start.0..range.end.0).map(Pfn)
}

impl Host {
    fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    fn see_unused(&self, blocks: &[PfnRange]) {
        let used = self.used.lock().expect("no panic");
        for pfn in blocks.iter().copied().flat_map(frames) {
            assert!(!used.contains(&pfn), "{pfn:?} is out and in use");
        }
    }

    fn begin_use(&self, page: Page) {
        let range = PfnRange::sized(page.pfn, page.order.pages());
        self.used.lock().expect("no panic").extend(frames(range));
        let mut told = self.told.lock().expect("no panic");
        told.retain(|&pfn| !range.contains(pfn));
    }

    fn end_use(&self, page: Page) {
        let mut used = self.used.lock().expect("no panic");
        let range = PfnRange::sized(page.pfn, page.order.pages());
        frames(range).for_each(|pfn| assert!(used.remove(&pfn)));
    }

    /// Whatever is marked was told of, all of it, since it was last used.
    fn agrees_with(&self, mm: &Mm<Stage>) {
        let told = self.told.lock().expect("no panic");
        let mut marked = 0;
        for block in (0..mm.map().end().0).step_by(PAGEBLOCK_PAGES as usize) {
            for pfn in (block..block + PAGEBLOCK_PAGES).map(Pfn) {
                let Some(page) = mm.map().try_page(pfn) else { break };
                let head = page.head();
                if head.flags().contains(PageFlags::REPORTED) {
                    assert_eq!(head.ty(), PageType::Buddy);
                    marked += 1;
                    let all = PfnRange::sized(pfn, head.order().pages());
                    assert!(frames(all).all(|pfn| told.contains(&pfn)), "{pfn:?} {head:?}");
                }
            }
        }
        assert!(marked > 0 || told.is_empty());
    }
}

impl ReportDevice for Host {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        assert!(!self.closed.load(Relaxed), "called after it was closed");
        self.see_unused(blocks);
        // Others go on while the host is at work.
        shuttle::thread::yield_now();
        self.see_unused(blocks);
        self.told.lock().expect("no panic").extend(blocks.iter().copied().flat_map(frames));
        Ok(())
    }
}

fn play_with(host: &'static Host) -> Play {
    let play = Play::new(MIB, 2);
    play.mm.set_report_order(ORDER);
    play.mm.report_register(host, None).expect("the first");
    play
}

fn take(play: &Play, host: &Host, order: u8) -> Option<Page> {
    let page = play.alloc(order, Gfp::KERNEL | Gfp::MOVABLE)?;
    host.begin_use(page);
    Some(page)
}

fn give(play: &Play, host: &Host, page: Page) {
    host.end_use(page);
    play.free(page);
}

fn report(play: &Play) {
    match play.mm.report_now() {
        Ok(_) | Err(NoPass::Busy | NoPass::NoDevice) => {}
        Err(why) => panic!("{why}"),
    }
}

fn end(play: &Play, host: &Host) {
    host.agrees_with(&play.mm);
    play.end();
}

/// What is out is nobody's, what is allocated loses its mark.
#[test]
fn an_allocation_against_a_report() {
    explore(|| {
        let host = Host::new();
        let play = play_with(host);
        let user = || {
            for order in [10, 5, 0] {
                if let Some(page) = take(&play, host, order) {
                    give(&play, host, page);
                }
            }
        };
        play.act([Box::new(|| report(&play)) as Part<'_>, Box::new(user)]);
        end(&play, host);
    });
}

/// A block that comes back from the host beside one that was freed meanwhile is
/// not reported as a whole; two that both were may be.
#[test]
fn a_free_against_the_mark_of_its_buddy() {
    explore(|| {
        let host = Host::new();
        let play = play_with(host);
        let pages: Vec<_> = (0..4).filter_map(|_| take(&play, host, 9)).collect();
        let user = || pages.into_iter().for_each(|page| give(&play, host, page));
        let reporter = || {
            report(&play);
            report(&play);
        };
        play.act([Box::new(reporter) as Part<'_>, Box::new(user)]);
        if play.mm.report_status().state == ReportState::Idle {
            // Nothing was missed.
            assert_eq!(play.mm.report_now(), Ok(0));
        }
        end(&play, host);
    });
}

/// What is asked for as somebody else's pass ends is the next pass's: either the
/// worker comes again, or it is woken once more.
#[test]
fn a_request_against_the_end_of_a_pass() {
    explore(|| {
        let host = Host::new();
        let play = play_with(host);
        // Little to do: the pass is all but its end.
        assert!(play.mm.set_report_order(Order(10)));
        let page = take(&play, host, 10).expect("a block");
        report(&play);
        assert_eq!(play.mm.report_status().state, ReportState::Idle);
        play.mm.platform().take_woken();
        let woken = || play.mm.platform().take_woken().contains(&Worker::Reporting);
        let comes_again = AtomicBool::new(false);
        let worker = || {
            give(&play, host, page);
            let mut next = None;
            for _ in 0..3 {
                next = if woken() { Some(0) } else { next };
                let Some(ms) = next else { break };
                play.mm.platform().advance_ms(ms);
                next = play.mm.report_round();
            }
            comes_again.store(next.is_some(), Relaxed);
        };
        play.act([Box::new(|| report(&play)) as Part<'_>, Box::new(worker)]);
        let state = play.mm.report_status().state;
        assert!(state == ReportState::Idle || comes_again.load(Relaxed) || woken(), "{state:?}");
        end(&play, host);
    });
}

/// Once it has left, the device is not called, and all is back.
#[test]
fn leaving_against_a_pass() {
    explore(|| {
        let host = Host::new();
        let play = play_with(host);
        let leaver = || {
            assert!(play.mm.report_unregister());
            host.closed.store(true, Relaxed);
        };
        play.act([Box::new(|| report(&play)) as Part<'_>, Box::new(leaver)]);
        assert_eq!(play.mm.report_now(), Err(NoPass::NoDevice));
        assert_eq!(play.mm.report_status().state, ReportState::Idle);
        let again = Host::new();
        play.mm.report_register(again, None).expect("there is none any more");
        end(&play, host);
    });
}

/// A range whose blocks are out just now is not busy for good.
#[test]
fn a_range_against_a_report() {
    explore(|| {
        let host = Host::new();
        let play = play_with(host);
        let block = play.alloc(10, Gfp::KERNEL | Gfp::MOVABLE).expect("a block");
        let range = PfnRange::sized(block.pfn, PAGEBLOCK_PAGES);
        play.free(block);
        let taker = || {
            let got = play.mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::NOWARN);
            assert_eq!(got, Ok(range), "the pass is waited for");
            let page = Page { pfn: range.start, order: Order(9) };
            host.begin_use(page);
            host.end_use(page);
            play.mm.free_contig_range(range).expect("a held range");
        };
        play.act([Box::new(|| report(&play)) as Part<'_>, Box::new(taker)]);
        end(&play, host);
    });
}
