//! Early memory against a model that knows each frame's node and owner.

use mm::early::{EarlyMem, Lost, RamRange, Reservation};
use mm::types::{NodeId, Order, Pfn, PfnRange};
use proptest::prelude::*;

/// Frames in the model's world.
const FRAMES: u64 = 96;
const NAMES: [&str; 3] = ["kernel", "memory map", "cma"];

#[derive(Clone, Debug)]
enum Op {
    AddRam(PfnRange, u8),
    RemoveRam(PfnRange),
    SetNode(PfnRange, u8),
    Reserve(PfnRange, usize),
    Release(PfnRange),
    Alloc(u64, u8, Option<u64>, usize),
    AllocOn(u64, u8, PfnRange, u8, usize),
    AllocAt(PfnRange, usize),
}

fn range() -> impl Strategy<Value = PfnRange> {
    (0..FRAMES, 0..24u64)
        .prop_map(|(start, len)| PfnRange::new(Pfn(start), Pfn((start + len).min(FRAMES))))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (range(), 0..2u8).prop_map(|(r, n)| Op::AddRam(r, n)),
        1 => range().prop_map(Op::RemoveRam),
        1 => (range(), 0..2u8).prop_map(|(r, n)| Op::SetNode(r, n)),
        2 => (range(), 0..3usize).prop_map(|(r, n)| Op::Reserve(r, n)),
        1 => range().prop_map(Op::Release),
        3 => (0..6u64, 0..4u8, prop::option::of(0..FRAMES), 0..3usize)
            .prop_map(|(p, o, l, n)| Op::Alloc(p, o, l, n)),
        1 => (0..6u64, 0..4u8, range(), 0..2u8, 0..3usize)
            .prop_map(|(p, o, r, node, n)| Op::AllocOn(p, o, r, node, n)),
        1 => (range(), 0..3usize).prop_map(|(r, n)| Op::AllocAt(r, n)),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..if cfg!(miri) { 10 } else { 40 })
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[derive(Clone)]
struct Model {
    node: Vec<Option<u8>>,
    owner: Vec<Option<&'static str>>,
}

impl Model {
    fn new() -> Self {
        Self { node: vec![None; FRAMES as usize], owner: vec![None; FRAMES as usize] }
    }

    fn free(&self, f: u64) -> bool {
        self.node[f as usize].is_some() && self.owner[f as usize].is_none()
    }

    fn highest(&self, pages: u64, order: u8, within: PfnRange, node: Option<u8>) -> Option<u64> {
        let fits = |s: u64| {
            let home = self.node.get(s as usize).copied().flatten();
            s.is_multiple_of(1 << order)
                && s >= within.start.0
                && s + pages <= within.end.0.min(FRAMES)
                && node.is_none_or(|n| home == Some(n))
                && (s..s + pages).all(|f| self.free(f) && self.node[f as usize] == home)
        };
        (0..FRAMES).rev().find(|&s| pages > 0 && fits(s))
    }

    fn own(&mut self, range: PfnRange, name: &'static str) {
        for f in range.start.0..range.end.0 {
            self.owner[f as usize].get_or_insert(name);
        }
    }

    fn apply(&mut self, op: &Op) -> Option<u64> {
        match *op {
            Op::AddRam(r, node) => {
                for f in r.start.0..r.end.0 {
                    self.node[f as usize].get_or_insert(node);
                }
            }
            Op::RemoveRam(r) => (r.start.0..r.end.0).for_each(|f| self.node[f as usize] = None),
            Op::SetNode(r, node) => {
                for f in r.start.0..r.end.0 {
                    self.node[f as usize] = self.node[f as usize].map(|_| node);
                }
            }
            Op::Reserve(r, name) => self.own(r, NAMES[name]),
            Op::Release(r) => (r.start.0..r.end.0).for_each(|f| self.owner[f as usize] = None),
            Op::Alloc(pages, order, limit, name) => {
                let within = PfnRange::new(Pfn(0), Pfn(limit.unwrap_or(FRAMES)));
                let at = self.highest(pages, order, within, None)?;
                self.own(PfnRange::sized(Pfn(at), pages), NAMES[name]);
                return Some(at);
            }
            Op::AllocOn(pages, order, within, node, name) => {
                let at = self.highest(pages, order, within, Some(node))?;
                self.own(PfnRange::sized(Pfn(at), pages), NAMES[name]);
                return Some(at);
            }
            Op::AllocAt(r, name) => {
                let free = !r.is_empty() && (r.start.0..r.end.0).all(|f| self.free(f));
                if free {
                    self.own(r, NAMES[name]);
                }
                return free.then_some(r.start.0);
            }
        }
        None
    }
}

