//! Things put wrong on purpose, one at a time, in what is known of mapped pages,
//! of the lists they are on, of the swap cache and its slots: the audit says so of
//! each, and nothing once it is right again.

use crate::{disk, machine};
use mm::Mm;
use mm::host::Machine;
use mm::mmu::{Entry, MapSize, Mapping, SwapEntry, VirtAddr};
use mm::page::{LruFlags, NIL, PageDesc, PageFlags};
use mm::platform::Platform;
use mm::pressure::Pressure;
use mm::space::{Access, HugePages, MapFlags, Prot, SpaceRef};
use mm::types::{PAGE_SIZE, Pfn};
use mm::{Gfp, mmu};

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages of the space; the first ones go to swap, and one of these comes back.
const PAGES: u64 = 64;

/// A machine with one space, of whose pages some are in memory, some in swap, and
/// one in the swap cache.
struct Stand<'m> {
    mm: &'m Mm<Machine>,
    space: SpaceRef<'m>,
    at: VirtAddr,
}

impl<'m> Stand<'m> {
    fn new(mm: &'m Mm<Machine>) -> Self {
        mm.set_huge_pages(HugePages::Never);
        let space = mm.space_new("one").expect("a space");
        let prot = Prot::READ | Prot::WRITE;
        let at = mm.mmap(&space, None, PAGES * PAGE, prot, MapFlags::empty()).expect("room");
        for page in 0..PAGES / 2 {
            mm.write_space(&space, at.add(page * PAGE), &[7]).expect("memory");
        }
        for zone in mm.zones().iter().filter(|zone| zone.managed() > 0) {
            // Twice: what was used lately gets a second chance.
            for _ in 0..2 {
                mm.reclaim_in_zone(zone.index(), 64, Gfp::KERNEL);
            }
        }
        assert!(space.swapped() > 8, "{} pages in swap", space.swapped());
        for page in PAGES / 2..PAGES {
            mm.write_space(&space, at.add(page * PAGE), &[7]).expect("memory");
        }
        let stand = Self { mm, space, at };
        // It is read, so its slot stays.
        mm.fault(&stand.space, stand.swapped().0, Access::Read).expect("read back");
        mm.lru_drain_all();
        stand.is_whole();
        stand
    }

    fn entries(&self) -> impl Iterator<Item = (VirtAddr, Entry)> {
        let mmu = self.mmu();
        (0..PAGES).map(move |page| {
            let va = self.at.add(page * PAGE);
            (va, mmu.get(self.space.root(), va))
        })
    }

    fn mmu(&self) -> &'m dyn mmu::Mmu {
        self.mm.platform().mmu().expect("tables")
    }

    /// A place whose page is in swap, and nowhere else.
    fn swapped(&self) -> (VirtAddr, SwapEntry) {
        let find = |(va, entry)| match entry {
            Entry::Swap(slot) => Some((va, slot)),
            _ => None,
        };
        self.entries().find_map(find).expect("a page in swap")
    }

    /// A page that is mapped, in the swap cache or not.
    fn mapped(&self, cached: bool) -> (VirtAddr, Mapping) {
        let find = |(va, entry)| match entry {
            Entry::Page(m)
                if self.desc(m.pfn).head().lru().contains(LruFlags::SWAPCACHE) == cached =>
            {
                Some((va, m))
            }
            _ => None,
        };
        self.entries().find_map(find).expect("a mapped page")
    }

    fn desc(&self, pfn: Pfn) -> &'m PageDesc {
        self.mm.map().try_page(pfn).expect("a page")
    }

    /// A page that has others on its list before and behind it.
    fn amid(&self) -> &'m PageDesc {
        let mut pages = self.entries().filter_map(|(_, entry)| match entry {
            Entry::Page(m) => Some(self.desc(m.pfn)),
            _ => None,
        });
        let amid = |page: &&PageDesc| page.next() != NIL && page.prev() != NIL;
        pages.find(amid).expect("a page that is neither first nor last")
    }

    fn page(&self) -> &'m PageDesc {
        self.desc(self.mapped(false).1.pfn)
    }

    fn cached(&self) -> &'m PageDesc {
        self.desc(self.mapped(true).1.pfn)
    }

    fn replace(&self, va: VirtAddr, entry: Entry) -> Entry {
        self.mmu().replace(self.space.root(), va, MapSize::Small, entry)
    }

    fn is_whole(&self) {
        self.mm.audit().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Puts something wrong, sees that it is found, and puts it right.
    fn finds<A, B>(&self, what: &str, wrong: impl FnOnce() -> A, right: impl FnOnce() -> B) {
        wrong();
        let found = self.mm.audit();
        right();
        let Err(why) = found else { panic!("nothing was found, but {what:?} should have been") };
        let why = why.to_string();
        assert!(why.contains(what), "found was {why:?}, not {what:?}");
        self.is_whole();
    }
}

