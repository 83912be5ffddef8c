//! Pages of regions, all or some of them: written, checked, advised about,
//! locked, unmapped. May call `mm`.

use super::content::Pattern;
use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Subject};
use crate::parse::{Args, count, number};
use crate::spaces::{Note, Place, Region, Seed, Spaces};
use crate::world::World;
use mm::Mm;
use mm::mmu::VirtAddr;
use mm::space::{Advice, MapError, SpaceRef};
use mm::types::PAGE_SIZE;

/// A page's bytes on their way.
pub(crate) type Buffer = [u8; PAGE_SIZE];

/// Words of notes between two looks at whether to stop.
const AT_A_TIME: u64 = 16;

/// Which pages of a region are meant.
#[derive(Clone, Copy, Debug)]
struct Pick {
    /// The first, and how many there are to choose from.
    from: u64,
    pages: u64,
    /// Each so-manieth, or all but these.
    every: u64,
    but: bool,
}

impl Pick {
    /// Takes the options that say so.
    fn of(args: &mut Args<'_>) -> Result<Self, Error> {
        let every = args.option("every").map(count).transpose()?;
        let keep = args.option("keep").map(count).transpose()?;
        let from = args.option("from").map_or(Ok(0), number)?;
        let pages = args.option("pages").map_or(Ok(u64::MAX), count)?;
        let (every, but) = match (every, keep) {
            (Some(_), Some(_)) => {
                return Err(Error::new(Errno::EINVAL, "every=K or keep=K, not both"));
            }
            (every, None) => (every.unwrap_or(1), false),
            (None, Some(keep)) => (keep, true),
        };
        Ok(Self { from, pages, every, but })
    }

    /// The same for the one page that a place may say.
    fn at(self, place: Place) -> Self {
        match place.page {
            Some(page) => Self { from: page, pages: 1, every: 1, but: false },
            None => self,
        }
    }

    /// Whether it is page `index`. The last of each so many is the one that is
    /// meant, as with `punch`.
    fn has(self, index: u64) -> bool {
        let within = index >= self.from && index - self.from < self.pages;
        within && ((index - self.from + 1).is_multiple_of(self.every) != self.but)
    }
}

