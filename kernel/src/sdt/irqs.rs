//! Where an ISA bus's interrupts arrive: which pin of which I/O APIC, and what
//! the signal looks like (ACPI 6.5, 5.2.12.3 and 5.2.12.5). Pure.

use super::{Entry, Madt};

/// I/O APICs at most; those beyond are ignored.
pub const MAX_IO_APICS: usize = 8;
/// Interrupts of an ISA bus.
const ISA: usize = 16;

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IoApic {
    /// Physical address of its registers.
    pub addr: u32,
    /// The global number of its first pin.
    pub base: u32,
}

/// How an interrupt's signal looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signal {
    /// Low means asserted.
    pub active_low: bool,
    /// Triggered by the level, not by the edge.
    pub level: bool,
}

/// Where an interrupt arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The I/O APIC, by its place in [`Irqs::io_apics`].
    pub io_apic: usize,
    /// Its pin. There may be fewer: that the I/O APIC itself tells.
    pub pin: u32,
    /// The signal.
    pub signal: Signal,
}

/// The I/O APICs, and where ISA interrupts do not go where they usually go.
#[derive(Clone, Copy, Debug)]
pub struct Irqs {
    io_apics: [IoApic; MAX_IO_APICS],
    len: usize,
    moved: [Option<(u32, Signal)>; ISA],
}

impl Irqs {
    /// A machine without I/O APICs.
    pub const NONE: Self =
        Self { io_apics: [IoApic { addr: 0, base: 0 }; MAX_IO_APICS], len: 0, moved: [None; ISA] };

    /// What `madt` tells.
    pub fn new(madt: &Madt<'_>) -> Self {
        let mut irqs = Self::NONE;
        for entry in madt.entries().flatten() {
            match entry {
                Entry::IoApic(io_apic) if irqs.len < MAX_IO_APICS && io_apic.addr != 0 => {
                    irqs.io_apics[irqs.len] = io_apic;
                    irqs.len += 1;
                }
                Entry::Moved { irq, to, signal } => {
                    if let Some(moved) = irqs.moved.get_mut(usize::from(irq)) {
                        *moved = Some((to, signal));
                    }
                }
                _ => {}
            }
        }
        irqs
    }

    /// The I/O APICs.
    pub fn io_apics(&self) -> &[IoApic] {
        &self.io_apics[..self.len]
    }

    /// Where ISA interrupt `irq` arrives, if anywhere.
    pub fn route(&self, irq: u8) -> Option<Route> {
        // As an ISA bus has it: by the rising edge.
        self.route_as(irq, Signal { active_low: false, level: false })
    }

    /// Where interrupt `irq` arrives that PCI devices share.
    pub fn shared_route(&self, irq: u8) -> Option<Route> {
        self.route_as(irq, Signal { active_low: true, level: true })
    }

    /// Where `irq` arrives: under its own number with the signal that is usual
    /// for it, unless the firmware says otherwise.
    fn route_as(&self, irq: u8, usual: Signal) -> Option<Route> {
        let usual = (irq.into(), usual);
        let (global, signal) = self.moved.get(usize::from(irq))?.unwrap_or(usual);
        let io_apics = self.io_apics().iter().enumerate();
        let (io_apic, found) =
            io_apics.filter(|(_, it)| it.base <= global).max_by_key(|(_, it)| it.base)?;
        Some(Route { io_apic, pin: global - found.base, signal })
    }
}