fn apply(early: &mut EarlyMem<'_>, op: &Op) -> Option<u64> {
    match *op {
        Op::AddRam(r, node) => early.add_ram(r, NodeId(node)),
        Op::RemoveRam(r) => early.remove_ram(r),
        Op::SetNode(r, node) => early.set_node(r, NodeId(node)),
        Op::Reserve(r, name) => early.reserve(r, NAMES[name]),
        Op::Release(r) => early.release(r),
        Op::Alloc(pages, order, limit, name) => {
            return early.alloc(pages, Order(order), limit.map(Pfn), NAMES[name]).map(|p| p.0);
        }
        Op::AllocOn(pages, order, within, node, name) => {
            let node = Some(NodeId(node));
            return early.alloc_in(pages, Order(order), within, node, NAMES[name]).map(|p| p.0);
        }
        Op::AllocAt(r, name) => return early.alloc_at(r, NAMES[name]).then_some(r.start.0),
    }
    None
}

/// The tables as the model's per-frame view, and their invariants.
fn view(early: &EarlyMem<'_>) -> Model {
    let mut view = Model::new();
    let mut below: Option<RamRange> = None;
    for &r in early.ram() {
        assert!(!r.range.is_empty());
        if let Some(b) = below {
            assert!(b.range.end <= r.range.start, "{b:?} {r:?}");
            assert!(b.node != r.node || b.range.end < r.range.start, "{b:?} {r:?} touch");
        }
        below = Some(r);
        for f in r.range.start.0..r.range.end.0 {
            view.node[f as usize] = Some(r.node.0);
        }
    }
    let mut below: Option<Reservation> = None;
    for &r in early.reserved() {
        assert!(!r.range.is_empty());
        if let Some(b) = below {
            assert!(b.range.end <= r.range.start, "{b:?} {r:?}");
            assert!(b.name != r.name || b.range.end < r.range.start, "{b:?} {r:?} touch");
        }
        below = Some(r);
        for f in r.range.start.0..r.range.end.0 {
            view.owner[f as usize] = Some(r.name);
        }
    }
    view
}

