//! One function of a device: what its header says, and its command register.
//! Calls nothing.

use super::read;
use core::fmt;
use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciAddress, PciHeader};

/// A function that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Who made it.
    pub vendor: u16,
    /// Which of theirs it is.
    pub device: u16,
    /// Class, subclass and interface, 24 bits.
    pub class: u32,
    /// Its version.
    pub revision: u8,
    /// What the rest of its configuration space looks like.
    pub header: HeaderType,
    /// Which of its interrupt's pins it uses: 1 to 4 for A to D, 0 for none.
    pub pin: u8,
    /// To which interrupt the firmware says it has routed the pin.
    pub line: u8,
}

/// As Linux's log has it.
impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, vendor, device, class, .. } = self;
        write!(f, "pci {address}: [{vendor:04x}:{device:04x}] class {class:#08x}")
    }
}

impl Function {
    /// What is at `address`, if anything.
    pub fn at(access: &dyn ConfigRegionAccess, address: PciAddress) -> Option<Self> {
        let header = PciHeader::new(address);
        let (vendor, device) = header.id(access);
        // Nothing there; or, as no vendor has it, broken.
        if vendor == 0xffff || vendor == 0 {
            return None;
        }
        let (revision, base, sub, interface) = header.revision_and_class(access);
        let interrupt = read(access, address, 0x3c);
        Some(Self {
            address,
            vendor,
            device,
            class: u32::from(base) << 16 | u32::from(sub) << 8 | u32::from(interface),
            revision,
            header: header.header_type(access),
            pin: (interrupt >> 8) as u8,
            line: interrupt as u8,
        })
    }

    /// Its command register; all ones if it is not there any more.
    pub fn command(&self, access: &dyn ConfigRegionAccess) -> CommandRegister {
        PciHeader::new(self.address).command(access)
    }

    /// Changes its command register, and returns what that says then.
    ///
    /// # Safety
    ///
    /// What the function gets to decode must not lie where something else does,
    /// and who lets it master the bus answers for what it writes.
    pub unsafe fn set_command(
        &self,
        access: &dyn ConfigRegionAccess,
        command: CommandRegister,
    ) -> CommandRegister {
        // The upper half is the status, whose bits are cleared by ones.
        let word = u32::from(command.bits());
        // SAFETY: the caller's word.
        unsafe { access.write(self.address, 4, word) };
        self.command(access)
    }

    /// Keeps the function from memory and from its interrupt pin. True if it is
    /// certain: its command register says so, or it is not there any more.
    pub fn cut_off(&self, access: &dyn ConfigRegionAccess) -> bool {
        let command = self.command(access);
        if command.bits() == u16::MAX {
            return true;
        }
        let quiet = command - CommandRegister::BUS_MASTER_ENABLE;
        // SAFETY: it gets no right that it has not got.
        let now = unsafe { self.set_command(access, quiet | CommandRegister::INTERRUPT_DISABLE) };
        now.bits() == u16::MAX || !now.contains(CommandRegister::BUS_MASTER_ENABLE)
    }
}
