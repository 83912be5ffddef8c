//! What memory costs as programs use it, page by page: touched for the first
//! time, shared and written, given back. A thread makes the accesses, so what
//! the processor's exceptions take is in the figures, and the few instructions
//! of the loop. Calls `mm`.

use crate::cost::Cost;
use crate::run::{Bench, SOME, Samples, Why};
use mm::Mm;
use mm::mmu::VirtAddr;
use mm::platform::Platform;
use mm::space::{Access, Advice, FaultError, HugePages, MapError, MapFlags, Prot, SpaceRef};
use mm::types::PAGE_SIZE;

/// Pages of a window.
const PAGES: u64 = 1024;
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// Has a thread of an address space use its memory, as programs do.
pub trait Threads<P: Platform>: Sync {
    /// Accesses each of `pages` pages from `va` on. What cannot be made good
    /// ends the thread, or is told.
    ///
    /// # Errors
    /// As [`Mm::fault`].
    fn touch(
        &self,
        mm: &'static Mm<P>,
        space: &SpaceRef<'static>,
        va: VirtAddr,
        pages: u64,
        access: Access,
    ) -> Result<(), FaultError>;
}

impl From<MapError> for Why {
    fn from(_: MapError) -> Self {
        Self::Failed("a mapping")
    }
}

impl From<FaultError> for Why {
    fn from(_: FaultError) -> Self {
        Self::Failed("a fault")
    }
}

/// A space with one region, in pages of one kind.
pub(crate) struct Guest<'b, P: Platform> {
    mm: &'static Mm<P>,
    threads: &'b dyn Threads<P>,
    space: Option<SpaceRef<'static>>,
    /// Where its region begins.
    pub(crate) va: VirtAddr,
    before: HugePages,
}

impl<'b, P: Platform> Guest<'b, P> {
    pub(crate) fn new(bench: &Bench<'b, P>, pages: u64, huge: HugePages) -> Result<Self, Why> {
        let mm = bench.on.mm;
        let before = mm.huge_pages();
        mm.set_huge_pages(huge);
        let space = mm.space_new("bench")?;
        let mut guest =
            Self { mm, threads: bench.on.threads, space: Some(space), va: VirtAddr(0), before };
        guest.va = mm.mmap(
            guest.space()?,
            None,
            pages * PAGE,
            Prot::READ | Prot::WRITE,
            MapFlags::empty(),
        )?;
        Ok(guest)
    }

    pub(crate) fn space(&self) -> Result<&SpaceRef<'static>, Why> {
        self.space.as_ref().ok_or(Why::Failed("a space"))
    }

    /// Has a thread touch the first `pages` of it.
    pub(crate) fn touch(&self, pages: u64, access: Access) -> Result<(), Why> {
        Ok(self.threads.touch(self.mm, self.space()?, self.va, pages, access)?)
    }

    /// A copy of it.
    fn fork(&self) -> Result<Self, Why> {
        let space = Some(self.mm.space_fork(self.space()?, "copy")?);
        Ok(Self { space, before: self.mm.huge_pages(), ..*self })
    }

    /// Forgets what is in a part of it.
    pub(crate) fn forget(&self, page: u64, pages: u64) -> Result<(), Why> {
        let at = self.va.add(page * PAGE);
        Ok(self.mm.madvise(self.space()?, at, pages * PAGE, Advice::DontNeed)?)
    }
}

impl<P: Platform> Drop for Guest<'_, P> {
    fn drop(&mut self) {
        if let Some(space) = self.space.take() {
            self.mm.space_put(space);
        }
        self.mm.set_huge_pages(self.before);
    }
}

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    first(bench, "4k", HugePages::Never, Access::Write);
    first(bench, "thp", HugePages::Always, Access::Write);
    first(bench, "read", HugePages::Never, Access::Read);
    shared(bench, ["fork", "cow", "reuse"]);
    gone(bench, ["dontneed", "unmap"]);
}

/// The median of some windows, each with a guest of its own, for each page.
fn each<P: Platform>(
    bench: &Bench<'_, P>,
    huge: HugePages,
    mut window: impl FnMut(&Guest<'_, P>) -> Result<u64, Why>,
) -> Result<Cost, Why> {
    let mut samples = Samples::default();
    for _ in 0..SOME {
        samples.add(window(&Guest::new(bench, PAGES, huge)?)?);
    }
    Ok(Cost::shared(samples.median(), PAGES))
}

/// Memory touched for the first time.
fn first<P: Platform>(
    bench: &mut Bench<'_, P>,
    row: &'static str,
    huge: HugePages,
    access: Access,
) {
    if bench.wants(&[row]) {
        let meter = bench.meter;
        let cost = each(bench, huge, |guest| meter.window(|| guest.touch(PAGES, access)));
        bench.one(row, cost);
    }
}

/// A space copied, its memory written by the copy; and by the one that is left
/// when the copy has gone.
fn shared<P: Platform>(bench: &mut Bench<'_, P>, rows: [&'static str; 3]) {
    if !bench.wants(&rows) {
        return;
    }
    let meter = bench.meter;
    let mut costs = [Samples::default(), Samples::default(), Samples::default()];
    let [forks, copies, reuses] = &mut costs;
    let done = each(bench, HugePages::Never, |guest| {
        guest.touch(PAGES, Access::Write)?;
        let mut child = None;
        forks.add(meter.window(|| {
            child = Some(guest.fork()?);
            Ok(())
        })?);
        let child = child.ok_or(Why::Failed("a copy of a space"))?;
        copies.add(meter.window(|| child.touch(PAGES, Access::Write))?);
        drop(child);
        reuses.add(meter.window(|| guest.touch(PAGES, Access::Write))?);
        Ok(0)
    });
    for (row, mut samples) in rows.into_iter().zip(costs) {
        bench.one(row, done.map(|_| Cost::shared(samples.median(), PAGES)));
    }
}

/// Memory given back: page by page, and a region as a whole.
fn gone<P: Platform>(bench: &mut Bench<'_, P>, rows: [&'static str; 2]) {
    if !bench.wants(&rows) {
        return;
    }
    let (mm, meter) = (bench.on.mm, bench.meter);
    let one = each(bench, HugePages::Never, |guest| {
        guest.touch(PAGES, Access::Write)?;
        meter.window(|| (0..PAGES).try_for_each(|page| guest.forget(page, 1)))
    });
    bench.one(rows[0], one);
    let all = each(bench, HugePages::Never, |guest| {
        guest.touch(PAGES, Access::Write)?;
        meter.window(|| Ok(mm.munmap(guest.space()?, guest.va, PAGES * PAGE)?))
    });
    bench.one(rows[1], all);
}
