//! Random operations on address spaces, and a simple model of them: what each
//! page holds. Whatever is done with memory behind the programs' backs changes
//! nothing of that.

use crate::wild::Wild;
use mm::host::Machine;
use mm::mmu::VirtAddr;
use mm::pressure::Pressure;
use mm::space::{Access, Advice, FaultError, HugePages, MapError, MapFlags, Prot, SpaceRef};
use mm::types::{CpuId, NodeId, PAGE_SIZE, Pfn, PfnRange};
use mm::{Gfp, Mm};
use std::collections::BTreeMap;

const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    /// That word, in its first and its last eight bytes.
    Word(u64),
    /// That, or nothing any more.
    Maybe(u64),
}

/// A space and what its pages hold, by number; what is mapped and not written
/// holds `Word(0)`.
pub(crate) struct Modelled<'m> {
    pub(crate) space: SpaceRef<'m>,
    pub(crate) pages: BTreeMap<u64, Holds>,
    locked: bool,
}

fn access(
    mm: &Mm<Machine>,
    space: &SpaceRef<'_>,
    page: u64,
    write: Option<u64>,
) -> Result<(u64, u64), FaultError> {
    let va = VirtAddr::of_page(page);
    let mut words = (0, 0);
    let f = |frame: *mut u8| {
        let (first, last) = (frame.cast::<u64>(), frame.wrapping_add(PAGE_SIZE - 8).cast::<u64>());
        // SAFETY: in a page of the machine, of which only this thread's space
        // has any, or both are only read.
        unsafe {
            if let Some(word) = write {
                first.write(word);
                last.write(word);
            }
            words = (first.read(), last.read());
        }
    };
    let kind = if write.is_some() { Access::Write } else { Access::Read };
    mm.access(space, va, kind, f)?;
    Ok(words)
}

/// Why an access may fail: there is no memory, a device cannot read, or the space
/// was killed. Nothing is lost by the first two.
pub(crate) fn tolerate(space: &SpaceRef<'_>, why: FaultError) {
    let killed = why == FaultError::Killed && space.is_killed();
    let lacking = matches!(why, FaultError::NoMemory | FaultError::Io);
    assert!(killed || lacking, "{}: {why}", space.name());
}

impl Modelled<'_> {
    pub(crate) fn check(&mut self, mm: &Mm<Machine>, page: u64) {
        let Some(&holds) = self.pages.get(&page) else { return };
        let words = match access(mm, &self.space, page, None) {
            Ok(words) => words,
            Err(why) => return tolerate(&self.space, why),
        };
        assert_eq!(words.0, words.1, "page {page:#x} of {}", self.space.name());
        match holds {
            Holds::Word(word) => {
                assert_eq!(words.0, word, "page {page:#x} of {}", self.space.name());
            }
            Holds::Maybe(word) => {
                assert!(words.0 == word || words.0 == 0, "{} is neither {word} nor 0", words.0);
                // What was read as zero is zero from then on; else it may go still.
                if words.0 == 0 {
                    self.pages.insert(page, Holds::Word(0));
                }
            }
        }
    }

    fn any_page(&self, rng: &mut Rng) -> Option<u64> {
        let n = rng.below(self.pages.len().max(1) as u64) as usize;
        self.pages.keys().nth(n).copied()
    }
}

pub(crate) struct World<'m> {
    pub(crate) mm: &'m Mm<Machine>,
    pub(crate) rng: Rng,
    pub(crate) spaces: Vec<Modelled<'m>>,
    contig: Vec<PfnRange>,
    /// Most pages that all spaces may have mapped.
    most: u64,
    /// To be any of that many CPUs, one after the other; None: this thread's.
    cpus: Option<u64>,
    /// What happens to the machine meanwhile.
    pub(crate) wild: Option<Wild>,
}

impl<'m> World<'m> {
    pub(crate) fn new(mm: &'m Mm<Machine>, seed: u64, most: u64, cpus: Option<u64>) -> Self {
        let (spaces, contig) = (Vec::new(), Vec::new());
        Self { mm, rng: Rng(seed), spaces, contig, most, cpus, wild: None }
    }

    pub(crate) fn step(&mut self) {
        if let Some(cpus) = self.cpus {
            self.mm.platform().run_on(CpuId(self.rng.below(cpus) as u16));
        }
        self.bury();
        if self.wild.is_some() && self.rng.below(5) == 0 {
            return self.wild_step();
        }
        if self.spaces.is_empty() && !self.begin() {
            return;
        }
        let which = self.rng.below(self.spaces.len() as u64) as usize;
        let kind = self.rng.below(100);
        self.act(which, kind);
    }

