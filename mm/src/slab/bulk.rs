//! Many objects at a time. May call: `alloc`, `free`.

use super::SlabError;
use super::alloc::Target;
use super::array::Taken;
use super::cache::CacheId;
use super::slabs::Owner;
use crate::gfp::{AllocError, Gfp};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use core::panic::Location;
use core::ptr::NonNull;

impl<P: Platform> Mm<P> {
    /// Fills `out` with objects of a cache, or gives none at all. Content and
    /// context as for [`cache_alloc`](Self::cache_alloc).
    ///
    /// # Errors
    /// As [`cache_alloc`](Self::cache_alloc); what stands in `out` is worthless
    /// then.
    #[track_caller]
    pub fn cache_alloc_bulk(
        &self,
        id: CacheId,
        gfp: Gfp,
        out: &mut [NonNull<u8>],
    ) -> Result<(), AllocError> {
        let at = Location::caller();
        let target = Target { index: id.index, id: Some(id), arrays: true };
        let mut done = 0;
        let failed = loop {
            if done == out.len() {
                return Ok(());
            }
            let (n, extra) = self.take_ready(target, gfp, &mut out[done..]);
            if extra || gfp.contains(Gfp::ZERO) {
                // Each is handed out as if it had been asked for alone.
                match self.finish_all(target, gfp, &out[done..done + n], extra, at) {
                    Ok(()) => {}
                    Err(why) => break why,
                }
            }
            done += n;
            if done < out.len() {
                match self.alloc_object(target, gfp) {
                    Ok(object) => out[done] = object,
                    Err(why) => break why,
                }
                done += 1;
            }
        };
        for &object in &out[..done] {
            self.free_object(target, object, at).ok();
        }
        Err(failed)
    }

    /// Does for each object what it needs before it is handed out.
    fn finish_all(
        &self,
        target: Target,
        gfp: Gfp,
        objects: &[NonNull<u8>],
        extra: bool,
        at: &'static Location<'static>,
    ) -> Result<(), AllocError> {
        let zero_bytes = self.zero_bytes_of(target);
        for &ptr in objects {
            self.finish(Taken { ptr, zero_bytes, extra }, target, gfp, at)?;
        }
        Ok(())
    }

    /// Takes as many objects as are at hand: out of this CPU's array, then out
    /// of the node's slabs, passing the array by. While there are reserve
    /// slabs, none: each object is asked for alone then.
    fn take_ready(&self, target: Target, gfp: Gfp, out: &mut [NonNull<u8>]) -> (usize, bool) {
        let cpu = self.enter();
        let Ok(cache) = self.resolve(&cpu, target) else { return (0, false) };
        if self.slab.reserve_slabs.load(Relaxed) != 0
            || gfp.contains(Gfp::ZERO) && cache.ctor.is_some()
        {
            return (0, false);
        }
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let mut n = 0;
                let Some(array) = arrays.get(target.index) else { return (0, false) };
                while n < out.len() {
                    let Some(taken) = array.pop() else { break };
                    out[n] = taken.ptr;
                    n += 1;
                }
                let rest = (out.len() - n) as u32;
                if rest >= array.batch {
                    let mut lists = cache.node(self.slab_node(&cpu)).lists.lock(&cpu);
                    self.take_from_lists(cache, &mut lists, rest, false, &mut |object| {
                        out[n] = object;
                        n += 1;
                    });
                }
                (n, array.extra)
            })
        }
    }

    /// Frees objects of a cache, from whatever slabs; stops at the first that
    /// may not be freed. Any context.
    ///
    /// # Errors
    /// As [`cache_free`](Self::cache_free), with the index of the culprit:
    /// those before it are freed, those after it are not.
    #[track_caller]
    pub fn cache_free_bulk(
        &self,
        id: CacheId,
        objects: &[NonNull<u8>],
    ) -> Result<(), (usize, SlabError)> {
        let at = Location::caller();
        let target = Target { index: id.index, id: Some(id), arrays: true };
        let mut done = 0;
        while done < objects.len() {
            done += self.push_all(target, &objects[done..]);
            if let Some(&object) = objects.get(done) {
                self.free_object(target, object, at).map_err(|why| (done, why))?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Puts objects into this CPU's array as long as that is all there is to
    /// it; returns how many.
    fn push_all(&self, target: Target, objects: &[NonNull<u8>]) -> usize {
        let cpu = self.enter();
        if target.id.is_some_and(|id| !self.slab.is_live(id)) {
            return 0;
        }
        let home = (self.nodes() > 1).then(|| self.slab_node(&cpu));
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let Some(array) = arrays.get(target.index).filter(|a| !a.extra) else { return 0 };
                let mut n = 0;
                for &object in objects {
                    let Some((pfn, desc)) = self.slab_of(object) else { break };
                    let near = home.is_none_or(|home| self.map.block(pfn).node() == home);
                    if !near || !array.has_room() || Owner::of(desc).cache != array.cache {
                        break;
                    }
                    array.push(object);
                    n += 1;
                }
                n
            })
        }
    }
}
