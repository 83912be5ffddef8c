//! Random operations against a simple map, and the corners by hand.

use super::{SPAN, Table, TableFrames, Tables};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::mmu::{Entry, MapSize, Mapping, Root, SwapEntry, VirtAddr};
use mm::types::Pfn;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Tables by frame number, made beforehand.
struct Ram {
    tables: Vec<Box<Table>>,
    free: RefCell<Vec<Pfn>>,
}

impl Ram {
    fn new(frames: u64) -> Self {
        let table = || Box::new([const { AtomicU64::new(0x5a5a_5a5a_5a5a_5a5b) }; 512]);
        let tables = (0..frames).map(|_| table()).collect();
        Self { tables, free: RefCell::new((1..frames).rev().map(Pfn).collect()) }
    }

    fn take(&self) -> Option<Pfn> {
        let pfn = self.free.borrow_mut().pop()?;
        self.tables[pfn.0 as usize].iter().for_each(|slot| slot.store(0, Relaxed));
        Some(pfn)
    }

    fn give(&self, pfn: Pfn) {
        assert!(!self.free.borrow().contains(&pfn), "{pfn:?} twice");
        self.free.borrow_mut().push(pfn);
    }

    fn space(&self) -> Tables<'_, Self> {
        let root = self.take().expect("a frame for the root");
        Tables::new(self, Root(root.addr()))
    }

    fn left(&self) -> u64 {
        self.free.borrow().len() as u64
    }
}

// SAFETY: each frame has a table of its own, which lives as long as this.
unsafe impl TableFrames for Ram {
    fn table(&self, pfn: Pfn) -> &Table {
        &self.tables[pfn.0 as usize]
    }
}

fn page(pfn: u64, size: MapSize) -> Mapping {
    Mapping { pfn: Pfn(pfn), size, writable: true, dirty: false, young: false }
}

const LARGE: u64 = MapSize::Large.bytes();

#[test]
fn an_entry_is_read_as_it_was_put() {
    let ram = Ram::new(8);
    let space = ram.space();
    let va = SPAN.start;
    assert!(space.prepare(va, MapSize::Small, &mut || ram.take()));
    let swap = SwapEntry::new(31, SwapEntry::SLOTS - 1).expect("within the limits");
    let mut entries = vec![Entry::None, Entry::Swap(swap)];
    for bits in 0..8 {
        let page = Mapping {
            pfn: Pfn(0xff_ffff_ffff),
            size: MapSize::Small,
            writable: bits & 1 != 0,
            dirty: bits & 2 != 0,
            young: bits & 4 != 0,
        };
        entries.extend([Entry::Page(page), Entry::Moving(page)]);
    }
    let mut before = Entry::None;
    for entry in entries {
        assert_eq!(space.replace(va, MapSize::Small, entry), before);
        assert_eq!(space.get(va), entry);
        before = entry;
    }
}

#[test]
fn a_page_that_moves_keeps_what_was_said_of_it() {
    for size in [MapSize::Small, MapSize::Large] {
        let ram = Ram::new(8);
        let space = ram.space();
        let va = SPAN.start;
        assert_eq!(space.stop(va, size, Pfn(0)), None, "there are no tables");
        assert!(space.prepare(va, size, &mut || ram.take()));
        assert_eq!(space.stop(va, size, Pfn(0)), None, "nothing is mapped");
        for bits in 0..8 {
            let (old, new) = (Pfn(1 << 9), Pfn(3 << 9));
            let (writable, dirty, young) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let was = Mapping { pfn: old, size, writable, dirty, young };
            space.replace(va, size, Entry::Page(was));
            assert_eq!(space.stop(va, size, new), None, "another page");
            assert_eq!(space.get(va), Entry::Page(was));
            assert_eq!(space.stop(va, size, old), Some(was));
            assert_eq!(space.get(va), Entry::Moving(was));
            assert_eq!(space.stop(va, size, old), None, "it moves already");
            space.resume(va, Mapping { pfn: new, ..was });
            assert_eq!(space.get(va), Entry::Page(Mapping { pfn: new, ..was }));
        }
    }
}

#[test]
fn small_pages_are_no_large_one() {
    let ram = Ram::new(8);
    let space = ram.space();
    let va = SPAN.start;
    assert!(space.prepare(va, MapSize::Small, &mut || ram.take()));
    space.replace(va, MapSize::Small, Entry::Page(page(512, MapSize::Small)));
    assert_eq!(space.stop(va, MapSize::Large, Pfn(512)), None);
    assert_eq!(space.get(va), Entry::Page(page(512, MapSize::Small)));
}

#[test]
fn out_of_frames_nothing_is_lost() {
    let ram = Ram::new(3);
    let space = ram.space();
    assert!(!space.prepare(SPAN.start, MapSize::Small, &mut || ram.take()));
    assert_eq!((space.pages(), ram.left()), (2, 0));
    assert_eq!(space.get(SPAN.start), Entry::None);
    space.free_all(&mut |pfn| ram.give(pfn));
    assert_eq!(ram.left(), 2);
}