/// What is done to a run of pages.
type OnRun<'a, P> = &'a dyn Fn(&Mm<P>, &SpaceRef<'static>, VirtAddr, u64) -> Result<(), MapError>;

impl<W: World> Lab<W> {
    /// The place that a command is about, if it is one in a space.
    pub(super) fn is_place(&self, word: &str) -> bool {
        let name = word.split(['.', '[']).next().unwrap_or(word);
        self.spaces.find(name).is_some()
    }

    /// Writes the pattern of name and index to pages of a space.
    pub(super) fn touch_space(&mut self, on: Subject<W>, word: &str, mut args: Args<'_>) -> Done {
        let pick = Pick::of(&mut args)?;
        let salt = args.option("salt").map_or(Ok(0), number)?;
        let bytes = args.option("bytes").map_or(Ok(PAGE_SIZE as u64), number)?;
        args.done()?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > PAGE_SIZE {
            return Err(Error::new(Errno::EINVAL, "a page has 4096 bytes").into());
        }
        let place = self.spaces.place(word)?;
        let pick = pick.at(place);
        for at in self.spaces.regions_at(place) {
            let Some(region) = self.spaces.region(at) else { continue };
            let hash = Pattern::hash(format_args!("{}", self.spaces.name_of(region)), salt);
            let seed = Seed { hash, bytes };
            let note = self.spaces.note_for(&mut self.ledger, on.mm, at, seed)?;
            self.each_page(on, at, pick, &mut |mm, space, buffer, page| {
                buffer.fill(0);
                Pattern::seeded(hash, page.index).write(&mut buffer[..bytes], 0);
                mm.write_space(space, page.va, buffer)?;
                Ok(note)
            })?;
        }
        Ok(())
    }

    /// Checks that pages of a space have what was written to them, and zeros
    /// where nothing was.
    pub(super) fn verify_space(&mut self, on: Subject<W>, word: &str, mut args: Args<'_>) -> Done {
        let pick = Pick::of(&mut args)?;
        args.done()?;
        let place = self.spaces.place(word)?;
        let pick = pick.at(place);
        let mut verified = 0;
        for at in self.spaces.regions_at(place) {
            let Some(&region) = self.spaces.region(at) else { continue };
            let name = self.spaces.name_of(&region);
            self.each_page(on, at, pick, &mut |mm, space, buffer, page| {
                mm.read_space(space, page.va, buffer)?;
                let zero = || buffer.iter().all(|&byte| byte == 0);
                let seed = page.note.seed().and_then(|seed| region.seeds[seed]);
                let whole = match seed {
                    None => zero(),
                    Some(seed) => {
                        let (made, rest) = buffer.split_at(seed.bytes);
                        Pattern::seeded(seed.hash, page.index).is_in(made, 0)
                            && rest.iter().all(|&byte| byte == 0)
                            || page.note.is_lazy() && zero()
                    }
                };
                if !whole {
                    let why = Error::new(Errno::EIO, "the content has changed");
                    return Err(why.about(format_args!("{name}[{}]", page.index)));
                }
                verified += 1;
                Ok(page.note)
            })?;
        }
        self.print(format_args!("-> {word}: {verified} pages verified\n"));
        Ok(())
    }

    pub(super) fn advise(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "advise PLACE free|dontneed|huge|nohuge [every=K | keep=K]";
        let on = self.subject()?;
        let pick = Pick::of(&mut args)?;
        let word = args.need(FORM)?;
        let what = args.need(FORM)?;
        args.done()?;
        let (advice, after): (_, fn(Note) -> Note) = match what {
            "free" => (Advice::Free, Note::freed_lazily),
            "dontneed" => (Advice::DontNeed, |_| Note::ZERO),
            "huge" => (Advice::Huge, |note| note),
            "nohuge" => (Advice::NoHuge, |note| note),
            other => return Err(Error::new(Errno::EINVAL, FORM).about(other).into()),
        };
        self.each_run(on, word, pick, after, &|mm, space, va, len| {
            mm.madvise(space, va, len, advice)
        })
    }

    pub(super) fn mlock(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let pick = Pick::of(&mut args)?;
        let word = args.need("mlock PLACE [every=K | keep=K]")?;
        args.done()?;
        // A part that is locked although not all of it could be is not left so.
        self.each_run(on, word, pick, |note| note, &|mm, space, va, len| {
            mm.mlock(space, va, len).inspect_err(|_| {
                let _ = mm.munlock(space, va, len);
            })
        })
    }

    pub(super) fn munlock(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let pick = Pick::of(&mut args)?;
        let word = args.need("munlock PLACE [every=K | keep=K]")?;
        args.done()?;
        self.each_run(on, word, pick, |note| note, &|mm, space, va, len| mm.munlock(space, va, len))
    }

    /// Unmaps regions, or pages of them; a region of which nothing is left is
    /// forgotten.
    pub(super) fn unmap(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let pick = Pick::of(&mut args)?;
        let word = args.need("unmap PLACE [every=K | keep=K]")?;
        args.done()?;
        let place = self.spaces.place(word)?;
        self.each_run(on, word, pick, |_| Note::HOLE, &|mm, space, va, len| {
            mm.munmap(space, va, len)
        })?;
        for at in self.spaces.regions_at(place) {
            let Some(&region) = self.spaces.region(at) else { continue };
            let ledger = &mut self.ledger;
            let mut words = (0..region.pages).map(|i| {
                let word = region.notes(ledger, on.mm, i / Note::IN_WORD);
                Note::of(word, i % Note::IN_WORD)
            });
            if words.all(|note| note == Note::HOLE) {
                self.spaces.remove_region(&mut self.ledger, on.mm, at);
            }
        }
        Ok(())
    }

    /// Calls `f` for each page of a region that is meant and mapped, and notes
    /// down what is in it then.
    ///
    /// # Errors
    /// The first of `f`, with the page; EINTR. What was done up to there has been
    /// noted.
    fn each_page(
        &mut self,
        on: Subject<W>,
        at: usize,
        pick: Pick,
        f: OnPage<'_, W::Machine>,
    ) -> Result<(), Error> {
        let Self { spaces, ledger, buffer, world, .. } = self;
        let Some((region, space)) = known(spaces, at) else { return Ok(()) };
        let name = spaces.name_of(region);
        for word in pick.words(region) {
            if word % AT_A_TIME == 0 && world.interrupted() {
                return Err(Error::new(Errno::EINTR, "interrupted"));
            }
            let first = word * Note::IN_WORD;
            let old = region.notes(ledger, on.mm, word);
            let mut notes = old;
            let mut result = Ok(());
            for i in (0..Note::IN_WORD).take_while(|i| first + i < region.pages) {
                let (index, note) = (first + i, Note::of(notes, i));
                if !pick.has(index) || note == Note::HOLE {
                    continue;
                }
                let page = OnePage { index, va: region.page(index), note };
                match f(on.mm, space, buffer, page) {
                    Ok(note) => notes = note.put(notes, i),
                    Err(why) => {
                        result = Err(why.or_about(format_args!("{name}[{index}]")));
                        break;
                    }
                }
            }
            if notes != old {
                region.set_notes(ledger, on.mm, word, notes);
            }
            result?;
        }
        Ok(())
    }

    /// Calls `f` for each run of pages that are meant and mapped, in all regions
    /// of a place, and notes down what that makes of them.
    ///
    /// # Errors
    /// The first of `f`; EINTR. What was done up to there has been noted.
    fn each_run(
        &mut self,
        on: Subject<W>,
        word: &str,
        pick: Pick,
        after: fn(Note) -> Note,
        f: OnRun<'_, W::Machine>,
    ) -> Done {
        let place = self.spaces.place(word)?;
        let pick = pick.at(place);
        for at in self.spaces.regions_at(place) {
            let Self { spaces, ledger, world, .. } = self;
            let Some((region, space)) = known(spaces, at) else { continue };
            let mut start = None;
            for index in pick.from..=region.pages {
                if index % 4096 == 0 && world.interrupted() {
                    return Err(Error::new(Errno::EINTR, "interrupted").into());
                }
                let (word, i) = (index / Note::IN_WORD, index % Note::IN_WORD);
                let meant = index < region.pages
                    && pick.has(index)
                    && Note::of(region.notes(ledger, on.mm, word), i) != Note::HOLE;
                match (start, meant) {
                    (None, true) => start = Some(index),
                    (Some(first), false) => {
                        let len = (index - first) * PAGE_SIZE as u64;
                        f(on.mm, space, region.page(first), len).map_err(Error::from)?;
                        for index in first..index {
                            let (word, i) = (index / Note::IN_WORD, index % Note::IN_WORD);
                            let notes = region.notes(ledger, on.mm, word);
                            let notes = after(Note::of(notes, i)).put(notes, i);
                            region.set_notes(ledger, on.mm, word, notes);
                        }
                        start = None;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A page of a region, and what is in it.
#[derive(Clone, Copy, Debug)]
struct OnePage {
    index: u64,
    va: VirtAddr,
    note: Note,
}

/// What is done to a page; returns what is in it then.
type OnPage<'a, P> = &'a mut dyn FnMut(
    &'static Mm<P>,
    &SpaceRef<'static>,
    &mut Buffer,
    OnePage,
) -> Result<Note, Error>;

impl Pick {
    /// The words of a region's notes with pages that may be meant.
    fn words(self, region: &Region) -> core::ops::Range<u64> {
        let end = self.from.saturating_add(self.pages).min(region.pages);
        self.from / Note::IN_WORD..end.div_ceil(Note::IN_WORD)
    }
}

/// A region and its space.
fn known(spaces: &Spaces, at: usize) -> Option<(&Region, &SpaceRef<'static>)> {
    let region = spaces.region(at)?;
    Some((region, &spaces.at(region.space)?.space))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pages_are_picked() {
        let picked = |pick: Pick| (0..10).filter(|&i| pick.has(i)).collect::<Vec<_>>();
        let all = Pick { from: 0, pages: u64::MAX, every: 1, but: false };
        assert_eq!(picked(all).len(), 10);
        assert_eq!(picked(Pick { every: 4, ..all }), [3, 7]);
        assert_eq!(picked(Pick { every: 4, but: true, ..all }), [0, 1, 2, 4, 5, 6, 8, 9]);
        assert_eq!(picked(Pick { from: 2, pages: 5, every: 2, ..all }), [3, 5]);
        assert_eq!(picked(Pick { every: 1, but: true, ..all }), []);
        let place = Place { space: 0, region: Some(0), page: Some(6) };
        assert_eq!(picked(Pick { every: 3, but: true, ..all }.at(place)), [6]);
    }
}
