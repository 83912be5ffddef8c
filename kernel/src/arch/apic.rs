//! This CPU's local APIC: how its registers are reached on this machine, its
//! periodic timer, and commands to other CPUs. What is done with the registers is
//! `quarry_kernel::lapic`'s. Calls `time`, `irq`, `percpu`, `vm::layout`.

use crate::arch::{irq, percpu, time};
use crate::vm::layout;
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use mm::types::Pfn;
use quarry_kernel::lapic::{
    self, APIC_BASE, Command, Destination, LocalApic, Mmio, Mode, Msrs, NotSent, Register, X2Apic,
    XApic,
};
use quarry_kernel::sdt::Lint;
use volatile::VolatilePtr;
use x86_64::registers::model_specific::Msr;

/// Vector of the timer's interrupt.
pub(crate) const TIMER_VECTOR: u8 = 0x40;
/// Vector by which a CPU learns that it has mail: above all devices'.
pub(crate) const CALL_VECTOR: u8 = 0xf0;
/// Vector of interrupts that went away before they were taken.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// Timer interrupts per second.
const HZ: u64 = 100;

/// The registers' page, mapped at [`layout::LOCAL_APIC`].
struct Window;

impl Window {
    fn register(offset: u16) -> VolatilePtr<'static, u32> {
        let addr = layout::LOCAL_APIC as usize + usize::from(offset);
        let ptr = core::ptr::with_exposed_provenance_mut(addr);
        // SAFETY: `init` was promised that the registers are mapped there.
        unsafe { VolatilePtr::new(NonNull::new_unchecked(ptr)) }
    }
}

impl Mmio for Window {
    fn read(&self, offset: u16) -> u32 {
        Self::register(offset).read()
    }

    fn write(&self, offset: u16, value: u32) {
        Self::register(offset).write(value);
    }
}

/// This CPU's model-specific registers.
struct CpuMsrs;

impl Msrs for CpuMsrs {
    fn read(&self, number: u32) -> u64 {
        // SAFETY: asked for the APIC's registers only, in the mode that has them.
        unsafe { Msr::new(number).read() }
    }

    fn write(&self, number: u32, value: u64) {
        // SAFETY: as above; no value that the APIC takes touches memory.
        unsafe { Msr::new(number).write(value) };
    }

    fn fence(&self) {
        // SAFETY: orders memory accesses, nothing else.
        unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
    }
}

static XAPIC: XApic<Window> = XApic(Window);
static X2APIC: X2Apic<CpuMsrs> = X2Apic(CpuMsrs);

/// The mode of all CPUs' APICs.
static MODE: AtomicU8 = AtomicU8::new(Mode::Off as u8);
/// At which the timer counts (kHz), 0 if it does not.
static TIMER_KHZ: AtomicU64 = AtomicU64::new(0);

/// This CPU's APIC, if it is on.
fn this() -> Option<&'static dyn LocalApic> {
    match MODE.load(Ordering::Relaxed) {
        mode if mode == Mode::XApic as u8 => Some(&XAPIC),
        mode if mode == Mode::X2Apic as u8 => Some(&X2APIC),
        _ => None,
    }
}

/// Switches this CPU's APIC on, as an x2APIC if it `x2apic` says so. Returns the
/// mode, and the frame to map if the registers are in memory. To be asked only
/// on a CPU that has one.
pub(crate) fn switch_on(x2apic: bool) -> (Mode, Option<Pfn>) {
    let mode = lapic::switch_on(&CpuMsrs, x2apic);
    (mode, (mode == Mode::XApic).then(|| lapic::frame(CpuMsrs.read(APIC_BASE))))
}

/// Prepares the boot CPU's APIC, which is in `mode`: NMIs at the pin of `nmi`
/// and of what the 8259 sends, and the timer with an interrupt every 10 ms.
/// Returns the timer's clock (kHz), or None if it does not run.
///
/// # Safety
///
/// With [`Mode::XApic`] the registers must be mapped, uncached, at
/// [`layout::LOCAL_APIC`]; the vectors above must have handlers.
pub(crate) unsafe fn init(mode: Mode, nmi: Option<Lint>) -> Option<u64> {
    MODE.store(mode as u8, Ordering::Relaxed);
    let apic = this()?;
    lapic::enable(apic, SPURIOUS_VECTOR, nmi, true);
    let khz = lapic::measure_timer(apic, time::counts_per_ms(), &mut time::counter)?;
    TIMER_KHZ.store(khz, Ordering::Relaxed);
    lapic::start_timer(apic, khz, HZ, TIMER_VECTOR).then_some(khz * 16)
}

/// Prepares the APIC of a CPU that was started by another one, alike but that
/// the 8259 reaches the boot CPU only. False if it cannot be used.
pub(crate) fn init_secondary(nmi: Option<Lint>) -> bool {
    let Some(apic) = this() else { return false };
    let mode = lapic::switch_on(&CpuMsrs, MODE.load(Ordering::Relaxed) == Mode::X2Apic as u8);
    if mode as u8 != MODE.load(Ordering::Relaxed) {
        return false;
    }
    lapic::enable(apic, SPURIOUS_VECTOR, nmi, false);
    let khz = TIMER_KHZ.load(Ordering::Relaxed);
    khz == 0 || lapic::start_timer(apic, khz, HZ, TIMER_VECTOR)
}

/// Stops this CPU's timer.
pub(crate) fn stop_timer() {
    if let Some(apic) = this() {
        lapic::stop_timer(apic);
    }
}

/// Whether this machine's CPUs can be told anything.
pub(crate) fn is_on() -> bool {
    this().is_some()
}

/// Sends other CPUs a command. From any context.
///
/// # Errors
///
/// [`NotSent`]; a machine without APICs has nobody to send to.
pub(crate) fn send(command: Command, to: Destination) -> Result<(), NotSent> {
    let Some(apic) = this() else { return Err(NotSent::Stuck) };
    let flags = irq::save();
    let sent = apic.send(command, to);
    irq::restore(flags);
    sent
}

/// Makes way for the next interrupt.
pub(crate) fn end_of_interrupt() {
    if let Some(apic) = this() {
        lapic::end_of_interrupt(apic);
    }
}

/// Notes a timer interrupt on this CPU and makes way for the next.
pub(crate) fn tick() {
    percpu::this().ticks.fetch_add(1, Ordering::Relaxed);
    end_of_interrupt();
}

/// Whether this CPU's timer runs.
pub(crate) fn is_running() -> bool {
    this().is_some_and(|apic| apic.read(Register::InitialCount) != 0)
}

/// Where this CPU's [`ticks`] are counted.
pub(crate) fn tick_counter() -> *const u64 {
    percpu::this().ticks.as_ptr()
}

/// Timer interrupts of this CPU so far.
pub(crate) fn ticks() -> u64 {
    percpu::this().ticks.load(Ordering::Relaxed)
}
