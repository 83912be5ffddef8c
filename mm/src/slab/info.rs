//! What there is to know of a cache, and the text of `/proc/slabinfo`, version
//! 2.1, byte for byte as Linux prints it. May call: `state`, `cache`.

use super::SlabError;
use super::array::ArrayCache;
use super::cache::{Cache, CacheId, Name};
use super::geometry::{ArraySizes, Debug};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::NodeId;
use core::fmt;

/// The facts about one cache at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheInfo {
    name: Name,
    /// Its place in the order of creation.
    seq: u64,
    /// Bytes that a user may use of an object.
    pub object_size: u32,
    /// Bytes from an object to the next.
    pub size: u32,
    /// Objects in use; those in arrays of free objects count as such.
    pub active_objs: u64,
    /// Objects in all slabs.
    pub num_objs: u64,
    /// Slabs with objects in use.
    pub active_slabs: u64,
    /// All slabs.
    pub num_slabs: u64,
    /// Objects in a slab.
    pub objperslab: u16,
    /// Pages in a slab.
    pub pagesperslab: u32,
    /// Objects in slabs of the reserves, in use or not.
    pub reserve_objs: u64,
    /// Free objects in the arrays that the CPUs of a node share.
    pub shared_avail: u64,
    /// Free objects that wait on another node to be sent home.
    pub alien_avail: u64,
    /// The sizes of its arrays.
    pub arrays: ArraySizes,
    /// The checks that its objects have room for.
    pub debug: Debug,
    /// Handles that name it.
    pub users: u32,
}

impl CacheInfo {
    /// The cache's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl fmt::Display for CacheInfo {
    /// The cache's line of slabinfo, without the end of the line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ArraySizes { limit, batch, shared } = self.arrays;
        write!(
            f,
            "{:<17} {:>6} {:>6} {:>6} {:>4} {:>4} : tunables {limit:>4} {batch:>4} {shared:>4} \
             : slabdata {:>6} {:>6} {:>6}",
            self.name(),
            self.active_objs,
            self.num_objs,
            self.size,
            self.objperslab,
            self.pagesperslab,
            self.active_slabs,
            self.num_slabs,
            self.shared_avail,
        )
    }
}

const HEADER: &str = "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> \
     <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> \
     : slabdata <active_slabs> <num_slabs> <sharedavail>\n";

fn info<P: Platform>(cpu: &Cpu<'_, P>, cache: &Cache) -> CacheInfo {
    let geometry = &cache.geometry;
    let mut info = CacheInfo {
        name: cache.name,
        seq: cache.seq,
        object_size: cache.object_size.load(Relaxed),
        size: geometry.size,
        active_objs: 0,
        num_objs: 0,
        active_slabs: 0,
        num_slabs: 0,
        objperslab: geometry.objects,
        pagesperslab: geometry.order.pages() as u32,
        reserve_objs: 0,
        shared_avail: 0,
        alien_avail: 0,
        arrays: cache.sizes(),
        debug: geometry.debug,
        users: cache.users.load(Relaxed),
    };
    let objects = u64::from(geometry.objects);
    for node in cache.nodes() {
        let mut lists = node.lists.lock(cpu);
        let slabs = lists.slabs();
        info.num_slabs += slabs;
        info.active_slabs += slabs - lists.free_slabs();
        info.num_objs += slabs * objects;
        info.active_objs += slabs * objects - lists.free_objects;
        info.reserve_objs += lists.reserve_slabs() * objects;
        info.shared_avail += lists.shared().map_or(0, |a: &mut ArrayCache| u64::from(a.avail));
    }
    let nodes = || (0..cache.nodes().len() as u8).map(NodeId);
    for alien in nodes().flat_map(|by| nodes().filter_map(move |of| cache.alien(by, of))) {
        let mut alien = alien.lock(cpu);
        info.alien_avail += alien.array().map_or(0, |array| u64::from(array.avail));
    }
    info
}

impl<P: Platform> Mm<P> {
    /// The facts about a cache. Any context.
    ///
    /// # Errors
    /// [`SlabError::NoSuchCache`].
    pub fn cache_info(&self, id: CacheId) -> Result<CacheInfo, SlabError> {
        let cpu = self.enter();
        self.slab.by_id(&cpu, id).map(|cache| info(&cpu, cache))
    }

