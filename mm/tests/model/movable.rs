//! Pages that move: held by handle, checked by content, pinned now and then.

use crate::world::World;
use mm::arena::{Handle, MovableArena, StaleHandle};
use mm::host::Machine;
use mm::types::{PAGE_SIZE, Pfn};
use mm::{AllocError, Gfp, Mm};

/// A page of the arena.
struct Held {
    handle: Handle,
    /// Where it is pinned.
    pinned: Option<Pfn>,
}

/// The arena's pages.
pub(crate) struct Herd {
    arena: &'static MovableArena<Machine>,
    held: Vec<Held>,
    /// Pages moved by compaction so far.
    pub(crate) compacted: u64,
}

impl Herd {
    pub(crate) fn new(mm: &Mm<Machine>) -> Self {
        let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
        arena.register(mm).expect("room for a driver");
        Self { arena, held: Vec::new(), compacted: 0 }
    }

    /// Pages that the arena has, its tables included.
    pub(crate) fn pages(&self) -> u64 {
        assert_eq!(self.arena.pages(), self.held.len() as u64, "pages of the arena");
        self.arena.pages() + self.arena.table_pages()
    }

    /// The frames that pages are in at the moment.
    pub(crate) fn frames(&self, mm: &Mm<Machine>) -> impl Iterator<Item = Pfn> {
        self.held.iter().map(|held| self.arena.frame(mm, held.handle).expect("a live handle"))
    }
}

/// What a page holds at `place`, a multiple of 8.
fn content(handle: Handle, place: usize) -> [u8; 8] {
    (handle.to_bits() ^ (place as u64) << 44).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// The places of a page that are checked.
const PLACES: [usize; 4] = [0, 1288, 2048, PAGE_SIZE - 8];

impl World<'_> {
    pub(crate) fn allocate_movable(&mut self) {
        let base = self.rng.pick(&[Gfp::KERNEL, Gfp::NOWAIT, Gfp::KERNEL | Gfp::NORETRY]);
        let zone = self.rng.pick(&[Gfp::HIGHMEM, Gfp::HIGHMEM, Gfp::DMA]);
        for _ in 0..1 + self.rng.below(8) {
            match self.herd.arena.alloc(self.mm, base | zone | Gfp::NOWARN) {
                Ok(handle) => {
                    let frame = self.herd.arena.frame(self.mm, handle).expect("a live handle");
                    assert_eq!(self.owners.of(frame), 0, "{frame:?} was handed out twice");
                    let write = |bytes: &mut [u8; PAGE_SIZE]| {
                        for place in PLACES {
                            bytes[place..place + 8].copy_from_slice(&content(handle, place));
                        }
                    };
                    self.herd.arena.with(self.mm, handle, write).expect("a live handle");
                    self.herd.held.push(Held { handle, pinned: None });
                }
                Err(why) => {
                    assert_eq!(why, AllocError::NoMemory);
                    break;
                }
            }
        }
    }

    /// Frees some, in order of age or not, so that free frames are scattered.
    pub(crate) fn free_movable(&mut self) {
        for _ in 0..1 + self.rng.below(8) {
            if self.herd.held.is_empty() {
                // Handles of before are stale for ever.
                let _ = self.herd.arena.release_tables(self.mm);
                return;
            }
            let index = self.rng.below(self.herd.held.len() as u64) as usize;
            let Held { handle, pinned } = self.herd.held.swap_remove(index);
            self.check_movable(handle, pinned);
            if pinned.is_some() {
                self.herd.arena.unpin(self.mm, handle).expect("a pinned page");
            }
            self.herd.arena.free(self.mm, handle).expect("a live handle");
            assert_eq!(self.herd.arena.free(self.mm, handle), Err(StaleHandle));
        }
    }

    fn check_movable(&self, handle: Handle, pinned: Option<Pfn>) {
        let read = |bytes: &mut [u8; PAGE_SIZE]| {
            PLACES.iter().all(|&place| bytes[place..place + 8] == content(handle, place))
        };
        let whole = self.herd.arena.with(self.mm, handle, read).expect("a live handle");
        let frame = self.herd.arena.frame(self.mm, handle).expect("a live handle");
        assert!(whole, "{handle:?} in {frame:?} was overwritten or lost");
        assert!(pinned.is_none_or(|pfn| pfn == frame), "{handle:?} moved while it was pinned");
    }

    pub(crate) fn pin_or_unpin(&mut self) {
        if self.herd.held.is_empty() {
            return;
        }
        let index = self.rng.below(self.herd.held.len() as u64) as usize;
        let held = &mut self.herd.held[index];
        if held.pinned.take().is_some() {
            self.herd.arena.unpin(self.mm, held.handle).expect("a pinned page");
        } else {
            let pfn = self.herd.arena.pin(self.mm, held.handle).expect("a live handle");
            held.pinned = Some(pfn);
        }
    }

    pub(crate) fn compact(&mut self) {
        let zones = self.mm.zones();
        let zone = &zones[self.rng.below(zones.len() as u64) as usize];
        self.herd.compacted += self.mm.compact_whole_zone(zone).moved;
    }

    /// All pages are whole, each in a frame of its own that nobody else has.
    pub(crate) fn check_herd(&self) {
        let mut frames = Vec::new();
        for held in &self.herd.held {
            self.check_movable(held.handle, held.pinned);
        }
        for frame in self.herd.frames(self.mm) {
            assert_eq!(self.owners.of(frame), 0, "{frame:?} has two owners");
            frames.push(frame);
        }
        frames.sort_unstable();
        assert!(frames.windows(2).all(|pair| pair[0] != pair[1]), "two pages in one frame");
    }

    pub(crate) fn free_herd(&mut self) {
        while !self.herd.held.is_empty() {
            self.free_movable();
        }
        self.herd.arena.release_tables(self.mm).expect("an empty arena");
    }
}
