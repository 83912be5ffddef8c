//! Each CPU watches another one at its timer's ticks: one whose own ticks have
//! stopped for too long has interrupts off, and is named, with what it does as
//! far as it answers an NMI. (A test that hangs is another matter, and
//! `selftests`'.) Calls `cpu`, `smp`, `backtrace`.

use crate::arch::trap::TrapFrame;
use crate::arch::{apic, percpu, time};
use crate::backtrace::Backtrace;
use crate::smp;
use crate::task::cpu::{self, Cpu};
use crate::task::thread::current;
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64};
use mm::types::CpuId;
use quarry_kernel::lapic::{Command, Destination};

/// Milliseconds without a tick after which a CPU is named, as in Linux.
const LIMIT_MS: u64 = 10_000;
static LIMIT: AtomicU64 = AtomicU64::new(LIMIT_MS);

/// Milliseconds that a CPU has to answer: a virtual one may not run for a while.
const PATIENCE_MS: u64 = 1000;

/// Sets after how many milliseconds a CPU is named, for a test; None: as usual.
pub(crate) fn set_limit(ms: Option<u64>) {
    LIMIT.store(ms.unwrap_or(LIMIT_MS), Relaxed);
}

/// Whether `cpu` has been named and has not ticked since.
pub(crate) fn is_named(cpu: CpuId) -> bool {
    cpu::of(cpu).is_some_and(|cpu| cpu.named.load(Relaxed))
}

/// Notes that `cpu`, which is this one, ticks.
pub(super) fn ticked(cpu: &Cpu, now: u64) {
    cpu.ticked.store(now, Relaxed);
    if cpu.named.swap(false, Relaxed) {
        log::warn!("watchdog: CPU {} has interrupts on again", cpu.id().0);
    }
}

/// Looks at the CPU after `cpu`, which is this one. Called at every tick,
/// interrupts off, no lock held.
pub(super) fn look(cpu: &Cpu, now: u64) {
    let next = cpu::online().find(|other| other.id() > cpu.id()).or_else(|| cpu::online().next());
    let Some(other) = next.filter(|other| !core::ptr::eq(*other, cpu)) else { return };
    let last = other.ticked.load(Relaxed);
    let silent = now.saturating_sub(last);
    // One that has not ticked yet may have no timer.
    if last == 0 || silent <= LIMIT.load(Relaxed) || other.named.load(Relaxed) {
        return;
    }
    let Some(asked) = ask(other.id()) else { return };
    if asked.answered {
        log::error!(
            "watchdog: CPU {} has had interrupts off for {} ms, in thread {}",
            other.id().0,
            silent,
            asked.answer().text()
        );
    } else {
        // What runs there cannot end while its CPU's queue is locked.
        let queue = other.try_lock();
        // SAFETY: what runs lives.
        let name = queue.map(|_queue| *unsafe { &*other.current.load(Relaxed) }.name());
        log::error!(
            "watchdog: CPU {} has had interrupts off for {} ms, in thread {}, and answers no NMI",
            other.id().0,
            silent,
            name.as_ref().map_or("?", |name| name.as_str())
        );
    }
    other.named.store(true, Relaxed);
}

/// Bytes of an answer.
const ANSWER: usize = 2048;

/// What a CPU says that it does.
struct Answer {
    bytes: [u8; ANSWER],
    len: usize,
}

impl Answer {
    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

impl Write for Answer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let Some(place) = self.bytes.get_mut(self.len..self.len + character.len_utf8()) else {
                return Err(fmt::Error);
            };
            character.encode_utf8(place);
            self.len += character.len_utf8();
        }
        Ok(())
    }
}

/// The one question and its answer, whose owner changes with [`STAGE`].
struct Board(UnsafeCell<Answer>);

// SAFETY: the answer belongs to one CPU at a time, as `STAGE` says.
unsafe impl Sync for Board {}

static BOARD: Board = Board(UnsafeCell::new(Answer { bytes: [0; ANSWER], len: 0 }));

/// Nobody asks.
const FREE: u32 = 0;
/// Somebody asks or reads the answer.
const TAKEN: u32 = 1;
/// Who was asked writes.
const WRITING: u32 = 2;
/// The answer is there.
const WRITTEN: u32 = 3;
/// From here on: the CPU with that number less this one is asked.
const ASKED: u32 = 4;
static STAGE: AtomicU32 = AtomicU32::new(FREE);

fn step(from: u32, to: u32) -> bool {
    STAGE.compare_exchange(from, to, Acquire, Relaxed).is_ok()
}

/// A question that was asked; the board is free again when it goes.
struct Asked {
    answered: bool,
}

impl Asked {
    fn answer(&self) -> &Answer {
        // SAFETY: as long as this lives nobody writes: who answers later than
        // the asker has patience finds that it is not asked any more.
        unsafe { &*BOARD.0.get() }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        STAGE.store(FREE, Release);
    }
}

/// Asks `cpu` by an NMI what it does. None if somebody else is asking.
fn ask(cpu: CpuId) -> Option<Asked> {
    let known = smp::cpus()?.get(cpu)?;
    if !step(FREE, TAKEN) {
        return None;
    }
    let asked = ASKED + u32::from(cpu.0);
    STAGE.store(asked, Release);
    let sent = apic::send(Command::Nmi, Destination::One(known.apic_id)).is_ok();
    let start = time::now_ms();
    while sent && time::now_ms() < start + PATIENCE_MS && STAGE.load(Acquire) != WRITTEN {
        spin_loop();
    }
    // Whoever has begun to write will not take long.
    while !step(asked, TAKEN) {
        if STAGE.load(Acquire) == WRITTEN {
            return Some(Asked { answered: true });
        }
        spin_loop();
    }
    Some(Asked { answered: false })
}

/// Says what this CPU does, if it has been asked. Called by the NMI that came
/// at `frame`.
pub(crate) fn answer(frame: &TrapFrame) {
    if !step(ASKED + u32::from(percpu::cpu_id().0), WRITING) {
        return;
    }
    // SAFETY: while the stage is this one the answer is this CPU's.
    let answer = unsafe { &mut *BOARD.0.get() };
    answer.len = 0;
    let trace = Backtrace { rip: frame.rip, rbp: frame.rbp };
    // What does not fit is left out.
    let _ = write!(answer, "{}:\n{trace}", current().name());
    STAGE.store(WRITTEN, Release);
}
