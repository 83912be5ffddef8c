//! Objects of the reserves: who gets one, and when pressure is over. Linux 6.1
//! mm/slab.c is followed in what a right is, not in where the truth stands: it
//! is the flag of the slab's head, wherever its objects are. May call: `node`,
//! `array`.

use super::SlabError;
use super::array::{ArrayCache, Taken};
use super::cache::Cache;
use super::node::NodeLists;
use super::slabs::Fill;
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::page::{PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use core::ptr::NonNull;

/// What a caller may have of the reserves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Right {
    /// There are no reserve slabs: the question does not arise.
    Moot,
    /// All of it.
    Entitled,
    /// Nothing.
    Kept,
}

impl<P: Platform> Mm<P> {
    /// Whether a caller may have objects of the reserves, if there are any.
    /// What this says about an array holds for whoever holds its token, or took
    /// its lock before asking.
    pub(crate) fn right(&self, gfp: Gfp) -> Right {
        if self.slab.reserve_slabs.load(Relaxed) == 0 {
            return Right::Moot;
        }
        if self.entitled(gfp) { Right::Entitled } else { Right::Kept }
    }

    /// Whether a caller has the right to the reserves.
    pub(crate) fn entitled(&self, gfp: Gfp) -> bool {
        gfp.may_use_reserves(self.platform.context())
    }

    /// Whether an object belongs to the reserves. Any context; the caller owns
    /// the object, which may be a large kmalloc block too.
    ///
    /// # Errors
    /// [`SlabError::NotSlab`] for a pointer to anything else.
    pub fn object_is_pfmemalloc(&self, ptr: NonNull<u8>) -> Result<bool, SlabError> {
        let pfn = self.platform.pfn_of(ptr.as_ptr()).ok_or(SlabError::NotSlab)?;
        match self.map.head_of(pfn) {
            Some((_, word)) if matches!(word.ty(), PageType::Slab | PageType::LargeKmalloc) => {
                Ok(word.flags().contains(PageFlags::PFMEMALLOC))
            }
            _ => Err(SlabError::NotSlab),
        }
    }

    /// Whether the slab that an object of this layer lies in is of the reserves.
    fn is_reserve_object(&self, ptr: NonNull<u8>) -> bool {
        self.platform.pfn_of(ptr.as_ptr()).is_some_and(|pfn| self.is_pfmemalloc(pfn))
    }

    /// Takes the newest object that the caller may have, wherever in the array
    /// it lies.
    pub(crate) fn pop_allowed(&self, array: &mut ArrayCache, right: Right) -> Option<Taken> {
        if right != Right::Kept {
            return array.pop();
        }
        let i = array.objects().iter().rposition(|&object| !self.is_reserve_object(object))?;
        array.take(i)
    }

    /// A caller without the right is kept from objects that there are: is that
    /// still called for? Not if a slab is free altogether that is not of the
    /// reserves. (One grown for the very request never comes here: it goes to
    /// its caller at once.)
    pub(crate) fn pressure_is_over(
        &self,
        lists: &mut NodeLists,
        array: Option<&ArrayCache>,
    ) -> bool {
        let kept_from = array.is_some_and(|a| a.avail > 0) || lists.has_reserve_objects();
        kept_from && !lists.list(false, Fill::Free).is_empty()
    }

    /// Makes all reserve slabs of one cache and node normal ones, and with them
    /// their objects wherever these are. Says nothing about any other.
    pub(crate) fn demote(&self, cache: &Cache, lists: &mut NodeLists) {
        for fill in [Fill::Full, Fill::Partial, Fill::Free] {
            while let Some(pfn) = lists.list(true, fill).pop_front(&self.map) {
                self.map.page(pfn).clear_flags(PageFlags::PFMEMALLOC);
                debug_assert!(self.slab_at(cache, pfn).fill() == fill);
                lists.list(false, fill).push_back(&self.map, pfn);
                self.slab.reserve_slabs.fetch_sub(1, Relaxed);
            }
        }
    }
}
