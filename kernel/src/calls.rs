//! Calls from one CPU to others: what is to be run lies in one of a fixed number
//! of slots, and a bit in the mailbox of each CPU says that the slot is meant for
//! it. Nothing is allocated. How a CPU learns that it has mail, and who may wait,
//! is the caller's affair. Calls nothing.

use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use mm::types::CpuId;

/// Calls that can be under way at a time.
pub const SLOTS: usize = 64;

/// What to run on each CPU, with its number.
#[derive(Clone, Copy)]
enum Run {
    Nothing,
    /// For a caller who waits.
    Borrowed(*const (dyn Fn(CpuId) + Sync)),
    /// For one who does not.
    Owned(fn(CpuId, usize), usize),
}

struct Slot {
    run: UnsafeCell<Run>,
    /// CPUs that have not run it yet.
    left: AtomicU32,
    /// The CPU on which the caller sleeps until none is left, plus 1.
    sleeper: AtomicU32,
}

impl Slot {
    const fn new() -> Self {
        let run = UnsafeCell::new(Run::Nothing);
        Self { run, left: AtomicU32::new(0), sleeper: AtomicU32::new(0) }
    }
}

/// A slot that a caller has taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotId(u8);

/// All slots.
pub struct Calls {
    /// A bit for each slot in use.
    used: AtomicU64,
    slots: [Slot; SLOTS],
}

// SAFETY: a slot's content is written by the one who took it, before any mailbox
// has its bit, and read by who found that bit; the bits are taken and given with
// acquire and release. What it points to is `Sync`.
unsafe impl Sync for Calls {}
// SAFETY: as above.
unsafe impl Send for Calls {}

/// One CPU's mail: a bit for each slot.
#[derive(Debug)]
pub struct Mailbox(AtomicU64);

impl Mailbox {
    /// An empty one.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Puts a call in; whether the box was empty, so that its owner has to be
    /// told. Ordered against the owner's leaving (sequentially consistent).
    pub fn post(&self, call: SlotId) -> bool {
        self.0.fetch_or(1 << call.0, SeqCst) == 0
    }

    /// Takes a call out again; whether it was still in.
    pub fn retract(&self, call: SlotId) -> bool {
        self.0.fetch_and(!(1 << call.0), SeqCst) & 1 << call.0 != 0
    }

    /// Whether there is mail.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.0.load(Relaxed) != 0
    }
}

impl Calls {
    /// No call.
    pub const fn new() -> Self {
        Self { used: AtomicU64::new(0), slots: [const { Slot::new() }; SLOTS] }
    }

    /// Takes a slot for a call to `cpus` CPUs.
    fn begin(&self, run: Run, cpus: u32) -> Option<SlotId> {
        let mut used = self.used.load(Relaxed);
        let at = loop {
            let free = used.trailing_ones();
            if free as usize == SLOTS {
                return None;
            }
            match self.used.compare_exchange_weak(used, used | 1 << free, Acquire, Relaxed) {
                Ok(_) => break free as usize,
                Err(now) => used = now,
            }
        };
        // SAFETY: the slot is this caller's, and no mailbox has its bit.
        unsafe { self.slots[at].run.get().write(run) };
        self.slots[at].left.store(cpus, Relaxed);
        self.slots[at].sleeper.store(0, Relaxed);
        Some(SlotId(at as u8))
    }

    /// Takes a slot for running `f` on `cpus` CPUs, for a caller who waits until
    /// it [is done](Self::is_done) and then [ends](Self::end) it. None if all
    /// slots are in use.
    ///
    /// # Safety
    ///
    /// `f` must live until the call is done.
    pub unsafe fn begin_borrowed(&self, f: &(dyn Fn(CpuId) + Sync), cpus: u32) -> Option<SlotId> {
        // SAFETY: only the lifetime changes, and the caller vouches for that.
        let f = unsafe {
            core::mem::transmute::<*const (dyn Fn(CpuId) + Sync + '_), *const (dyn Fn(CpuId) + Sync)>(
                f,
            )
        };
        self.begin(Run::Borrowed(f), cpus)
    }

    /// Takes a slot for running `f` with `with` on `cpus` CPUs, at least one, for
    /// a caller who does not wait: the slot is free again when all have run it.
    /// None if all slots are in use.
    pub fn begin_owned(&self, f: fn(CpuId, usize), with: usize, cpus: u32) -> Option<SlotId> {
        self.begin(Run::Owned(f, with), cpus)
    }

