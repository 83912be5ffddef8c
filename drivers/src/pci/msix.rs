//! MSI-X: a table of messages in one of the device's own base address ranges,
//! each of which a write to the local APIC's addresses delivers. Calls
//! `capability`.

use super::capability::MSIX;
use super::{Bar, Bars, Function, capabilities, read};
use crate::Mmio;
use pci_types::ConfigRegionAccess;

/// Bytes of a table's entry.
const ENTRY: u64 = 16;
/// In the control register, the upper half of the first word.
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
/// In an entry's last word.
const MASKED: u32 = 1;

/// Where a function's table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    /// Offset of the capability.
    offset: u16,
    /// Messages that there is room for.
    pub entries: u16,
    /// The base address register whose range the table lies in.
    pub bar: u8,
    /// Bytes from there to the table.
    pub table: u64,
}

/// What is written where to raise an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Physical address.
    pub addr: u64,
    /// What is written there.
    pub data: u32,
}

/// The message that interrupts the CPU whose local APIC has number `apic` with
/// `vector`: fixed delivery, by the edge. None for a CPU that no message
/// without remapping reaches.
pub fn message(apic: u32, vector: u8) -> Option<Entry> {
    // All ones would be everybody.
    (apic < 0xff)
        .then_some(Entry { addr: 0xfee0_0000 | u64::from(apic) << 12, data: vector.into() })
}

impl Msix {
    /// The function's table, if it has one that lies where it can be.
    pub fn find(access: &dyn ConfigRegionAccess, function: &Function, bars: &Bars) -> Option<Self> {
        let mut list = capabilities(access, function.address);
        let found = list.find(|it| it.id == MSIX && it.offset + 8 < super::CONFIG_BYTES)?;
        let word = read(access, function.address, found.offset + 4);
        let (bar, table) = ((word & 7) as u8, u64::from(word & !7));
        let entries = (found.control & 0x7ff) + 1;
        let Some(Some(Ok(Bar::Memory { bytes, .. }))) = bars.get(usize::from(bar)) else {
            return None;
        };
        let fits = table.checked_add(u64::from(entries) * ENTRY)? <= *bytes;
        fits.then_some(Self { offset: found.offset, entries, bar, table })
    }

    /// Masks every message, and has the function send messages instead of using
    /// its pin. False if it does not.
    pub fn enable(
        &self,
        access: &dyn ConfigRegionAccess,
        function: &Function,
        table: &impl Mmio,
    ) -> bool {
        let word = read(access, function.address, self.offset);
        // SAFETY: no message can be sent yet, for all are masked.
        unsafe { access.write(function.address, self.offset, word | ENABLE | MASK_ALL) };
        for at in 0..self.entries {
            table.write32(u32::from(at) * ENTRY as u32 + 12, MASKED);
        }
        // SAFETY: every single message is masked now.
        unsafe { access.write(function.address, self.offset, word & !MASK_ALL | ENABLE) };
        read(access, function.address, self.offset) & (ENABLE | MASK_ALL) == ENABLE
    }

    /// Has the function use its pin again, or nothing.
    pub fn disable(&self, access: &dyn ConfigRegionAccess, function: &Function) {
        let word = read(access, function.address, self.offset);
        // SAFETY: the function sends no messages any more.
        unsafe { access.write(function.address, self.offset, word & !ENABLE) };
    }

    /// Sets message `at`, or masks it. False beyond the table.
    ///
    /// # Safety
    ///
    /// The message must be one that a CPU takes as an interrupt, with a vector
    /// that has a handler.
    pub unsafe fn set(&self, table: &impl Mmio, at: u16, message: Option<Entry>) -> bool {
        if at >= self.entries {
            return false;
        }
        let base = u32::from(at) * ENTRY as u32;
        table.write32(base + 12, MASKED);
        if let Some(Entry { addr, data }) = message {
            table.write32(base, addr as u32);
            table.write32(base + 4, (addr >> 32) as u32);
            table.write32(base + 8, data);
            table.write32(base + 12, 0);
        }
        true
    }
}