    /// Makes a first space, if there is memory for it.
    pub(crate) fn begin(&mut self) -> bool {
        let Ok(space) = self.mm.space_new("first") else { return false };
        // Who is killed loses its memory, and there is nothing to compare.
        space.set_protected(true);
        self.spaces.push(Modelled { space, pages: BTreeMap::new(), locked: false });
        true
    }

    /// One operation, of a kind out of 100, on one of the spaces.
    pub(crate) fn act(&mut self, which: usize, kind: u64) {
        let mm = self.mm;
        match kind {
            0..4 => self.map(which),
            4..8 => self.unmap(which),
            8..11 => self.advise(which, Advice::DontNeed),
            11..13 => self.advise(which, Advice::Free),
            13..14 => self.fork(which),
            14..15 => self.end(which),
            15..17 => self.compact(),
            17..19 => self.contig(),
            19..20 => self.policy(which),
            20..22 => self.lock(which),
            22 => {
                mm.kswapd_round(NodeId(0));
            }
            23 => self.reclaim(),
            24..28 => self.outside(which),
            28..65 => self.write(which),
            _ => {
                let page = self.spaces[which].any_page(&mut self.rng);
                if let Some(page) = page {
                    self.spaces[which].check(mm, page);
                }
            }
        }
    }

    fn map(&mut self, which: usize) {
        let mapped: usize = self.spaces.iter().map(|space| space.pages.len()).sum();
        let len =
            1 + if self.rng.below(3) == 0 { self.rng.below(1500) } else { self.rng.below(60) };
        if mapped as u64 + len > self.most {
            return;
        }
        let space = &mut self.spaces[which];
        match self.mm.mmap(&space.space, None, len * PAGE, RW, MapFlags::empty()) {
            Ok(va) => {
                for page in va.page()..va.page() + len {
                    assert!(space.pages.insert(page, Holds::Word(0)).is_none(), "mapped twice");
                }
            }
            Err(why) => assert_eq!(why, MapError::NoMemory),
        }
    }

    /// A few pages from a mapped one on.
    fn range(&mut self, which: usize) -> Option<(VirtAddr, u64)> {
        let page = self.spaces[which].any_page(&mut self.rng)?;
        let len = 1 + if self.rng.below(4) == 0 { self.rng.below(700) } else { self.rng.below(40) };
        Some((VirtAddr::of_page(page), len))
    }

    fn unmap(&mut self, which: usize) {
        let Some((va, len)) = self.range(which) else { return };
        match self.mm.munmap(&self.spaces[which].space, va, len * PAGE) {
            Ok(()) => {
                let pages = &mut self.spaces[which].pages;
                (va.page()..va.page() + len).for_each(|page| {
                    pages.remove(&page);
                });
            }
            // At the end of the span.
            Err(MapError::Invalid | MapError::NoMemory | MapError::Busy) => {}
            Err(why) => panic!("{why}"),
        }
    }

    /// Ends the spaces that were killed: what they had is gone.
    fn bury(&mut self) {
        while let Some(at) = self.spaces.iter().position(|space| space.space.is_killed()) {
            let dead = self.spaces.swap_remove(at).space;
            assert!(!dead.is_protected(), "{} was killed", dead.name());
            self.mm.space_put(dead);
        }
    }

    fn advise(&mut self, which: usize, advice: Advice) {
        let Some((va, len)) = self.range(which) else { return };
        let space = &mut self.spaces[which];
        if space.locked {
            return;
        }
        let pages: Vec<u64> = (va.page()..va.page() + len).collect();
        let all = pages.iter().all(|page| space.pages.contains_key(page));
        match self.mm.madvise(&space.space, va, len * PAGE, advice) {
            Ok(()) => assert!(all),
            Err(MapError::NotMapped) => assert!(!all),
            Err(MapError::Invalid) => return,
            // Some of it may be gone.
            Err(MapError::NoMemory | MapError::Busy) => {
                for page in pages {
                    if let Some(Holds::Word(word)) = space.pages.get(&page).copied() {
                        space.pages.insert(page, Holds::Maybe(word));
                    }
                }
                return;
            }
            Err(why) => panic!("{why}"),
        }
        for page in pages {
            let Some(holds) = space.pages.get_mut(&page) else { continue };
            *holds = match (advice, *holds) {
                (Advice::DontNeed, _) => Holds::Word(0),
                (_, Holds::Word(word) | Holds::Maybe(word)) => Holds::Maybe(word),
            };
        }
    }

    fn fork(&mut self, which: usize) {
        let mapped: usize = self.spaces.iter().map(|space| space.pages.len()).sum();
        let parent = &self.spaces[which];
        if self.spaces.len() >= 6 || (mapped + parent.pages.len()) as u64 > self.most {
            return;
        }
        match self.mm.space_fork(&parent.space, "child") {
            Ok(space) => {
                // If its parent is not it may be gone already.
                if !space.is_killed() {
                    space.set_protected(true);
                }
                // What may go may go in one and stay in the other.
                let pages = parent.pages.clone();
                self.spaces.push(Modelled { space, pages, locked: false });
            }
            Err(why) => assert_eq!(why, MapError::NoMemory),
        }
    }