    /// Runs all that is in `mailbox`, whose owner is CPU `cpu`. Called on that
    /// CPU with its interrupts masked. `wake` is told the CPUs of callers who
    /// [sleep](Self::may_sleep) and need not any longer.
    pub fn serve(&self, mailbox: &Mailbox, cpu: CpuId, wake: &dyn Fn(CpuId)) {
        while mailbox.has_mail() {
            let mut mail = mailbox.0.swap(0, SeqCst);
            while mail != 0 {
                let call = SlotId(mail.trailing_zeros() as u8);
                mail &= mail - 1;
                if let Some(sleeper) = self.run(call, cpu) {
                    wake(sleeper);
                }
            }
        }
    }

    fn run(&self, call: SlotId, cpu: CpuId) -> Option<CpuId> {
        // SAFETY: its bit was in the mailbox, so the slot stays as it is until
        // this CPU has counted itself off.
        match unsafe { *self.slots[usize::from(call.0)].run.get() } {
            Run::Nothing => {}
            // SAFETY: who began it waits until this CPU has counted itself off.
            Run::Borrowed(f) => unsafe { (*f)(cpu) },
            Run::Owned(f, with) => f(cpu, with),
        }
        self.count_off(call)
    }

    /// Notes that one CPU has run the call, or will not. Returns the CPU on
    /// which the caller sleeps, if that is to be woken now.
    pub fn count_off(&self, call: SlotId) -> Option<CpuId> {
        let slot = &self.slots[usize::from(call.0)];
        // SAFETY: as long as a CPU is left the slot stays as it is.
        let owned = matches!(unsafe { *slot.run.get() }, Run::Owned(..));
        if slot.left.fetch_sub(1, SeqCst) != 1 {
            return None;
        }
        if owned {
            self.end(call);
            return None;
        }
        // The slot may be somebody else's by now; then a CPU wakes for nothing.
        let sleeper = slot.sleeper.load(SeqCst).checked_sub(1)?;
        Some(CpuId(sleeper as u16))
    }

    /// Whether the caller may sleep on `cpu` until it is woken, or the call is
    /// done already. Called with interrupts masked, and again after each sleep.
    pub fn may_sleep(&self, call: SlotId, cpu: CpuId) -> bool {
        let slot = &self.slots[usize::from(call.0)];
        // Either this is seen by who counts off last, or that is seen here.
        slot.sleeper.store(u32::from(cpu.0) + 1, SeqCst);
        slot.left.load(SeqCst) != 0
    }

    /// Whether all CPUs have run it.
    pub fn is_done(&self, call: SlotId) -> bool {
        self.slots[usize::from(call.0)].left.load(Acquire) == 0
    }

    /// Frees the slot of a call that is done.
    pub fn end(&self, call: SlotId) {
        self.used.fetch_and(!(1 << call.0), Release);
    }

