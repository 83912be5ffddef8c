//! Whether what is known of address spaces is true: entries and the pages they
//! map, from both sides. May call: everything of `space`, `rmap`.

use super::Space;
use super::region::{Regions, pages_of};
use crate::audit::{AuditError, Auditor};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::page::{LruFlags, PageDesc, PageFlags, PageType};
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::swap::SwapNames;
use crate::sync::Ordering::Relaxed;
use crate::types::{PAGEBLOCK_PAGES, Pfn};

/// What the entries of all spaces say.
#[derive(Default)]
pub(crate) struct SpaceCount {
    /// Spaces.
    pub(crate) spaces: u64,
    /// Entries that name places in swap.
    pub(crate) names: SwapNames,
    /// Entries that map pages, zero pages aside.
    mappings: u64,
    /// Frames of tables.
    tables: u64,
}

impl<P: Platform> Mm<P> {
    /// Checks each space: regions, entries and counts. For a machine at rest.
    pub(crate) fn audit_spaces(&self, auditor: &mut Auditor) -> Result<SpaceCount, AuditError> {
        let mut count = SpaceCount::default();
        let Ok(mmu) = self.tables() else { return Ok(count) };
        let mut result = Ok(());
        self.each_space(&mut |space| {
            result = self.audit_space(auditor, mmu, space, &mut count);
            result.is_ok()
        });
        result?;
        let tables = self.spaces.tables.load(Relaxed);
        auditor.equal("frames of page tables", None, count.tables, tables)?;
        if count.spaces > 0 {
            self.audit_mapped(auditor, &count)?;
        }
        Ok(count)
    }

    fn audit_space(
        &self,
        auditor: &mut Auditor,
        mmu: &dyn Mmu,
        space: &Space,
        count: &mut SpaceCount,
    ) -> Result<(), AuditError> {
        let regions = space.regions.read(&self.platform);
        audit_regions(auditor, &regions)?;
        let span = mmu.span();
        let (mut at, mut anon, mut huge, mut swap) = (span.start, 0, 0, 0);
        while let Some((va, size, entry)) = mmu.next_entry(space.root, at, span.end) {
            at = va.add(size.bytes());
            auditor.equal("an entry just being moved", None, 0, {
                u64::from(matches!(entry, Entry::Moving(_)))
            })?;
            let region = regions.find(va).filter(|region| region.covers(va, size));
            auditor.equal("an entry that no region has", None, 1, region.is_some().into())?;
            match entry {
                Entry::Swap(slot) => {
                    swap += 1;
                    count.names.add(slot, 1);
                }
                Entry::Page(m) if !self.is_zero_page(m.pfn) => {
                    let pages = size.order().pages();
                    anon += pages;
                    huge += if size == MapSize::Large { pages } else { 0 };
                    count.mappings += 1;
                    let place = region.map(|region| (region.group, region.index(va)));
                    self.audit_mapping(auditor, &m, size, place)?;
                }
                Entry::Page(m) => {
                    auditor.holds("a page of zeros that can be written", m.pfn, !m.writable)?;
                }
                Entry::None | Entry::Moving(_) => {}
            }
        }
        auditor.equal("pages that a space maps", None, anon, space.rss())?;
        auditor.equal("large pages that a space maps", None, huge, space.huge())?;
        auditor.equal("pages that a space has in swap", None, swap, space.swapped())?;
        let tables = mmu.table_pages(space.root);
        auditor.equal("frames of a space's page tables", None, tables, space.tables())?;
        count.spaces += 1;
        count.tables += tables;
        Ok(())
    }

    /// A page that an entry maps knows where it belongs.
    fn audit_mapping(
        &self,
        auditor: &mut Auditor,
        m: &Mapping,
        size: MapSize,
        place: Option<(u32, u32)>,
    ) -> Result<(), AuditError> {
        let desc = self.map.page(m.pfn);
        auditor.holds("type and size of a page that is mapped", m.pfn, {
            m.size == size && desc.head().is(PageType::Lru, size.order())
        })?;
        auditor.holds("group and number of a page that is mapped", m.pfn, {
            place == Some((desc.owner(), desc.index()))
        })?;
        auditor.holds("a page that several share and one may write", m.pfn, {
            !m.writable || desc.mapcount() == 1
        })
    }

    /// All anonymous pages are mapped as often as they say.
    fn audit_mapped(&self, auditor: &mut Auditor, count: &SpaceCount) -> Result<(), AuditError> {
        let (mut mappings, mut mapped, mut huge) = (0, 0, 0);
        for zone in self.zones.iter() {
            let span = zone.span();
            let mut pfn = span.start.pageblock();
            while pfn < span.end {
                if !zone.owns(&self.map, pfn) {
                    pfn = self.map.next_populated(pfn.pageblock().add(PAGEBLOCK_PAGES));
                    continue;
                }
                let desc = self.map.page(pfn);
                let pages = desc.head().order().pages();
                if desc.head().lru().contains(LruFlags::ANON) {
                    mappings += u64::from(desc.mapcount());
                    if desc.mapcount() > 0 {
                        mapped += pages;
                        huge += if pages > 1 { pages } else { 0 };
                    }
                    self.audit_anon(auditor, pfn, desc)?;
                }
                pfn = pfn.add(pages);
            }
        }
        auditor.equal("mappings of all pages", None, count.mappings, mappings)?;
        auditor.equal("mapped pages", None, mapped, self.pages_of(PageStat::Anon))?;
        auditor.equal("mapped large pages", None, huge, self.pages_of(PageStat::AnonHuge))
    }

    fn audit_anon(
        &self,
        auditor: &mut Auditor,
        pfn: Pfn,
        desc: &PageDesc,
    ) -> Result<(), AuditError> {
        let mut found = 0;
        self.rmap_walk(pfn, &mut |_, _, _| {
            found += 1;
            true
        });
        let mapcount = u64::from(desc.mapcount());
        auditor.equal("entries that map a page", Some(pfn), mapcount, found)?;
        let word = desc.head();
        // What is not mapped may be somebody's who has it for himself.
        let least = mapcount
            + u64::from(word.lru().contains(LruFlags::SWAPCACHE))
            + u64::from(word.flags().contains(PageFlags::ISOLATED));
        let count = u64::from(desc.count());
        let right = if mapcount > 0 { count == least } else { count >= least };
        auditor.holds("references to a page", pfn, right)
    }
}

fn audit_regions(auditor: &mut Auditor, regions: &Regions) -> Result<(), AuditError> {
    let (mut end, mut len, mut pages) = (VirtAddr(0), 0, 0);
    for region in regions.iter() {
        let range = region.range();
        let ordered = end <= range.start && range.start < range.end;
        auditor.equal("regions in order", None, 1, ordered.into())?;
        end = range.end;
        len += 1;
        pages += pages_of(&range);
    }
    auditor.equal("regions of a space", None, len, regions.len)?;
    auditor.equal("pages of regions", None, pages, regions.pages)
}
