//! The machine on which scenarios play: RAM as on the host's simulated machine,
//! CPUs that are threads of the explorer's. The protocol by which they reach
//! each other is the host's, and explored like everything else.

use core::cell::Cell;
use core::fmt;
use mm::arena::MovableArena;
use mm::early::{EarlyMem, RamRange, Reservation};
use mm::host::Machine;
use mm::mailbox::{Token, run_on_each};
use mm::mmu::{Mmu, Root, VirtAddr};
use mm::page::PageType;
use mm::platform::{Context, IrqState, LogLevel, Platform, Worker};
use mm::report::{ReportDevice, ReportFailed};
use mm::sync::HeldLocks;
use mm::sync::explored::{Exploring, relax, stall};
use mm::types::{CpuId, MigrateType, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::run::way;

/// What may be wrong with a machine, to show that the scenarios would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Others' lists are reached without asking.
    NoToken,
    /// Who waits for another CPU does not serve its own mailbox.
    Deaf,
}

pub(crate) struct Stage {
    machine: Machine,
    tokens: Vec<Token>,
    held: Vec<HeldLocks>,
    fault: Fault,
    /// Frames that somebody has.
    owned: Mutex<BTreeSet<Pfn>>,
    /// Whoever is about to touch a frame lets others go on first.
    looks_away: AtomicBool,
}

/// What a thread of the explorer's is.
#[derive(Clone, Copy, Debug)]
struct Me {
    cpu: CpuId,
    /// How often it has entered the manager.
    depth: usize,
    /// It has its CPU's token all the time, not only in the manager.
    bound: bool,
    context: Context,
}

shuttle::thread_local! {
    static ME: Cell<Me> = Cell::new(Me {
        cpu: CpuId(0),
        depth: 0,
        bound: false,
        context: Context { memalloc: false, oom_victim: false, in_irq: false, rt: false },
    });
}

fn me() -> Me {
    ME.with(Cell::get)
}

fn change(f: impl FnOnce(&mut Me)) {
    ME.with(|cell| {
        let mut me = cell.get();
        f(&mut me);
        cell.set(me);
    });
}

impl Stage {
    /// Forgets what was logged.
    pub(crate) fn quiet(&self) {
        self.machine.take_log();
    }

    /// Lets time pass.
    pub(crate) fn advance_ms(&self, ms: u64) {
        self.machine.advance_ms(ms);
    }

    /// Has whoever is about to touch a frame let others go on first, or not any
    /// more.
    pub(crate) fn look_away(&self, on: bool) {
        self.looks_away.store(on, Relaxed);
    }

    /// The workers that were woken since this was asked last.
    pub(crate) fn take_woken(&self) -> Vec<Worker> {
        self.machine.take_woken()
    }

    /// Runs `f` on the page behind `va` as a processor does, whose table it is;
    /// false if that is to be made good first. Nobody else goes on meanwhile.
    pub(crate) fn access(
        &self,
        root: Root,
        va: VirtAddr,
        write: bool,
        f: impl FnMut(*mut u8),
    ) -> bool {
        self.machine.access(root, va, write, f).is_ok()
    }

    fn token(&self, cpu: CpuId) -> &Token {
        &self.tokens[usize::from(cpu.0)]
    }

    fn take(&self, cpu: CpuId) {
        while !self.token(cpu).try_take() {
            relax();
        }
    }
}

