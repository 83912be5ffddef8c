//! Clearing and copying whole pages with the widest registers there are. Calls
//! `irq`.
//!
//! Processors with fast string operations do best with those. On others a page
//! is cleared and copied 32 bytes at a time, where they have AVX. Nothing else in
//! the kernel uses these registers, so nobody saves them: interrupts are masked
//! for as long as one page takes, and no register keeps anything beyond that.

use super::irq;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use mm::types::PAGE_SIZE;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// All CPUs that run have their wide registers switched on.
static WIDE: AtomicBool = AtomicBool::new(false);

/// Whether wide registers are there, and better than string operations.
fn wanted() -> bool {
    const XSAVE: u32 = 1 << 26;
    const AVX: u32 = 1 << 28;
    const FAST_STRINGS: u32 = 1 << 9;
    let has = __cpuid(1).ecx;
    let fast = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & FAST_STRINGS != 0;
    has & (XSAVE | AVX) == XSAVE | AVX && !fast
}

/// Switches this CPU's wide registers on, if they are worth it. On the boot CPU
/// before any other is started; on these before they do anything with memory.
pub(crate) fn init() {
    if !wanted() {
        WIDE.store(false, Relaxed);
        return;
    }
    // SAFETY: the processor has them; no code but that below uses them.
    unsafe {
        Cr0::update(|flags| {
            flags.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            flags.insert(Cr0Flags::MONITOR_COPROCESSOR);
        });
        Cr4::update(|flags| flags.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXSAVE));
        XCr0::write(XCr0Flags::X87 | XCr0Flags::SSE | XCr0Flags::AVX);
    }
    WIDE.store(true, Relaxed);
}

/// Clears whole pages.
///
/// # Safety
/// `bytes`, a multiple of a page, from `to` on, where a page begins, are the
/// caller's to write.
pub(crate) unsafe fn clear(to: *mut u8, bytes: usize) {
    if !WIDE.load(Relaxed) {
        // SAFETY: the caller's word.
        return unsafe { to.write_bytes(0, bytes) };
    }
    for at in (0..bytes).step_by(PAGE_SIZE) {
        let flags = irq::save();
        // SAFETY: the caller's word; the registers are nobody's.
        unsafe {
            asm!(
                "vpxor xmm0, xmm0, xmm0",
                "2:",
                "vmovdqa [{to}], ymm0",
                "vmovdqa [{to} + 32], ymm0",
                "vmovdqa [{to} + 64], ymm0",
                "vmovdqa [{to} + 96], ymm0",
                "vmovdqa [{to} + 128], ymm0",
                "vmovdqa [{to} + 160], ymm0",
                "vmovdqa [{to} + 192], ymm0",
                "vmovdqa [{to} + 224], ymm0",
                "add {to}, 256",
                "dec {left:e}",
                "jnz 2b",
                "vzeroupper",
                to = inout(reg) to.wrapping_add(at) => _,
                left = inout(reg) PAGE_SIZE / 256 => _,
                options(nostack),
            );
        }
        irq::restore(flags);
    }
}

/// Copies one page.
///
/// # Safety
/// The two pages, which begin where pages begin, are different ones, the
/// caller's to read and to write.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8) {
    if !WIDE.load(Relaxed) {
        // SAFETY: the caller's word.
        return unsafe { to.copy_from_nonoverlapping(from, PAGE_SIZE) };
    }
    let flags = irq::save();
    // SAFETY: the caller's word; the registers are nobody's.
    unsafe {
        asm!(
            "2:",
            "vmovdqa ymm0, [{from}]",
            "vmovdqa ymm1, [{from} + 32]",
            "vmovdqa ymm2, [{from} + 64]",
            "vmovdqa ymm3, [{from} + 96]",
            "vmovdqa [{to}], ymm0",
            "vmovdqa [{to} + 32], ymm1",
            "vmovdqa [{to} + 64], ymm2",
            "vmovdqa [{to} + 96], ymm3",
            "add {from}, 128",
            "add {to}, 128",
            "dec {left:e}",
            "jnz 2b",
            "vzeroupper",
            to = inout(reg) to => _,
            from = inout(reg) from => _,
            left = inout(reg) PAGE_SIZE / 128 => _,
            options(nostack),
        );
    }
    irq::restore(flags);
}
