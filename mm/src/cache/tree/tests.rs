use super::*;
use crate::gfp::{Gfp, Page, Request};
use crate::host::pc;
use crate::setup::Config;
use crate::types::Order;
use std::collections::BTreeMap;
use std::vec::Vec;

/// A tree, what should be in it, and the nodes it gets.
struct Tried {
    mm: Mm<crate::host::Machine>,
    tree: Tree,
    model: BTreeMap<u32, Entry>,
    seed: u64,
}

impl Tried {
    fn new(seed: u64) -> Self {
        let mm = pc(8, 1, &Config::default()).expect("a machine");
        Self { mm, tree: Tree::new(), model: BTreeMap::new(), seed }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % below
    }

    fn node(&self) -> Pfn {
        let request = Request::new(Order(0), Gfp::KERNEL | Gfp::ZERO);
        self.mm.alloc_pages(request).expect("a node").pfn
    }

    fn free(&self, nodes: &mut PageList) {
        while let Some(pfn) = nodes.pop_front(&self.mm.map) {
            self.mm.free_pages(Page { pfn, order: Order(0) }).expect("a node");
        }
    }

    fn insert(&mut self, index: u32, page: Pfn) {
        let mut spare = PageList::new();
        let before = self.model.get(&index).copied().unwrap_or(Entry::EMPTY);
        loop {
            match self.tree.insert(&self.mm, index, page, &mut spare) {
                Ok(old) => {
                    assert_eq!(old, before);
                    self.model.insert(index, Entry::of(page));
                    break;
                }
                Err(Refused::Present) => {
                    assert!(before.pfn().is_some());
                    break;
                }
                Err(Refused::Nodes(n)) => {
                    assert!(n > spare.len() && n as usize <= 2 * MAX_HEIGHT);
                    spare.push_back(&self.mm.map, self.node());
                }
            }
        }
        assert!(spare.is_empty(), "no more than it said");
    }

    fn remove(&mut self, index: u32, instead: Entry) {
        let mut freed = PageList::new();
        let page = self.model.get(&index).is_some_and(|entry| entry.pfn().is_some());
        self.tree.retag(&self.mm, index, Tags::empty(), Tags::all());
        assert_eq!(self.tree.remove(&self.mm, index, instead, &mut freed), page);
        if page {
            self.model.remove(&index);
            if !instead.is_empty() {
                self.model.insert(index, instead);
            }
        }
        self.free(&mut freed);
    }

    /// The tree is the model, and what is counted of it is right.
    fn check(&self) {
        for which in [Which::Page, Which::Tagged, Which::Gone] {
            let (mut found, mut at) = (Vec::new(), Some(0));
            while let Some(next) = at.and_then(|from| self.tree.next(&self.mm, from, which)) {
                at = next.0.checked_add(1);
                found.push(next);
            }
            let wanted = self.model.iter().map(|(&index, &entry)| (index, entry));
            let alone = |index: u32| {
                let first = index / 512 * 512;
                let mut leaf = self.model.range(first..=first + 511);
                self.tree.height == 1 || leaf.all(|(_, entry)| entry.pfn().is_none())
            };
            let wanted = wanted.filter(|&(index, entry)| match which {
                Which::Page => entry.pfn().is_some(),
                Which::Tagged => !entry.tags().is_empty(),
                Which::Gone => entry.memory().is_some() && alone(index),
            });
            assert_eq!(found, wanted.collect::<Vec<_>>(), "{which:?}");
        }
        let (mut nodes, mut leaves) = (0, 0);
        let walked: Result<(), ()> = self.tree.each_node(&self.mm, &mut |node, level| {
            let [used, pages, tagged] = count_node(&self.mm, node, level);
            let desc = self.mm.map.page(node);
            assert_eq!((desc.index(), desc.inuse(), desc.private()), (used, pages, tagged));
            assert!(used > 0, "an empty node");
            nodes += 1;
            leaves += u64::from(level == 0 && pages == 0);
            Ok(())
        });
        assert_eq!(walked, Ok(()));
        assert_eq!((self.tree.nodes(), self.tree.shadow_leaves()), (nodes, leaves));
        assert_eq!(self.tree.root.is_none(), self.model.is_empty());
        let highest = self.model.keys().next_back().copied();
        assert_eq!(self.tree.height, highest.map_or(0, height_for), "as low as can be");
    }
}

