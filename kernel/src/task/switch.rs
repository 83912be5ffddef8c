//! From one stack to another: the registers that a function keeps for its
//! caller go onto the old stack and come from the new one. Calls nothing
//! but for the shape of a backtrace.

use crate::backtrace::Backtrace;
use core::arch::global_asm;

// Interrupts are off on both sides. There are no others to keep: the kernel is
// compiled without vector registers.
global_asm!(
    "task_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    // Where a new thread's first switch returns to: a zero frame pointer and
    // return address end its backtraces.
    "task_begin:",
    "xor ebp, ebp",
    "mov rdi, r12",
    "push 0",
    "jmp r13",
);

unsafe extern "C" {
    /// Keeps this thread's stack pointer at `old` and goes on where the one
    /// whose stack pointer is `new` left off. Returns when somebody switches
    /// back.
    fn task_switch(old: *mut u64, new: u64);
    safe static task_begin: u8;
}

/// Goes on with the thread whose stack pointer is `new`; this one's is kept at
/// `old`.
///
/// # Safety
///
/// Interrupts must be off; `new` must be the stack pointer of a thread that has
/// switched away, or come from [`prepare`], and nobody else may switch to it.
pub(super) unsafe fn switch(old: *mut u64, new: u64) {
    // SAFETY: passed on to the caller.
    unsafe { task_switch(old, new) }
}

/// Where the thread whose stack pointer is `rsp` left off.
///
/// # Safety
///
/// It must have switched away, or been prepared, and its stack still be there.
pub(super) unsafe fn left_at(rsp: u64) -> Backtrace {
    let frame: *const [u64; WORDS] = core::ptr::with_exposed_provenance(rsp as usize);
    // SAFETY: the caller vouches for it.
    let [.., rbp, rip] = unsafe { frame.read() };
    Backtrace { rip, rbp }
}

/// Words of a prepared stack that the first switch takes.
const WORDS: usize = 7;

/// Writes below `top` (a multiple of 16) what [`switch`] needs to call
/// `entry(argument)` there, and returns the stack pointer to switch to.
///
/// # Safety
///
/// The bytes below `top` must be a stack that nobody uses yet.
pub(super) unsafe fn prepare<T>(
    top: *mut u8,
    entry: extern "C" fn(*mut T) -> !,
    argument: *mut T,
) -> u64 {
    let frame: *mut [u64; WORDS] = top.cast::<[u64; WORDS]>().wrapping_sub(1);
    // In the order in which they are popped: r15, r14, r13, r12, rbx, rbp.
    let registers = [0, 0, entry as usize as u64, argument.expose_provenance() as u64, 0, 0];
    let [r15, r14, r13, r12, rbx, rbp] = registers;
    // SAFETY: the caller gives the stack.
    unsafe { frame.write([r15, r14, r13, r12, rbx, rbp, (&raw const task_begin) as u64]) };
    frame.expose_provenance() as u64
}
