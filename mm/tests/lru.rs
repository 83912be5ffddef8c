//! The lists of pages by their last use: what is put on them is there, where its
//! flags say, until it is taken or freed, whoever looks at it meanwhile.
#![cfg(feature = "host")]

use mm::host::{Machine, pc};
use mm::lru::{LruKind, LruList};
use mm::lru_page::LruPage;
use mm::page::LruFlags;
use mm::types::{CpuId, NodeId, Order, PAGEBLOCK_ORDER, Pfn};
use mm::{Config, Gfp, Mm, Request};

const NODE: NodeId = NodeId(0);
const MIB: u64 = if cfg!(miri) { 4 } else { 32 };

fn machine(cpus: u16) -> Mm<Machine> {
    pc(MIB, cpus, &Config::default()).expect("a machine")
}

fn new_page(mm: &Mm<Machine>, order: Order, flags: LruFlags) -> Pfn {
    let request = Request::new(order, Gfp::HIGHUSER_MOVABLE);
    let page = mm.alloc_pages(request).expect("a page");
    mm.make_lru(page, LruPage { flags, owner: 0, index: 7 }).expect("an allocated page");
    page.pfn
}

fn listed(mm: &Mm<Machine>, flags: LruFlags) -> Pfn {
    let pfn = new_page(mm, Order(0), flags);
    mm.lru_add(pfn);
    pfn
}

fn sizes(mm: &Mm<Machine>) -> [u64; 5] {
    LruList::ALL.map(|list| mm.node_lru_pages(NODE, list))
}

