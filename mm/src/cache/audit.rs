//! Checks a cache: its tree and its pages name each other, tags say what the
//! pages say, and everything counted is there. May call: `tree`, `audit`.

use super::PageCache;
use super::entry::Tags;
use super::tree::{Which, count_node};
use crate::audit::{AuditError, Auditor};
use crate::mm::Mm;
use crate::page::{LruFlags, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;

impl PageCache {
    /// Checks the cache of a stopped machine; returns its pages, those that are
    /// dirty, and those on their way to the device.
    pub(super) fn audit_tree<P: Platform>(
        &self,
        mm: &Mm<P>,
        auditor: &mut Auditor,
    ) -> Result<[u64; 3], AuditError> {
        let owner = self.owner.get().map_or(u32::MAX, |owner| owner.word());
        let cpu = mm.enter();
        let tree = self.tree.lock(&cpu);
        let (mut nodes, mut leaves) = (0, 0);
        tree.each_node(mm, &mut |node, level| {
            let desc = mm.map.page(node);
            nodes += 1;
            auditor.holds(
                "a node of a cache's tree",
                node,
                desc.head().ty() == PageType::Kernel,
            )?;
            let [used, pages, tagged] = count_node(mm, node, level);
            leaves += u64::from(level == 0 && pages == 0);
            auditor.holds("an empty node of a cache's tree", node, used > 0)?;
            for (what, counted, found) in [
                ("slots in use of a node", desc.index(), used),
                ("pages of a node", desc.inuse(), pages),
                ("tagged slots of a node", desc.private(), tagged),
            ] {
                auditor.equal(what, Some(node), u64::from(counted), u64::from(found))?;
            }
            Ok(())
        })?;
        auditor.equal("nodes of a cache's tree", None, tree.nodes(), nodes)?;
        auditor.equal("leaves without pages", None, tree.shadow_leaves(), leaves)?;
        let [mut pages, mut dirty, mut writing, mut failing] = [0; 4];
        let mut at = Some(0);
        while let Some((index, entry)) = at.and_then(|from| tree.next(mm, from, Which::Page)) {
            at = index.checked_add(1);
            let Some(pfn) = entry.pfn() else { continue };
            let desc = mm.map.page(pfn);
            let (word, flags) = (desc.head(), desc.head().lru());
            let cached = word.ty() == PageType::Lru && !flags.contains(LruFlags::ANON);
            auditor.holds("a page in a cache", pfn, cached)?;
            auditor.equal("cache of a page", Some(pfn), owner.into(), desc.owner().into())?;
            auditor.equal("block of a page", Some(pfn), index.into(), desc.index().into())?;
            auditor.holds("references to a cached page", pfn, desc.count() > desc.mapcount())?;
            let tags = entry.tags();
            for (what, tag, flag) in [
                ("tag of a dirty page", Tags::DIRTY, LruFlags::DIRTY),
                ("tag of a page that is written", Tags::WRITEBACK, LruFlags::WRITEBACK),
            ] {
                auditor.holds(what, pfn, tags.contains(tag) == flags.contains(flag))?;
            }
            let is_dirty = flags.contains(LruFlags::DIRTY);
            auditor.holds("a dirty page without content", pfn, {
                !is_dirty || flags.contains(LruFlags::UPTODATE)
            })?;
            pages += 1;
            dirty += u64::from(is_dirty);
            writing += u64::from(flags.contains(LruFlags::WRITEBACK));
            failing += u64::from(is_dirty && flags.contains(LruFlags::FAILED));
        }
        for (what, counter, found) in [
            ("pages of a cache's tree", &self.pages, pages),
            ("dirty pages of a cache", &self.dirty, dirty),
            ("pages of a cache that are written", &self.writing, writing),
            ("pages of a cache that failed", &self.failing, failing),
        ] {
            auditor.equal(what, None, counter.load(Relaxed), found)?;
        }
        Ok([pages, dirty, writing])
    }
}
