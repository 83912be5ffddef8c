//! A balloon: pages lent to a simulated host, moved under it, had back.

use super::contig::Range;
use super::{Ground, blocks_of, suite};
use crate::case::{CaseResult, Test};
use crate::crew::Team;
use crate::rng::Rng;
use crate::{check, check_eq, check_ok, skip};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use mm::Gfp;
use mm::balloon::{BATCH, BalloonHost, HostFailed, Step, Terms};
use mm::cma::CmaId;
use mm::oom::OomNotifier;
use mm::platform::Platform;
use mm::proc::KPageFlags;
use mm::stats::Event;
use mm::types::{Order, PAGEBLOCK_PAGES, Pfn};

suite! {
    /// Pages lent to the host.
    Balloon = "balloon" {
        quick there_and_back,
        quick what_counts_as_managed,
        quick it_shows_in_kpageflags,
        quick it_makes_way_for_a_range,
        quick it_gives_way_in_need,
        quick a_host_that_is_gone,
        quick moved_while_it_grows_and_shrinks,
    }
}

/// Pages that the quick cases lend at most: 32 MiB.
const QUICK: u64 = 1 << 13;

const LENIENT: Terms = Terms { deflate_on_oom: true };
const STRICT: Terms = Terms { deflate_on_oom: false };

/// A host that counts what it has, and would notice if it had other pages than
/// the guest says.
struct Host {
    pages: AtomicU64,
    /// The sum of what is made of each page's number.
    sum: AtomicU64,
    inside: AtomicBool,
    /// What is wrong with how it was called.
    wrong: AtomicU64,
    /// It fails from now on.
    fails: AtomicBool,
}

/// A balloon and the host that it is tested with.
pub struct Lender<P: Platform> {
    pub(super) balloon: mm::balloon::Balloon<P>,
    host: Host,
}

impl<P: Platform> Default for Lender<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Lender<P> {
    /// An empty balloon.
    pub const fn new() -> Self {
        let host = Host {
            pages: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            inside: AtomicBool::new(false),
            wrong: AtomicU64::new(0),
            fails: AtomicBool::new(false),
        };
        Self { balloon: mm::balloon::Balloon::new(), host }
    }
}

/// Something that different sets of frames have different sums of.
fn mixed(pfn: Pfn) -> u64 {
    let z = pfn.0.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ z >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Host {
    fn call(&self, pages: &[Pfn], each: impl Fn(u64)) -> Result<(), HostFailed> {
        let alone = !self.inside.swap(true, Relaxed);
        let sane = (1..=BATCH).contains(&pages.len());
        self.wrong.fetch_add(u64::from(!alone || !sane), Relaxed);
        let fails = self.fails.load(Relaxed);
        if fails {
            self.pages.store(0, Relaxed);
            self.sum.store(0, Relaxed);
        } else {
            pages.iter().for_each(|&pfn| each(mixed(pfn)));
        }
        self.inside.store(false, Relaxed);
        if fails { Err(HostFailed::Gone) } else { Ok(()) }
    }
}

impl BalloonHost for Host {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(pages, |mixed| {
            self.pages.fetch_add(1, Relaxed);
            self.sum.fetch_add(mixed, Relaxed);
        })
    }

    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(pages, |mixed| {
            self.pages.fetch_sub(1, Relaxed);
            self.sum.fetch_sub(mixed, Relaxed);
        })
    }
}

/// The balloon with its host, for one case.
pub(super) struct Lent<'a, P: Platform> {
    on: &'a Ground<P>,
}

impl<'a, P: Platform> Lent<'a, P> {
    pub(super) fn new(on: &'a Ground<P>, terms: Terms) -> CaseResult<Self> {
        let Lender { balloon, host } = on.lender;
        [&host.pages, &host.sum, &host.wrong].into_iter().for_each(|n| n.store(0, Relaxed));
        host.fails.store(false, Relaxed);
        check_ok!(balloon.attach(on.mm, host, terms));
        Ok(Self { on })
    }

    /// A number of pages that is no burden here.
    fn some(&self) -> CaseResult<u64> {
        match (self.on.mm.available_pages() / 4).min(QUICK) {
            0..BATCH_PAGES => skip!("hardly any memory to spare"),
            pages => Ok(pages),
        }
    }

