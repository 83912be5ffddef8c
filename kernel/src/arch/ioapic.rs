//! The I/O APICs, which bring devices' interrupts to CPUs: all of them masked,
//! but for those that somebody opens. A crate has this too, with a second driver
//! for local APICs in tow; it is two registers. Calls `acpi`, `cpu`, `irq`,
//! `vm::layout`.

use crate::acpi;
use crate::arch::cpu;
use crate::arch::irq::IrqMutex;
use crate::vm::layout;
use core::ptr::NonNull;
use mm::sync::LockRank;
use mm::types::{PAGE_SIZE, Pfn};
use quarry_kernel::sdt::{IoApic, Irqs, Madt, Route, Signature};
use spin::Once;
use volatile::VolatilePtr;

/// The version, and in bits 16 to 23 the number of the last pin.
const VERSION: u32 = 1;
/// The first pin's entry: two registers for each.
const ENTRIES: u32 = 0x10;

const ENTRY_ACTIVE_LOW: u32 = 1 << 13;
const ENTRY_LEVEL: u32 = 1 << 15;
const ENTRY_MASKED: u32 = 1 << 16;

/// What the firmware says. Whoever holds the lock may use the registers.
static IRQS: Once<IrqMutex<Irqs>> = Once::new();

/// Reads the firmware's list. Once, after [`acpi::init`]; what is wrong with the
/// list was said when CPUs were looked for.
pub(crate) fn discover() {
    let madt = acpi::find(Signature::MADT).and_then(|bytes| Madt::parse(bytes).ok());
    let irqs = madt.map_or(Irqs::NONE, |madt| Irqs::new(&madt));
    for (at, IoApic { addr, base }) in irqs.io_apics().iter().enumerate() {
        log::info!("IOAPIC[{at}]: address {addr:#x}, GSI {base} and up");
    }
    IRQS.call_once(|| IrqMutex::new(LockRank::Leaf, irqs));
}

/// Where the registers are to be mapped: a page's first byte, and its frame.
pub(crate) fn pages() -> impl Iterator<Item = (u64, Pfn)> {
    let irqs = IRQS.get().map_or(Irqs::NONE, |irqs| *irqs.lock());
    (0..irqs.io_apics().len())
        .map(move |at| (page(at), Pfn::containing(irqs.io_apics()[at].addr.into())))
}

fn page(at: usize) -> u64 {
    layout::IO_APICS + (at * PAGE_SIZE) as u64
}

/// One I/O APIC's registers: a number is written to the first, then the second
/// is the register with that number.
struct Window {
    select: VolatilePtr<'static, u32>,
    value: VolatilePtr<'static, u32>,
}

impl Window {
    /// The window of the I/O APIC with number `at`, whose physical address is
    /// `addr`. Under the lock.
    fn new(at: usize, addr: u32) -> Self {
        let register = |offset: u64| {
            let addr = page(at) + u64::from(addr) % PAGE_SIZE as u64 + offset;
            let ptr = core::ptr::with_exposed_provenance_mut(addr as usize);
            // SAFETY: `mask_all` was promised that the registers are mapped.
            unsafe { VolatilePtr::new(NonNull::new_unchecked(ptr)) }
        };
        Self { select: register(0), value: register(0x10) }
    }

    fn read(&self, number: u32) -> u32 {
        self.select.write(number);
        self.value.read()
    }

    fn write(&self, number: u32, value: u32) {
        self.select.write(number);
        self.value.write(value);
    }

    fn pins(&self) -> u32 {
        (self.read(VERSION) >> 16 & 0xff) + 1
    }

    fn set(&self, pin: u32, low: u32, high: u32) {
        // Masked while its halves do not belong together.
        self.write(ENTRIES + 2 * pin, ENTRY_MASKED);
        self.write(ENTRIES + 2 * pin + 1, high);
        self.write(ENTRIES + 2 * pin, low);
    }
}

/// Masks whatever the firmware has left open.
///
/// # Safety
///
/// All [`pages`] must be mapped, uncached, for good.
pub(crate) unsafe fn mask_all() {
    let Some(irqs) = IRQS.get() else { return };
    let irqs = irqs.lock();
    for (at, io_apic) in irqs.io_apics().iter().enumerate() {
        let window = Window::new(at, io_apic.addr);
        for pin in 0..window.pins() {
            window.set(pin, ENTRY_MASKED, 0);
        }
    }
}

/// Has ISA interrupt `irq` come to the CPU this runs on as `vector`. False if
/// it cannot.
pub(crate) fn open(irq: u8, vector: u8) -> bool {
    open_route(|irqs| irqs.route(irq), vector)
}

/// As [`open`], for the interrupt that PCI devices share as `line`.
pub(crate) fn open_shared(line: u8, vector: u8) -> bool {
    open_route(|irqs| irqs.shared_route(line), vector)
}

/// Masks what [`open_shared`] has opened.
pub(crate) fn close_shared(line: u8) {
    let Some(irqs) = IRQS.get() else { return };
    let irqs = irqs.lock();
    if let Some(route) = irqs.shared_route(line) {
        let window = Window::new(route.io_apic, irqs.io_apics()[route.io_apic].addr);
        if route.pin < window.pins() {
            window.set(route.pin, ENTRY_MASKED, 0);
        }
    }
}

fn open_route(route: impl Fn(&Irqs) -> Option<Route>, vector: u8) -> bool {
    let Some(irqs) = IRQS.get() else { return false };
    let irqs = irqs.lock();
    let Some(route) = route(&irqs) else { return false };
    let window = Window::new(route.io_apic, irqs.io_apics()[route.io_apic].addr);
    // 8 bits of physical APIC id; all ones would be everybody.
    let cpu = cpu::features().apic_id;
    if route.pin >= window.pins() || cpu >= 0xff {
        return false;
    }
    let mut low = u32::from(vector);
    if route.signal.active_low {
        low |= ENTRY_ACTIVE_LOW;
    }
    if route.signal.level {
        low |= ENTRY_LEVEL;
    }
    window.set(route.pin, low, cpu << 24);
    true
}
