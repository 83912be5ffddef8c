//! How much the guest lends, and what becomes of requests when memory is out.

use crate::stand::{Guest, LENIENT, MIB, STRICT, setup};
use mm::balloon::Step;
use mm::host::{Machine, pc};
use mm::oom::OomNotifier;
use mm::stats::Event;
use mm::types::Order;
use mm::{Config, Gfp, Page, Request};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[test]
fn there_and_back_nothing_is_lost() {
    for terms in [LENIENT, STRICT] {
        let s = setup(terms);
        let (free, managed) = (s.free(), s.mm.managed_pages());
        let target = free / 2;
        for round in 1..=3 {
            assert_eq!(s.go(target), Step::Done);
            assert_eq!(s.balloon.size(), target);
            assert_eq!(s.free(), free - target);
            let gone = if terms.deflate_on_oom { 0 } else { target };
            assert_eq!(s.mm.managed_pages(), managed - gone);
            s.check();
            assert_eq!(s.go(0), Step::Done);
            assert_eq!((s.free(), s.mm.managed_pages()), (free, managed));
            s.check();
            assert_eq!(s.event(Event::BalloonInflate), round * target);
            assert_eq!(s.event(Event::BalloonDeflate), round * target);
        }
    }
}

/// A host that wants all there is gets what can be spared, and the guest goes on.
#[test]
fn it_stops_where_the_guest_needs_its_memory() {
    let s = setup(STRICT);
    let free = s.free();
    for target in [free, u64::MAX, u64::from(u32::MAX)] {
        assert_eq!(s.go(target), Step::Wait);
        assert!(s.balloon.size() > free / 2, "most of it");
        s.check();
        for zone in s.mm.zones().iter().filter(|z| z.managed() > 0) {
            assert!(zone.free_pages() >= zone.marks().min, "{}", zone.free_pages());
        }
        let page = s.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("still one");
        s.mm.free_pages(page).expect("its own");
        // Flapping: half of it back, and all again.
        assert_eq!(s.go(free / 3), Step::Done);
        s.check();
    }
    s.go(0);
    assert_eq!(s.free(), free);
}

/// Requests that would fail get what the balloon has, and only then; and only
/// those for whom somebody could be killed.
#[test]
fn it_gives_way_when_memory_is_out() {
    for terms in [LENIENT, STRICT] {
        let s = setup(terms);
        let free = s.free();
        let target = free / 2;
        assert_eq!(s.go(target), Step::Done);
        let mut pages = Vec::new();
        let mut take = |gfp: Gfp| {
            let page = s.mm.alloc_pages(Request::new(Order(0), gfp | Gfp::NOWARN));
            page.map(|page| pages.push(page)).is_ok()
        };
        while take(Gfp::KERNEL | Gfp::RETRY_MAYFAIL) {}
        assert_eq!(s.balloon.size(), target, "not for those who may fail");
        while take(Gfp::NOWAIT) {}
        assert_eq!(s.balloon.size(), target, "not for those who cannot wait");
        let mut more = 0;
        while take(Gfp::KERNEL) {
            more += 1;
        }
        s.check();
        if terms.deflate_on_oom {
            assert_eq!(s.balloon.size(), 0);
            // Some of it refills what those who cannot wait have taken.
            assert!(more > target * 3 / 4, "{more} of {target}");
        } else {
            assert_eq!((s.balloon.size(), more), (target, 0));
        }
        for page in pages {
            s.mm.free_pages(page).expect("its own");
        }
        s.go(0);
        assert_eq!(s.free(), free);
        s.check();
    }
}

/// Larger blocks than the balloon has at once end in failure, not in a loop.
#[test]
fn it_cannot_help_everybody() {
    let s = setup(LENIENT);
    let target = s.free() / 2;
    s.go(target);
    let mut blocks = Vec::new();
    let gfp = Gfp::KERNEL | Gfp::NOWARN;
    while let Ok(page) = s.mm.alloc_pages(Request::new(Order(3), gfp)) {
        blocks.push(page);
    }
    assert_eq!(s.balloon.size(), 0);
    for page in blocks {
        s.mm.free_pages(page).expect("its own");
    }
    s.check();
}

/// A notifier that frees what it was given.
struct Giver {
    pages: Mutex<Vec<Page>>,
    asked: AtomicU64,
}

impl OomNotifier<Machine> for Giver {
    fn out_of_memory(&self, mm: &Guest) -> u64 {
        self.asked.fetch_add(1, Relaxed);
        let pages = core::mem::take(&mut *self.pages.lock().expect("ours"));
        let freed = pages.iter().map(|page| page.order.pages()).sum();
        pages.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
        freed
    }
}

#[test]
fn all_notifiers_are_asked_before_a_request_fails() {
    let mm = pc(MIB, 1, &Config::default()).expect("a machine");
    let givers: Vec<&'static Giver> = (0..16)
        .map(|_| &*Box::leak(Box::new(Giver { pages: Mutex::default(), asked: AtomicU64::new(0) })))
        .collect();
    for giver in &givers {
        mm.register_oom_notifier(*giver).expect("room for 16");
    }
    assert!(mm.register_oom_notifier(givers[0]).is_err(), "not for 17");
    let request = Request::new(Order(0), Gfp::KERNEL | Gfp::NOWARN);
    let mut pages: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    assert!(givers.iter().all(|giver| giver.asked.load(Relaxed) == 1), "all were asked once");
    let given = pages.split_off(pages.len() - 300);
    givers[3].pages.lock().expect("ours").extend(given);
    let more: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    assert!(!more.is_empty(), "there was more");
    pages.extend(more);
    pages.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}