#[test]
fn what_was_not_needed_is_used_next() {
    let ram = Ram::new(16);
    let space = ram.space();
    let (a, b) = (Pfn(9), Pfn(10));
    space.keep(a);
    space.keep(b);
    assert_eq!(space.pages(), 3);
    assert_eq!(space.unused(), Some(b));
    assert_eq!(space.unused(), Some(a));
    assert_eq!(space.unused(), None);
}

#[test]
fn a_large_page_is_split_into_its_parts() {
    let ram = Ram::new(8);
    let space = ram.space();
    let va = VirtAddr(LARGE);
    assert!(space.prepare(va, MapSize::Large, &mut || ram.take()));
    let large = Mapping { dirty: true, ..page(512, MapSize::Large) };
    assert_eq!(space.replace(va, MapSize::Large, Entry::Page(large)), Entry::None);
    let inside = va.add(5 * 4096);
    assert_eq!(space.get(inside), Entry::Page(large));
    assert!(!space.prepare(inside, MapSize::Small, &mut || ram.take()), "it is mapped");
    assert!(space.split(va, &mut || ram.take()));
    let part = Mapping { dirty: true, ..page(517, MapSize::Small) };
    assert_eq!(space.get(inside), Entry::Page(part));
    assert!(!space.split(va, &mut || ram.take()), "it is split");
    assert!(!space.prepare(va, MapSize::Large, &mut || ram.take()), "small ones are there");
}

#[test]
fn a_page_that_moves_keeps_its_size() {
    let ram = Ram::new(8);
    let space = ram.space();
    let va = VirtAddr(4 * LARGE);
    assert!(space.prepare(va, MapSize::Large, &mut || ram.take()));
    let moving = Entry::Moving(page(1024, MapSize::Large));
    assert_eq!(space.replace(va, MapSize::Large, moving), Entry::None);
    assert_eq!(space.next_entry(VirtAddr(0), SPAN.end), Some((va, MapSize::Large, moving)));
    assert!(!space.make_old(va) && !space.make_clean(va));
    assert!(space.split(va, &mut || ram.take()));
    let part = Entry::Moving(page(1024 + 511, MapSize::Small));
    assert_eq!(space.get(va.add(LARGE - 4096)), part, "its parts move too");
}

#[test]
fn tables_go_where_all_they_cover_does() {
    let ram = Ram::new(16);
    let space = ram.space();
    let used = [VirtAddr(LARGE), VirtAddr(LARGE + 0x1000), VirtAddr(3 * LARGE)];
    for va in used {
        assert!(space.prepare(va, MapSize::Small, &mut || ram.take()));
    }
    assert_eq!(space.pages(), 5);
    let free = |range| space.hand_back(space.take_out(range), &mut |pfn| ram.give(pfn));
    free(VirtAddr(LARGE + 0x1000)..VirtAddr(4 * LARGE - 0x1000));
    assert_eq!(space.pages(), 5, "each covers more than that");
    free(VirtAddr(LARGE)..VirtAddr(4 * LARGE - 0x1000));
    assert_eq!(space.pages(), 4);
    free(VirtAddr(0)..SPAN.end);
    assert_eq!(space.pages(), 1);
    space.free_all(&mut |pfn| ram.give(pfn));
    assert_eq!(ram.left(), 15);
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, bool),
    Clear(u64),
    Swap(u64, u32),
    Move(u64),
    Protect(u64),
    Old(u64),
    Clean(u64),
    Split(u64),
    Find(u64, u64),
    Free(u64, u64),
}

/// Pages of a few distant places, each of several large pages' worth, few enough
/// to be met again.
fn place() -> impl Strategy<Value = u64> {
    let base = prop_oneof![Just(0u64), Just((1u64 << 18) - 1024), Just(1u64 << 27)];
    (base, prop_oneof![512u64..516, 1020u64..1028, 1536u64..1540])
        .prop_map(|(base, page)| base + page)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (place(), any::<bool>()).prop_map(|(at, large)| Op::Map(at, large)),
        2 => place().prop_map(Op::Clear),
        1 => (place(), 0u32..1 << 27).prop_map(|(at, slot)| Op::Swap(at, slot)),
        1 => place().prop_map(Op::Move),
        1 => place().prop_map(Op::Protect),
        1 => place().prop_map(Op::Old),
        1 => place().prop_map(Op::Clean),
        1 => place().prop_map(Op::Split),
        2 => (place(), place()).prop_map(|(a, b)| Op::Find(a, b)),
        1 => (place(), place()).prop_map(|(a, b)| Op::Free(a, b)),
    ]
}

/// What is mapped, by first page.
#[derive(Default)]
struct Model(BTreeMap<u64, (MapSize, Entry)>);

impl Model {
    fn at(&self, page: u64) -> Option<(u64, MapSize, Entry)> {
        let (&start, &(size, entry)) = self.0.range(..=page).next_back()?;
        (page < start + size.order().pages()).then_some((start, size, entry))
    }