#[test]
fn a_tree_is_as_high_as_it_has_to_be() {
    let heights = [0, 1, 511, 512, (1 << 18) - 1, 1 << 18, 1 << 27, u32::MAX].map(height_for);
    assert_eq!(heights, [1, 1, 1, 2, 2, 3, 4, 4]);
    let mut tried = Tried::new(1);
    for index in [600, 0, u32::MAX, 511, 1 << 20] {
        tried.insert(index, Pfn(u64::from(index) / 3));
        tried.check();
    }
    for index in [u32::MAX, 1 << 20, 0, 600, 511] {
        tried.remove(index, Entry::EMPTY);
        tried.check();
    }
    assert_eq!(tried.tree.nodes(), 0);
    tried.mm.audit().expect("no node is left");
}

#[test]
fn a_tree_is_what_a_map_is() {
    for seed in 0..if cfg!(miri) { 1 } else { 20 } {
        let mut tried = Tried::new(seed);
        for round in 0..if cfg!(miri) { 40 } else { 1500 } {
            // Near each other and far from each other.
            let spread = [600, 5000, 1 << 19, 1 << 32][tried.random(4) as usize];
            let mut index = tried.random(spread) as u32;
            if tried.random(2) == 0
                && let Some((&near, _)) = tried.model.range(index..).next()
            {
                index = near;
            }
            match tried.random(6) {
                0 | 1 => {
                    let page = Pfn(tried.random(1 << 31));
                    tried.insert(index, page);
                }
                2 => tried.remove(index, Entry::EMPTY),
                3 => {
                    let memory = tried.random(1 << 30);
                    tried.remove(index, Entry::shadow(memory));
                }
                4 => {
                    let set = Tags::from_bits_truncate(tried.random(4) << 32);
                    let clear = Tags::from_bits_truncate(tried.random(4) << 32);
                    if let Some(entry) = tried.model.get_mut(&index).filter(|e| e.pfn().is_some()) {
                        let old = tried.tree.retag(&tried.mm, index, set, clear);
                        assert_eq!(old, entry.tags());
                        *entry = entry.retagged(set, clear);
                    }
                }
                _ => {
                    let leaf = tried.tree.leaf(&tried.mm, index).map(|(_, leaf, _)| leaf);
                    let only = leaf.is_some_and(|leaf| tried.mm.map.page(leaf).inuse() == 0);
                    let mut freed = PageList::new();
                    let next = tried.tree.drop_shadow_leaf(&tried.mm, index, &mut freed);
                    assert_eq!(next, (index | 511).checked_add(1));
                    assert_eq!(only, !freed.is_empty());
                    if only {
                        tried.model.retain(|&i, _| i / 512 != index / 512);
                    }
                    tried.free(&mut freed);
                }
            }
            assert_eq!(tried.tree.get(&tried.mm, index), {
                tried.model.get(&index).copied().unwrap_or(Entry::EMPTY)
            });
            if round % 50 == 0 {
                tried.check();
            }
        }
        tried.check();
        let all: Vec<_> = tried.model.keys().copied().collect();
        for index in all {
            let mut freed = PageList::new();
            tried.remove(index, Entry::EMPTY);
            tried.tree.drop_shadow_leaf(&tried.mm, index, &mut freed);
            tried.free(&mut freed);
            // What was remembered in a leaf with pages has to wait for its turn.
            tried.model.retain(|_, entry| entry.pfn().is_some());
        }
        let rest: Vec<_> = std::iter::successors(Some(0), |_| {
            tried.tree.next(&tried.mm, 0, Which::Gone).map(|(index, _)| index)
        })
        .skip(1)
        .take(1)
        .collect();
        assert!(rest.is_empty() && tried.tree.nodes() == 0, "{seed}: {rest:?}");
        tried.mm.audit().expect("no node is left");
    }
}
