//! Frames that go bad, whatever is in them, and that get well again.

use crate::world::World;
use mm::page::PageType;
use mm::poison::{BadPage, PoisonError, Recovery};
use mm::types::{Pfn, PfnRange};
use std::collections::BTreeSet;

/// What became of frames.
#[derive(Debug, Default)]
pub(crate) struct Bad {
    /// Known to be bad, in use or not.
    frames: BTreeSet<Pfn>,
    pub(crate) recovered: [u64; 7],
    pub(crate) delayed: u64,
}

/// Frames that are bad at a time: fewer than can be noted.
const MOST: usize = 40;

impl Bad {
    /// That memory is no more.
    pub(crate) fn forget(&mut self, range: PfnRange) {
        self.frames.retain(|&pfn| !range.contains(pfn));
    }
}

impl World<'_> {
    pub(crate) fn poison(&mut self) {
        let pfn = match self.memory.some_offline(self.rng.bits()) {
            Some(pfn) if self.rng.percent(40) => pfn,
            _ => Pfn(self.rng.below(self.mm.map().end().0 + 8)),
        };
        if self.bad.frames.len() >= MOST {
            return self.unpoison();
        }
        let known = self.bad.frames.contains(&pfn);
        match self.mm.poison_page(pfn) {
            Ok(done) => {
                assert!(!known, "{pfn:?} was bad before");
                let is_out = self.is_out(pfn);
                match done.recovery {
                    Recovery::Recovered => {
                        assert!(is_out, "{pfn:?} is in use");
                        self.bad.recovered[done.page as usize] += 1;
                    }
                    Recovery::Delayed => {
                        assert!(!is_out, "{pfn:?} is not in use");
                        assert_ne!(done.page, BadPage::Free);
                        self.bad.delayed += 1;
                    }
                    Recovery::Ignored => assert_eq!(done.page, BadPage::Reserved),
                }
                self.bad.frames.insert(pfn);
            }
            Err(PoisonError::Already) => assert!(known, "{pfn:?} was not bad before"),
            Err(PoisonError::NotRam) => assert!(!known),
            Err(why) => panic!("{pfn:?}: {why}"),
        }
    }

    /// Whether a frame is out of use.
    fn is_out(&self, pfn: Pfn) -> bool {
        let map = self.mm.map();
        if map.info(pfn).is_none() && map.described(pfn).is_some() {
            // Like all around it.
            return true;
        }
        self.mm.map().head_of(pfn).is_some_and(|(_, word)| word.ty() == PageType::Poisoned)
    }

    pub(crate) fn unpoison(&mut self) {
        if self.bad.frames.is_empty() {
            let pfn = Pfn(self.rng.below(self.mm.map().end().0));
            assert_eq!(self.mm.unpoison_page(pfn), Err(PoisonError::NotPoisoned));
            return;
        }
        let at = self.rng.below(self.bad.frames.len() as u64) as usize;
        let pfn = *self.bad.frames.iter().nth(at).expect("so many");
        self.bad.frames.remove(&pfn);
        self.mm.unpoison_page(pfn).expect("it was bad");
    }

    pub(crate) fn unpoison_all(&mut self) {
        while !self.bad.frames.is_empty() {
            self.unpoison();
        }
    }

    /// What is counted and listed is what went bad.
    pub(crate) fn check_bad(&self) {
        assert_eq!(self.mm.bad_pages(), self.bad.frames.len() as u64);
        let out = self.bad.frames.iter().filter(|&&pfn| self.is_out(pfn)).count();
        assert_eq!(self.mm.taken_pages(), out as u64);
    }
}
