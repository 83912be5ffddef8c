//! A balloon, its guest, and a host that is honest until it is told to fail.

use mm::balloon::{BATCH, Balloon, BalloonHost, HostFailed, Step, Terms};
use mm::host::{Machine, pc};
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::page::PageType;
use mm::platform::Platform;
use mm::proc::KPageFlags;
use mm::stats::Event;
use mm::types::{Order, Pfn};
use mm::{Config, Gfp, Mm, Page, Request};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// RAM of the machines here, in MiB: little where each access is interpreted.
pub(crate) const MIB: u64 = if cfg!(miri) { 4 } else { 32 };
pub(crate) const LENIENT: Terms = Terms { deflate_on_oom: true };
pub(crate) const STRICT: Terms = Terms { deflate_on_oom: false };

pub(crate) type Guest = Mm<Machine>;

/// A host that knows what it has, writes its own into it, and looks whether that
/// is still there when it gives it back.
pub(crate) struct Host {
    pub(crate) mm: &'static Guest,
    pub(crate) has: Mutex<BTreeSet<Pfn>>,
    pub(crate) calls: AtomicU64,
    /// The call after which nothing is as it was.
    fails_at: AtomicU64,
    why: Mutex<HostFailed>,
    inside: AtomicBool,
}

/// What the host keeps in a page.
pub(crate) fn mark_of(pfn: Pfn) -> u64 {
    pfn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Host {
    pub(crate) fn new(mm: &'static Guest) -> &'static Self {
        Box::leak(Box::new(Self {
            mm,
            has: Mutex::default(),
            calls: AtomicU64::new(0),
            fails_at: AtomicU64::new(u64::MAX),
            why: Mutex::new(HostFailed::Gone),
            inside: AtomicBool::new(false),
        }))
    }

    pub(crate) fn fail_next(&self, calls: u64, why: HostFailed) {
        *self.why.lock().expect("ours") = why;
        self.fails_at.store(self.calls.load(Relaxed) + calls, Relaxed);
    }

    pub(crate) fn word(&self, pfn: Pfn) -> *mut u64 {
        self.mm.platform().frame(pfn).cast()
    }

    pub(crate) fn pages(&self) -> BTreeSet<Pfn> {
        self.has.lock().expect("ours").clone()
    }

    fn call(
        &self,
        pages: &[Pfn],
        what: impl Fn(&mut BTreeSet<Pfn>, Pfn),
    ) -> Result<(), HostFailed> {
        assert!(!self.inside.swap(true, Relaxed), "one at a time");
        assert!((1..=BATCH).contains(&pages.len()), "{} pages", pages.len());
        let call = self.calls.fetch_add(1, Relaxed);
        let fails = call >= self.fails_at.load(Relaxed);
        assert!(call <= self.fails_at.load(Relaxed), "called after it had failed");
        let mut has = self.has.lock().expect("ours");
        let why = *self.why.lock().expect("ours");
        if fails && why == HostFailed::Gone {
            has.clear();
        } else {
            pages.iter().for_each(|&pfn| what(&mut has, pfn));
        }
        self.inside.store(false, Relaxed);
        if fails { Err(why) } else { Ok(()) }
    }
}

impl BalloonHost for Host {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(pages, |has, pfn| {
            assert!(has.insert(pfn), "{pfn:?} lent twice");
            // SAFETY: the page has just been lent; nobody else is to touch it.
            unsafe { self.word(pfn).write(mark_of(pfn)) };
        })
    }

    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(pages, |has, pfn| {
            assert!(has.remove(&pfn), "{pfn:?} was not lent");
            // SAFETY: as above: it is still lent.
            assert_eq!(unsafe { self.word(pfn).read() }, mark_of(pfn), "{pfn:?} was touched");
        })
    }
}

pub(crate) struct Setup {
    pub(crate) mm: &'static Guest,
    pub(crate) balloon: &'static Balloon<Machine>,
    pub(crate) host: &'static Host,
}

pub(crate) fn setup_on(mib: u64, cpus: u16, terms: Terms, config: &Config) -> Setup {
    let mm: &'static Guest = Box::leak(Box::new(pc(mib, cpus, config).expect("a machine")));
    let balloon: &'static Balloon<Machine> = Box::leak(Box::default());
    let host = Host::new(mm);
    balloon.attach(mm, host, terms).expect("a free balloon");
    Setup { mm, balloon, host }
}

pub(crate) fn setup(terms: Terms) -> Setup {
    setup_on(MIB, 1, terms, &Config::default())
}

impl Setup {
    /// As near to `target` as it gets without time going by.
    pub(crate) fn go(&self, target: u64) -> Step {
        loop {
            match self.balloon.toward(self.mm, target).expect("an honest host") {
                Step::More => {}
                end => return end,
            }
        }
    }

    pub(crate) fn free(&self) -> u64 {
        self.mm.drain_all(None);
        self.mm.free_pages_total()
    }

    /// Nothing contradicts anything, and the host has what the guest says.
    #[track_caller]
    pub(crate) fn check(&self) {
        let audit = self.mm.audit().expect("whole");
        assert_eq!(audit.balloon, self.balloon.size());
        let has = self.host.pages();
        assert_eq!(has.len() as u64, self.balloon.size());
        for &pfn in &has {
            let head = self.mm.map().try_page(pfn).expect("RAM").head();
            assert_eq!(head.ty(), PageType::Movable, "{pfn:?}");
            let flags = self.mm.kpageflags(pfn);
            assert_eq!(flags, KPageFlags::MOVABLE_OPS | KPageFlags::OFFLINE, "{pfn:?}");
        }
    }

    pub(crate) fn event(&self, event: Event) -> u64 {
        self.mm.stats().get(event)
    }
}

pub(crate) fn isolate(s: &Setup, list: &mut PageList, pfn: Pfn) -> bool {
    let ok = s.mm.isolate_movable(pfn, MigrateMode::Sync).is_ok();
    if ok {
        list.push_back(s.mm.map(), pfn);
    }
    ok
}

pub(crate) fn migrate(s: &Setup, list: &mut PageList) -> (u32, u32) {
    let mut target =
        || s.mm.alloc_pages(Request::new(Order(0), Gfp::HIGHUSER_MOVABLE)).ok().map(|p| p.pfn);
    let mut unused = |pfn| s.mm.free_pages(Page { pfn, order: Order(0) }).expect("unused");
    let moved = s.mm.migrate_pages(list, &mut target, &mut unused, MigrateMode::Sync);
    (moved.moved, moved.failed)
}
