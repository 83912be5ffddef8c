//! Page owner: who allocated what, by place in the source. Costs nothing until
//! it is switched on; then a word in each allocated head names a call site.
//! May call: `sync`.

use crate::sync::{AtomicBool, AtomicPtr, Ordering};
use core::panic::Location;

/// Call sites that can be told apart; all others share the last one.
const SITES: usize = 512;

/// A call site as the `owner` word of a page holds it; 0 is "not recorded".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site(pub u32);

/// The table of call sites.
pub struct PageOwner {
    on: AtomicBool,
    sites: [AtomicPtr<Location<'static>>; SITES],
}

impl core::fmt::Debug for PageOwner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PageOwner").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

impl PageOwner {
    pub(crate) const fn new() -> Self {
        Self {
            on: AtomicBool::new(false),
            sites: [const { AtomicPtr::new(core::ptr::null_mut()) }; SITES],
        }
    }

    /// Whether owners are recorded.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Starts or stops recording. What was allocated before has no owner.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// The number of a call site, entered if it is new. Lock-free.
    pub(crate) fn intern(&self, at: &'static Location<'static>) -> Site {
        let wanted = core::ptr::from_ref(at).cast_mut();
        let start = wanted.addr() / align_of::<Location<'_>>() % (SITES - 1);
        for step in 0..SITES - 1 {
            let slot = (start + step) % (SITES - 1);
            let seen = match self.sites[slot].compare_exchange(
                core::ptr::null_mut(),
                wanted,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => wanted,
                Err(seen) => seen,
            };
            if seen == wanted {
                return Site(slot as u32 + 1);
            }
        }
        Site(SITES as u32)
    }

    /// The place a number stands for; None for "not recorded" and for those
    /// that found the table full.
    pub fn location(&self, site: Site) -> Option<&'static Location<'static>> {
        let slot = (site.0 as usize).checked_sub(1)?;
        let ptr = self.sites.get(slot)?.load(Ordering::Acquire);
        // SAFETY: only `intern` stores here, and what it stores was made from a
        // reference that lives for ever.
        unsafe { ptr.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn sites_are_told_apart_and_found_again() {
        let owners = PageOwner::new();
        let (a, b) = (here(), here());
        let (site_a, site_b) = (owners.intern(a), owners.intern(b));
        assert_ne!(site_a, site_b);
        assert_eq!(owners.intern(a), site_a);
        assert_eq!(owners.location(site_b), Some(b));
        assert_eq!(owners.location(Site(0)), None);
    }
}
