//! The serial line that the firmware itself uses as a console, as its SPCR table
//! tells. Calls `acpi`.

use crate::acpi;
use crate::console::serial::{PORTS, Place};
use crate::vm::layout;
use core::ptr::NonNull;
use mm::types::{PAGE_SIZE, Pfn};
use quarry_kernel::sdt::{Registers, Signature, Spcr};
use quarry_kernel::tty::{FIRMWARE_LINE, LineMode};
use spin::Once;

static TABLE: Once<Option<Spcr>> = Once::new();

/// Reads the table, if there is one. Once, after [`acpi::init`].
pub(crate) fn discover() {
    TABLE.call_once(|| match acpi::find(Signature::SPCR).map(Spcr::parse) {
        None => None,
        Some(Ok(spcr)) => Some(spcr),
        Some(Err(why)) => {
            log::warn!("SPCR: ignored: {why}");
            None
        }
    });
}

/// Where its registers are to be mapped, if they are in memory: a page's first
/// byte, and its frame.
pub(crate) fn page() -> Option<(u64, Pfn)> {
    match TABLE.get()?.as_ref()?.registers {
        Registers::Memory { addr, .. } => Some((layout::UART, Pfn::containing(addr))),
        Registers::Port(_) => None,
    }
}

/// A serial line as the firmware tells of it.
pub(super) struct Line {
    /// Its number, which may be that of one that all PCs have.
    pub(super) number: u8,
    /// Where it is.
    pub(super) place: Place,
    /// Its interrupt on the ISA bus.
    pub(super) irq: Option<u8>,
    /// How it talks.
    pub(super) mode: LineMode,
}

/// The line, once the kernel's own page tables are in force.
pub(super) fn line() -> Option<Line> {
    let spcr = TABLE.get()?.as_ref()?;
    let (place, known) = match spcr.registers {
        Registers::Port(port) => {
            (Place::Port(port), PORTS.iter().position(|&(known, _)| known == port))
        }
        Registers::Memory { addr, stride } => {
            let virt = layout::UART + addr % PAGE_SIZE as u64;
            let base = NonNull::new(core::ptr::with_exposed_provenance_mut(virt as usize))?;
            (Place::Memory { base, stride }, None)
        }
    };
    let number = known.map_or(FIRMWARE_LINE, |known| known as u8);
    let baud = spcr.baud.unwrap_or(LineMode::USUAL.baud);
    Some(Line { number, place, irq: spcr.irq, mode: LineMode { baud, ..LineMode::USUAL } })
}
