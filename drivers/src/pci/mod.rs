//! PCI: what is there, where its registers are, what it can do. Reads
//! configuration spaces, and believes nothing: capability lists may go round in
//! circles, sizes may be none, a device may go away in the middle. Calls
//! `pci_types`, for addresses, headers and the form of an access.
//!
//! Of that crate not used: its walk over capabilities, which follows a list that
//! goes round for ever, and its reading of base address registers, which panics
//! on reserved types and leaves the device decoding while its registers are
//! overwritten.

mod assign;
mod bar;
mod capability;
mod function;
mod msix;
mod scan;
mod slot;

pub use assign::{Window, windows};
pub use bar::{Bar, BarError, Bars, MAX_BARS};
pub(crate) use capability::VENDOR;
pub use capability::{Capabilities, Capability, capabilities};
pub use function::Function;
pub use msix::{Entry, Msix, message};
pub use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciAddress};
pub use scan::{Oddity, scan};
pub use slot::{BLINK_MS, News, Slot, Wish};

/// Bytes of the configuration space that both kinds of access reach.
pub const CONFIG_BYTES: u16 = 256;

/// The 32-bit word at `offset`, a multiple of 4 below [`CONFIG_BYTES`].
pub(crate) fn read(access: &dyn ConfigRegionAccess, at: PciAddress, offset: u16) -> u32 {
    debug_assert!(offset < CONFIG_BYTES && offset.is_multiple_of(4));
    // SAFETY: every function's configuration space has this word; what is not
    // there reads as ones, and reading changes nothing that matters.
    unsafe { access.read(at, offset) }
}