    fn go(&self, target: u64) -> CaseResult {
        loop {
            match check_ok!(self.on.lender.balloon.toward(self.on.mm, target)) {
                Step::More => {}
                Step::Done => break,
                Step::Wait => crate::fail!("{} pages of {target}", self.on.lender.balloon.size()),
            }
        }
        self.check()
    }

    /// The host has as many pages as the guest says.
    fn check(&self) -> CaseResult {
        check_eq!(
            self.on.lender.host.pages.load(Relaxed),
            self.on.lender.balloon.size(),
            "pages the host has"
        );
        check_eq!(self.on.lender.host.wrong.load(Relaxed), 0, "calls of the host that were wrong");
        Ok(())
    }

    /// All back; the sum was of these very pages.
    pub(super) fn end(self) -> CaseResult {
        self.go(0)?;
        check_eq!(self.on.lender.host.sum.load(Relaxed), 0, "sum over the pages the host has");
        Ok(())
    }
}

const BATCH_PAGES: u64 = BATCH as u64;

/// Whatever becomes of the case, the pages come back.
impl<P: Platform> Drop for Lent<'_, P> {
    fn drop(&mut self) {
        self.on.lender.balloon.detach(self.on.mm);
    }
}

fn there_and_back<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let lent = Lent::new(t.on, LENIENT)?;
    let pages = lent.some()?;
    let events = || [Event::BalloonInflate, Event::BalloonDeflate].map(|e| mm.stats().get(e));
    let before = events();
    for target in [pages, 1, pages / 2, pages] {
        lent.go(target)?;
        check_eq!(t.on.lender.balloon.size(), target);
    }
    lent.end()?;
    let after = events();
    check!(after[0] - before[0] > pages, "{} pages inflated", after[0] - before[0]);
    check_eq!(after[0] - before[0], after[1] - before[1], "pages deflated");
    Ok(())
}

fn what_counts_as_managed<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let managed = mm.managed_pages();
    for terms in [LENIENT, STRICT] {
        let lent = Lent::new(t.on, terms)?;
        let pages = lent.some()?;
        lent.go(pages)?;
        let gone = if terms.deflate_on_oom { 0 } else { pages };
        check_eq!(mm.managed_pages(), managed - gone, "while lent");
        lent.end()?;
        check_eq!(mm.managed_pages(), managed, "afterwards");
    }
    Ok(())
}

/// The first pages of the balloon that a walk over all memory meets.
fn first_lent<P: Platform>(on: &Ground<P>) -> impl Iterator<Item = Pfn> + '_ {
    let wanted = KPageFlags::MOVABLE_OPS | KPageFlags::OFFLINE;
    let blocks = (0..on.mm.zones().len()).flat_map(|zone| blocks_of(on.mm, zone));
    let all = blocks.flat_map(|block| (0..PAGEBLOCK_PAGES).map(move |i| block.add(i)));
    all.filter(move |&pfn| on.mm.kpageflags(pfn) == wanted)
}

fn it_shows_in_kpageflags<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let before = first_lent(t.on).count() as u64;
    let lent = Lent::new(t.on, STRICT)?;
    let pages = lent.some()?;
    lent.go(pages)?;
    check_eq!(first_lent(t.on).count() as u64 - before, pages, "pages that show");
    lent.end()?;
    check_eq!(first_lent(t.on).count() as u64, before, "pages that still show");
    Ok(())
}

const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

fn it_makes_way_for_a_range<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    if first_lent(t.on).next().is_some() {
        skip!("the machine's own balloon is not empty");
    }
    let lent = Lent::new(t.on, STRICT)?;
    let pages = lent.some()?;
    lent.go(pages)?;
    let moved = || mm.stats().get(Event::BalloonMigrate);
    let before = moved();
    let (mut tried, mut had) = (0, 0);
    let mut block = None;
    for pfn in first_lent(t.on) {
        if block.replace(pfn.pageblock()) == Some(pfn.pageblock()) {
            continue;
        }
        let range = mm::types::PfnRange::sized(pfn, PAGEBLOCK_PAGES / 4);
        tried += 1;
        if let Ok(range) = mm.alloc_contig_range(range, TRY) {
            had += 1;
            check_ok!(mm.free_contig_range(range));
        }
        if had == 4 || tried == 32 {
            break;
        }
    }
    lent.check()?;
    t.note(format_args!("{had} ranges of {tried}, {} pages moved", moved() - before));
    check!(had > 0 && moved() > before, "{had} ranges, {} pages moved", moved() - before);
    lent.end()
}

