//! CPUs as tokens with mailboxes, for platforms where threads take turns to be
//! one: whoever holds a CPU's token is that CPU; whoever needs something of a
//! CPU that somebody else is posts a letter. May call: `sync`, `types`.
//!
//! The protocol cannot deadlock as long as nobody waits with interrupts masked,
//! that is, for another CPU while inside the manager. A token's holder serves
//! its mailbox whenever it leaves the manager, and while it waits itself; and a
//! letter to a CPU that has meanwhile become idle is delivered by its sender,
//! who takes the token for it. So of a circle of CPUs that wait for each other
//! each serves the one before it.

use crate::sync::{
    AtomicBool, AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::types::CpuId;
use core::fmt;
use core::ptr::null_mut;

/// What one CPU asks of another. It lies with the sender, who waits until it is
/// done.
struct Letter {
    /// Lives as long as the letter.
    run: *const (dyn Fn(CpuId) + Sync),
    next: *mut Letter,
    done: AtomicBool,
}

/// A CPU: its token and its mailbox. On a cache line of its own.
#[repr(align(64))]
pub struct Token {
    id: CpuId,
    taken: AtomicBool,
    /// Letters, the last one first.
    mail: AtomicPtr<Letter>,
}

// SAFETY: letters are reached from one thread at a time: the sender until it is
// posted, then whoever took it out of the box until it is done, then the sender
// again. What they run is `Sync`.
unsafe impl Send for Token {}
// SAFETY: as above.
unsafe impl Sync for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.id).finish()
    }
}

impl Token {
    /// An idle CPU.
    pub const fn new(id: CpuId) -> Self {
        Self { id, taken: AtomicBool::new(false), mail: AtomicPtr::new(null_mut()) }
    }

    /// Becomes this CPU, if it is idle.
    pub fn try_take(&self) -> bool {
        self.taken.compare_exchange(false, true, Acquire, Relaxed).is_ok()
    }

    /// Whether there is mail.
    #[inline]
    pub fn has_mail(&self) -> bool {
        !self.mail.load(Relaxed).is_null()
    }

    /// Runs what others have posted.
    ///
    /// # Safety
    /// The caller holds this token, and is not inside the manager as this CPU.
    pub unsafe fn serve(&self) {
        if !self.has_mail() {
            return;
        }
        let mut letter = self.mail.swap(null_mut(), Acquire);
        while !letter.is_null() {
            // SAFETY: a letter that is not done lies where it was posted from,
            // and was taken out of the box by this thread alone. After the
            // store nothing of it is touched.
            unsafe {
                let Letter { run, next, ref done } = *letter;
                (*run)(self.id);
                done.store(true, Release);
                letter = next;
            }
        }
    }

    /// Serves the mailbox and stops being this CPU. A letter that comes too late
    /// is its sender's to deliver.
    ///
    /// # Safety
    /// As [`serve`](Self::serve).
    pub unsafe fn give_up(&self) {
        // SAFETY: by the contract.
        unsafe { self.serve() };
        self.taken.store(false, Release);
    }

    /// Puts a letter into the box.
    fn post(&self, letter: *mut Letter) {
        let mut first = self.mail.load(Relaxed);
        loop {
            // SAFETY: until it is posted the letter is the caller's.
            unsafe { (*letter).next = first };
            match self.mail.compare_exchange_weak(first, letter, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }
}

/// Runs `f` once for each CPU in turn, by whoever is that CPU then: the caller
/// for its `own` and for idle ones. Returns when all are done. `relax` is called
/// while there is nothing to do but to wait.
///
/// # Safety
/// The caller holds the token of `own`, if it says one, and none besides, and is
/// not inside the manager.
pub unsafe fn run_on_each(
    tokens: &[Token],
    own: Option<CpuId>,
    f: &(dyn Fn(CpuId) + Sync),
    relax: &dyn Fn(),
) {
    let own = own.and_then(|id| tokens.get(usize::from(id.0)));
    for token in tokens {
        if own.is_some_and(|own| own.id == token.id) {
            f(token.id);
            continue;
        }
        if token.try_take() {
            f(token.id);
            // SAFETY: the token was just taken.
            unsafe { token.give_up() };
            continue;
        }
        // SAFETY: the caller waits below until the letter is done, so that what
        // it names outlives it.
        let run = unsafe {
            core::mem::transmute::<*const (dyn Fn(CpuId) + Sync + '_), *const (dyn Fn(CpuId) + Sync)>(
                core::ptr::from_ref(f),
            )
        };
        let mut letter = Letter { run, next: null_mut(), done: AtomicBool::new(false) };
        let letter = &raw mut letter;
        token.post(letter);
        // SAFETY: nobody writes to the flag of a letter but through an atomic.
        while !unsafe { (*letter).done.load(Acquire) } {
            if token.try_take() {
                // The letter is still there, or somebody else delivered it.
                // SAFETY: the token was just taken.
                unsafe { token.give_up() };
            } else {
                if let Some(own) = own {
                    // SAFETY: the caller's word.
                    unsafe { own.serve() };
                }
                relax();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use std::thread;
    use std::vec::Vec;

    fn tokens(n: u16) -> Vec<Token> {
        (0..n).map(|id| Token::new(CpuId(id))).collect()
    }

    #[test]
    fn an_idle_cpu_is_taken() {
        let cpus = tokens(3);
        let seen = AtomicU32::new(0);
        let note = |id: CpuId| {
            assert!(!cpus[usize::from(id.0)].try_take(), "it is held meanwhile");
            seen.fetch_or(1 << id.0, Relaxed);
        };
        // SAFETY: no token is held.
        unsafe { run_on_each(&cpus, None, &note, &|| panic!("nobody to wait for")) };
        assert_eq!(seen.into_inner(), 0b111);
        assert!(cpus.iter().all(Token::try_take), "all given up");
    }

    /// Every thread is a CPU all the time, and asks all others: none is ever
    /// idle until it is finished.
    #[test]
    fn a_circle_of_waiters_serves_itself() {
        const CPUS: u16 = 4;
        let rounds = if cfg!(miri) { 5 } else { 2_000 };
        let cpus = tokens(CPUS);
        let calls: Vec<_> = (0..CPUS).map(|_| AtomicU32::new(0)).collect();
        let ready = std::sync::Barrier::new(usize::from(CPUS));
        thread::scope(|scope| {
            for own in (0..CPUS).map(CpuId) {
                let (cpus, calls, ready) = (&cpus, &calls, &ready);
                scope.spawn(move || {
                    let token = &cpus[usize::from(own.0)];
                    assert!(token.try_take());
                    ready.wait();
                    for _ in 0..rounds {
                        let call = |id: CpuId| {
                            // Not atomic: whoever is the CPU is alone in here.
                            let count = &calls[usize::from(id.0)];
                            count.store(count.load(Relaxed) + 1, Relaxed);
                        };
                        // SAFETY: the token is held since before the loop.
                        unsafe { run_on_each(cpus, Some(own), &call, &thread::yield_now) };
                    }
                    // SAFETY: as above.
                    unsafe { token.give_up() };
                });
            }
        });
        for count in calls {
            assert_eq!(count.into_inner(), rounds * u32::from(CPUS));
        }
    }
}
