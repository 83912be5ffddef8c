//! From the processor's exceptions and interrupts to Rust: stubs that save all
//! registers, and what is done about each vector. Calls `crash`, `apic`, `pic`,
//! `devices`, `console` for its input, `restart`, `smp`, `selftests` for its watchdog, `task` for the next thread.

use crate::arch::{apic, devices, percpu, pic, restart};
use crate::console::input;
use crate::drivers::messages;
use crate::{crash, mce, selftests, smp, task};
use core::arch::global_asm;
use core::fmt;
use mm::types::CpuId;

/// What a stub saves, lowest address first.
#[repr(C)]
#[allow(missing_docs, reason = "registers carry their names")]
pub(crate) struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rip {:016x} cs {:04x} rflags {:016x}", self.rip, self.cs, self.rflags)?;
        writeln!(f, "rsp {:016x} ss {:04x} error  {:016x}", self.rsp, self.ss, self.error)?;
        let mut write = |a, x, b, y, c, z| writeln!(f, "{a} {x:016x} {b} {y:016x} {c} {z:016x}");
        write("rax", self.rax, "rbx", self.rbx, "rcx", self.rcx)?;
        write("rdx", self.rdx, "rsi", self.rsi, "rdi", self.rdi)?;
        write("rbp", self.rbp, "r8 ", self.r8, "r9 ", self.r9)?;
        write("r10", self.r10, "r11", self.r11, "r12", self.r12)?;
        write("r13", self.r13, "r14", self.r14, "r15", self.r15)
    }
}

/// Bytes from one stub to the next.
const STUB: u64 = 16;

// One stub per vector: an error code of 0 where the processor pushes none, the
// vector, then the registers. The processor aligns the stack to 16 bytes before
// it pushes its five words; with error code, vector and 15 registers on top the
// stack is aligned again for the call.
global_asm!(
    ".balign 16",
    "trap_stubs:",
    ".set trap_vector, 0",
    ".rept 256",
    ".balign 16",
    ".if !(trap_vector == 8 || (trap_vector >= 10 && trap_vector <= 14) || trap_vector == 17 || trap_vector == 21 || trap_vector == 29 || trap_vector == 30)",
    "push 0",
    ".endif",
    ".byte 0x68", // push imm32
    ".long trap_vector",
    "jmp trap_save",
    ".set trap_vector, trap_vector + 1",
    ".endr",
    "trap_save:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    "call {entry}",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    entry = sym trap_entry,
);

unsafe extern "C" {
    safe static trap_stubs: u8;
}

/// Address of the stub for `vector`.
pub(crate) fn stub(vector: u8) -> u64 {
    (&raw const trap_stubs) as u64 + u64::from(vector) * STUB
}

/// What the processor calls an exception.
pub(crate) fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack segment fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 floating-point exception",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        20 => "virtualization exception",
        21 => "control protection exception",
        28 => "hypervisor injection exception",
        29 => "VMM communication exception",
        30 => "security exception",
        _ => "reserved exception",
    }
}

extern "C" fn trap_entry(frame: &mut TrapFrame) {
    match frame.vector {
        2 => nmi(frame),
        // A breakpoint that no debugger took is passed over.
        3 => log::warn!("breakpoint at {:#x}", frame.rip),
        // One instruction made: a self-test's wish, or nobody's.
        18 => mce::handle(frame),
        1 if restart::is_probing() => restart::stepped(frame),
        14 if task::space::fault(frame) => {}
        12 | 13 if task::space::stray(frame) => {}
        0..32 => crash::exception(frame),
        vector => {
            restart::rewind(frame);
            percpu::enter_irq();
            interrupt(vector as u8, frame);
            percpu::leave_irq();
            if !percpu::in_irq() {
                task::preempt_from_irq();
            }
        }
    }
}

fn interrupt(vector: u8, frame: &TrapFrame) {
    match vector {
        apic::TIMER_VECTOR => {
            apic::tick();
            task::tick();
            mce::tick();
            // The tests run on the boot CPU, and devices interrupt it.
            if percpu::cpu_id() == CpuId(0) {
                input::poll();
                selftests::watchdog(frame);
            }
        }
        apic::CALL_VECTOR => {
            // Whoever posts from now on interrupts once more.
            apic::end_of_interrupt();
            smp::serve();
        }
        apic::SPURIOUS_VECTOR => {}
        devices::FIRST..=devices::LAST => devices::interrupt(vector),
        messages::FIRST..=messages::LAST => messages::interrupt(vector),
        pic::FIRST..=pic::LAST => devices::pic_interrupt(vector),
        _ => log::warn!("interrupt {vector:#04x} that nobody asked for"),
    }
}

/// An NMI is the watchdog's, which interrupts even code that has interrupts
/// off, or the chipset's word that hardware has failed; or another CPU's that
/// crashes, or that asks what goes on here. The chipset's come to the boot CPU
/// only.
fn nmi(frame: &TrapFrame) {
    if smp::must_stop() {
        smp::stop_here();
    }
    task::answer(frame);
    if percpu::cpu_id() != CpuId(0) {
        return;
    }
    if pic::hardware_failure() {
        crash::exception(frame);
    }
    pic::acknowledge_timer();
    selftests::watchdog(frame);
}
