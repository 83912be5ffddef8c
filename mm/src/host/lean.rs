//! CPUs that threads keep: a thread claims one for a while, and until it gives
//! it up to enter and to leave the manager as that CPU is a look at the thread's
//! own notes and at the mailbox, with no atomic read-modify-write. For users of
//! the manager on a host, and for measuring it there. May call: the rest of
//! `host`, `mailbox`.
//!
//! What a claim costs others: whoever needs this CPU's lists (to drain them, to
//! audit) posts a letter and waits until the thread leaves the manager the next
//! time, waits itself, or serves its mailbox ([`Claim::serve`]). So a thread that
//! is about to do something else for long gives its CPU up. An idle CPU is taken
//! by whoever needs it. A thread without a CPU of its own may call the manager
//! too: it becomes an idle CPU for the length of the call.
//!
//! Nobody waits for another CPU while inside the manager, and whoever waits
//! serves: [`mailbox`](crate::mailbox) says why that is enough.

use super::Machine;
use crate::mailbox::{Token, run_on_each};
use crate::platform::{Context, IrqState, LogLevel, Platform, Worker};
use crate::sync::{AtomicU64, HeldLocks, Ordering::Relaxed};
use crate::types::{CpuId, NodeId, Pfn, PfnRange};
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use std::vec::Vec;

/// This thread was inside the manager already.
const NESTED: IrqState = IrqState(1);
/// Its CPU is its own.
const CLAIMED: IrqState = IrqState(0);
/// Its CPU is given up when it leaves.
const BORROWED: IrqState = IrqState(2);

/// What a thread knows of itself.
struct Notes {
    /// The number of the platform whose CPU this thread is; 0: none.
    platform: Cell<u64>,
    cpu: Cell<CpuId>,
    /// Inside the manager.
    inside: Cell<bool>,
    /// That CPU's token, which lives as long as its platform.
    token: Cell<*const Token>,
}

std::thread_local! {
    static NOTES: Notes = const {
        Notes {
            platform: Cell::new(0),
            cpu: Cell::new(CpuId(0)),
            inside: Cell::new(false),
            token: Cell::new(core::ptr::null()),
        }
    };
}

/// The number of the last platform made. None is used again, so that what a
/// thread notes of one is never mistaken for another.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A [`Machine`] whose CPUs threads can keep.
#[derive(Debug)]
pub struct Lean {
    number: u64,
    machine: Machine,
    tokens: Vec<Token>,
}

impl Lean {
    /// That machine, with as many CPUs as it has.
    pub fn new(machine: Machine) -> Self {
        let tokens = (0..machine.cpus()).map(|id| Token::new(CpuId(id))).collect();
        Self { number: LAST.fetch_add(1, Relaxed) + 1, machine, tokens }
    }

    /// The machine below: its clock, its log.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Makes this thread that CPU; waits until it is idle.
    ///
    /// # Panics
    /// If there is no such CPU, or this thread is one already.
    pub fn claim(&self, cpu: CpuId) -> Claim<'_> {
        let token = self.tokens.get(usize::from(cpu.0));
        let token = token.unwrap_or_else(|| panic!("no such CPU: {cpu:?}"));
        assert!(NOTES.with(|notes| notes.platform.get()) == 0, "a thread is one CPU at a time");
        while !token.try_take() {
            std::thread::yield_now();
        }
        NOTES.with(|notes| self.become_cpu(notes, cpu, false));
        Claim { platform: self, cpu, _not_send: PhantomData }
    }

    /// Makes this thread any CPU that is idle, if one is.
    ///
    /// # Panics
    /// If this thread is a CPU already.
    pub fn claim_idle(&self) -> Option<Claim<'_>> {
        assert!(NOTES.with(|notes| notes.platform.get()) == 0, "a thread is one CPU at a time");
        let cpu = self.take_idle()?;
        NOTES.with(|notes| self.become_cpu(notes, cpu, false));
        Some(Claim { platform: self, cpu, _not_send: PhantomData })
    }

    fn become_cpu(&self, notes: &Notes, cpu: CpuId, inside: bool) {
        notes.platform.set(self.number);
        notes.cpu.set(cpu);
        notes.inside.set(inside);
        notes.token.set(&raw const self.tokens[usize::from(cpu.0)]);
    }

    fn take_idle(&self) -> Option<CpuId> {
        let index = self.tokens.iter().position(Token::try_take)?;
        Some(CpuId(index as u16))
    }

    /// Becomes an idle CPU for the length of a call.
    #[cold]
    #[inline(never)]
    fn borrow_cpu(&self, notes: &Notes) -> (CpuId, IrqState) {
        assert!(notes.platform.get() == 0, "a thread works on one machine at a time");
        let cpu = loop {
            match self.take_idle() {
                Some(cpu) => break cpu,
                None => std::thread::yield_now(),
            }
        };
        self.become_cpu(notes, cpu, true);
        (cpu, BORROWED)
    }

    #[cold]
    #[inline(never)]
    fn give_back(&self, cpu: CpuId, notes: &Notes) {
        notes.inside.set(false);
        // SAFETY: taken by `borrow_cpu`, and this thread leaves the manager.
        unsafe { self.tokens[usize::from(cpu.0)].give_up() };
        notes.platform.set(0);
    }

    /// Serves the mailbox of this thread's CPU.
    #[cold]
    #[inline(never)]
    fn serve(&self, cpu: CpuId) {
        // SAFETY: the CPU is claimed by this thread, which is not inside the
        // manager: it is leaving, or has just come from `Claim::serve`.
        unsafe { self.tokens[usize::from(cpu.0)].serve() };
    }
}