fn with_stand(f: impl FnOnce(&Stand<'_>)) {
    let mm = machine(if cfg!(miri) { 4 } else { 12 }, 1, 0);
    mm.swapon(disk("/dev/disk", 400), None).expect("memory");
    let stand = Stand::new(&mm);
    f(&stand);
    let Stand { space, .. } = stand;
    mm.space_put(space);
    mm.lru_drain_all();
    mm.swapoff("/dev/disk").expect("nothing on it");
    assert_eq!(mm.audit().unwrap_or_else(|why| panic!("{why}")).lru, 0);
}

#[test]
fn what_entries_and_pages_say_of_each_other() {
    with_stand(|stand| {
        let page = stand.page();
        let (va, mapping) = stand.mapped(false);
        stand.finds(
            "mapped more often than referenced",
            || page.add_mapping(),
            || page.drop_mapping(),
        );
        let more = || {
            page.get();
            page.add_mapping()
        };
        let fewer = || {
            page.drop_mapping();
            page.put()
        };
        stand.finds("a page that several share and one may write", more, fewer);
        stand.finds("references to a page", || page.get(), || page.put());
        let index = page.index();
        stand.finds(
            "group and number of a page",
            || page.set_index(index + 1),
            || page.set_index(index),
        );
        let group = page.owner();
        stand.finds(
            "group and number of a page",
            || page.set_owner(group + 1),
            || page.set_owner(group),
        );
        // An entry that is lost, one too many, and one that may do too much.
        let back = || stand.replace(va, Entry::Page(mapping));
        stand.finds("pages that a space maps", || stand.replace(va, Entry::None), back);
        let beside = stand.at.add(PAGES * PAGE);
        assert!(stand.mmu().get(stand.space.root(), beside) == Entry::None);
        let moving = || stand.replace(va, Entry::Moving(mapping));
        stand.finds("an entry just being moved", moving, back);
        let (other, _) = stand.swapped();
        let slot = stand.replace(other, Entry::None);
        stand.replace(other, slot);
        let twice = || stand.replace(other, Entry::Page(mapping));
        stand.finds("group and number of a page", twice, || stand.replace(other, slot));
    });
}

#[test]
fn what_lists_and_pages_say_of_each_other() {
    with_stand(|stand| {
        let page = stand.amid();
        let flag = |flags: LruFlags, what: &str| {
            let has = page.head().lru().contains(flags);
            let (set, clear) = (|| page.set_lru(flags), || page.clear_lru(flags));
            if has { stand.finds(what, clear, set) } else { stand.finds(what, set, clear) }
        };
        flag(LruFlags::ACTIVE, "on an LRU list");
        flag(LruFlags::UNEVICTABLE, "on an LRU list");
        flag(LruFlags::LISTED, "on an LRU list");
        flag(LruFlags::ANON, "");
        stand.finds(
            "listed and isolated",
            || page.set_flags(PageFlags::ISOLATED),
            || page.clear_flags(PageFlags::ISOLATED),
        );
        let (next, prev) = (page.next(), page.prev());
        stand.finds("", || page.set_prev(next), || page.set_prev(prev));
        // It ends too early, or never.
        stand.finds("LRU list", || page.set_next(NIL), || page.set_next(next));
        stand.finds("", || page.set_next(prev), || page.set_next(next));
    });
}

#[test]
fn what_slots_pages_and_entries_say_of_each_other() {
    with_stand(|stand| {
        let mm = stand.mm;
        let (page, cached) = (stand.page(), stand.cached());
        let (va, slot) = stand.swapped();
        stand.finds(
            "entries that name swap slots",
            || mm.swap_dup(slot).expect("in use"),
            || mm.swap_free(slot),
        );
        // The entry is lost, and with it what was there.
        let was = Entry::Swap(slot);
        let back = || stand.replace(va, was);
        stand.finds("pages that a space has in swap", || stand.replace(va, Entry::None), back);
        // It names the slot of another one.
        let others = stand.entries().filter_map(|(_, entry)| match entry {
            Entry::Swap(other) if other != slot => Some(other),
            _ => None,
        });
        let other = Entry::Swap(others.last().expect("another page in swap"));
        stand.finds("which swap slots entries name", || stand.replace(va, other), back);
        // A page that says it is in the cache and is not, and the other way round.
        let flag = LruFlags::SWAPCACHE;
        stand.finds("", || page.set_lru(flag), || page.clear_lru(flag));
        stand.finds("nr_swapcached", || cached.clear_lru(flag), || cached.set_lru(flag));
        let private = cached.private();
        stand.finds(
            "slot of a page in the swap cache",
            || cached.set_private(private + 1),
            || cached.set_private(private),
        );
        stand.finds("", || cached.put(), || cached.get());
    });
}
