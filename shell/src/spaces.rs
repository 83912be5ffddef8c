//! Address spaces that the lab has made, their regions, and what is in each page
//! of them: so it can be checked whatever became of the page meanwhile. May
//! call: `ledger`, `mm`.

use crate::errno::{Errno, Error};
use crate::ledger::{Ledger, List};
use crate::name::Name;
use core::fmt;
use mm::Mm;
use mm::mmu::VirtAddr;
use mm::platform::Platform;
use mm::space::{SpaceName, SpaceRef};
use mm::types::PAGE_SIZE;

/// Spaces that there can be at a time.
pub const SPACES_MAX: usize = 32;
/// Regions of all of them together.
pub const REGIONS_MAX: usize = 64;
/// Patterns that a region can have at a time.
const SEEDS: usize = 6;

/// What is in a page of a region: a few bits, so that many fit in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Note(u8);

impl Note {
    /// Zeros: nobody has written to it.
    pub(crate) const ZERO: Self = Self(0);
    /// Not mapped any more.
    pub(crate) const HOLE: Self = Self(7);
    /// Beside a pattern: it may have become zeros (`MADV_FREE`).
    const LAZY: u8 = 8;
    /// Bits of a note.
    const BITS: u32 = 4;
    /// Notes in a word.
    pub(crate) const IN_WORD: u64 = (u64::BITS / Self::BITS) as u64;

    /// The pattern of a region's seed.
    fn pattern(seed: usize) -> Self {
        Self(seed as u8 + 1)
    }

    /// Which seed's pattern it has, if any.
    pub(crate) fn seed(self) -> Option<usize> {
        let seed = usize::from(self.0 & !Self::LAZY);
        (1..=SEEDS).contains(&seed).then(|| seed - 1)
    }

    /// Whether it may be zeros by now.
    pub(crate) fn is_lazy(self) -> bool {
        self.0 & Self::LAZY != 0
    }

    /// The same, when nobody needs the content any more.
    pub(crate) fn freed_lazily(self) -> Self {
        if self.seed().is_some() { Self(self.0 | Self::LAZY) } else { self }
    }

    /// Note number `at` of a word.
    pub(crate) fn of(word: u64, at: u64) -> Self {
        Self((word >> (at as u32 * Self::BITS)) as u8 & 0xf)
    }

    /// `word` with this as its note number `at`.
    pub(crate) fn put(self, word: u64, at: u64) -> u64 {
        let shift = at as u32 * Self::BITS;
        word & !(0xf << shift) | u64::from(self.0) << shift
    }
}

/// Where a pattern comes from, and how many bytes of a page have it; the others
/// are zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seed {
    pub(crate) hash: u64,
    pub(crate) bytes: usize,
}

/// A region, as it was mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// Its space's place in the table.
    pub(crate) space: usize,
    pub(crate) name: Name,
    pub(crate) start: VirtAddr,
    pub(crate) pages: u64,
    notes: List,
    pub(crate) seeds: [Option<Seed>; SEEDS],
}

impl Region {
    /// The address of a page.
    pub(crate) fn page(&self, index: u64) -> VirtAddr {
        self.start.add(index * PAGE_SIZE as u64)
    }

    /// Bytes that it covers, holes too.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }

    /// What is in the pages of word `at` of its notes.
    pub(crate) fn notes<P: Platform>(&self, ledger: &mut Ledger, mm: &Mm<P>, at: u64) -> u64 {
        ledger.at(mm, &self.notes, at).map_or(0, |word| *word)
    }

    /// Notes that down.
    pub(crate) fn set_notes<P: Platform>(
        &self,
        ledger: &mut Ledger,
        mm: &Mm<P>,
        at: u64,
        notes: u64,
    ) {
        if let Some(word) = ledger.at(mm, &self.notes, at) {
            *word = notes;
        }
    }
}

/// A space.
pub(crate) struct Held {
    pub(crate) name: Name,
    pub(crate) space: SpaceRef<'static>,
}

/// All spaces and regions.
pub(crate) struct Spaces {
    spaces: [Option<Held>; SPACES_MAX],
    regions: [Option<Region>; REGIONS_MAX],
}

/// What a command is about: a space, a region of it, or a page of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) space: usize,
    /// The region's place in the table; all of the space's if none.
    pub(crate) region: Option<usize>,
    pub(crate) page: Option<u64>,
}

/// A region's name with that of its space.
pub(crate) struct FullName(Name, Name);

impl fmt::Display for FullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Spaces {
    pub(crate) const fn new() -> Self {
        Self { spaces: [const { None }; SPACES_MAX], regions: [None; REGIONS_MAX] }
    }

