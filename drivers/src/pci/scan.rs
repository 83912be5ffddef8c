//! Finding what is there: from the first bus through all bridges. Calls
//! `function`.

use super::Function;
use core::fmt;
use pci_types::{ConfigRegionAccess, HeaderType, PciAddress, PciHeader, PciPciBridgeHeader};

/// What is odd about a bridge; what lies behind it is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Oddity {
    /// The bridge.
    pub bridge: PciAddress,
    /// The bus that it says is behind it.
    pub bus: u8,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bridge, bus } = self;
        write!(f, "pci {bridge}: bridge to bus {bus:02x}, which cannot be: left out")
    }
}

/// Buses that were seen, or are to be.
#[derive(Clone, Copy, Default)]
struct BusSet([u64; 4]);

impl BusSet {
    fn contains(&self, bus: u8) -> bool {
        self.0[usize::from(bus / 64)] >> (bus % 64) & 1 != 0
    }

    fn insert(&mut self, bus: u8) {
        self.0[usize::from(bus / 64)] |= 1 << (bus % 64);
    }

    fn pop(&mut self) -> Option<u8> {
        let word = self.0.iter().position(|&word| word != 0)?;
        let bit = self.0[word].trailing_zeros();
        self.0[word] &= self.0[word] - 1;
        Some((word as u32 * 64 + bit) as u8)
    }
}

/// Class and subclass of a host's bridge.
const HOST_BRIDGE: u32 = 0x0600;

/// Calls `found` for each function of segment `segment`, from bus `first` on and
/// through bridges, on no bus beyond `last`; bus by bus, and each bus once.
/// Where a second host bridge shows that there are other root buses, all that no
/// bridge leads to are looked at. Bridges whose buses make no sense go to `odd`.
pub fn scan(
    access: &dyn ConfigRegionAccess,
    segment: u16,
    (first, last): (u8, u8),
    found: &mut dyn FnMut(&Function),
    odd: &mut dyn FnMut(Oddity),
) {
    let (mut known, mut open) = (BusSet::default(), BusSet::default());
    known.insert(first);
    open.insert(first);
    let (mut roots, mut peers) = (first.saturating_add(1)..=last, false);
    let mut next_root = |known: &BusSet| {
        let is_used = |bus| {
            (0..32).any(|at| Function::at(access, PciAddress::new(segment, bus, at, 0)).is_some())
        };
        roots.find(|&bus| !known.contains(bus) && is_used(bus))
    };
    loop {
        let bus = match open.pop() {
            Some(bus) => bus,
            None if peers => match next_root(&known) {
                Some(bus) => bus,
                None => return,
            },
            None => return,
        };
        known.insert(bus);
        for device in 0..32 {
            for number in 0..8 {
                let address = PciAddress::new(segment, bus, device, number);
                let Some(function) = Function::at(access, address) else {
                    // Without a first function there is no device.
                    if number == 0 {
                        break;
                    }
                    continue;
                };
                found(&function);
                peers |= function.class >> 8 == HOST_BRIDGE && device > 0;
                if function.header == HeaderType::PciPciBridge {
                    let behind = secondary(access, address);
                    match behind {
                        // The firmware has left it unused.
                        Some(0) | None => {}
                        Some(next) if next > bus && next <= last && !known.contains(next) => {
                            known.insert(next);
                            open.insert(next);
                        }
                        Some(next) => odd(Oddity { bridge: address, bus: next }),
                    }
                }
                let header = PciHeader::new(address);
                if number == 0 && !header.has_multiple_functions(access) {
                    break;
                }
            }
        }
    }
}

fn secondary(access: &dyn ConfigRegionAccess, address: PciAddress) -> Option<u8> {
    let bridge = PciPciBridgeHeader::from_header(PciHeader::new(address), access)?;
    Some(bridge.secondary_bus_number(access))
}
