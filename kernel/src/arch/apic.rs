//! This CPU's local APIC, by registers in memory or, where the firmware has
//! switched to it, by x2APIC's model-specific registers: a periodic timer, and
//! the line on which the watchdog's NMI comes. Calls `time`, `vm::layout`.

use crate::arch::time;
use crate::vm::layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use mm::types::Pfn;
use volatile::VolatilePtr;
use x86_64::registers::model_specific::Msr;

/// Vector of the timer's interrupt.
pub(crate) const TIMER_VECTOR: u8 = 0x40;
/// Vector of interrupts that went away before they were taken.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// Timer interrupts per second.
const HZ: u64 = 100;

/// `IA32_APIC_BASE`.
const APIC_BASE: u32 = 0x1b;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

/// A register: its offset in memory; x2APIC's number is 0x800 plus a sixteenth
/// of it.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Register {
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    LvtTimer = 0x320,
    LvtLint0 = 0x350,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    DivideConfig = 0x3e0,
}

const SOFTWARE_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const LVT_NMI: u32 = 0b100 << 8;
/// Divide the timer's clock by 16.
const DIVIDE_16: u32 = 0b0011;

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Access {
    /// There is none, or it is switched off.
    None = 0,
    /// In memory, mapped at [`layout::LOCAL_APIC`].
    Memory = 1,
    /// By model-specific registers.
    X2Apic = 2,
}

static ACCESS: AtomicU8 = AtomicU8::new(Access::None as u8);
static TICKS: AtomicU64 = AtomicU64::new(0);

/// What the firmware left: how to reach the APIC, and the frame to map if that
/// is by memory. To be asked only on a CPU that has one.
pub(crate) fn firmware_setting() -> (Access, Option<Pfn>) {
    // SAFETY: every CPU with a local APIC has this register.
    let base = unsafe { Msr::new(APIC_BASE).read() };
    match (base & BASE_ENABLED != 0, base & BASE_X2APIC != 0) {
        (false, _) => (Access::None, None),
        (true, true) => (Access::X2Apic, None),
        (true, false) => (Access::Memory, Some(Pfn::containing(base & 0x000f_ffff_ffff_f000))),
    }
}

fn access() -> Access {
    match ACCESS.load(Ordering::Relaxed) {
        1 => Access::Memory,
        2 => Access::X2Apic,
        _ => Access::None,
    }
}

fn memory(register: Register) -> VolatilePtr<'static, u32> {
    let addr = layout::LOCAL_APIC as usize + register as usize;
    let ptr = core::ptr::with_exposed_provenance_mut(addr);
    // SAFETY: `init` was promised that the registers are mapped there.
    unsafe { VolatilePtr::new(NonNull::new_unchecked(ptr)) }
}

fn msr(register: Register) -> Msr {
    Msr::new(0x800 + register as u32 / 16)
}

fn read(register: Register) -> u32 {
    match access() {
        Access::None => 0,
        Access::Memory => memory(register).read(),
        // SAFETY: in x2APIC mode the registers used here exist.
        Access::X2Apic => unsafe { msr(register).read() as u32 },
    }
}

fn write(register: Register, value: u32) {
    match access() {
        Access::None => {}
        Access::Memory => memory(register).write(value),
        // SAFETY: in x2APIC mode the registers used here exist, and no value
        // written here touches memory.
        Access::X2Apic => unsafe { msr(register).write(u64::from(value)) },
    }
}

/// Starts the timer with an interrupt every 10 ms, and makes an NMI of what the
/// 8259 sends. Returns the timer's clock (kHz), or None if it does not run.
///
/// # Safety
///
/// With [`Access::Memory`] the registers must be mapped, uncached, at
/// [`layout::LOCAL_APIC`]; the vectors above must have handlers.
pub(crate) unsafe fn init(how: Access) -> Option<u64> {
    ACCESS.store(how as u8, Ordering::Relaxed);
    if how == Access::None {
        return None;
    }
    write(Register::Spurious, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(Register::TaskPriority, 0);
    write(Register::LvtTimer, LVT_MASKED);
    write(Register::LvtLint0, LVT_NMI);
    write(Register::DivideConfig, DIVIDE_16);
    write(Register::InitialCount, u32::MAX);
    let (per_ms, start) = (time::counts_per_ms(), time::counter());
    let mut passed = 0;
    while passed < 5 * per_ms {
        passed = time::counter().wrapping_sub(start);
    }
    let counted = u64::from(u32::MAX - read(Register::CurrentCount));
    let khz = (u128::from(counted) * u128::from(per_ms) / u128::from(passed.max(1))) as u64;
    let initial = khz * 1000 / HZ;
    if initial == 0 {
        write(Register::InitialCount, 0);
        return None;
    }
    write(Register::LvtTimer, LVT_PERIODIC | u32::from(TIMER_VECTOR));
    write(Register::InitialCount, initial.min(u64::from(u32::MAX)) as u32);
    Some(khz * 16)
}

/// Notes a timer interrupt and makes way for the next.
pub(crate) fn tick() {
    TICKS.fetch_add(1, Ordering::Relaxed);
    write(Register::EndOfInterrupt, 0);
}

/// Whether the timer runs.
pub(crate) fn is_running() -> bool {
    access() != Access::None && read(Register::InitialCount) != 0
}

/// Where [`ticks`] are counted.
pub(crate) fn tick_counter() -> *const u64 {
    TICKS.as_ptr()
}

/// Timer interrupts so far.
pub(crate) fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}
