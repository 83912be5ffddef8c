//! The balloon: pages that are moved while they are lent and wanted back, and a
//! host that goes meanwhile.

use crate::run::explore;
use crate::stage::{Part, Play, Stage};
use mm::Gfp;
use mm::balloon::{Balloon, BalloonHost, HostFailed, Terms};
use mm::migrate::MigrateMode;
use mm::types::{Pfn, PfnRange};
use std::collections::BTreeSet;
use std::sync::Mutex;

const MIB: u64 = 8;
const GFP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);
const STRICT: Terms = Terms { deflate_on_oom: false };

/// A host that knows what it has; after so many calls it is gone.
struct Host {
    has: Mutex<BTreeSet<Pfn>>,
    left: Mutex<u32>,
}

impl Host {
    fn new(calls: u32) -> &'static Self {
        Box::leak(Box::new(Self { has: Mutex::default(), left: Mutex::new(calls) }))
    }

    fn call(&self, change: impl FnOnce(&mut BTreeSet<Pfn>)) -> Result<(), HostFailed> {
        shuttle::thread::yield_now();
        let mut left = self.left.lock().expect("no panic");
        assert!(*left > 0, "called after it had failed");
        *left -= 1;
        let mut has = self.has.lock().expect("no panic");
        if *left == 0 {
            has.clear();
            return Err(HostFailed::Gone);
        }
        change(&mut has);
        Ok(())
    }

    /// Somebody else's memory is not the host's.
    fn has_none_of(&self, range: PfnRange) {
        let has = self.has.lock().expect("no panic");
        assert!(!has.iter().any(|&pfn| range.contains(pfn)), "{range:?} is lent and in use");
    }
}

impl BalloonHost for Host {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(|has| pages.iter().for_each(|&pfn| assert!(has.insert(pfn), "lent twice")))
    }

    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(|has| pages.iter().for_each(|pfn| assert!(has.remove(pfn), "was not lent")))
    }
}

fn lend(play: &Play, calls: u32, pages: u64) -> (&'static Balloon<Stage>, &'static Host) {
    let balloon: &'static Balloon<Stage> = Box::leak(Box::default());
    let host = Host::new(calls);
    balloon.attach(&play.mm, host, STRICT).expect("a free balloon");
    assert_eq!(balloon.inflate(&play.mm, pages), Ok(pages));
    (balloon, host)
}

fn end(play: &Play, balloon: &Balloon<Stage>, host: &Host) {
    assert_eq!(balloon.isolated(&play.mm), 0);
    let audit = play.mm.audit().expect("whole");
    assert_eq!(audit.balloon, balloon.size());
    assert_eq!(host.has.lock().expect("no panic").len() as u64, balloon.size());
    balloon.detach(&play.mm);
    assert_eq!(balloon.size(), 0);
    play.end();
}

/// Takes the range that the balloon's pages lie in, and gives it back.
fn take(play: &Play, host: &Host, range: PfnRange) {
    if play.mm.alloc_contig_range(range, GFP).is_ok() {
        host.has_none_of(range);
        play.own(range);
        play.disown(range);
        play.mm.free_contig_range(range).expect("a held range");
    }
}

/// The frames that the host has, and what lies between.
fn place(host: &Host) -> PfnRange {
    let has = host.has.lock().expect("no panic");
    let (first, last) = (has.first().expect("some"), has.last().expect("some"));
    PfnRange::new(*first, last.add(1))
}

/// Pages are moved away while the balloon gives pages back and takes others.
#[test]
fn a_move_against_deflating_and_inflating() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let (balloon, host) = lend(&play, u32::MAX, 4);
        let range = place(host);
        let mover = || take(&play, host, range);
        let driver = || {
            balloon.deflate(&play.mm, 3).expect("an honest host");
            balloon.inflate(&play.mm, 2).expect("an honest host");
        };
        play.act([Box::new(driver) as Part<'_>, Box::new(mover)]);
        end(&play, balloon, host);
    });
}

/// Isolated, and put back, while it deflates to nothing.
#[test]
fn an_isolation_against_deflating() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let (balloon, host) = lend(&play, u32::MAX, 2);
        let pfns: Vec<_> = host.has.lock().expect("no panic").iter().copied().collect();
        let lift = || {
            for &pfn in &pfns {
                if play.mm.isolate_movable(pfn, MigrateMode::Sync).is_ok() {
                    play.mm.putback(pfn);
                }
            }
        };
        let driver = || {
            while balloon.size() > 0 {
                let gone = balloon.deflate(&play.mm, 2).expect("an honest host");
                if gone == 0 {
                    // About to be moved, all of it.
                    break;
                }
            }
        };
        play.act([Box::new(driver) as Part<'_>, Box::new(lift), Box::new(lift)]);
        end(&play, balloon, host);
    });
}

/// The host goes in the middle of an exchange, of a batch, or not at all.
#[test]
fn a_host_that_goes_against_a_move() {
    explore(with_calls::<3>);
}

/// The host answers that many calls.
fn with_calls<const CALLS: u32>() {
    let play = Play::new(MIB, 3);
    let (balloon, host) = lend(&play, CALLS, 3);
    let range = place(host);
    let mover = || take(&play, host, range);
    let driver = || {
        let _ = balloon.deflate(&play.mm, 1);
    };
    let other = || {
        let _ = balloon.inflate(&play.mm, 1);
    };
    play.act([Box::new(driver) as Part<'_>, Box::new(mover), Box::new(other)]);
    end(&play, balloon, host);
}

/// The device is taken away while pages of it are on the move.
#[test]
fn taking_leave_against_a_move() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let (balloon, host) = lend(&play, u32::MAX, 3);
        let range = place(host);
        let leaver = || {
            // As a driver does that has reset its device.
            balloon.detach(&play.mm);
        };
        let mover = || {
            if play.mm.alloc_contig_range(range, GFP).is_ok() {
                play.own(range);
                play.disown(range);
                play.mm.free_contig_range(range).expect("a held range");
            }
        };
        play.act([Box::new(leaver) as Part<'_>, Box::new(mover)]);
        assert_eq!((balloon.size(), balloon.isolated(&play.mm)), (0, 0));
        host.has.lock().expect("no panic").clear();
        end(&play, balloon, host);
    });
}
