//! A simulated machine for an ordinary host: RAM in sparsely backed memory,
//! CPUs that threads take turns to be, a clock that the test moves. Two
//! machines can live side by side. Needs `std` (feature `host`).

pub mod disk;
pub mod lean;
mod mmu;
pub mod swap;

pub use mmu::Faulted;

use crate::early::{EarlyMem, RamRange, Reservation};
use crate::mailbox::{Token, run_on_each};
use crate::mm::Mm;
use crate::mmu::{Mmu, Root, VirtAddr};
use crate::platform::{Context, IrqState, LogLevel, Platform, Worker};
use crate::setup::{Config, SetupError};
use crate::space::{Access, FaultError, SpaceRef};
use crate::sync::HeldLocks;
use crate::types::{CpuId, MAX_ORDER, NodeId, PAGE_SIZE, PAGEBLOCK_PAGES, Pfn, PfnRange};
use core::cell::Cell;
use core::fmt;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

impl Mm<Machine> {
    /// Reads or writes memory of an address space as a thread of it does, which
    /// faults as often as it has to: `f` gets the address of the page that `va` is
    /// in.
    ///
    /// # Errors
    /// What would end the thread.
    pub fn access(
        &self,
        space: &SpaceRef<'_>,
        va: VirtAddr,
        access: Access,
        mut f: impl FnMut(*mut u8),
    ) -> Result<(), FaultError> {
        let write = access == Access::Write;
        while self.platform().access(space.root(), va, write, &mut f).is_err() {
            self.fault(space, va, access)?;
        }
        Ok(())
    }
}

/// Memory that reads as zero and is backed when it is written.
struct Sparse {
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory; who may touch which part is the manager's business.
unsafe impl Send for Sparse {}
// SAFETY: as above.
unsafe impl Sync for Sparse {}

impl Sparse {
    #[cfg(not(miri))]
    fn new(bytes: usize) -> Option<Self> {
        // SAFETY: an anonymous mapping touches nothing that exists.
        let ptr = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        (ptr != libc::MAP_FAILED).then_some(Self { ptr: ptr.cast(), bytes })
    }

    #[cfg(miri)]
    fn new(bytes: usize) -> Option<Self> {
        let layout = std::alloc::Layout::from_size_align(bytes, PAGE_SIZE).ok()?;
        // SAFETY: the layout is not empty.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) };
        (!ptr.is_null()).then_some(Self { ptr, bytes })
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        #[cfg(not(miri))]
        // SAFETY: the mapping is this value's, and nothing reaches it any more.
        unsafe {
            libc::munmap(self.ptr.cast(), self.bytes);
        }
        #[cfg(miri)]
        // SAFETY: allocated with this layout, and nothing reaches it any more.
        unsafe {
            std::alloc::dealloc(
                self.ptr,
                std::alloc::Layout::from_size_align_unchecked(self.bytes, PAGE_SIZE),
            );
        }
    }
}

std::thread_local! {
    /// The CPU that this thread is, if it holds a token, and how often.
    static HELD: Cell<Option<(usize, CpuId, usize)>> = const { Cell::new(None) };
    /// The CPU that this thread prefers to be.
    static PREFERRED: Cell<CpuId> = const { Cell::new(CpuId(0)) };
    /// The tables of the space that this thread is of.
    static ROOT: Cell<Option<Root>> = const { Cell::new(None) };
    static CONTEXT: Cell<Context> = const { Cell::new(Context {
        memalloc: false, oom_victim: false, in_irq: false, rt: false,
    }) };
}

/// What the manager said.
pub type LogLine = (LogLevel, String);

/// A machine of RAM ranges, nodes and CPUs.
pub struct Machine {
    /// Where the first frame would be: all RAM lies at its frames' distance from
    /// here.
    base: *mut u8,
    /// The mappings that the RAM is in.
    _ram: Vec<Sparse>,
    first: Pfn,
    end: Pfn,
    memmap: [Mutex<Option<Sparse>>; 4],
    /// Which frames were put behind the pages of those arrays, by address.
    backing: Mutex<BTreeMap<usize, Pfn>>,
    tokens: Vec<Token>,
    held: Vec<HeldLocks>,
    nodes_of_cpus: Vec<NodeId>,
    clock_ms: AtomicU64,
    log: Mutex<Vec<LogLine>>,
    echo: AtomicBool,
    woken: Mutex<Vec<Worker>>,
    mmu: mmu::HostMmu,
}

// SAFETY: the base is an address in memory that the mappings own; who may touch
// which part of that is the manager's business.
unsafe impl Send for Machine {}
// SAFETY: as above.
unsafe impl Sync for Machine {}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("cpus", &self.tokens.len()).finish_non_exhaustive()
    }
}

