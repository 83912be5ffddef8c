//! What the lab holds, by name: blocks of pages, contiguous ranges, objects.
//! May call: `ledger`.

use crate::errno::{Errno, Error};
use crate::ledger::List;
use crate::name::Name;
use mm::cma::CmaId;
use mm::slab::CacheId;
use mm::types::Order;

/// Groups that there can be at a time.
pub const GROUPS_MAX: usize = 64;

/// The word of a block that was given back.
pub(crate) const GONE: u64 = u64::MAX;

/// Where objects come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// One of the lab's caches.
    Cache(CacheId),
    /// kmalloc of that many bytes.
    General(usize),
}

/// What a group is made of, and thereby what its words mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Blocks of pages: the first frame.
    Pages(Order),
    /// Movable blocks: the handle in the arena.
    Movable(Order),
    /// One contiguous range of that many pages: the first frame.
    Contig(u64),
    /// The same of a contiguous area.
    Cma(CmaId, u64),
    /// Objects: the physical address.
    Objects(Source),
}

impl Kind {
    /// Pages of one block; 0 for objects, which have no pages of their own.
    pub(crate) fn pages(self) -> u64 {
        match self {
            Self::Pages(order) | Self::Movable(order) => order.pages(),
            Self::Contig(pages) | Self::Cma(_, pages) => pages,
            Self::Objects(_) => 0,
        }
    }
}

/// A group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) list: List,
    /// Blocks that have not been given back.
    pub(crate) live: u64,
    /// Whether its content is the pattern.
    pub(crate) touched: bool,
}

/// All groups.
pub(crate) struct Groups([Option<Group>; GROUPS_MAX]);

impl Groups {
    pub(crate) const fn new() -> Self {
        Self([None; GROUPS_MAX])
    }

    /// In the order of their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.0.iter().flatten()
    }

    /// The group at a place.
    pub(crate) fn at(&self, place: usize) -> Option<Group> {
        *self.0.get(place)?
    }

    /// # Errors
    /// ENOENT.
    pub(crate) fn find(&mut self, name: &str) -> Result<&mut Group, Error> {
        let found = self.0.iter_mut().flatten().find(|group| group.name.as_str() == name);
        found.ok_or_else(|| Error::new(Errno::ENOENT, "no such group").about(name))
    }

    /// The name of a group that is about to be made.
    ///
    /// # Errors
    /// EINVAL for what is no name, EEXIST for one in use, ENOSPC.
    pub(crate) fn new_name(&self, word: &str) -> Result<Name, Error> {
        let name = Name::new(word)?;
        if self.iter().any(|group| group.name == name) {
            return Err(Error::new(Errno::EEXIST, "the name is in use").about(word));
        }
        if self.0.iter().all(Option::is_some) {
            return Err(Error::new(Errno::ENOSPC, "64 groups are there already"));
        }
        Ok(name)
    }

    /// Adds a group. There is room: a [name](Self::new_name) was given for it.
    pub(crate) fn add(&mut self, group: Group) {
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = Some(group);
        }
    }

    /// Takes a group out, whichever.
    pub(crate) fn take_any(&mut self) -> Option<Group> {
        self.0.iter_mut().find_map(Option::take)
    }

    /// Takes a group out.
    pub(crate) fn remove(&mut self, name: &Name) {
        for place in &mut self.0 {
            if place.as_ref().is_some_and(|group| group.name == *name) {
                *place = None;
            }
        }
    }
}
