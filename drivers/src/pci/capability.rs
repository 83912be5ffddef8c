//! The list of capabilities. Calls nothing.

use super::read;
use pci_types::{ConfigRegionAccess, PciAddress};

/// A vendor's own.
pub(crate) const VENDOR: u8 = 0x09;
/// MSI-X.
pub(crate) const MSIX: u8 = 0x11;

/// Where the header ends.
const HEADER: u8 = 0x40;
/// The status register: bit 4 says that there is a list.
const STATUS: u16 = 4;
const HAS_LIST: u32 = 1 << 20;
const LIST: u16 = 0x34;

/// One of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Which.
    pub id: u8,
    /// Where it begins, a multiple of 4 from 0x40 on.
    pub offset: u16,
    /// The upper half of its first word.
    pub control: u16,
}

/// The list, as far as it makes sense: each entry once.
pub struct Capabilities<'a> {
    access: &'a dyn ConfigRegionAccess,
    address: PciAddress,
    next: u8,
    /// Words that were visited.
    seen: u64,
    bent: bool,
}

/// The capabilities of the function at `address`.
pub fn capabilities(access: &dyn ConfigRegionAccess, address: PciAddress) -> Capabilities<'_> {
    let has = read(access, address, STATUS) & HAS_LIST != 0;
    let next = if has { read(access, address, LIST) as u8 & !3 } else { 0 };
    Capabilities { access, address, next, seen: 0, bent: false }
}

impl Capabilities<'_> {
    /// Whether the list ended where no list ends: in the header, or in itself.
    pub const fn is_bent(&self) -> bool {
        self.bent
    }
}

impl Iterator for Capabilities<'_> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let offset = core::mem::take(&mut self.next);
        if offset == 0 {
            return None;
        }
        let bit = 1_u64 << (offset / 4);
        if offset < HEADER || self.seen & bit != 0 {
            self.bent = true;
            return None;
        }
        self.seen |= bit;
        let word = read(self.access, self.address, offset.into());
        // All ones: the device is gone.
        if word == u32::MAX {
            self.bent = true;
            return None;
        }
        self.next = (word >> 8) as u8 & !3;
        Some(Capability { id: word as u8, offset: offset.into(), control: (word >> 16) as u16 })
    }
}