// SAFETY: memory is the inner machine's; a token is held by one thread.
unsafe impl Platform for Stage {
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        if self.looks_away.load(Relaxed) && me().depth == 0 {
            shuttle::thread::yield_now();
        }
        self.machine.frame(pfn)
    }

    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        self.machine.pfn_of(ptr)
    }

    fn memmap_base(&self, slot: usize, bytes: usize) -> Option<*mut u8> {
        self.machine.memmap_base(slot, bytes)
    }

    fn memmap_back(
        &self,
        ptr: *mut u8,
        frames: PfnRange,
        tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        self.machine.memmap_back(ptr, frames, tables)
    }

    fn cpus(&self) -> u16 {
        self.machine.cpus()
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.machine.node_of_cpu(cpu)
    }

    fn irq_save(&self) -> (CpuId, IrqState) {
        let Me { cpu, depth, bound, .. } = me();
        if depth == 0 && !bound {
            self.take(cpu);
        }
        change(|me| me.depth += 1);
        (cpu, IrqState(0))
    }

    fn irq_restore(&self, cpu: CpuId, _: IrqState) {
        let Me { cpu: mine, depth, bound, .. } = me();
        assert_eq!(cpu, mine, "a thread is one CPU at a time");
        if depth == 1 {
            // SAFETY: the token is this thread's, and it leaves the manager.
            unsafe {
                match bound {
                    true => self.token(cpu).serve(),
                    false => self.token(cpu).give_up(),
                }
            }
        }
        change(|me| me.depth -= 1);
    }

    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        let before = me();
        assert_eq!(before.depth, 0, "waits for other CPUs inside of the manager");
        let as_that_cpu = |cpu| {
            let before = me();
            change(|me| (me.cpu, me.depth) = (cpu, 1));
            f(cpu);
            change(|me| (me.cpu, me.depth) = (before.cpu, before.depth));
        };
        let own = (before.bound && self.fault != Fault::Deaf).then_some(before.cpu);
        match self.fault {
            Fault::NoToken => (0..self.cpus()).map(CpuId).for_each(as_that_cpu),
            // SAFETY: a bound thread has the token of its own CPU, others none.
            _ => unsafe { run_on_each(&self.tokens, own, &as_that_cpu, &relax) },
        }
    }

    fn held_locks(&self, cpu: CpuId) -> Option<&HeldLocks> {
        // Without tokens nobody's notes are right.
        (self.fault != Fault::NoToken).then(|| &self.held[usize::from(cpu.0)])
    }

    fn context(&self) -> Context {
        me().context
    }

    fn set_memalloc(&self, on: bool) -> bool {
        let before = me().context.memalloc;
        change(|me| me.context.memalloc = on);
        before
    }

    fn mmu(&self) -> Option<&dyn Mmu> {
        self.machine.mmu()
    }

    fn now_ms(&self) -> u64 {
        self.machine.now_ms()
    }

    fn wake(&self, worker: Worker) {
        self.machine.wake(worker);
    }

    fn stall(&self) {
        let Me { cpu, depth, bound, .. } = me();
        if bound && depth == 0 {
            // SAFETY: the token is this thread's, which is outside.
            unsafe { self.token(cpu).serve() };
        }
        stall();
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.machine.log(level, line);
    }
}

/// A stage, the manager on it, and what it had free at first.
pub(crate) struct Play {
    pub(crate) mm: Mm<Stage>,
    free: u64,
}

/// A host that takes its time over what it is told of free memory.
pub(crate) struct Slow;

impl ReportDevice for Slow {
    fn report(&self, _: &[PfnRange]) -> Result<(), ReportFailed> {
        shuttle::thread::yield_now();
        Ok(())
    }
}

/// What a CPU does in a scenario.
pub(crate) type Part<'a> = Box<dyn FnOnce() + Send + 'a>;

impl Play {
    /// A machine of one node.
    pub(crate) fn new(mib: u64, cpus: u16) -> Self {
        Self::with(mib, cpus, 1, &Config::default(), Fault::None)
    }

    /// A machine of `nodes` nodes with as much RAM each and CPUs in turn.
    pub(crate) fn with(mib: u64, cpus: u16, nodes: u8, config: &Config, fault: Fault) -> Self {
        let pages = mib << 8;
        let end = Pfn(pages * u64::from(nodes));
        let mut machine = Machine::new(Pfn(0), end, cpus).expect("room for a machine");
        for cpu in 0..cpus {
            machine.set_node_of_cpu(CpuId(cpu), NodeId((cpu % u16::from(nodes)) as u8));
        }
        let stage = Stage {
            machine,
            tokens: (0..cpus).map(|id| Token::new(CpuId(id))).collect(),
            held: (0..cpus).map(|_| HeldLocks::default()).collect(),
            fault,
            owned: Mutex::default(),
            looks_away: AtomicBool::new(false),
        };
        let mut ranges = Box::new([RamRange::EMPTY; 32]);
        let mut reserved = Box::new([Reservation::EMPTY; 32]);
        let mut early = EarlyMem::new(&mut ranges[..], &mut reserved[..]);
        for node in 0..nodes {
            let range = PfnRange::sized(Pfn(pages * u64::from(node)), pages);
            early.add_ram(PfnRange::new(range.start.max(Pfn(1)), range.end), NodeId(node));
        }
        let mm = Mm::new(stage, early, config).expect("a manager");
        let free = mm.free_pages_total();
        Self { mm, free }
    }

