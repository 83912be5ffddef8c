//! Address spaces: made, mapped, copied, given back. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Subject};
use crate::parse::{Args, number};
use crate::spaces::{Note, Place, SPACES_MAX};
use crate::world::World;
use mm::mmu::VirtAddr;
use mm::space::{Advice, FaultError, MapError, MapFlags, Prot};
use mm::types::PAGE_SIZE;

/// A region may have so many times the pages of the machine.
const MOST_TIMES: u64 = 16;

impl From<MapError> for Error {
    fn from(why: MapError) -> Self {
        match why {
            MapError::Unsupported => {
                Self::new(Errno::EOPNOTSUPP, "no address spaces on this machine")
            }
            MapError::Invalid => Self::new(Errno::EINVAL, "not a range for that"),
            MapError::NoSpace => Self::new(Errno::ENOMEM, "no room in the address space"),
            MapError::Exists => Self::new(Errno::EEXIST, "something is mapped there"),
            MapError::NotMapped => Self::new(Errno::ENOMEM, "not all of it is mapped"),
            MapError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
            MapError::Busy => Self::new(Errno::EAGAIN, "a large page is in use"),
            MapError::Foreign => Self::new(Errno::EINVAL, "a space of another machine"),
        }
    }
}

impl From<FaultError> for Error {
    fn from(why: FaultError) -> Self {
        match why {
            FaultError::NoRegion => Self::new(Errno::EFAULT, "nothing is mapped there"),
            FaultError::Protection => Self::new(Errno::EFAULT, "the region does not allow it"),
            FaultError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
            FaultError::Io => Self::new(Errno::EIO, "the page cannot be read back"),
            FaultError::Killed => Self::new(Errno::ESRCH, "the space was killed"),
        }
    }
}

const KIB_PER_PAGE: u64 = PAGE_SIZE as u64 / 1024;

impl<W: World> Lab<W> {
    /// Makes a space and shows it, or all.
    pub(super) fn space(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let name = args.next();
        args.done()?;
        let Some(word) = name else {
            self.list_spaces();
            return Ok(());
        };
        let name = self.new_space_name(word)?;
        let space = on.mm.space_new(word).map_err(Error::from)?;
        let at = self.spaces.add(name, space);
        self.print_space(at);
        Ok(())
    }

    /// The name of a space that is about to be made: no group's.
    fn new_space_name(&mut self, word: &str) -> Result<crate::name::Name, Error> {
        if self.groups.find(word).is_ok() {
            return Err(Error::new(Errno::EEXIST, "the name is in use").about(word));
        }
        self.spaces.new_name(word)
    }

    /// Prints all spaces.
    pub(super) fn list_spaces(&mut self) {
        for at in 0..SPACES_MAX {
            self.print_space(at);
        }
    }

    /// Prints what a space is, if it is one.
    fn print_space(&mut self, at: usize) {
        let Self { world, spaces, quiet, .. } = self;
        let Some(held) = spaces.at(at).filter(|_| !*quiet) else { return };
        let (space, kib) = (&held.space, |pages| pages * KIB_PER_PAGE);
        let killed = if space.is_killed() { ", killed" } else { "" };
        let protected = if space.is_protected() { ", protected" } else { "" };
        world.print(format_args!(
            "-> {}: {} regions, rss {} kB, of it huge {} kB, swap {} kB{killed}{protected}\n",
            held.name,
            spaces.regions_of(at).count(),
            kib(space.rss()),
            kib(space.huge()),
            kib(space.swapped()),
        ));
    }

    /// Prints where a region is.
    fn print_region(&mut self, at: usize) {
        let Self { world, spaces, quiet, .. } = self;
        let Some(region) = spaces.region(at).filter(|_| !*quiet) else { return };
        let (start, kib) = (region.start, region.bytes() >> 10);
        world.print(format_args!("-> {}: {kib} kB at {start}\n", spaces.name_of(region)));
    }

    pub(super) fn map(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "map SPACE[.REGION] SIZE [huge|nohuge] [ro] [locked] [at=0xADDR]";
        let on = self.subject()?;
        let how = How {
            huge: args.flag("huge"),
            nohuge: args.flag("nohuge"),
            read_only: args.flag("ro"),
            locked: args.flag("locked"),
            at: args.option("at").map(number).transpose()?.map(VirtAddr),
        };
        let word = args.need(FORM)?;
        let size = number(args.need(FORM)?)?;
        args.done()?;
        if how.huge && how.nohuge {
            return Err(Error::new(Errno::EINVAL, FORM).into());
        }
        let (space, region) = match word.split_once('.') {
            Some((space, region)) => (space, Some(region)),
            None => (word, None),
        };
        let space = self.spaces.find(space);
        let space = space.ok_or(Error::new(Errno::ENOENT, "no such space").about(word))?;
        let name = self.spaces.new_region_name(space, region)?;
        let pages = size.div_ceil(PAGE_SIZE as u64);
        if pages == 0 {
            return Err(Error::new(Errno::EINVAL, "a region of nothing").into());
        }
        if pages > on.mm.managed_pages().saturating_mul(MOST_TIMES) {
            let why = "more than 16 times the machine's memory";
            return Err(Error::new(Errno::ENOMEM, why).into());
        }
        let place = self.spaces.add_region(&mut self.ledger, on.mm, (space, name), pages)?;
        if let Err(why) = self.map_region(on, place, how) {
            self.spaces.remove_region(&mut self.ledger, on.mm, place);
            return Err(why.into());
        }
        self.print_region(place);
        Ok(())
    }