/// The state of a mutex is whole even if a test died while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// A machine whose RAM lies inside `[first, end)`, with `cpus` CPUs. None
    /// if the host has no room for it.
    pub fn new(first: Pfn, end: Pfn, cpus: u16) -> Option<Self> {
        let bytes = (end.0.checked_sub(first.0)? as usize).checked_mul(PAGE_SIZE)?;
        let ram = Sparse::new(bytes.max(PAGE_SIZE))?;
        Some(Self::over(ram.ptr, std::vec![ram], PfnRange::new(first, end), cpus))
    }

    /// A machine of `pages` pages of RAM from `first` on, and which frames these
    /// are. They lie in as few pieces, each half of the one before, as the host
    /// has stretches of addresses for, down to pieces of 1 GiB; what lies
    /// between the pieces in its address space are frames without RAM, and costs
    /// nothing. None if the host has no room. First and last frame of a piece
    /// are multiples of the largest block's, if `first` and `pages` are.
    pub fn scattered(first: Pfn, pages: u64, cpus: u16) -> Option<(Self, Vec<PfnRange>)> {
        Self::scattered_in(first, pages, cpus, Sparse::new)
    }

    fn scattered_in(
        first: Pfn,
        pages: u64,
        cpus: u16,
        map: impl Fn(usize) -> Option<Sparse>,
    ) -> Option<(Self, Vec<PfnRange>)> {
        const LEAST: u64 = (1 << 30) / PAGE_SIZE as u64;
        // Room to begin at a multiple of the largest block's size.
        let largest = MAX_ORDER.bytes();
        let (mut pieces, mut left, mut size) = (Vec::new(), pages, pages);
        while left > 0 {
            let n = size.min(left);
            match map((n as usize).checked_mul(PAGE_SIZE)?.checked_add(largest)?) {
                Some(piece) => {
                    left -= n;
                    pieces.push((piece, n));
                }
                None if size <= LEAST => return None,
                None => size = (size / 2).next_multiple_of(MAX_ORDER.pages()),
            }
        }
        pieces.sort_by_key(|(piece, _)| piece.ptr.addr());
        // Exposed, for all of them are reached from one base.
        let start = |piece: &Sparse| piece.ptr.expose_provenance().next_multiple_of(largest);
        let base = start(&pieces.first()?.0);
        let ram: Vec<_> = pieces
            .iter()
            .map(|(piece, n)| {
                let at = (start(piece) - base) / PAGE_SIZE;
                PfnRange::sized(first.add(at as u64), *n)
            })
            .collect();
        let all = PfnRange::new(first, ram.last()?.end);
        let pieces = pieces.into_iter().map(|(piece, _)| piece).collect();
        let base = core::ptr::with_exposed_provenance_mut(base);
        Some((Self::over(base, pieces, all, cpus), ram))
    }

    fn over(base: *mut u8, ram: Vec<Sparse>, frames: PfnRange, cpus: u16) -> Self {
        Self {
            base,
            _ram: ram,
            first: frames.start,
            end: frames.end,
            memmap: Default::default(),
            backing: Mutex::default(),
            tokens: (0..cpus.max(1)).map(|id| Token::new(CpuId(id))).collect(),
            held: (0..cpus.max(1)).map(|_| HeldLocks::default()).collect(),
            nodes_of_cpus: std::vec![NodeId(0); usize::from(cpus.max(1))],
            clock_ms: AtomicU64::new(0),
            log: Mutex::default(),
            echo: AtomicBool::new(false),
            woken: Mutex::default(),
            mmu: mmu::HostMmu::default(),
        }
    }

    /// Puts a CPU on a node; before the manager is made.
    pub fn set_node_of_cpu(&mut self, cpu: CpuId, node: NodeId) {
        if let Some(slot) = self.nodes_of_cpus.get_mut(usize::from(cpu.0)) {
            *slot = node;
        }
    }

    /// Moves the clock on.
    pub fn advance_ms(&self, ms: u64) {
        self.clock_ms.fetch_add(ms, Relaxed);
    }

    /// Says which CPU this thread is from now on.
    pub fn run_on(&self, cpu: CpuId) {
        assert!(usize::from(cpu.0) < self.tokens.len(), "no such CPU");
        PREFERRED.set(cpu);
    }

    /// Changes the rights of this thread.
    pub fn set_context(&self, context: Context) {
        CONTEXT.set(context);
    }

    /// Says which address space this thread is of from now on.
    pub fn run_in(&self, root: Option<Root>) {
        ROOT.set(root);
    }

    /// Log lines also go to standard error from now on.
    pub fn echo_log(&self) {
        self.echo.store(true, Relaxed);
    }

    /// Takes what has been logged so far.
    pub fn take_log(&self) -> Vec<LogLine> {
        core::mem::take(&mut lock(&self.log))
    }

    /// Takes the wakeups that have been asked for so far.
    pub fn take_woken(&self) -> Vec<Worker> {
        core::mem::take(&mut lock(&self.woken))
    }

    /// Accesses memory of an address space as a thread of it does, through its
    /// tables: `f` gets the address of the page that `va` is in. The thread
    /// holds no CPU meanwhile, so that others may be served.
    ///
    /// # Errors
    /// [`Faulted`] when the tables do not allow it.
    pub fn access(
        &self,
        root: Root,
        va: VirtAddr,
        write: bool,
        mut f: impl FnMut(*mut u8),
    ) -> Result<(), Faulted> {
        self.mmu.access(root, va, write, &mut |pfn| f(self.frame(pfn)))
    }

    fn id(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    fn hold(&self, cpu: CpuId) {
        match HELD.get() {
            Some((machine, held, depth)) if machine == self.id() => {
                assert!(held == cpu, "a thread is one CPU at a time");
                HELD.set(Some((machine, held, depth + 1)));
            }
            Some(_) => panic!("a thread works on one machine at a time"),
            None => {
                while !self.tokens[usize::from(cpu.0)].try_take() {
                    std::thread::yield_now();
                }
                HELD.set(Some((self.id(), cpu, 1)));
            }
        }
    }

    fn release(&self, cpu: CpuId) {
        match HELD.get() {
            Some((machine, held, depth)) if machine == self.id() && held == cpu => {
                if depth > 1 {
                    HELD.set(Some((machine, held, depth - 1)));
                } else {
                    // SAFETY: held since `hold`, and the manager is done with it:
                    // what letters do is inside the manager again, as this CPU.
                    unsafe { self.tokens[usize::from(cpu.0)].give_up() };
                    HELD.set(None);
                }
            }
            _ => panic!("token given up that was not held"),
        }
    }
}

