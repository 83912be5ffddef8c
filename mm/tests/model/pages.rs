//! Blocks of pages: allocated, freed, freed wrongly, one by one and in bulk.

use crate::world::World;
use mm::host::Machine;
use mm::page::{PageDesc, PageType};
use mm::platform::Platform;
use mm::types::{MAX_ORDER, Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{AllocError, FreeError, Gfp, Mm, Page, Request};

/// Who owns each frame, by a number; 0 is nobody.
pub(crate) struct Owners {
    by_frame: Vec<u32>,
    next: u32,
    owned: u64,
}

impl Owners {
    pub(crate) fn new(end: Pfn) -> Self {
        Self { by_frame: vec![0; end.0 as usize], next: 1, owned: 0 }
    }

    /// Pages with an owner.
    pub(crate) fn owned(&self) -> u64 {
        self.owned
    }

    pub(crate) fn of(&self, pfn: Pfn) -> u32 {
        self.by_frame.get(pfn.0 as usize).copied().unwrap_or(0)
    }

    /// A new owner for a block that nobody may own yet.
    pub(crate) fn take(&mut self, page: Page) -> u32 {
        let id = self.next;
        self.next += 1;
        for pfn in frames(page) {
            let owner = &mut self.by_frame[pfn.0 as usize];
            assert_eq!(*owner, 0, "{pfn:?} of {page:?} was handed out twice");
            *owner = id;
        }
        self.owned += page.order.pages();
        id
    }

    pub(crate) fn drop(&mut self, page: Page, id: u32) {
        for pfn in frames(page) {
            let owner = &mut self.by_frame[pfn.0 as usize];
            assert_eq!(*owner, id, "{pfn:?} of {page:?} changed hands");
            *owner = 0;
        }
        self.owned -= page.order.pages();
    }
}

impl Owners {
    /// As [`take`](Self::take), for a range.
    pub(crate) fn take_range(&mut self, range: PfnRange) -> u32 {
        let id = self.next;
        self.next += 1;
        for pfn in (range.start.0..range.end.0).map(Pfn) {
            let owner = &mut self.by_frame[pfn.0 as usize];
            assert_eq!(*owner, 0, "{pfn:?} of {range:?} was handed out twice");
            *owner = id;
        }
        self.owned += range.pages();
        id
    }

    /// As [`drop`](Self::drop), for a range or a part of one.
    pub(crate) fn drop_range(&mut self, range: PfnRange, id: u32) {
        for pfn in (range.start.0..range.end.0).map(Pfn) {
            let owner = &mut self.by_frame[pfn.0 as usize];
            assert_eq!(*owner, id, "{pfn:?} of {range:?} changed hands");
            *owner = 0;
        }
        self.owned -= range.pages();
    }
}

pub(crate) fn frames(page: Page) -> impl Iterator<Item = Pfn> {
    (page.pfn.0..page.pfn.0 + page.order.pages()).map(Pfn)
}

/// A block that the model holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    page: Page,
    id: u32,
}

/// What happened how often, to see that a run was worth something.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    served: [u64; 11],
    refused: [u64; 11],
    marked: u64,
    bulk: u64,
    wrong_frees: u64,
}

/// The blocks that are held.
#[derive(Default)]
pub(crate) struct Blocks {
    held: Vec<Held>,
    pub(crate) counts: Counts,
}

impl Blocks {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// Writes the owner's number at both ends of each page of a block.
fn stamp(mm: &Mm<Machine>, page: Page, id: u32) {
    for pfn in frames(page) {
        let frame = mm.platform().frame(pfn);
        // SAFETY: the block was just handed out to this test.
        unsafe {
            frame.cast::<u32>().write(id);
            frame.add(PAGE_SIZE - 4).cast::<u32>().write(!id);
        }
    }
}

impl World<'_> {
    pub(crate) fn stamp_range(&self, range: PfnRange, id: u32) {
        for pfn in (range.start.0..range.end.0).map(Pfn) {
            stamp(self.mm, Page { pfn, order: Order(0) }, id);
        }
    }

