//! Checks the lists: every listed page is on exactly the list that its flags
//! name, and the counts are those of the pages. May call: `audit`.

use super::{LruKind, LruList, NR_LRU_LISTS};
use crate::audit::{AuditError, Auditor};
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, NIL, PageDesc, PageFlags, PageType, link};
use crate::page_stats::PageStatCount;
use crate::platform::Platform;
use crate::reclaim::CACHES;
use crate::sync::{Cpu, Lock, LockRank, Ordering::Relaxed};
use crate::types::{MAX_NODES, NR_ZONES, NodeId, Pfn};
use crate::zone::Zone;

/// What a walk over the descriptors found.
pub(crate) struct LruCount {
    /// Pages in the zone that is being walked, by list.
    zone: [u64; NR_LRU_LISTS],
    /// Heads, by node and list.
    heads: [[u64; NR_LRU_LISTS]; MAX_NODES],
    /// Pages isolated, by node and kind.
    isolated: [[u64; 2]; MAX_NODES],
    /// Pages of each cache.
    caches: [u64; CACHES],
    /// Caches that there are.
    known: u32,
    /// What pages of the zone that is being walked are used for.
    uses: PageStatCount,
}

impl LruCount {
    /// Nothing yet, on a machine with `known` caches.
    pub(crate) const fn new(known: u32) -> Self {
        Self {
            zone: [0; NR_LRU_LISTS],
            heads: [[0; NR_LRU_LISTS]; MAX_NODES],
            isolated: [[0; 2]; MAX_NODES],
            caches: [0; CACHES],
            known,
            uses: PageStatCount::new(),
        }
    }
}

/// Checks and counts one head of type Lru.
pub(crate) fn audit_lru_head(
    auditor: &mut Auditor,
    count: &mut LruCount,
    pfn: Pfn,
    node: NodeId,
    page: &PageDesc,
) -> Result<(), AuditError> {
    let word = page.head();
    let flags = word.lru();
    let (listed, isolated) =
        (flags.contains(LruFlags::LISTED), word.flags().contains(PageFlags::ISOLATED));
    auditor.holds("a page that is listed and isolated", pfn, !(listed && isolated))?;
    auditor.holds("a page mapped more often than referenced", pfn, {
        page.mapcount() <= page.count()
    })?;
    let pages = word.order().pages();
    auditor.report.lru += pages;
    if !flags.contains(LruFlags::ANON)
        && let Some(of_cache) = count.caches.get_mut(page.owner() as usize)
    {
        *of_cache += pages;
    }
    count.uses.add(page, page.owner() < count.known);
    let node = usize::from(node.0);
    if listed {
        let list = LruList::of(flags).index();
        count.zone[list] += pages;
        count.heads[node][list] += 1;
    }
    if isolated {
        let kind = if flags.contains(LruFlags::ANON) { LruKind::Anon } else { LruKind::File };
        count.isolated[node][kind as usize] += pages;
    }
    Ok(())
}

impl<P: Platform> Mm<P> {
    /// The counts of a zone that has just been walked.
    pub(crate) fn audit_lru_zone(
        &self,
        auditor: &mut Auditor,
        zone: &Zone,
        count: &mut LruCount,
    ) -> Result<(), AuditError> {
        for (list, pages) in LruList::ALL.into_iter().zip(core::mem::take(&mut count.zone)) {
            auditor.equal("pages of a zone on an LRU list", None, pages, {
                self.lru_pages(zone, list)
            })?;
        }
        core::mem::take(&mut count.uses).compare(self, auditor, zone)
    }

    /// The lists themselves, once all zones have been walked.
    pub(crate) fn audit_lru(
        &self,
        auditor: &mut Auditor,
        count: &LruCount,
    ) -> Result<(), AuditError> {
        for node in self.lru_nodes() {
            let lru = self.lru.node(node);
            let cpu = self.enter();
            let lists = lru.lists.lock(&cpu);
            for which in LruList::ALL {
                let list = &lists[which.index()];
                let (mut prev, mut seen) = (NIL, 0u64);
                for pfn in list.iter(&self.map) {
                    let page = self.map.page(pfn);
                    auditor.holds("a page on an LRU list", pfn, belongs(page.head(), which))?;
                    let block = self.map.block(pfn).zone_index();
                    auditor.equal(
                        "node of a page on an LRU list",
                        Some(pfn),
                        u64::from(node.0),
                        (block / NR_ZONES) as u64,
                    )?;
                    auditor.equal("back link", Some(pfn), u64::from(prev), page.prev().into())?;
                    prev = link(pfn);
                    seen += 1;
                    // A loop would never end.
                    auditor.holds("length of an LRU list", pfn, seen <= u64::from(list.len()))?;
                }
                auditor.equal("length of an LRU list", None, u64::from(list.len()), seen)?;
                let heads = count.heads[usize::from(node.0)][which.index()];
                auditor.equal("listed pages on their LRU list", None, heads, seen)?;
            }
            for kind in LruKind::ALL {
                let isolated = lru.isolated[kind as usize].load(Relaxed);
                let counted = count.isolated[usize::from(node.0)][kind as usize];
                auditor.equal("isolated pages", None, counted, isolated)?;
            }
        }
        self.audit_caches(auditor, &count.caches)?;
        self.audit_lru_batches(auditor)
    }

    /// What CPUs have put by are pages that somebody has references to.
    fn audit_lru_batches(&self, auditor: &mut Auditor) -> Result<(), AuditError> {
        let state = Lock::new(LockRank::Audit, (core::mem::take(&mut auditor.report), Ok(())));
        Cpu::on_each(&self.platform, &|cpu| {
            let mut state = state.lock(cpu);
            let mut inner = Auditor { report: state.0 };
            // SAFETY: `cpu` is that CPU's token; the closure does not nest.
            let result = unsafe {
                self.lru.batches[usize::from(cpu.id().0)].with(|batch| {
                    batch.pages().iter().try_for_each(|&(pfn, _)| {
                        let page = self.map.page(pfn);
                        let counted = page.head().ty() == PageType::Lru && page.count() > 0;
                        inner.holds("a page put by for the LRU lists", pfn, counted)
                    })
                })
            };
            state.0 = inner.report;
            if state.1.is_ok() {
                state.1 = result;
            }
        });
        let (report, result) = state.into_inner();
        auditor.report = report;
        result
    }
}

fn belongs(word: HeadWord, list: LruList) -> bool {
    let flags = word.lru();
    flags.contains(LruFlags::LISTED) && LruList::of(flags) == list
}