    /// The space at a place.
    pub(crate) fn at(&self, place: usize) -> Option<&Held> {
        self.spaces.get(place)?.as_ref()
    }

    /// All spaces with their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Held)> {
        self.spaces.iter().enumerate().filter_map(|(at, held)| Some((at, held.as_ref()?)))
    }

    /// The place of the space of that name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.iter().find(|(_, held)| held.name.as_str() == name).map(|(at, _)| at)
    }

    /// The region at a place.
    pub(crate) fn region(&self, place: usize) -> Option<&Region> {
        self.regions.get(place)?.as_ref()
    }

    pub(crate) fn region_mut(&mut self, place: usize) -> Option<&mut Region> {
        self.regions.get_mut(place)?.as_mut()
    }

    /// The places of the regions of a space, or of the one that is meant.
    pub(crate) fn regions_at(&self, place: Place) -> impl Iterator<Item = usize> + use<> {
        let meant = |at: usize, region: &Option<Region>| {
            let of_space = region.is_some_and(|region| region.space == place.space);
            of_space && place.region.is_none_or(|meant| meant == at)
        };
        let mut places = [false; REGIONS_MAX];
        for (at, region) in self.regions.iter().enumerate() {
            places[at] = meant(at, region);
        }
        (0..REGIONS_MAX).filter(move |&at| places[at])
    }

    /// All regions of a space.
    pub(crate) fn regions_of(&self, space: usize) -> impl Iterator<Item = &Region> {
        self.regions.iter().flatten().filter(move |region| region.space == space)
    }

    /// The place of the region of that name.
    pub(crate) fn find_region(&self, space: usize, name: &str) -> Option<usize> {
        self.regions
            .iter()
            .position(|region| region.is_some_and(|r| r.space == space && r.name.as_str() == name))
    }

    /// `SPACE`, `SPACE.REGION`, or `SPACE.REGION[PAGE]`.
    ///
    /// # Errors
    /// ENOENT where there is none of that name, or no such page; EINVAL for
    /// another form.
    pub(crate) fn place(&self, word: &str) -> Result<Place, Error> {
        let (names, page) = crate::parse::indexed(word)?;
        let (space, region) = match names.split_once('.') {
            Some((space, region)) => (space, Some(region)),
            None => (names, None),
        };
        let space = self.find(space);
        let space = space.ok_or(Error::new(Errno::ENOENT, "no such space").about(word))?;
        let Some(region) = region else {
            if page.is_some() {
                let why = Error::new(Errno::EINVAL, "pages are counted in a region");
                return Err(why.about(word));
            }
            return Ok(Place { space, region: None, page });
        };
        let region = self.find_region(space, region);
        let region = region.ok_or(Error::new(Errno::ENOENT, "no such region").about(word))?;
        let pages = self.region(region).map_or(0, |region| region.pages);
        if page.is_some_and(|page| page >= pages) {
            return Err(Error::new(Errno::ENOENT, "the region has no such page").about(word));
        }
        Ok(Place { space, region: Some(region), page })
    }

    /// What a region is called.
    pub(crate) fn name_of(&self, region: &Region) -> FullName {
        FullName(self.at(region.space).map_or(Name::NONE, |held| held.name), region.name)
    }

    /// The name of a space that is about to be made.
    ///
    /// # Errors
    /// EINVAL for what is no name, EEXIST for one in use, ENOSPC.
    pub(crate) fn new_name(&self, word: &str) -> Result<Name, Error> {
        let name = Name::new(word)?;
        if word.len() > SpaceName::MAX {
            let why = Error::new(Errno::EINVAL, "a space's name has 16 letters at most");
            return Err(why.about(word));
        }
        if self.find(word).is_some() {
            return Err(Error::new(Errno::EEXIST, "the name is in use").about(word));
        }
        if self.spaces.iter().all(Option::is_some) {
            return Err(Error::new(Errno::ENOSPC, "32 spaces are there already"));
        }
        Ok(name)
    }

    /// Adds a space; its place. There is room: a [name](Self::new_name) was given
    /// for it.
    pub(crate) fn add(&mut self, name: Name, space: SpaceRef<'static>) -> usize {
        let free = self.spaces.iter().position(Option::is_none).unwrap_or(0);
        self.spaces[free] = Some(Held { name, space });
        free
    }

    /// The name of a region that is about to be made: that one, or a number's.
    ///
    /// # Errors
    /// EINVAL for what is no name, EEXIST for one in use.
    pub(crate) fn new_region_name(&self, space: usize, word: Option<&str>) -> Result<Name, Error> {
        if let Some(word) = word {
            let name = Name::of_part(word)?;
            if self.find_region(space, word).is_some() {
                return Err(Error::new(Errno::EEXIST, "the name is in use").about(word));
            }
            return Ok(name);
        }
        let name = (0..=REGIONS_MAX as u64).map(|n| Name::numbered('r', n));
        let mut free = name.filter(|name| self.find_region(space, name.as_str()).is_none());
        free.next().ok_or(Error::new(Errno::ENOSPC, "64 regions are there already"))
    }

    /// Room for a region of so many pages, all of them zeros, not mapped yet; its
    /// place.
    ///
    /// # Errors
    /// ENOSPC; ENOMEM.
    pub(crate) fn add_region<P: Platform>(
        &mut self,
        ledger: &mut Ledger,
        mm: &Mm<P>,
        (space, name): (usize, Name),
        pages: u64,
    ) -> Result<usize, Error> {
        let free = self.regions.iter().position(Option::is_none);
        let free = free.ok_or(Error::new(Errno::ENOSPC, "64 regions are there already"))?;
        let mut notes = List::NEW;
        for _ in 0..pages.div_ceil(Note::IN_WORD) {
            if let Err(why) = ledger.reserve(mm, &mut notes) {
                ledger.clear(mm, &mut notes);
                return Err(why);
            }
            ledger.push(mm, &mut notes, 0);
        }
        let seeds = [None; SEEDS];
        self.regions[free] = Some(Region { space, name, start: VirtAddr(0), pages, notes, seeds });
        Ok(free)
    }

    /// Forgets a region.
    pub(crate) fn remove_region<P: Platform>(
        &mut self,
        ledger: &mut Ledger,
        mm: &Mm<P>,
        place: usize,
    ) {
        if let Some(mut region) = self.regions.get_mut(place).and_then(Option::take) {
            ledger.clear(mm, &mut region.notes);
        }
    }

    /// Forgets a space and all its regions; the space itself is the caller's to
    /// give back.
    pub(crate) fn remove<P: Platform>(
        &mut self,
        ledger: &mut Ledger,
        mm: &Mm<P>,
        place: usize,
    ) -> Option<SpaceRef<'static>> {
        for at in self.regions_at(Place { space: place, region: None, page: None }) {
            self.remove_region(ledger, mm, at);
        }
        Some(self.spaces.get_mut(place)?.take()?.space)
    }

    /// The note for a pattern of a region: the one that it has of it already, or
    /// one that none of its pages has any more.
    ///
    /// # Errors
    /// ENOSPC where its pages have six others.
    pub(crate) fn note_for<P: Platform>(
        &mut self,
        ledger: &mut Ledger,
        mm: &Mm<P>,
        place: usize,
        seed: Seed,
    ) -> Result<Note, Error> {
        let full = Error::new(Errno::ENOSPC, "a region has 6 patterns at most");
        let region = self.region_mut(place).ok_or(full)?;
        if let Some(known) = region.seeds.iter().position(|known| *known == Some(seed)) {
            return Ok(Note::pattern(known));
        }
        if region.seeds.iter().all(Option::is_some) {
            let mut used = [false; SEEDS];
            for at in 0..region.pages.div_ceil(Note::IN_WORD) {
                let word = region.notes(ledger, mm, at);
                (0..Note::IN_WORD)
                    .filter_map(|i| Note::of(word, i).seed())
                    .for_each(|seed| used[seed] = true);
            }
            for (seed, _) in region.seeds.iter_mut().zip(used).filter(|(_, used)| !used) {
                *seed = None;
            }
        }
        let free = region.seeds.iter().position(Option::is_none).ok_or(full)?;
        region.seeds[free] = Some(seed);
        Ok(Note::pattern(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_share_a_word() {
        let mut word = 0;
        for (at, note) in [(0, Note::pattern(5)), (3, Note::HOLE), (15, Note::pattern(0))] {
            word = note.put(word, at);
        }
        assert_eq!(Note::of(word, 0).seed(), Some(5));
        assert_eq!(Note::of(word, 1), Note::ZERO);
        assert_eq!((Note::of(word, 3), Note::of(word, 3).seed()), (Note::HOLE, None));
        let lazy = Note::of(word, 15).freed_lazily();
        assert_eq!((lazy.seed(), lazy.is_lazy()), (Some(0), true));
        assert_eq!(Note::ZERO.freed_lazily(), Note::ZERO);
        assert_eq!(Note::HOLE.freed_lazily(), Note::HOLE);
        assert_eq!(Note::of(Note::ZERO.put(word, 0), 0), Note::ZERO);
    }
}
