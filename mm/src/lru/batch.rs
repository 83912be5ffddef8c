//! What a CPU has put by for the lists: the lock is taken once for fifteen
//! pages. Each has a reference until then (Linux `struct folio_batch`, mm/swap.c).
//! May call: `lru_page`.

use super::Lists;
use crate::mm::Mm;
use crate::page::{LruFlags, PageType};
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::{AtomicU64, Cpu, Ordering::Relaxed};
use crate::types::{Order, Pfn};

/// Pages that a CPU puts by (Linux `PAGEVEC_SIZE`).
pub(super) const BATCH: usize = 15;

/// What is to be done with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// To be listed.
    Add,
    /// To the front of an active list.
    Activate,
    /// To the front of an inactive list.
    Deactivate,
    /// To the end of its inactive list, to be reclaimed next.
    Rotate,
}

/// Pages put by, in the order they came.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    pages: [(Pfn, Step); BATCH],
    len: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { pages: [(Pfn(0), Step::Add); BATCH], len: 0 }
    }
}

impl Batch {
    pub(super) fn pages(&self) -> &[(Pfn, Step)] {
        &self.pages[..self.len]
    }
}

impl Lists<'_> {
    /// Does with a page what was put by for it; returns whether that changed its
    /// place.
    fn step(&mut self, pfn: Pfn, step: Step) -> bool {
        let word = self.map.page(pfn).head();
        let flags = word.lru();
        let moves = !flags.contains(LruFlags::UNEVICTABLE);
        let active = flags.contains(LruFlags::ACTIVE);
        match step {
            Step::Add => {
                let waits = !flags.contains(LruFlags::LISTED)
                    && !word.flags().contains(crate::page::PageFlags::ISOLATED);
                if waits {
                    self.insert(pfn, true);
                }
                waits
            }
            Step::Activate if moves && !active => {
                self.change(pfn, LruFlags::ACTIVE, LruFlags::REFERENCED, true);
                true
            }
            Step::Deactivate if moves && active => {
                self.change(pfn, LruFlags::empty(), LruFlags::ACTIVE | LruFlags::REFERENCED, true);
                true
            }
            Step::Rotate if moves && flags.contains(LruFlags::LISTED) => {
                self.change(pfn, LruFlags::empty(), LruFlags::ACTIVE, false);
                true
            }
            _ => false,
        }
    }
}

impl Step {
    const fn event(self) -> Option<Event> {
        match self {
            Self::Add => None,
            Self::Activate => Some(Event::Activate),
            Self::Deactivate => Some(Event::Deactivate),
            Self::Rotate => Some(Event::Rotated),
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Puts a page by, which the caller has a reference to. A large one is not
    /// kept waiting.
    pub(super) fn lru_put_by(&self, pfn: Pfn, step: Step) {
        let page = self.map.page(pfn);
        let word = page.head();
        debug_assert!(word.ty() == PageType::Lru, "{word:?} for an LRU list");
        page.get();
        let cpu = self.enter();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let full = unsafe {
            self.lru.batches[usize::from(cpu.id().0)].with(|batch| {
                batch.pages[batch.len] = (pfn, step);
                batch.len += 1;
                let full = batch.len == BATCH || word.order() > Order(0);
                full.then(|| core::mem::take(batch))
            })
        };
        if let Some(batch) = full {
            self.lru_flush(&cpu, &batch);
        }
    }

    /// Does what was put by.
    #[cold]
    #[inline(never)]
    fn lru_flush(&self, cpu: &Cpu<'_, P>, batch: &Batch) {
        let mut rest = batch.pages();
        while let Some(&(first, _)) = rest.first() {
            let node = self.lru_of(first);
            let mut lists = node.lock(&self.map, cpu);
            while let Some((&(pfn, step), others)) = rest.split_first() {
                if !core::ptr::eq(node, self.lru_of(pfn)) {
                    break;
                }
                if lists.step(pfn, step)
                    && let Some(event) = step.event()
                {
                    self.stats.add(event, self.map.page(pfn).head().order().pages());
                }
                rest = others;
            }
        }
        for &(pfn, _) in batch.pages() {
            self.put_lru(pfn);
        }
    }

    /// Brings what a CPU has put by onto the lists; returns how many pages.
    pub(crate) fn lru_drain_cpu(&self, cpu: &Cpu<'_, P>) -> u64 {
        // SAFETY: `cpu` is that CPU's token; the closure does not nest.
        let batch = unsafe { self.lru.batches[usize::from(cpu.id().0)].with(core::mem::take) };
        if batch.len > 0 {
            self.lru_flush(cpu, &batch);
        }
        batch.len as u64
    }

    /// Brings what this CPU has put by onto the lists, and drops the references
    /// that go with it. Any context.
    pub fn lru_drain(&self) {
        let cpu = self.enter();
        self.lru_drain_cpu(&cpu);
    }

    /// [`lru_drain`](Self::lru_drain) for every CPU; returns how many pages had
    /// been put by. Waits for each CPU: called with interrupts on and no lock
    /// held.
    pub fn lru_drain_all(&self) -> u64 {
        let total = AtomicU64::new(0);
        Cpu::on_each(&self.platform, &|cpu| {
            total.fetch_add(self.lru_drain_cpu(cpu), Relaxed);
        });
        total.into_inner()
    }
}