    /// How many calls are under way.
    pub fn under_way(&self) -> u32 {
        self.used.load(Relaxed).count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread;

    #[test]
    fn slots_run_out_and_come_back() {
        let calls = Calls::new();
        let mailbox = Mailbox::new();
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let run: fn(CpuId, usize) = |cpu, with| {
            assert_eq!(cpu, CpuId(7));
            RUNS.fetch_add(with, Relaxed);
        };
        for number in 0..SLOTS {
            let call = calls.begin_owned(run, number, 1).unwrap();
            assert_eq!(mailbox.post(call), number == 0);
        }
        assert_eq!(calls.begin_owned(run, 0, 1), None);
        calls.serve(&mailbox, CpuId(7), &|_| panic!("nobody sleeps"));
        assert_eq!(RUNS.load(Relaxed), SLOTS * (SLOTS - 1) / 2);
        assert_eq!((calls.under_way(), mailbox.has_mail()), (0, false));
    }

    #[test]
    fn a_call_can_be_retracted_once() {
        let calls = Calls::new();
        let mailbox = Mailbox::new();
        let f = |_: CpuId| panic!("it was retracted");
        // SAFETY: the function lives longer than the call.
        let call = unsafe { calls.begin_borrowed(&f, 1) }.unwrap();
        assert!(mailbox.post(call) && mailbox.retract(call) && !mailbox.retract(call));
        assert!(!calls.is_done(call));
        assert_eq!(calls.count_off(call), None);
        calls.serve(&mailbox, CpuId(0), &|_| {});
        assert!(calls.is_done(call));
        calls.end(call);
        assert_eq!(calls.under_way(), 0);
    }

    /// Who sleeps is woken by the last CPU, and only then.
    #[test]
    fn sleepers_are_woken_once() {
        let calls = Calls::new();
        let mailboxes = [Mailbox::new(), Mailbox::new()];
        let f = |_: CpuId| {};
        // SAFETY: the function lives longer than the call.
        let call = unsafe { calls.begin_borrowed(&f, 2) }.unwrap();
        mailboxes.iter().for_each(|mailbox| {
            mailbox.post(call);
        });
        let woken = std::cell::RefCell::new(Vec::new());
        calls.serve(&mailboxes[0], CpuId(1), &|cpu| woken.borrow_mut().push(cpu));
        assert!(calls.may_sleep(call, CpuId(0)) && woken.borrow().is_empty());
        calls.serve(&mailboxes[1], CpuId(2), &|cpu| woken.borrow_mut().push(cpu));
        assert_eq!(woken.take(), [CpuId(0)]);
        assert!(!calls.may_sleep(call, CpuId(0)));
        calls.end(call);
        // The next to have the slot does not sleep.
        // SAFETY: as above.
        let next = unsafe { calls.begin_borrowed(&f, 1) }.unwrap();
        assert_eq!((next, calls.count_off(next)), (call, None));
    }

    /// All CPUs call all others at the same time, waiting and not, serving while
    /// they wait: everything is run as often as it was posted, and nobody hangs.
    #[test]
    fn everybody_calls_everybody() {
        const CPUS: usize = 4;
        const ROUNDS: usize = if cfg!(miri) { 20 } else { 2000 };
        let calls = Calls::new();
        let mailboxes: [Mailbox; CPUS] = std::array::from_fn(|_| Mailbox::new());
        let runs: [AtomicUsize; CPUS] = std::array::from_fn(|_| AtomicUsize::new(0));
        let finished = AtomicUsize::new(0);
        static OWNED: AtomicUsize = AtomicUsize::new(0);
        static LOST: AtomicBool = AtomicBool::new(false);
        thread::scope(|scope| {
            for me in 0..CPUS {
                let (calls, mailboxes, runs, finished) = (&calls, &mailboxes, &runs, &finished);
                scope.spawn(move || {
                    let serve = || {
                        calls.serve(&mailboxes[me], CpuId(me as u16), &|_| {});
                        thread::yield_now();
                    };
                    let others = || (0..CPUS).filter(|&cpu| cpu != me);
                    for round in 0..ROUNDS {
                        let f = |cpu: CpuId| {
                            runs[usize::from(cpu.0)].fetch_add(1, Relaxed);
                        };
                        let call = loop {
                            // SAFETY: it is waited for below.
                            match unsafe { calls.begin_borrowed(&f, CPUS as u32 - 1) } {
                                Some(call) => break call,
                                None => serve(),
                            }
                        };
                        others().for_each(|cpu| {
                            mailboxes[cpu].post(call);
                        });
                        while !calls.is_done(call) {
                            serve();
                        }
                        calls.end(call);
                        let count: fn(CpuId, usize) = |_, with| {
                            OWNED.fetch_add(1, Relaxed);
                            LOST.fetch_or(with >= ROUNDS, Relaxed);
                        };
                        if let Some(call) = calls.begin_owned(count, round, CPUS as u32 - 1) {
                            others().for_each(|cpu| {
                                mailboxes[cpu].post(call);
                            });
                        } else {
                            OWNED.fetch_add(CPUS - 1, Relaxed);
                        }
                    }
                    finished.fetch_add(1, Relaxed);
                    while finished.load(Relaxed) < CPUS || mailboxes[me].has_mail() {
                        serve();
                    }
                });
            }
        });
        // What was posted by the last to finish.
        for (cpu, mailbox) in mailboxes.iter().enumerate() {
            calls.serve(mailbox, CpuId(cpu as u16), &|_| {});
            assert_eq!(runs[cpu].load(Relaxed), ROUNDS * (CPUS - 1));
        }
        assert_eq!(OWNED.load(Relaxed), CPUS * ROUNDS * (CPUS - 1));
        assert!(!LOST.load(Relaxed));
        assert_eq!(calls.under_way(), 0);
    }
}