fn it_gives_way_in_need<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for terms in [LENIENT, STRICT] {
        let lent = Lent::new(t.on, terms)?;
        let pages = lent.some()?;
        lent.go(pages)?;
        let freed = t.on.lender.balloon.out_of_memory(mm);
        check_eq!(freed, if terms.deflate_on_oom { BATCH_PAGES } else { 0 }, "pages given");
        check_eq!(t.on.lender.balloon.size(), pages - freed);
        lent.end()?;
    }
    check_eq!(t.on.lender.balloon.out_of_memory(mm), 0, "of an empty balloon");
    Ok(())
}

fn a_host_that_is_gone<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let managed = t.on.mm.managed_pages();
    for target in [0, u64::MAX] {
        let lent = Lent::new(t.on, STRICT)?;
        let pages = lent.some()?;
        lent.go(pages)?;
        t.on.lender.host.fails.store(true, Relaxed);
        let failed = t.on.lender.balloon.toward(t.on.mm, target);
        check_eq!(failed, Err(HostFailed::Gone));
        check_eq!((t.on.lender.balloon.size(), t.on.mm.managed_pages()), (0, managed));
    }
    Ok(())
}

/// One CPU inflates and deflates, the others want memory that lies under it.
fn moved_while_it_grows_and_shrinks<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let (mm, balloon) = (t.on.mm, &t.on.lender.balloon);
    let lent = Lent::new(t.on, LENIENT)?;
    let pages = lent.some()?;
    lent.go(pages)?;
    let seed = t.rng.next_u64();
    let moved = mm.stats().get(Event::BalloonMigrate);
    let area = mm.cma_areas().find(|(_, area)| mm.cma_used(area) == 0).map(|(id, _)| id);
    let workers = t.on.crew().cpus().clamp(1, 3);
    let result = Team::run(t.on.crew(), workers, &|worker| {
        let mut rng = Rng::new(seed ^ u64::from(worker.number) << 56);
        for round in 0..40u64 {
            // On one CPU all is done in turn.
            let role = if workers == 1 { round % 3 } else { u64::from(worker.number) };
            match role {
                0 => {
                    let target = rng.below(pages);
                    for _ in 0..4 {
                        check_ok!(balloon.toward(mm, target));
                    }
                }
                1 => {
                    mm.compact_memory(None);
                }
                _ => {
                    take_area(t.on, area, 1 + rng.below(PAGEBLOCK_PAGES))?;
                    take_under(t.on)?;
                }
            }
        }
        Ok(())
    });
    result?;
    lent.check()?;
    let moved = mm.stats().get(Event::BalloonMigrate) - moved;
    t.note(format_args!("{moved} pages of the balloon were moved"));
    lent.end()
}

/// Has some of a contiguous area for a moment, if there is one.
fn take_area<P: Platform>(on: &Ground<P>, area: Option<CmaId>, pages: u64) -> CaseResult {
    let Some(id) = area else { return Ok(()) };
    match Range::of_area(on.mm, id, pages, Order(0), TRY) {
        Ok(range) => range.free(),
        Err(_) => Ok(()),
    }
}

/// Has a range that begins at a page of the balloon, if it can be had.
fn take_under<P: Platform>(on: &Ground<P>) -> CaseResult {
    let Some(pfn) = first_lent(on).next() else { return Ok(()) };
    let range = mm::types::PfnRange::sized(pfn, PAGEBLOCK_PAGES / 8);
    if let Ok(range) = on.mm.alloc_contig_range(range, TRY) {
        check_ok!(on.mm.free_contig_range(range));
    }
    Ok(())
}