/// A thread's CPU, until it is dropped.
#[derive(Debug)]
pub struct Claim<'a> {
    platform: &'a Lean,
    cpu: CpuId,
    /// The notes are this thread's.
    _not_send: PhantomData<*mut ()>,
}

impl Claim<'_> {
    /// Which CPU this thread is.
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// Runs what others have asked of this CPU. For threads that do something
    /// else for long; calls of the manager do it by themselves.
    pub fn serve(&self) {
        self.platform.serve(self.cpu);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // A thread that panics inside the manager leaves its CPU in no state for
        // others: whoever needs it waits for ever, and does not go on with
        // lists that are half changed.
        NOTES.with(|notes| {
            if !notes.inside.get() {
                // SAFETY: claimed, and not inside the manager.
                unsafe { self.platform.tokens[usize::from(self.cpu.0)].give_up() };
            }
            notes.platform.set(0);
        });
    }
}

// SAFETY: frames and memory map are the machine's. A CPU's token is held by one
// thread: from `claim` until the claim is dropped, or from `borrow_cpu` to
// `give_back`. That thread runs its own calls and letters one after the other,
// letters only when it is outside of the manager.
unsafe impl Platform for Lean {
    #[inline]
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        self.machine.frame(pfn)
    }

    #[inline]
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
        self.tokens.len() as u16
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.machine.node_of_cpu(cpu)
    }

    #[inline]
    fn irq_save(&self) -> (CpuId, IrqState) {
        NOTES.with(|notes| {
            if notes.platform.get() != self.number {
                return self.borrow_cpu(notes);
            }
            let nested = notes.inside.replace(true);
            (notes.cpu.get(), if nested { NESTED } else { CLAIMED })
        })
    }

    #[inline]
    fn irq_restore(&self, cpu: CpuId, state: IrqState) {
        if state.0 == CLAIMED.0 {
            let mail = NOTES.with(|notes| {
                notes.inside.set(false);
                // SAFETY: this thread is a CPU of this platform, so the token
                // is one of its.
                unsafe { (*notes.token.get()).has_mail() }
            });
            if mail {
                self.serve(cpu);
            }
        } else if state.0 == BORROWED.0 {
            NOTES.with(|notes| self.give_back(cpu, notes));
        }
    }

    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        let own = NOTES.with(|notes| {
            let mine = notes.platform.get() == self.number;
            assert!(!(mine && notes.inside.get()), "waits for other CPUs inside the manager");
            mine.then(|| notes.cpu.get())
        });
        let as_that_cpu = |cpu: CpuId| {
            NOTES.with(|notes| {
                // Whoever runs this has the token already, to give it up itself.
                let before = notes.platform.get();
                let was = notes.cpu.get();
                self.become_cpu(notes, cpu, true);
                f(cpu);
                if before == self.number {
                    self.become_cpu(notes, was, false);
                } else {
                    notes.platform.set(before);
                }
            });
        };
        // SAFETY: this thread holds the token of `own` and no other, and is not
        // inside the manager.
        unsafe { run_on_each(&self.tokens, own, &as_that_cpu, &std::thread::yield_now) };
    }

    fn held_locks(&self, cpu: CpuId) -> Option<&HeldLocks> {
        self.machine.held_locks(cpu)
    }

    fn context(&self) -> Context {
        self.machine.context()
    }

    fn now_ms(&self) -> u64 {
        self.machine.now_ms()
    }

    fn wake(&self, worker: Worker) {
        self.machine.wake(worker);
    }

    fn mmu(&self) -> Option<&dyn crate::mmu::Mmu> {
        self.machine.mmu()
    }

    fn stall(&self) {
        let own = NOTES.with(|notes| {
            let outside = notes.platform.get() == self.number && !notes.inside.get();
            outside.then(|| notes.cpu.get())
        });
        // Whoever waits serves.
        own.into_iter().for_each(|cpu| self.serve(cpu));
        std::thread::yield_now();
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.machine.log(level, line);
    }
}
