//! The HighAtomic reserve with blocks as large as pageblocks and larger.
#![cfg(feature = "host")]

use mm::host::{Machine, pc};
use mm::types::{MigrateType, Order, PAGEBLOCK_PAGES};
use mm::{Config, Gfp, Mm, Page, Request};

/// A machine of which every request enters the slow path, where urgent ones
/// may make HighAtomic blocks.
fn short_machine() -> Mm<Machine> {
    let mm = pc(512, 1, &Config::default()).expect("a machine");
    // Low lies above what is free, min below.
    mm.set_min_free_kbytes(mm.managed_pages() * 4 * 85 / 100);
    mm
}

fn urgent(mm: &Mm<Machine>, order: u8) -> Page {
    let request = Request::new(Order(order), Gfp::ATOMIC | Gfp::NOWARN);
    mm.alloc_pages(request).expect("a block for an urgent request")
}

fn reserved(mm: &Mm<Machine>) -> u64 {
    mm.zones().iter().map(mm::zone::Zone::reserved_highatomic).sum()
}

#[test]
fn every_block_under_a_large_one_is_reserved() {
    let mm = short_machine();
    let mut held = Vec::new();
    for order in [10, 9] {
        let before = reserved(&mm);
        let page = urgent(&mm, order);
        mm.audit().expect("whole with the block out");
        let pages = reserved(&mm) - before;
        assert_eq!(pages, Order(order).pages().max(PAGEBLOCK_PAGES), "order {order}");
        for i in (0..pages).step_by(PAGEBLOCK_PAGES as usize) {
            let block = mm.map().try_block(page.pfn.add(i)).expect("a block");
            assert_eq!(block.migratetype(), MigrateType::HighAtomic, "order {order}, page {i}");
        }
        held.push(page);
    }
    for page in held {
        mm.free_pages(page).expect("free");
        mm.audit().expect("whole with the block back");
    }
}

/// Small orders come from per-CPU lists; that must not keep their blocks from
/// being reserved.
#[test]
fn a_small_one_reserves_its_block() {
    let mm = short_machine();
    let page = urgent(&mm, 1);
    assert_eq!(reserved(&mm), PAGEBLOCK_PAGES);
    let block = mm.map().try_block(page.pfn).expect("a block");
    assert_eq!(block.migratetype(), MigrateType::HighAtomic);
    // The next one finds room there and reserves nothing more.
    let next = urgent(&mm, 4);
    assert_eq!((next.pfn.pageblock(), reserved(&mm)), (page.pfn.pageblock(), PAGEBLOCK_PAGES));
    for page in [page, next] {
        mm.free_pages(page).expect("free");
    }
    mm.audit().expect("whole");
}