    pub(crate) fn check_range_stamp(&self, range: PfnRange, id: u32) {
        for pfn in (range.start.0..range.end.0).map(Pfn) {
            check_stamp(self.mm, Page { pfn, order: Order(0) }, id);
        }
    }
}

fn check_stamp(mm: &Mm<Machine>, page: Page, id: u32) {
    for pfn in frames(page) {
        let frame = mm.platform().frame(pfn);
        // SAFETY: the block is this test's.
        let found =
            unsafe { (frame.cast::<u32>().read(), frame.add(PAGE_SIZE - 4).cast::<u32>().read()) };
        assert_eq!(found, (id, !id), "{pfn:?} of {page:?} was overwritten");
    }
}

/// Some gfp that a caller could use.
fn some_gfp(world: &mut World<'_>) -> Gfp {
    let base = world.rng.pick(&[
        Gfp::KERNEL,
        Gfp::KERNEL,
        Gfp::KERNEL | Gfp::MOVABLE,
        Gfp::HIGHUSER_MOVABLE,
        Gfp::HIGHUSER_MOVABLE | Gfp::PINNED,
        Gfp::KERNEL | Gfp::RECLAIMABLE,
        Gfp::ATOMIC,
        Gfp::ATOMIC | Gfp::MOVABLE,
        Gfp::NOWAIT,
        Gfp::NOIO,
    ]);
    let zone = world.rng.pick(&[Gfp::empty(), Gfp::empty(), Gfp::DMA, Gfp::DMA32]);
    let zone = if base.contains(Gfp::HIGHMEM) { Gfp::empty() } else { zone };
    let extra = world.rng.pick(&[
        Gfp::empty(),
        Gfp::empty(),
        Gfp::NORETRY,
        Gfp::RETRY_MAYFAIL,
        Gfp::HIGH,
        Gfp::MEMALLOC,
        Gfp::NOMEMALLOC,
        Gfp::MEMALLOC | Gfp::NOMEMALLOC,
        Gfp::THISNODE,
        Gfp::ZERO,
    ]);
    base | zone | extra | Gfp::NOWARN
}