    fn first(&self, from: u64, to: u64) -> Option<(u64, MapSize, Entry)> {
        let inside = || {
            let (&start, &(size, entry)) = self.0.range(from..to.max(from)).next()?;
            Some((start, size, entry))
        };
        self.at(from).filter(|_| from < to).or_else(inside)
    }

    fn change(&mut self, page: u64, f: impl Fn(&mut Mapping)) {
        if let Some((start, size, Entry::Page(mut mapping))) = self.at(page) {
            f(&mut mapping);
            self.0.insert(start, (size, Entry::Page(mapping)));
        }
    }
}

/// What tables are there for: the pages they were made for, by level.
fn check(ops: &[Op]) {
    let ram = Ram::new(64);
    let space = ram.space();
    let mut model = Model::default();
    for (step, op) in ops.iter().enumerate() {
        match *op {
            Op::Map(at, large) => {
                let size = if large { MapSize::Large } else { MapSize::Small };
                let at = VirtAddr::of_page(at).align_down(size);
                let clash = (0..size.order().pages()).any(|i| model.at(at.page() + i).is_some());
                let prepared = space.prepare(at, size, &mut || ram.take());
                assert!(prepared || clash || large, "there are frames enough");
                if !prepared || clash {
                    continue;
                }
                let new = Mapping {
                    young: step % 2 == 0,
                    dirty: step % 3 == 0,
                    ..page(step as u64 * 512, size)
                };
                assert_eq!(space.replace(at, size, Entry::Page(new)), Entry::None);
                model.0.insert(at.page(), (size, Entry::Page(new)));
            }
            Op::Clear(at) => {
                let Some((start, size, entry)) = model.at(at) else { continue };
                model.0.remove(&start);
                assert_eq!(space.replace(VirtAddr::of_page(start), size, Entry::None), entry);
            }
            Op::Swap(at, slot) => {
                let Some((start, MapSize::Small, entry)) = model.at(at) else { continue };
                let swap = Entry::Swap(SwapEntry::new(step % 32, slot).expect("within the limits"));
                model.0.insert(start, (MapSize::Small, swap));
                assert_eq!(space.replace(VirtAddr::of_page(start), MapSize::Small, swap), entry);
            }
            Op::Move(at) => {
                let Some((start, size, Entry::Page(mapping))) = model.at(at) else { continue };
                let moving = Entry::Moving(mapping);
                model.0.insert(start, (size, moving));
                let old = space.replace(VirtAddr::of_page(start), size, moving);
                assert_eq!(old, Entry::Page(mapping));
            }
            Op::Protect(at) => {
                space.write_protect(VirtAddr::of_page(at));
                model.change(at, |mapping| mapping.writable = false);
            }
            Op::Old(at) => {
                let young = matches!(model.at(at), Some((_, _, Entry::Page(m))) if m.young);
                assert_eq!(space.make_old(VirtAddr::of_page(at)), young);
                model.change(at, |mapping| mapping.young = false);
            }
            Op::Clean(at) => {
                let dirty = matches!(model.at(at), Some((_, _, Entry::Page(m))) if m.dirty);
                assert_eq!(space.make_clean(VirtAddr::of_page(at)), dirty);
                model.change(at, |mapping| mapping.dirty = false);
            }
            Op::Split(at) => {
                let found = model.at(at).filter(|found| found.1 == MapSize::Large);
                let split = space.split(VirtAddr::of_page(at), &mut || ram.take());
                let Some((start, _, entry @ (Entry::Page(m) | Entry::Moving(m)))) = found else {
                    assert!(!split);
                    continue;
                };
                assert!(split);
                for i in 0..512 {
                    let part = Mapping { pfn: m.pfn.add(i), size: MapSize::Small, ..m };
                    let part = match entry {
                        Entry::Page(_) => Entry::Page(part),
                        _ => Entry::Moving(part),
                    };
                    model.0.insert(start + i, (MapSize::Small, part));
                }
            }
            Op::Find(a, b) => {
                let found = space.next_entry(VirtAddr::of_page(a), VirtAddr::of_page(b));
                let first = model.first(a, b);
                assert_eq!(found.map(|(va, size, entry)| (va.page(), size, entry)), first);
            }
            Op::Free(a, b) => {
                let before = ram.left() + space.pages();
                let freed = space.take_out(VirtAddr::of_page(a)..VirtAddr::of_page(b));
                space.hand_back(freed, &mut |pfn| ram.give(pfn));
                assert_eq!(ram.left() + space.pages(), before);
            }
        }
        for (&start, &(_, entry)) in &model.0 {
            assert_eq!(space.get(VirtAddr::of_page(start)), entry);
        }
    }
    let mut frames = BTreeSet::new();
    space.free_all(&mut |pfn| assert!(frames.insert(pfn), "{pfn:?} twice"));
    assert_eq!(ram.left() + frames.len() as u64, 63);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_a_map_does(ops in prop::collection::vec(op(), 1..60)) {
        check(&ops);
    }
}
