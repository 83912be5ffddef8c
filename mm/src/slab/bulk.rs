//! Many objects at a time. May call: `alloc`, `free`.

use super::SlabError;
use super::alloc::Target;
use super::array::{ArrayCache, Taken};
use super::cache::{Cache, CacheId};
use super::reserve::Right;
use super::slabs::Key;
use crate::gfp::{AllocError, Gfp};
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::PAGE_SIZE;
use core::panic::Location;
use core::ptr::NonNull;

/// What objects that were taken out of an array still need.
#[derive(Clone, Copy)]
struct Ready {
    zero_bytes: u32,
    extra: bool,
}

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
        let target = Target::of(id);
        let mut done = 0;
        let failed = loop {
            if done == out.len() {
                return Ok(());
            }
            let (n, kind) = self.take_ready(target, gfp, &mut out[done..]);
            if kind.extra || gfp.contains(Gfp::ZERO) {
                // Each is handed out as if it had been asked for alone.
                match self.finish_all(target, gfp, &out[done..done + n], kind, at) {
                    Ok(()) => {}
                    Err(why) => break why,
                }
            }
            done += n;
            if done < out.len() {
                match self.alloc_object(target, gfp, at) {
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
        kind: Ready,
        at: &'static Location<'static>,
    ) -> Result<(), AllocError> {
        let Ready { zero_bytes, extra } = kind;
        for &ptr in objects {
            self.finish(Taken { ptr, zero_bytes, extra }, target, gfp, at)?;
        }
        Ok(())
    }

    /// Takes as many objects as are at hand: out of this CPU's array, then out
    /// of the node's shared array and slabs, passing the CPU's by. While there
    /// are reserve slabs, none: each object is asked for alone then.
    fn take_ready(&self, target: Target, gfp: Gfp, out: &mut [NonNull<u8>]) -> (usize, Ready) {
        const NOTHING: (usize, Ready) = (0, Ready { zero_bytes: 0, extra: false });
        let cpu = self.enter();
        let Ok(cache) = self.resolve(&cpu, target) else { return NOTHING };
        if self.slab.reserve_slabs.load(Relaxed) != 0
            || gfp.contains(Gfp::ZERO) && cache.ctor.is_some()
        {
            return NOTHING;
        }
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let Some(array) = arrays.get(target.index) else { return NOTHING };
                let ready = Ready { zero_bytes: array.zero_bytes, extra: array.extra };
                let mut n = array.take_newest(out);
                if (out.len() - n) as u32 >= array.batch {
                    let mut lists = cache.node(array.key.node()).lists.lock(&cpu);
                    // Under the lock: reserve objects may have come meanwhile.
                    if self.slab.reserve_slabs.load(Relaxed) == 0 {
                        n += lists.shared().map_or(0, |shared| shared.take_newest(&mut out[n..]));
                        let rest = &mut out[n..];
                        let want = rest.len() as u32;
                        n += self.take_from_lists(cache, &mut lists, rest, want, Right::Moot);
                    }
                }
                (n, ready)
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
        let target = Target::of(id);
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

    /// Frees objects as long as there is nothing to be looked at for each of
    /// them: those of this node go to this CPU's array and on from there, those
    /// of another node home (the first of them alone, if there is no array yet
    /// in which to wait for others). Returns how many.
    fn push_all(&self, target: Target, objects: &[NonNull<u8>]) -> usize {
        let cpu = self.enter();
        let Ok(cache) = self.resolve(&cpu, target) else { return 0 };
        let mut surplus = PageList::new();
        let mut done = 0;
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let Some(array) = arrays.get(target.index).filter(|a| !a.extra) else { return };
                while let Some(&first) = objects.get(done) {
                    let Some((_, desc)) = self.slab_of(first) else { break };
                    let key = Key::of(desc);
                    let run = same_page(&objects[done..]);
                    if key == array.key {
                        self.push_run(&cpu, cache, array, run, &mut surplus);
                    } else if key.cache() == cache.index
                        && !self.lacks_alien(&cpu, cache, key.node())
                    {
                        let home = array.key.node();
                        self.send_home(&cpu, cache, (home, key.node()), run, &mut surplus);
                    } else {
                        break;
                    }
                    done += run.len();
                }
            });
        }
        self.release_slabs(cache, surplus);
        done
    }

    /// Puts all of `run` into an array, making room as often as need be.
    fn push_run(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        array: &mut ArrayCache,
        run: &[NonNull<u8>],
        surplus: &mut PageList,
    ) {
        let mut put = array.append(run) as usize;
        while put < run.len() {
            self.flush(cpu, cache, array, array.batch, surplus);
            put += array.append(&run[put..]) as usize;
        }
    }
}

/// The leading ones of `objects` that lie in one page.
#[inline]
fn same_page(objects: &[NonNull<u8>]) -> &[NonNull<u8>] {
    let page = |object: &NonNull<u8>| object.addr().get() / PAGE_SIZE;
    let first = objects.first().map(page);
    let n = objects.iter().position(|object| Some(page(object)) != first);
    &objects[..n.unwrap_or(objects.len())]
}
