//! The lab's caches. May call `mm`.

use crate::name::Name;
use mm::slab::CacheId;

/// Caches that the lab can have at a time.
pub(crate) const CACHES_MAX: usize = 32;

/// A cache of the lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) id: CacheId,
    /// Its objects are made by a constructor.
    pub(crate) constructed: bool,
}

/// All caches.
pub(crate) struct Caches([Option<Entry>; CACHES_MAX]);

impl Caches {
    pub(crate) const fn new() -> Self {
        Self([None; CACHES_MAX])
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(|entry| entry.name.as_str())
    }
}