    fn end(&mut self, which: usize) {
        let ended = self.spaces.swap_remove(which);
        self.mm.space_put(ended.space);
    }

    fn compact(&mut self) {
        self.mm.compact_memory(None);
    }

    /// Takes pages away that are not missed, and some that are.
    fn reclaim(&mut self) {
        let pages = 1 + self.rng.below(128);
        for zone in self.mm.zones().iter().filter(|zone| zone.managed() > 0) {
            // What was used lately is passed over the first time.
            for _ in 0..1 + self.rng.below(2) {
                self.mm.reclaim_in_zone(zone.index(), pages, Gfp::KERNEL | Gfp::RETRY_MAYFAIL);
            }
        }
    }

    fn contig(&mut self) {
        if self.contig.len() < 2 && self.rng.below(2) == 0 {
            let start = Pfn((1 + self.rng.below(self.mm.managed_pages() / 512)) * 512);
            let range = PfnRange::sized(start, 512);
            if let Ok(range) = self.mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::RETRY_MAYFAIL) {
                self.contig.push(range);
            }
        } else if let Some(range) = self.contig.pop() {
            self.mm.free_contig_range(range).expect("allocated");
        }
    }

    fn policy(&mut self, which: usize) {
        let n = self.rng.below(3) as usize;
        self.mm.set_huge_pages(HugePages::ALL[n]);
        if let Some((va, len)) = self.range(which) {
            let advice = if self.rng.below(2) == 0 { Advice::Huge } else { Advice::NoHuge };
            // Any answer will do: nothing that a program sees changes.
            let _ = self.mm.madvise(&self.spaces[which].space, va, len * PAGE, advice);
        }
    }

    fn lock(&mut self, which: usize) {
        let Some((va, len)) = self.range(which) else { return };
        let space = &mut self.spaces[which];
        if space.locked {
            for page in space.pages.keys() {
                let va = VirtAddr::of_page(*page);
                match self.mm.munlock(&space.space, va, PAGE) {
                    Ok(()) => {}
                    Err(why) => return assert_eq!(why, MapError::NoMemory),
                }
            }
            space.locked = false;
        } else if self.mm.mlock(&space.space, va, len.min(8) * PAGE) != Err(MapError::Invalid) {
            // Some of it may be, whatever else is said.
            space.locked = true;
        }
    }

    fn outside(&mut self, which: usize) {
        let Some(page) = self.spaces[which].any_page(&mut self.rng) else { return };
        let (space, word) = (&mut self.spaces[which], self.rng.next());
        let mut bytes = [0; PAGE_SIZE];
        bytes[..8].copy_from_slice(&word.to_ne_bytes());
        bytes[PAGE_SIZE - 8..].copy_from_slice(&word.to_ne_bytes());
        match self.mm.write_space(&space.space, VirtAddr::of_page(page), &bytes) {
            Ok(()) => {
                space.pages.insert(page, Holds::Word(word));
            }
            Err(why) => tolerate(&space.space, why),
        }
    }

    fn write(&mut self, which: usize) {
        let Some(first) = self.spaces[which].any_page(&mut self.rng) else { return };
        let space = &mut self.spaces[which];
        let len = if self.rng.below(10) == 0 { 600 } else { 20 };
        for page in first..first + 1 + self.rng.below(len) {
            if !space.pages.contains_key(&page) {
                return;
            }
            let word = self.rng.next();
            match access(self.mm, &space.space, page, Some(word)) {
                Ok(_) => {
                    space.pages.insert(page, Holds::Word(word));
                }
                Err(why) => return tolerate(&space.space, why),
            }
        }
    }

    /// All is as it should be, at rest.
    pub(crate) fn audit(&self) {
        self.mm.audit().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Looks at each page, and ends all spaces.
    pub(crate) fn finish(&mut self) {
        self.tame();
        self.bury();
        let mut seen = [0, 0];
        for space in &mut self.spaces {
            let pages: Vec<u64> = space.pages.keys().copied().collect();
            for page in pages {
                space.check(self.mm, page);
                let there = access(self.mm, &space.space, page, None).is_ok();
                seen[usize::from(there)] += 1;
            }
        }
        println!("{} pages were there, {} had no room", seen[1], seen[0]);
        for space in self.spaces.drain(..) {
            self.mm.space_put(space.space);
        }
        for range in self.contig.drain(..) {
            self.mm.free_contig_range(range).expect("allocated");
        }
    }
}