impl World<'_> {
    pub(crate) fn allocate(&mut self) {
        // Small orders are common, but each order has its turn.
        let order = if self.rng.percent(70) {
            (self.rng.bits() | 1 << MAX_ORDER.0).trailing_zeros() as u8
        } else {
            self.rng.below(11) as u8
        };
        let order = Order(order);
        let gfp = some_gfp(self);
        match self.mm.alloc_pages(Request::new(order, gfp)) {
            Ok(page) => {
                assert_eq!(page.order, order);
                self.blocks.counts.served[order.index()] += 1;
                self.receive(page, gfp);
            }
            Err(AllocError::NoMemory) => self.blocks.counts.refused[order.index()] += 1,
            Err(why) => panic!("order {order}, {gfp:?}: {why}"),
        }
    }

    /// Checks a block that was handed out, and holds it.
    fn receive(&mut self, page: Page, gfp: Gfp) {
        let map = self.mm.map();
        assert!(page.pfn.is_aligned(page.order), "{page:?} is not aligned");
        let head = map.try_page(page.pfn).map(PageDesc::head).expect("a descriptor");
        assert!(head.is(PageType::Kernel, page.order), "{page:?} is {head:?}");
        let class = gfp.zone().expect("a zone");
        for pfn in [page.pfn, page.pfn.add(page.order.pages() - 1)] {
            let block = map.try_block(pfn).expect("a pageblock");
            assert!(self.mm.zones()[block.zone_index()].kind <= class, "{page:?} for {gfp:?}");
        }
        if self.mm.is_pfmemalloc(page.pfn) {
            self.blocks.counts.marked += 1;
            let context = self.mm.platform().context();
            assert!(gfp.may_use_reserves(context), "{page:?} is marked for {gfp:?}, {context:?}");
        }
        if gfp.contains(Gfp::ZERO) {
            for pfn in frames(page) {
                // SAFETY: the block was just handed out to this test.
                let bytes =
                    unsafe { std::slice::from_raw_parts(self.mm.platform().frame(pfn), PAGE_SIZE) };
                assert!(*bytes == [0; PAGE_SIZE], "{pfn:?} is not zeroed");
            }
        }
        let id = self.owners.take(page);
        stamp(self.mm, page, id);
        self.blocks.held.push(Held { page, id });
    }

    /// A held block at random, not held any more.
    fn part_with(&mut self) -> Option<Page> {
        if self.blocks.held.is_empty() {
            return None;
        }
        let index = self.rng.below(self.blocks.held.len() as u64) as usize;
        let Held { page, id } = self.blocks.held.swap_remove(index);
        check_stamp(self.mm, page, id);
        self.owners.drop(page, id);
        Some(page)
    }

    pub(crate) fn free(&mut self) {
        if let Some(page) = self.part_with() {
            self.mm.free_pages(page).expect("a held block can be freed");
        }
    }

    /// Single pages in bulk, either way.
    pub(crate) fn bulk(&mut self) {
        let mut pages = [Pfn(0); 64];
        let want = 1 + self.rng.below(pages.len() as u64) as usize;
        if self.rng.percent(self.appetite) {
            let gfp = some_gfp(self);
            match self.mm.alloc_bulk(gfp, None, &mut pages[..want]) {
                Ok(got) => {
                    assert!((1..=want).contains(&got), "{got} pages of {want}");
                    self.blocks.counts.bulk += got as u64;
                    for &pfn in &pages[..got] {
                        self.receive(Page { pfn, order: Order(0) }, gfp);
                    }
                }
                Err(why) => assert_eq!(why, AllocError::NoMemory, "{gfp:?}"),
            }
            return;
        }
        let mut got = 0;
        for _ in 0..want {
            let Some(page) = self.part_with() else { break };
            if page.order == Order(0) {
                pages[got] = page.pfn;
                got += 1;
            } else {
                self.mm.free_pages(page).expect("a held block can be freed");
            }
        }
        self.mm.free_bulk(&pages[..got]).expect("held pages can be freed");
    }

    fn is_free(&self, pfn: Pfn) -> bool {
        let head = self.mm.map().head_of(pfn).map(|(_, head)| head.ty());
        matches!(head, Some(PageType::Buddy | PageType::Pcp))
    }

    /// Frees what is not held, in some way; the answer has to say what is
    /// wrong with it, and nothing may change.
    pub(crate) fn free_wrongly(&mut self) {
        let end = self.mm.map().end();
        // Half the time something that is held, at a wrong place or order.
        let pfn = match self.blocks.held.len() as u64 {
            n if n > 0 && self.rng.percent(50) => {
                let held = self.blocks.held[self.rng.below(n) as usize];
                held.page.pfn.add(self.rng.below(held.page.order.pages()))
            }
            _ => Pfn(self.rng.below(end.0 + 2)),
        };
        let page = Page { pfn, order: Order(self.rng.below(12) as u8) };
        let owner = self.owners.of(pfn);
        let held = self.blocks.held.iter().find(|held| held.id == owner && owner != 0);
        if held.is_some_and(|held| held.page == page) {
            return;
        }
        // Tables of the arena look like anybody's pages, and are its to free.
        let word = self.mm.map().try_page(pfn).map(PageDesc::head);
        if held.is_none() && word.is_some_and(|word| word.is(PageType::Kernel, page.order)) {
            return;
        }
        self.blocks.counts.wrong_frees += 1;
        let why = self.mm.free_pages(page).expect_err("a wrong free");
        match held {
            Some(held) if held.page.pfn == pfn => {
                assert_eq!(why, FreeError::WrongOrder { is: held.page.order }, "{page:?}");
            }
            Some(_) => assert_eq!(why, FreeError::NotHead, "{page:?}"),
            // Part of a contiguous range, which is freed in another way.
            None if owner != 0 => {
                assert!(matches!(why, FreeError::WrongOwner | FreeError::NotHead), "{why:?}");
            }
            // Free, movable, a slab's, or never handed out.
            None => assert!(
                !matches!(why, FreeError::WrongOrder { .. }) || !self.is_free(pfn),
                "{why:?}"
            ),
        }
    }
}