// SAFETY: frames are one mapping, stable and zeroed at first; a token is a lock
// that one thread holds; the memory map's arrays are mappings of their own.
unsafe impl Platform for Machine {
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        debug_assert!(self.first <= pfn && pfn < self.end, "{pfn:?} is not RAM");
        self.base.wrapping_add((pfn.0 - self.first.0) as usize * PAGE_SIZE)
    }

    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        let offset = ptr.addr().checked_sub(self.base.addr())?;
        let pfn = self.first.add((offset / PAGE_SIZE) as u64);
        (pfn < self.end).then_some(pfn)
    }

    fn memmap_base(&self, slot: usize, bytes: usize) -> Option<*mut u8> {
        let array = Sparse::new(bytes)?;
        let ptr = array.ptr;
        *lock(self.memmap.get(slot)?) = Some(array);
        Some(ptr)
    }

    fn memmap_back(
        &self,
        ptr: *mut u8,
        frames: PfnRange,
        _tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        // The host backs the array itself; the frames are taken all the same,
        // so that the machine has as much left as a real one. What large pages
        // would map stays for ever, as on that.
        if frames.pages() < PAGEBLOCK_PAGES {
            let mut backing = lock(&self.backing);
            for page in 0..frames.pages() {
                backing.insert(ptr.addr() + page as usize * PAGE_SIZE, frames.start.add(page));
            }
        }
        true
    }

    fn memmap_unback(&self, ptr: *mut u8, bytes: usize, frame: &mut dyn FnMut(Pfn)) {
        let mut backing = lock(&self.backing);
        let pages: Vec<_> =
            backing.range(ptr.addr()..ptr.addr() + bytes).map(|(&a, _)| a).collect();
        for page in pages {
            let words = ptr.wrapping_add(page - ptr.addr()).cast::<AtomicU64>();
            for word in 0..PAGE_SIZE / size_of::<AtomicU64>() {
                // SAFETY: a page of an array of atomics that is still mapped.
                unsafe { &*words.wrapping_add(word) }.store(0, Relaxed);
            }
            if let Some(pfn) = backing.remove(&page) {
                frame(pfn);
            }
        }
    }

    fn direct_map_extend(
        &self,
        frames: PfnRange,
        _tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        // All of it is mapped from the start, as far as the machine has room.
        self.first <= frames.start && frames.end <= self.end
    }

    fn cpus(&self) -> u16 {
        self.tokens.len() as u16
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.nodes_of_cpus.get(usize::from(cpu.0)).copied().unwrap_or_default()
    }

    fn irq_save(&self) -> (CpuId, IrqState) {
        let cpu = match HELD.get() {
            Some((machine, cpu, _)) if machine == self.id() => cpu,
            _ => PREFERRED.get(),
        };
        self.hold(cpu);
        (cpu, IrqState(0))
    }

    fn irq_restore(&self, cpu: CpuId, _state: IrqState) {
        self.release(cpu);
    }

    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        assert!(HELD.get().is_none(), "waits for other CPUs while it is one");
        let as_that_cpu = |cpu: CpuId| {
            // Whoever runs this has the token already, to give it up itself.
            let before = HELD.replace(Some((self.id(), cpu, 1)));
            f(cpu);
            HELD.set(before);
        };
        // SAFETY: this thread holds no token.
        unsafe { run_on_each(&self.tokens, None, &as_that_cpu, &std::thread::yield_now) };
    }

    fn held_locks(&self, cpu: CpuId) -> Option<&HeldLocks> {
        self.held.get(usize::from(cpu.0))
    }

    fn context(&self) -> Context {
        CONTEXT.get()
    }

    fn set_memalloc(&self, on: bool) -> bool {
        let before = CONTEXT.get();
        CONTEXT.set(Context { memalloc: on, ..before });
        before.memalloc
    }

    fn now_ms(&self) -> u64 {
        self.clock_ms.load(Relaxed)
    }

    fn wake(&self, worker: Worker) {
        let mut woken = lock(&self.woken);
        if !woken.contains(&worker) {
            woken.push(worker);
        }
    }

    fn mmu(&self) -> Option<&dyn Mmu> {
        Some(&self.mmu)
    }

    fn current_root(&self) -> Option<Root> {
        ROOT.get()
    }

    fn stall(&self) {
        std::thread::yield_now();
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        if self.echo.load(Relaxed) {
            std::eprintln!("{level:?}: {line}");
        }
        lock(&self.log).push((level, line.to_string()));
    }
}

