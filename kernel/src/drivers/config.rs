//! Access to PCI configuration spaces: through memory where the firmware says
//! where, through ports otherwise. Calls `acpi`, `registers`.

use super::registers::{self, NotMapped, Registers};
use crate::acpi;
use crate::arch::irq::IrqMutex;
use crate::memory::iomem;
use ::drivers::Mmio;
use ::drivers::pci::{ConfigRegionAccess, PciAddress};
use mm::sync::LockRank;
use quarry_kernel::sdt::{Ecam, EcamError, Signature, add_ecam, ecams};
use spin::Once;
use x86_64::instructions::port::Port;

/// Port for the address of what is read or written at [`DATA`].
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// Whoever holds it may use the ports.
static PORTS: IrqMutex<()> = IrqMutex::new(LockRank::Leaf, ());

/// Segments that there is room for.
const SEGMENTS: usize = 8;

/// All configuration spaces.
pub(super) struct Config {
    mapped: [Option<(Ecam, Registers)>; SEGMENTS],
    /// There is something behind the ports.
    ports: bool,
}

static CONFIG: Once<Config> = Once::new();

/// Finds out how configuration spaces are reached. Once, in a thread; None if
/// not at all.
pub(super) fn open() -> Option<&'static Config> {
    let config = CONFIG.call_once(|| {
        let mut mapped = [const { None }; SEGMENTS];
        for ecam in acpi::find_all(Signature::MCFG).flat_map(ecams) {
            if let Err(why) = add_ecam(&mut mapped, ecam, map) {
                say_unused(&ecam, &why);
            }
        }
        Config { mapped, ports: has_ports() }
    });
    (config.ports || config.segments().next().is_some()).then_some(config)
}

fn map(ecam: &Ecam) -> Result<Registers, NotMapped> {
    let Ecam { segment, first, last, addr } = *ecam;
    let registers = registers::map(addr, ecam.bytes())?;
    let name = format_args!("PCI ECAM {segment:04x} [bus {first:02x}-{last:02x}]");
    iomem::add(addr, addr + ecam.bytes(), name);
    log::info!("PCI: ECAM {ecam}");
    Ok(registers)
}

/// Says why `ecam` is left out.
fn say_unused(ecam: &Ecam, why: &EcamError<NotMapped>) {
    match why {
        EcamError::Overlaps(other) => log::warn!("PCI: ECAM {ecam} overlaps {other}: not used"),
        EcamError::NoRoom => log::warn!("PCI: ECAM {ecam}: one too many: not used"),
        EcamError::NotMapped(why) => log::warn!("PCI: ECAM {ecam}: {why}: not used"),
    }
}

/// Whether the ports keep an address that is written to them.
fn has_ports() -> bool {
    const ENABLE: u32 = 1 << 31;
    let _held = PORTS.lock();
    // SAFETY: the ports of PCI's first access mechanism; where there is none,
    // nothing listens, and what was there before comes back.
    unsafe {
        let mut address = Port::<u32>::new(ADDRESS);
        let before = address.read();
        address.write(ENABLE);
        let keeps = address.read() == ENABLE;
        address.write(before);
        keeps
    }
}

impl Config {
    /// The segments that there are, with their first and last bus.
    pub(super) fn segments(&self) -> impl Iterator<Item = (u16, (u8, u8))> {
        let mapped = self.mapped.iter().flatten().map(|(it, _)| (it.segment, (it.first, it.last)));
        // Where the memory that shows the first segment is unusable, ports show it.
        let first = self.ports && !self.mapped.iter().flatten().any(|(it, _)| it.segment == 0);
        first.then_some((0, (0, u8::MAX))).into_iter().chain(mapped)
    }

    /// How it is reached, for the log.
    pub(super) fn how(&self, segment: u16) -> &'static str {
        let mapped = self.mapped.iter().flatten().any(|(it, _)| it.segment == segment);
        if mapped { "ECAM" } else { "ports" }
    }

    /// The registers that show the function at `address`, and where there.
    fn mapped(&self, address: PciAddress, offset: u16) -> Option<(&Registers, u32)> {
        let bus = address.bus();
        let (ecam, registers) = self.mapped.iter().flatten().find(|(ecam, _)| {
            ecam.segment == address.segment() && (ecam.first..=ecam.last).contains(&bus)
        })?;
        let function = u32::from(address.device()) << 3 | u32::from(address.function());
        let at = u32::from(bus - ecam.first) << 20 | function << 12 | u32::from(offset & 0xffc);
        Some((registers, at))
    }

    /// Does `access` to the data port while it shows the word at `offset`.
    fn through_ports<R>(
        address: PciAddress,
        offset: u16,
        access: impl FnOnce(&mut Port<u32>) -> R,
    ) -> R {
        let function = u32::from(address.device()) << 3 | u32::from(address.function());
        let bus = u32::from(address.bus());
        let word = 1 << 31 | bus << 16 | function << 8 | u32::from(offset & 0xfc);
        let _held = PORTS.lock();
        // SAFETY: under the lock, and what is read or written is the caller's
        // affair.
        unsafe { Port::<u32>::new(ADDRESS).write(word) };
        access(&mut Port::new(DATA))
    }

    fn has(&self, address: PciAddress, offset: u16) -> bool {
        self.ports && address.segment() == 0 && offset < 256
    }
}

impl ConfigRegionAccess for Config {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        match self.mapped(address, offset) {
            Some((registers, at)) => registers.read32(at),
            None if self.has(address, offset) => {
                // SAFETY: the caller's word.
                Self::through_ports(address, offset, |data| unsafe { data.read() })
            }
            None => u32::MAX,
        }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        match self.mapped(address, offset) {
            Some((registers, at)) => registers.write32(at, value),
            None if self.has(address, offset) => {
                // SAFETY: the caller's word.
                Self::through_ports(address, offset, |data| unsafe { data.write(value) });
            }
            None => {}
        }
    }
}
