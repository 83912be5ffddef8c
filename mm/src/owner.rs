//! Page owner: who allocated what, by place in the source. Costs nothing until
//! it is switched on; then a word in each allocated head names a call site.
//! May call: `sync`, the memory map.

use crate::mm::Mm;
use crate::page::PageType;
use crate::platform::{LogLevel, Platform};
use crate::sync::{AtomicBool, AtomicPtr, Ordering};
use crate::types::{PAGEBLOCK_PAGES, Pfn};
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

    /// Starts or stops recording, before anything is allocated.
    pub(crate) fn set(&self, on: bool) {
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

/// Whether the `owner` word of pages of that type is a call site.
const fn names_its_site(ty: PageType) -> bool {
    matches!(ty, PageType::Kernel | PageType::LargeKmalloc | PageType::Contig)
}

/// What one call site holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The place; None for those that could not be recorded.
    pub at: Option<&'static Location<'static>>,
    /// Blocks it holds.
    pub blocks: u64,
    /// Pages in them.
    pub pages: u64,
}

impl<P: Platform> Mm<P> {
    /// Who holds a page, if that was recorded and the page is allocated to
    /// whoever asked for it (not to a slab or a driver, which know better).
    pub fn holder(&self, pfn: Pfn) -> Option<&'static Location<'static>> {
        let _walk = self.look_around();
        let (head, word) = self.map.head_of(pfn)?;
        if !names_its_site(word.ty()) {
            return None;
        }
        self.owners.location(Site(self.map.page(head).owner()))
    }

    /// What each call site that has been met holds now, in no order. Walks all
    /// descriptors once for each site: for a person who asks, not for a program.
    /// Any context; on a running machine an estimate.
    pub fn for_each_holding(&self, mut f: impl FnMut(Holding)) {
        for site in 1..=SITES as u32 {
            let site = Site(site);
            let at = self.owners.location(site);
            if at.is_none() && site.0 < SITES as u32 {
                continue;
            }
            let mut holding = Holding { at, blocks: 0, pages: 0 };
            for zone in self.zones.iter() {
                self.add_holdings(zone, site, &mut holding);
            }
            if holding.blocks > 0 {
                f(holding);
            }
        }
    }

    fn add_holdings(&self, zone: &crate::zone::Zone, site: Site, holding: &mut Holding) {
        let _walk = self.look_around();
        let span = zone.span();
        let mut pfn = span.start;
        while pfn < span.end {
            if !zone.owns(&self.map, pfn) {
                pfn = self.map.next_populated(pfn.pageblock().add(PAGEBLOCK_PAGES));
                continue;
            }
            let page = self.map.page(pfn);
            let word = page.head();
            if names_its_site(word.ty()) && page.owner() == site.0 {
                holding.blocks += 1;
                holding.pages += word.order().pages();
            }
            pfn = pfn.add(word.order().pages());
        }
    }

    /// Logs who holds what, a line each, in the manner of Linux's page_owner.
    pub fn log_holdings(&self) {
        self.for_each_holding(|h| match h.at {
            Some(at) => self.platform.log(
                LogLevel::Info,
                format_args!(
                    "page_owner: {} pages in {} blocks: {}:{}",
                    h.pages,
                    h.blocks,
                    at.file(),
                    at.line()
                ),
            ),
            None => self.platform.log(
                LogLevel::Info,
                format_args!("page_owner: {} pages in {} blocks: others", h.pages, h.blocks),
            ),
        });
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