fn check_counts(early: &EarlyMem<'_>, model: &Model) {
    let free: Vec<u64> = (0..FRAMES).filter(|&f| model.free(f)).collect();
    let listed: Vec<u64> = early.free_ranges().flat_map(|r| r.start.0..r.end.0).collect();
    assert_eq!(listed, free);
    assert_eq!(early.free_pages(), free.len() as u64);
    let present = model.node.iter().flatten().count() as u64;
    assert_eq!(early.present_pages(), present);
    assert_eq!(early.reserved_pages(), present - free.len() as u64);
    for name in NAMES {
        let theirs = (0..FRAMES as usize)
            .filter(|&f| model.owner[f] == Some(name) && model.node[f].is_some());
        assert_eq!(early.reserved_by(name), theirs.count() as u64, "{name}");
    }
    let end = model.node.iter().rposition(Option::is_some).map_or(0, |f| f as u64 + 1);
    assert_eq!(early.end_of_ram(), Pfn(end));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn behaves_like_the_model(ops in ops()) {
        let mut ram = [RamRange::EMPTY; 100];
        let mut reserved = [Reservation::EMPTY; 100];
        let mut early = EarlyMem::new(&mut ram, &mut reserved);
        let mut model = Model::new();
        for op in &ops {
            prop_assert_eq!(apply(&mut early, op), model.apply(op), "{:?}", op);
            let view = view(&early);
            prop_assert_eq!(&view.node, &model.node, "{:?}", op);
            prop_assert_eq!(&view.owner, &model.owner, "{:?}", op);
            check_counts(&early, &model);
        }
        prop_assert!(early.lost().is_nothing());
    }

    /// Small tables may lose RAM; they never make any, and never free a frame
    /// that somebody holds.
    #[test]
    fn overflow_only_loses(ops in ops(), ram_slots in 0..5usize, reserved_slots in 0..4usize) {
        let mut ram = vec![RamRange::EMPTY; ram_slots];
        let mut reserved = vec![Reservation::EMPTY; reserved_slots];
        let mut early = EarlyMem::new(&mut ram, &mut reserved);
        let mut model = Model::new();
        for op in &ops {
            let before = view(&early);
            let got = apply(&mut early, op);
            match (op, got) {
                // An allocation is judged by where it really went.
                (&Op::Alloc(pages, _, _, name) | &Op::AllocOn(pages, _, _, _, name), got) => {
                    if let Some(at) = got {
                        prop_assert!((at..at + pages).all(|f| before.free(f) && model.free(f)));
                        model.own(PfnRange::sized(Pfn(at), pages), NAMES[name]);
                    }
                }
                (&Op::AllocAt(r, name), Some(_)) => {
                    prop_assert!((r.start.0..r.end.0).all(|f| before.free(f) && model.free(f)));
                    model.own(r, NAMES[name]);
                }
                (Op::AllocAt(..), None) => {}
                _ => {
                    model.apply(op);
                }
            }
            let view = view(&early);
            for f in 0..FRAMES {
                prop_assert!(!view.free(f) || model.free(f), "{:?} gained frame {}", op, f);
            }
            if (0..FRAMES).any(|f| model.free(f) && !view.free(f)) {
                prop_assert!(!early.lost().is_nothing(), "{:?} lost RAM and does not say so", op);
            }
        }
    }
}

#[test]
fn allocates_from_the_top_and_never_across_nodes() {
    let mut ram = [RamRange::EMPTY; 4];
    let mut reserved = [Reservation::EMPTY; 4];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    early.add_ram(PfnRange::new(Pfn(0x100), Pfn(0x1000)), NodeId(0));
    early.add_ram(PfnRange::new(Pfn(0x1000), Pfn(0x1010)), NodeId(1));
    assert_eq!(early.alloc(16, Order(0), None, "a"), Some(Pfn(0x1000)));
    assert_eq!(early.alloc(0x20, Order(9), None, "b"), Some(Pfn(0xe00)));
    assert_eq!(early.alloc(1, Order(0), Some(Pfn(0x200)), "c"), Some(Pfn(0x1ff)));
    assert_eq!(early.alloc(1, Order(63), None, "d"), None);
    assert_eq!(early.alloc(1, Order(64), None, "d"), None);
    assert_eq!(early.alloc(u64::MAX, Order(0), None, "d"), None);
    assert_eq!(early.lost(), Lost::default());
}

#[test]
fn loss_is_worded() {
    let mut ram = [RamRange::EMPTY; 1];
    let mut reserved = [Reservation::EMPTY; 1];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    early.add_ram(PfnRange::new(Pfn(8), Pfn(10)), NodeId(0));
    early.add_ram(PfnRange::new(Pfn(16), Pfn(32)), NodeId(0));
    early.reserve(PfnRange::new(Pfn(16), Pfn(20)), "kernel");
    early.reserve(PfnRange::new(Pfn(23), Pfn(24)), "boot info");
    let left = RamRange { range: PfnRange::new(Pfn(16), Pfn(32)), node: NodeId(0) };
    assert_eq!(early.ram(), [left]);
    assert_eq!(early.free_pages(), 8);
    assert_eq!(
        early.lost().to_string(),
        "early memory tables are full: 2 pages of RAM left out, 3 reserved without need"
    );
}

#[test]
fn nothing_can_be_kept_safe_without_a_table() {
    let mut ram = [RamRange::EMPTY; 1];
    let mut early = EarlyMem::new(&mut ram, &mut []);
    early.reserve(PfnRange::new(Pfn(8), Pfn(10)), "kernel");
    early.add_ram(PfnRange::new(Pfn(0), Pfn(32)), NodeId(0));
    assert_eq!((early.present_pages(), early.lost().ram), (0, 32));
}