    /// Runs the parts at once, each on a CPU of its own.
    pub(crate) fn act<'a>(&self, parts: impl IntoIterator<Item = Part<'a>>) {
        let stage = self.mm.platform();
        let exploring = Exploring::new(way().grain);
        shuttle::thread::scope(|scope| {
            for (cpu, part) in parts.into_iter().enumerate() {
                scope.spawn(move || {
                    let cpu = CpuId(cpu as u16);
                    let bound = way().bound;
                    change(|me| (me.cpu, me.bound) = (cpu, bound));
                    if bound {
                        stage.take(cpu);
                    }
                    part();
                    if bound {
                        // SAFETY: taken above.
                        unsafe { stage.token(cpu).give_up() };
                    }
                });
            }
        });
        drop(exploring);
    }

    /// The slab layer, before anything is played.
    pub(crate) fn slab(self) -> Self {
        self.mm.slab_init().expect("the slab layer");
        self
    }

    /// What is allocated by now, slabs aside, is to be so at the end.
    pub(crate) fn settled(mut self) -> Self {
        self.free = self.accounted();
        self
    }

    /// Pages that are free, or kept for objects.
    fn accounted(&self) -> u64 {
        self.mm.lru_drain_all();
        self.mm.shrink_groups(u64::MAX);
        self.mm.slab_shrink();
        self.mm.drain_all(None);
        let slab = (0..self.mm.nodes() as u8).map(|node| self.mm.slab_pages(NodeId(node)));
        let kept: u64 = slab.map(|(reclaimable, other)| reclaimable + other).sum();
        self.mm.free_pages_total() + kept + self.mm.kmalloc_large_pages()
    }

    /// An arena for movable pages.
    pub(crate) fn arena(&self) -> &'static MovableArena<Stage> {
        let arena: &'static MovableArena<Stage> = Box::leak(Box::default());
        arena.register(&self.mm).expect("room for a driver");
        arena
    }

    /// Notes that somebody has these frames, which nobody else may have.
    pub(crate) fn own(&self, range: PfnRange) {
        let mut owned = self.mm.platform().owned.lock().expect("no panic");
        for pfn in range.start.0..range.end.0 {
            assert!(owned.insert(Pfn(pfn)), "frame {pfn:#x} has two owners");
        }
    }

    /// Notes that the owner is about to give these frames back.
    pub(crate) fn disown(&self, range: PfnRange) {
        let mut owned = self.mm.platform().owned.lock().expect("no panic");
        for pfn in range.start.0..range.end.0 {
            assert!(owned.remove(&Pfn(pfn)), "frame {pfn:#x} had no owner");
        }
    }

    /// Forgets who has what.
    pub(crate) fn forget(&self) {
        self.mm.platform().owned.lock().expect("no panic").clear();
    }

    /// Allocates a block, if there is one.
    pub(crate) fn alloc(&self, order: u8, gfp: Gfp) -> Option<Page> {
        let page = self.mm.alloc_pages(Request::new(Order(order), gfp | Gfp::NOWARN)).ok()?;
        self.own(PfnRange::sized(page.pfn, page.order.pages()));
        Some(page)
    }

    /// Frees one. What is not to be handed out before its block has another type
    /// again must not be where it is handed out without a look at the type.
    pub(crate) fn free(&self, page: Page) {
        let block = self.mm.map().try_block(page.pfn).expect("a block in RAM");
        let before = block.migratetype();
        self.disown(PfnRange::sized(page.pfn, page.order.pages()));
        self.mm.free_pages(page).expect("a held block");
        let listed = self.mm.map().try_page(page.pfn).expect("a page").head().ty();
        if matches!(before, MigrateType::Isolate | MigrateType::HighAtomic)
            && block.migratetype() == before
        {
            assert_ne!(listed, PageType::Pcp, "{page:?} of a block that is {before:?}");
        }
    }

    /// All is whole, nobody had a reason to complain, and nobody has anything.
    pub(crate) fn end(&self) {
        self.whole();
        assert!(self.mm.platform().owned.lock().expect("no panic").is_empty());
        assert_eq!(self.accounted(), self.free, "pages free");
        self.mm.audit().expect("whole");
    }

    /// All is whole, and nobody had a reason to complain.
    pub(crate) fn whole(&self) {
        self.mm.audit().expect("whole");
        let blocks = (0..self.mm.map().end().0).step_by(PAGEBLOCK_PAGES as usize);
        for block in blocks.filter_map(|pfn| self.mm.map().try_block(Pfn(pfn))) {
            assert_ne!(block.migratetype(), MigrateType::Isolate, "nobody isolates any more");
        }
        for (level, line) in self.mm.platform().machine.take_log() {
            assert!(level > LogLevel::Error, "{line}");
        }
    }
}