/// A machine of one piece of RAM with everything but its own tables free:
/// `mib` MiB from 0, frame 0 and the VGA hole taken out as on a PC.
///
/// # Errors
/// When that is too little for the memory map.
///
/// # Panics
/// When the host has no address space left.
pub fn pc(mib: u64, cpus: u16, config: &Config) -> Result<Mm<Machine>, SetupError> {
    let end = Pfn(mib << 8);
    let Some(machine) = Machine::new(Pfn(0), end, cpus) else { panic!("no room for {mib} MiB") };
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0).min(end)), NodeId(0)),
        (PfnRange::new(Pfn(0x100).min(end), end), NodeId(0)),
    ];
    build(machine, &ram, config)
}

/// A manager over `machine`, whose RAM is `ram`; early tables of a usual size.
///
/// # Errors
/// As [`Mm::new`].
pub fn build<P: Platform>(
    machine: P,
    ram: &[(PfnRange, NodeId)],
    config: &Config,
) -> Result<Mm<P>, SetupError> {
    let mut ranges = Box::new([RamRange::EMPTY; 128]);
    let mut reserved = Box::new([Reservation::EMPTY; 128]);
    let mut early = EarlyMem::new(&mut ranges[..], &mut reserved[..]);
    for &(range, node) in ram {
        early.add_ram(range, node);
    }
    Mm::new(machine, early, config)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::gfp::{Gfp, Request};
    use crate::types::Order;
    use std::collections::BTreeSet;

    #[test]
    fn scattered_memory_is_all_there_and_nowhere_twice() {
        const GIB: usize = 1 << 30;
        let first = Pfn(1 << 20);
        // No stretch of addresses has room for more than one piece of 1 GiB, and
        // what lies between two pieces is somebody else's.
        let between = Mutex::new(Vec::new());
        let map = |bytes: usize| {
            lock(&between).push(Sparse::new(GIB)?);
            (bytes < GIB + GIB / 2).then(|| Sparse::new(bytes)).flatten()
        };
        let (machine, ram) =
            Machine::scattered_in(first, 4 << 18, 1, map).expect("address space for the pieces");
        assert_eq!(ram.iter().map(|piece| piece.pages()).sum::<u64>(), 4 << 18);
        assert_eq!((ram.len(), ram[0].start), (4, first));
        for (piece, next) in ram.iter().zip(ram.iter().skip(1)) {
            assert!(piece.end < next.start && next.start.is_aligned(MAX_ORDER));
        }
        for range in &ram {
            for pfn in [range.start, Pfn(range.end.0 - 1)] {
                let byte = machine.frame(pfn);
                assert_eq!(machine.pfn_of(byte.wrapping_add(PAGE_SIZE - 1)), Some(pfn));
                // SAFETY: a frame of this machine, which nobody uses yet.
                unsafe { byte.write(1) };
            }
        }
        let nodes: Vec<_> = ram.iter().map(|&range| (range, NodeId(0))).collect();
        let mm = build(machine, &nodes, &Config::default()).expect("a manager");
        let mut seen = BTreeSet::new();
        while let Ok(page) = mm.alloc_pages(Request::new(Order(10), Gfp::KERNEL)) {
            assert!(ram.iter().any(|range| range.contains(page.pfn)) && seen.insert(page.pfn));
        }
        // All but what the manager needs for itself, and what it keeps back.
        assert!(seen.len() > 4 * 256 * 9 / 10, "{}", seen.len());
        mm.audit().expect("a whole machine");
    }

    #[test]
    fn a_machine_that_the_host_has_no_room_for_is_none() {
        assert!(Machine::scattered_in(Pfn(0), 3 << 18, 1, |_| None).is_none());
    }
}