    /// Maps a region that has its place in the table.
    fn map_region(&mut self, on: Subject<W>, place: usize, how: How) -> Result<(), Error> {
        let gone = Error::new(Errno::ENOENT, "no such region");
        let region = *self.spaces.region(place).ok_or(gone)?;
        let space = &self.spaces.at(region.space).ok_or(gone)?.space;
        let bytes = region.bytes();
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, !how.read_only);
        let flags = if how.at.is_some() { MapFlags::FIXED } else { MapFlags::empty() };
        let start = on.mm.mmap(space, how.at, bytes, prot, flags)?;
        // What is to come in large pages is locked, and so touched, after that
        // was said.
        let advice = how.huge.then_some(Advice::Huge).or(how.nohuge.then_some(Advice::NoHuge));
        let advised = advice.map_or(Ok(()), |advice| on.mm.madvise(space, start, bytes, advice));
        let lock = || if how.locked { on.mm.mlock(space, start, bytes) } else { Ok(()) };
        if let Err(why) = advised.and_then(|()| lock()) {
            on.mm.munmap(space, start, bytes)?;
            return Err(why.into());
        }
        if let Some(region) = self.spaces.region_mut(place) {
            region.start = start;
        }
        Ok(())
    }

    pub(super) fn fork(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "fork SPACE NEW";
        let on = self.subject()?;
        let (from, to) = (args.need(FORM)?, args.need(FORM)?);
        args.done()?;
        let parent = self.spaces.find(from);
        let parent = parent.ok_or(Error::new(Errno::ENOENT, "no such space").about(from))?;
        let name = self.new_space_name(to)?;
        let Some(held) = self.spaces.at(parent) else { return Ok(()) };
        let space = on.mm.space_fork(&held.space, to).map_err(Error::from)?;
        let at = self.spaces.add(name, space);
        if let Err(why) = self.copy_regions(on, parent, at) {
            self.forget_space(on, at);
            return Err(why.into());
        }
        self.print_space(at);
        Ok(())
    }

    /// Notes down that a space has the same in its regions as another.
    fn copy_regions(&mut self, on: Subject<W>, from: usize, to: usize) -> Result<(), Error> {
        let Self { spaces, ledger, .. } = self;
        for at in spaces.regions_at(Place { space: from, region: None, page: None }) {
            let Some(&region) = spaces.region(at) else { continue };
            let copy = spaces.add_region(ledger, on.mm, (to, region.name), region.pages)?;
            let Some(new) = spaces.region_mut(copy) else { continue };
            new.start = region.start;
            new.seeds = region.seeds;
            let new = *new;
            for word in 0..region.pages.div_ceil(Note::IN_WORD) {
                let notes = region.notes(ledger, on.mm, word);
                new.set_notes(ledger, on.mm, word, notes);
            }
        }
        Ok(())
    }

    /// Gives a space back, and all that is mapped in it.
    pub(super) fn forget_space(&mut self, on: Subject<W>, at: usize) {
        if let Some(space) = self.spaces.remove(&mut self.ledger, on.mm, at) {
            on.mm.space_put(space);
        }
    }

    /// Gives all spaces back.
    pub(super) fn forget_spaces(&mut self, on: Subject<W>) {
        (0..SPACES_MAX).for_each(|at| self.forget_space(on, at));
    }

    /// Has all further accesses to a space fail, and takes what it has mapped, as
    /// the OOM killer does.
    pub(super) fn kill(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let word = args.need("kill SPACE")?;
        args.done()?;
        let at = self.space_named(word)?;
        if let Some(held) = self.spaces.at(at) {
            on.mm.kill_space(&held.space).map_err(Error::from)?;
        }
        self.print_space(at);
        Ok(())
    }

    /// Has the OOM killer never choose a space, or not.
    pub(super) fn protect(&mut self, mut args: Args<'_>) -> Done {
        self.subject()?;
        let off = args.flag("off");
        let word = args.need("protect SPACE [off]")?;
        args.done()?;
        let at = self.space_named(word)?;
        if let Some(held) = self.spaces.at(at) {
            held.space.set_protected(!off);
        }
        self.print_space(at);
        Ok(())
    }

    fn space_named(&self, word: &str) -> Result<usize, Error> {
        let found = self.spaces.find(word);
        found.ok_or_else(|| Error::new(Errno::ENOENT, "no such space").about(word))
    }
}

/// How a region is to be mapped.
#[derive(Clone, Copy, Debug)]
struct How {
    huge: bool,
    nohuge: bool,
    read_only: bool,
    locked: bool,
    at: Option<VirtAddr>,
}
