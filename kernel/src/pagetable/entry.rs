//! What the 64 bits of an entry say. Pure.
//!
//! | bit | present | a page in swap | a page that moves |
//! |---|---|---|---|
//! | 0 | 1 | 0 | 0 |
//! | 1 | writable | 1 | 0 |
//! | 2 | 0: not for user mode | 0 | 1 |
//! | 3 | 0 | 0 | was writable |
//! | 5, 6 | young, dirty | 0 | young, dirty |
//! | 7 | large, above the last level | 0 | large |
//! | 12 to 51 | frame | the [`SwapEntry`] | frame |
//! | 63 | never executed | 0 | 0 |

use mm::mmu::{Entry, MapSize, Mapping, SwapEntry};
use mm::types::Pfn;

const PRESENT: u64 = 1;
pub(super) const WRITABLE: u64 = 1 << 1;
const SWAP: u64 = 1 << 1;
const MOVING: u64 = 1 << 2;
const WAS_WRITABLE: u64 = 1 << 3;
pub(super) const YOUNG: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const NO_EXECUTE: u64 = 1 << 63;

/// An entry as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw(pub(super) u64);

impl Raw {
    /// Nothing.
    pub(super) const NONE: Self = Self(0);

    /// A pointer to the table in frame `pfn`; the last level says what may be
    /// done.
    pub(super) const fn table(pfn: Pfn) -> Self {
        Self(pfn.addr() | PRESENT | WRITABLE)
    }

    /// What is put where `entry` is wanted.
    pub(super) const fn new(entry: Entry) -> Self {
        match entry {
            Entry::None => Self::NONE,
            Entry::Swap(slot) => Self((slot.bits() as u64) << 12 | SWAP),
            Entry::Page(page) => {
                let bits = if page.writable { WRITABLE } else { 0 };
                Self(used(page) | bits | PRESENT | NO_EXECUTE)
            }
            Entry::Moving(page) => {
                let bits = if page.writable { WAS_WRITABLE } else { 0 };
                Self(used(page) | bits | MOVING)
            }
        }
    }

    /// What it says, if it is no table's.
    pub(super) const fn entry(self) -> Entry {
        if self.0 & PRESENT != 0 {
            return Entry::Page(self.mapping(WRITABLE));
        }
        if self.0 & MOVING != 0 {
            return Entry::Moving(self.mapping(WAS_WRITABLE));
        }
        if self.0 & SWAP != 0 {
            return Entry::Swap(SwapEntry::from_bits((self.0 >> 12) as u32));
        }
        Entry::None
    }

    const fn mapping(self, writable: u64) -> Mapping {
        Mapping {
            pfn: self.frame(),
            size: if self.0 & LARGE != 0 { MapSize::Large } else { MapSize::Small },
            writable: self.0 & writable != 0,
            dirty: self.0 & DIRTY != 0,
            young: self.0 & YOUNG != 0,
        }
    }

    /// Whether it maps a page now.
    pub(super) const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// The page that it maps now.
    pub(super) const fn page(self) -> Option<Mapping> {
        if self.is_present() { Some(self.mapping(WRITABLE)) } else { None }
    }

    /// Whether it maps the page of `size` at `pfn` now, for an entry of that
    /// size's level.
    pub(super) fn maps(self, size: MapSize, pfn: Pfn) -> bool {
        let large = size == MapSize::Large;
        self.is_present() && (self.0 & LARGE != 0) == large && self.frame() == pfn
    }

    /// The same page, moving.
    pub(super) const fn moving(self) -> Self {
        let bits = if self.0 & WRITABLE != 0 { WAS_WRITABLE } else { 0 };
        Self(self.0 & (FRAME | YOUNG | DIRTY | LARGE) | bits | MOVING)
    }

    /// Whether it says that its page moves.
    pub(super) const fn is_moving(self) -> bool {
        self.0 & (PRESENT | MOVING) == MOVING
    }

    /// Whether it points to a table, for an entry above the last level.
    pub(super) const fn is_table(self) -> bool {
        self.0 & (PRESENT | LARGE) == PRESENT
    }

    /// Whether it maps a large page, or one that moves, for an entry of the second
    /// level.
    pub(super) const fn is_large(self) -> bool {
        self.0 & LARGE != 0 && self.0 & (PRESENT | MOVING) != 0
    }

    /// The frame that it names.
    pub(super) const fn frame(self) -> Pfn {
        Pfn::containing(self.0 & FRAME)
    }

    /// For an entry that [is large](Self::is_large): the one of its small page
    /// `index`, which says the same.
    pub(super) const fn part(self, index: u64) -> Self {
        let frame = self.frame().add(index);
        Self(self.0 & !(FRAME | LARGE) | frame.addr())
    }
}

/// The bits that mean the same in a page's entry and a moving page's.
const fn used(page: Mapping) -> u64 {
    let large = matches!(page.size, MapSize::Large);
    let bits = [(large, LARGE), (page.dirty, DIRTY), (page.young, YOUNG)];
    let (mut all, mut i) = (page.pfn.addr() & FRAME, 0);
    while i < bits.len() {
        if bits[i].0 {
            all |= bits[i].1;
        }
        i += 1;
    }
    all
}