#[test]
fn pages_are_listed_a_batch_at_a_time() {
    let mm = machine(1);
    let free = mm.free_pages_total();
    let pages: Vec<_> = (0..20).map(|_| listed(&mm, LruFlags::ANON)).collect();
    assert_eq!(sizes(&mm), [15, 0, 0, 0, 0], "five wait for more");
    assert!(!mm.lru_isolate(pages[19]), "not listed yet");
    assert_eq!(mm.lru_drain_all(), 5);
    assert_eq!(sizes(&mm), [20, 0, 0, 0, 0]);
    // A large page does not wait.
    let large = new_page(&mm, PAGEBLOCK_ORDER, LruFlags::ANON | LruFlags::ACTIVE);
    mm.lru_add(large);
    assert_eq!(sizes(&mm), [20, 512, 0, 0, 0]);
    assert_eq!(mm.audit().expect("whole").lru, 532);
    // The lists hold no reference.
    pages.into_iter().chain([large]).for_each(|pfn| mm.put_lru(pfn));
    assert_eq!(sizes(&mm), [0; 5]);
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

#[test]
fn a_page_is_where_its_flags_say() {
    let mm = machine(1);
    let file = listed(&mm, LruFlags::empty());
    let anon = listed(&mm, LruFlags::ANON);
    // The second use counts, even of a page that is still put by.
    mm.lru_mark_accessed(file);
    assert!(mm.map().try_page(file).expect("a page").head().lru().contains(LruFlags::REFERENCED));
    mm.lru_mark_accessed(file);
    mm.lru_drain();
    assert_eq!(sizes(&mm), [1, 0, 0, 1, 0]);
    assert!(!mm.map().try_page(file).expect("a page").head().lru().contains(LruFlags::REFERENCED));
    mm.lru_activate(anon);
    mm.lru_deactivate(file);
    mm.lru_drain();
    assert_eq!(sizes(&mm), [0, 1, 1, 0, 0]);
    mm.lru_mark_lazyfree(anon);
    assert_eq!(sizes(&mm), [0, 0, 2, 0, 0], "what nobody needs needs no swap");
    mm.lru_change(anon, LruFlags::MLOCKED | LruFlags::UNEVICTABLE, LruFlags::LAZYFREE);
    mm.lru_activate(anon);
    mm.lru_drain();
    assert_eq!(sizes(&mm), [0, 0, 1, 0, 1], "what may not be reclaimed is not aged");
    assert_eq!(mm.vmstat_value("pgactivate"), Some(2));
    assert_eq!(mm.vmstat_value("pgdeactivate"), Some(1));
    assert_eq!(mm.vmstat_value("pglazyfree"), Some(1));
    mm.audit().expect("whole");
    // While it is isolated too: it is put back where it then belongs.
    assert!(mm.lru_isolate(anon) && !mm.lru_isolate(anon));
    assert_eq!(mm.node_isolated_pages(NODE, LruKind::Anon), 1);
    mm.audit().expect("an isolated page is no fault");
    mm.lru_change(anon, LruFlags::ACTIVE, LruFlags::MLOCKED | LruFlags::UNEVICTABLE);
    mm.lru_putback(anon);
    assert_eq!(sizes(&mm), [0, 1, 1, 0, 0]);
    assert_eq!(mm.node_isolated_pages(NODE, LruKind::Anon), 0);
    [file, anon].into_iter().for_each(|pfn| mm.put_lru(pfn));
    mm.audit().expect("whole");
}

#[test]
fn the_last_reference_may_be_anybodys() {
    let mm = machine(1);
    mm.drain_all(None);
    let free = mm.free_pages_total();
    // The batch's,
    mm.put_lru(listed(&mm, LruFlags::ANON));
    assert_eq!(mm.lru_drain_all(), 1);
    // and that of an isolation.
    let pfn = listed(&mm, LruFlags::empty());
    mm.lru_drain();
    assert!(mm.lru_isolate(pfn));
    mm.put_lru(pfn);
    mm.lru_putback(pfn);
    assert_eq!(sizes(&mm), [0; 5]);
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

#[test]
fn what_is_no_page_of_theirs_is_not_isolated() {
    let mm = machine(1);
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    assert!(!mm.lru_isolate(page.pfn) && !mm.lru_isolate(Pfn(u64::from(u32::MAX))));
    assert!(mm.isolate_movable(page.pfn, mm::migrate::MigrateMode::Async).is_err());
    let lru = listed(&mm, LruFlags::ANON);
    mm.lru_drain();
    assert!(mm.isolate_movable(lru, mm::migrate::MigrateMode::Async).is_ok());
    assert!(!mm.lru_isolate(lru), "somebody has it");
    mm.putback(lru);
    mm.put_lru(lru);
    let anon = LruPage { flags: LruFlags::ANON, owner: 0, index: 0 };
    assert!(mm.make_lru(page, anon).is_ok());
    assert!(mm.make_lru(page, anon).is_err(), "it is one already");
    mm.put_lru(page.pfn);
    mm.audit().expect("whole");
}

/// Everybody adds, ages, isolates and frees, pages of others too.
#[test]
fn all_at_once() {
    const CPUS: u16 = 4;
    let (rounds, pages) = if cfg!(miri) { (4, 8) } else { (300, 40) };
    let mm = machine(CPUS);
    let free = mm.free_pages_total();
    let old: Vec<_> = (0..pages).map(|_| listed(&mm, LruFlags::ANON)).collect();
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (mm, old) = (&mm, &old);
            scope.spawn(move || {
                mm.platform().run_on(CpuId(cpu));
                for round in 0..rounds {
                    let flags = if round % 2 == 0 { LruFlags::ANON } else { LruFlags::empty() };
                    let own: Vec<_> = (0..pages).map(|_| listed(mm, flags)).collect();
                    for (i, &pfn) in old.iter().enumerate() {
                        match (i + round + usize::from(cpu)) % 4 {
                            0 => mm.lru_mark_accessed(pfn),
                            1 => mm.lru_deactivate(pfn),
                            2 => mm.lru_rotate(pfn),
                            _ if mm.lru_isolate(pfn) => mm.lru_putback(pfn),
                            _ => {}
                        }
                    }
                    // Whatever lies there, somebody's just now or not.
                    let near = own[0].0.saturating_sub(8);
                    for pfn in (near..near + 16).map(Pfn) {
                        if mm.lru_isolate(pfn) {
                            mm.lru_putback(pfn);
                        }
                    }
                    own.into_iter().for_each(|pfn| mm.put_lru(pfn));
                    if round % 16 == 0 {
                        mm.lru_drain_all();
                    }
                }
            });
        }
    });
    mm.lru_drain_all();
    assert_eq!(sizes(&mm).iter().sum::<u64>(), pages as u64);
    mm.audit().expect("whole");
    old.into_iter().for_each(|pfn| mm.put_lru(pfn));
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}
