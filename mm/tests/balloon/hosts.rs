//! Hosts that fail, are gone, or cannot be shut off.

use crate::stand::{Host, LENIENT, STRICT, Setup, isolate, migrate, setup};
use mm::balloon::{AttachError, HostFailed, Step};
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::oom::OomNotifier;
use mm::types::Pfn;

/// Up and down until the host fails; how.
fn go_till_it_fails(s: &Setup) -> Option<HostFailed> {
    for target in [600, 300, 0, 200] {
        loop {
            match s.balloon.toward(s.mm, target) {
                Ok(Step::More) => {}
                Ok(_) => break,
                Err(why) => return Some(why),
            }
        }
    }
    None
}

/// The host fails, in whatever call: with a device that is shut off the guest
/// has all its memory again.
#[test]
fn a_host_that_is_gone_leaves_everything() {
    for fails_at in 0..7 {
        let s = setup(if fails_at % 2 == 0 { STRICT } else { LENIENT });
        let (free, managed) = (s.free(), s.mm.managed_pages());
        s.host.fail_next(fails_at, HostFailed::Gone);
        assert_eq!(go_till_it_fails(&s), Some(HostFailed::Gone), "at call {fails_at}");
        assert_eq!((s.balloon.size(), s.balloon.terms(s.mm)), (0, None));
        assert_eq!((s.free(), s.mm.managed_pages()), (free, managed));
        // Without a host it stays empty.
        assert_eq!(s.balloon.toward(s.mm, 100), Ok(Step::Wait));
        s.check();
        let next = Host::new(s.mm);
        s.balloon.attach(s.mm, next, LENIENT).expect("free again");
        assert_eq!(s.balloon.attach(s.mm, next, LENIENT), Err(AttachError::InUse));
        assert_eq!(s.balloon.toward(s.mm, 100), Ok(Step::Done));
        assert_eq!(next.pages().len(), 100);
        s.balloon.detach(s.mm);
        assert_eq!(s.free(), free);
    }
}

/// A host that cannot be shut off keeps what it has for good, but no more.
#[test]
fn a_host_that_is_lost_keeps_what_it_has() {
    for fails_at in 0..6 {
        let s = setup(if fails_at % 2 == 0 { STRICT } else { LENIENT });
        let free = s.free();
        s.host.fail_next(fails_at, HostFailed::Lost);
        assert_eq!(go_till_it_fails(&s), Some(HostFailed::Lost), "at call {fails_at}");
        let size = s.balloon.size();
        assert!(s.host.pages().len() as u64 <= size);
        assert_eq!(s.free(), free - size);
        assert_eq!(s.mm.audit().expect("whole").balloon, size);
        // Nothing of it is ever moved, given back or asked for again.
        for pfn in s.host.pages() {
            assert!(s.mm.isolate_movable(pfn, MigrateMode::Sync).is_err());
        }
        s.balloon.detach(s.mm);
        assert_eq!(s.balloon.out_of_memory(s.mm), 0);
        assert_eq!(s.balloon.size(), size);
        if size > 0 {
            assert_eq!(s.balloon.attach(s.mm, s.host, LENIENT), Err(AttachError::InUse));
        }
        s.mm.audit().expect("whole");
    }
}

/// The host fails in the middle of an exchange of pages.
#[test]
fn a_host_that_fails_while_pages_move() {
    for (calls, why) in
        [0, 1, 2, 3].into_iter().flat_map(|n| [(n, HostFailed::Gone), (n, HostFailed::Lost)])
    {
        for terms in [LENIENT, STRICT] {
            let s = setup(terms);
            let (free, managed) = (s.free(), s.mm.managed_pages());
            s.go(100);
            let mut list = PageList::new();
            s.host.pages().iter().take(10).for_each(|&pfn| assert!(isolate(&s, &mut list, pfn)));
            s.host.fail_next(calls, why);
            let (moved, failed) = migrate(&s, &mut list);
            assert_eq!(moved + failed, 10);
            s.mm.putback_list(&mut list);
            let size = s.balloon.size();
            assert_eq!(s.balloon.isolated(s.mm), 0);
            assert_eq!(s.free(), free - size);
            assert_eq!(s.mm.audit().expect("whole").balloon, size);
            let has = s.host.pages();
            match why {
                HostFailed::Gone => {
                    assert_eq!((size, s.mm.managed_pages(), has.len()), (0, managed, 0));
                }
                // Of the exchange it failed in, it may have both.
                HostFailed::Lost => {
                    assert_eq!(size, 101);
                    let free = |&&pfn: &&Pfn| {
                        s.mm.map().try_page(pfn).is_some_and(|p| !p.head().ty().is_allocated())
                    };
                    assert_eq!(has.iter().filter(free).count(), 0, "nothing it has is free");
                }
            }
        }
    }
}

/// Taken away while some of its pages are isolated: these are free when they
/// are put back, or when they were to be moved.
#[test]
fn detached_while_pages_are_isolated() {
    for move_them in [false, true] {
        let s = setup(STRICT);
        let (free, managed) = (s.free(), s.mm.managed_pages());
        s.go(50);
        let mut list = PageList::new();
        s.host.pages().iter().take(10).for_each(|&pfn| assert!(isolate(&s, &mut list, pfn)));
        s.balloon.detach(s.mm);
        assert_eq!((s.balloon.size(), s.balloon.isolated(s.mm)), (10, 10));
        assert_eq!(s.balloon.attach(s.mm, s.host, STRICT), Err(AttachError::InUse));
        if move_them {
            assert_eq!(migrate(&s, &mut list), (0, 10));
        }
        s.mm.putback_list(&mut list);
        assert_eq!((s.balloon.size(), s.free()), (0, free));
        assert_eq!(s.mm.managed_pages(), managed);
        assert_eq!(s.mm.audit().expect("whole").balloon, 0);
    }
}