    /// All caches, the newest first. Caches that come or go meanwhile may be
    /// left out. Any context; no lock is held between two.
    pub fn caches(&self) -> impl Iterator<Item = CacheInfo> + '_ {
        let mut before = u64::MAX;
        core::iter::from_fn(move || {
            let cpu = self.enter();
            let next = self
                .slab
                .caches(&cpu)
                .filter(|cache| cache.seq < before)
                .max_by_key(|cache| cache.seq)?;
            before = next.seq;
            Some(info(&cpu, next))
        })
    }

    /// Writes the text of `/proc/slabinfo`.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn slabinfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(HEADER)?;
        self.caches().try_for_each(|info| writeln!(out, "{info}"))
    }

    /// Retunes a cache as a line written to `/proc/slabinfo` does: `name limit
    /// batch shared`. Numbers that make no sense (no limit, no batch, a batch
    /// above the limit, arrays above 8 KiB) are ignored without a word, as in
    /// Linux. With interrupts on and no lock held.
    ///
    /// # Errors
    /// [`SlabError::Invalid`] for a line of another form;
    /// [`SlabError::NoSuchCache`].
    pub fn slabinfo_write(&self, line: &str) -> Result<(), SlabError> {
        const FORM: SlabError = SlabError::Invalid(&"expected: name limit batchcount shared");
        let mut words = line.split_whitespace();
        let name = words.next().ok_or(FORM)?;
        let mut number = || words.next().and_then(|w| w.parse::<i64>().ok()).ok_or(FORM);
        let (limit, batch, shared) = (number()?, number()?, number()?);
        let own = {
            let cpu = self.enter();
            let found = self.slab.caches(&cpu).find(|cache| cache.name.as_str() == name);
            let cache = found.ok_or(SlabError::NoSuchCache)?;
            let most = ArrayCache::MOST as i64;
            let sane = (1..=most).contains(&limit)
                && (1..=limit).contains(&batch)
                && (0..=most / batch).contains(&shared);
            if !sane {
                return Ok(());
            }
            cache.limit.store(limit as u32, Relaxed);
            cache.batch.store(batch as u32, Relaxed);
            cache.shared.store(shared as u32, Relaxed);
            cache.index
        };
        // They are made again where the cache is used, in their new sizes.
        self.drop_arrays(own);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    /// Lines of the slabinfo of a 6.1 kernel with SLAB.
    #[test]
    fn lines_are_linux_s() {
        for line in [
            "bio-96                32     32    128   32    1 : tunables  120   60    0 : slabdata      1      1      0",
            "posix_timers_cache      0      0    256   16    1 : tunables  120   60    0 : slabdata      0      0      0",
            "kernfs_node_cache   3072   3072    128   32    1 : tunables  120   60    0 : slabdata     96     96      0",
            "kmalloc-8k             3      3   8192    1    2 : tunables    8    4    0 : slabdata      3      3      0",
        ] {
            let mut words = line.split_whitespace();
            let name = Name::new(words.next().expect("a name")).expect("a name");
            let numbers: std::vec::Vec<u64> = words.filter_map(|w| w.parse().ok()).collect();
            let info = CacheInfo {
                name,
                seq: 0,
                object_size: 0,
                size: numbers[2] as u32,
                active_objs: numbers[0],
                num_objs: numbers[1],
                active_slabs: numbers[8],
                num_slabs: numbers[9],
                objperslab: numbers[3] as u16,
                pagesperslab: numbers[4] as u32,
                reserve_objs: 0,
                shared_avail: numbers[10],
                alien_avail: 0,
                arrays: ArraySizes {
                    limit: numbers[5] as u32,
                    batch: numbers[6] as u32,
                    shared: numbers[7] as u32,
                },
                debug: Debug::empty(),
                users: 1,
            };
            assert_eq!(format!("{info}"), line);
        }
        let lines: std::vec::Vec<_> = HEADER.lines().collect();
        assert_eq!(lines[0], "slabinfo - version: 2.1");
        assert_eq!(
            lines[1],
            "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>"
        );
    }
}
