//! The lab's caches. May call `mm`.

use super::content::{CONSTRUCTED_BYTES, construct};
use crate::errno::{Errno, Error};
use crate::groups::{Group, Kind, Source};
use crate::lab::{Done, Lab, Subject};
use crate::name::Name;
use crate::parse::{Args, small};
use crate::world::World;
use mm::slab::geometry::Debug;
use mm::slab::{CacheConfig, CacheId};

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

    /// # Errors
    /// ENOENT.
    pub(crate) fn find(&self, name: &str) -> Result<Entry, Error> {
        let found = self.0.iter().flatten().find(|entry| entry.name.as_str() == name);
        found.copied().ok_or_else(|| Error::new(Errno::ENOENT, "no such cache").about(name))
    }

    /// Takes a cache out, whichever.
    pub(crate) fn take_any(&mut self) -> Option<Entry> {
        self.0.iter_mut().find_map(Option::take)
    }
}

impl<W: World> Lab<W> {
    pub(super) fn cache(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "cache NAME size=N [align=N] [ctor] [hwalign] [debug] [reclaim] [merge]";
        let on = self.subject()?;
        let word = args.need(FORM)?;
        let size = args.option("size").ok_or(Error::new(Errno::EINVAL, FORM))?;
        let mut config = CacheConfig::new(small(size)?);
        config.align = args.option("align").map_or(Ok(0), small)?;
        let constructed = args.flag("ctor");
        config.ctor = constructed.then_some(construct);
        config.hwcache_align = args.flag("hwalign");
        config.reclaim_account = args.flag("reclaim");
        config.debug = if args.flag("debug") { Debug::all() } else { Debug::empty() };
        // What an experiment counts is its own, unless it says otherwise.
        config.merge = args.flag("merge");
        args.done()?;
        let name = Name::new(word)?;
        if on.mm.caches().any(|info| info.name() == word) || self.caches.find(word).is_ok() {
            return Err(Error::new(Errno::EEXIST, "the name is in use").about(word).into());
        }
        if constructed && config.size < CONSTRUCTED_BYTES {
            let why = "objects with a constructor have 8 bytes at least";
            return Err(Error::new(Errno::EINVAL, why).into());
        }
        let Some(place) = self.caches.0.iter_mut().find(|place| place.is_none()) else {
            return Err(Error::new(Errno::ENOSPC, "32 caches are there already").into());
        };
        let id = on.mm.cache_create(word, config).map_err(Error::from)?;
        let entry = Entry { name, id, constructed };
        *place = Some(entry);
        self.print_cache(on, &entry);
        Ok(())
    }

    fn print_cache(&mut self, on: Subject<W>, entry: &Entry) {
        let Ok(info) = on.mm.cache_info(entry.id) else { return };
        let (objects, pages) = (info.objperslab, info.pagesperslab);
        self.print(format_args!(
            "-> cache {}: {} bytes in {}, {objects} in a slab of {pages} pages\n",
            entry.name, info.object_size, info.size,
        ));
    }

    pub(super) fn list_caches(&mut self, on: Subject<W>) {
        for at in 0..CACHES_MAX {
            if let Some(entry) = self.caches.0[at] {
                self.print_cache(on, &entry);
            }
        }
    }

    pub(super) fn shrink(&mut self, mut args: Args<'_>) -> Done {
        let name = args.need("shrink CACHE")?;
        args.done()?;
        let on = self.subject()?;
        let pages = match self.caches.find(name) {
            Ok(entry) => on.mm.cache_shrink(entry.id),
            // One of the machine's own, such as kmalloc-64.
            Err(_) => on.mm.cache_shrink_named(name),
        };
        let pages = pages.map_err(|error| Error::from(error).about(name))?;
        self.print(format_args!("-> shrink: {pages} pages\n"));
        Ok(())
    }

    pub(super) fn destroy(&mut self, mut args: Args<'_>) -> Done {
        let name = args.need("destroy CACHE")?;
        args.done()?;
        let on = self.subject()?;
        let entry = self.caches.find(name).map_err(|error| {
            let others = on.mm.caches().any(|info| info.name() == name);
            if others { Error::new(Errno::EPERM, "not the lab's").about(name) } else { error }
        })?;
        on.mm.cache_destroy(entry.id).map_err(Error::from)?;
        for place in &mut self.caches.0 {
            if place.is_some_and(|e| e.name == entry.name) {
                *place = None;
            }
        }
        Ok(())
    }

    /// Whether a group's objects are made by a constructor.
    pub(super) fn is_constructed(&self, group: &Group) -> bool {
        let Kind::Objects(Source::Cache(id)) = group.kind else { return false };
        self.caches.0.iter().flatten().any(|entry| entry.id == id && entry.constructed)
    }
}
