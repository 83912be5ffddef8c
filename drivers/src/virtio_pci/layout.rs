//! Where a virtio device's structures are: read from its capabilities, and
//! checked against its base address registers. Calls `pci`.

use crate::DeviceType;
use crate::pci::{Bar, BarError, Bars, Function, capabilities};
use crate::pci::{CONFIG_BYTES, ConfigRegionAccess};
use core::fmt;

/// The vendor of all virtio devices.
const VENDOR: u16 = 0x1af4;
/// From here on a device's number is its type.
const MODERN: u16 = 0x1040;
/// Devices that can also do what was before virtio 1.0.
const TRANSITIONAL: u16 = 0x1000;
/// One past the last number.
const END: u16 = 0x1080;

const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

/// Bytes of the common structure that are used.
const COMMON_BYTES: u32 = 56;

/// A structure's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The base address register in whose range it lies.
    pub bar: u8,
    /// Bytes from the range's start.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// All structures of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// What it is.
    pub kind: DeviceType,
    /// Status, features, queues.
    pub common: Part,
    /// Where queues are rung.
    pub notify: Part,
    /// Bytes from one queue's bell to the next.
    pub stride: u32,
    /// Why it has interrupted, for those that use a pin.
    pub isr: Part,
    /// Its configuration, if it has one.
    pub device: Option<Part>,
}

/// Why a virtio device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotVirtio {
    /// It is of a type that nobody knows; the number.
    Type(u16),
    /// It has the interface from before virtio 1.0 only.
    Legacy,
    /// A structure is missing; its number.
    Missing(u8),
    /// A structure lies outside of what it lies in, or odd; its number.
    Misplaced(u8),
    /// The firmware has not given it an address; the register, and the bytes.
    Unassigned(u8, u64),
    /// A base address register that it needs is broken.
    Bar(u8, BarError),
}

impl fmt::Display for NotVirtio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |part| match part {
            COMMON => "common configuration",
            NOTIFY => "notifications",
            ISR => "interrupt status",
            DEVICE => "device configuration",
            _ => "structure",
        };
        match *self {
            Self::Type(number) => write!(f, "virtio device of unknown type {number}"),
            Self::Legacy => f.write_str("speaks legacy virtio only"),
            Self::Missing(part) => write!(f, "has no {}", name(part)),
            Self::Misplaced(part) => write!(f, "{} out of place", name(part)),
            Self::Unassigned(bar, bytes) => {
                write!(f, "BAR {bar} ({bytes:#x} bytes) was left without an address")
            }
            Self::Bar(bar, error) => write!(f, "BAR {bar} {error}"),
        }
    }
}

/// The type of a virtio device, if `function` is one.
fn kind(function: &Function) -> Option<Result<DeviceType, NotVirtio>> {
    if function.vendor != VENDOR || !(TRANSITIONAL..END).contains(&function.device) {
        return None;
    }
    let number = match function.device {
        // Linux `virtio_pci_legacy.c`: the type was once in the subsystem's
        // number; these six have the fixed numbers of virtio 1.0.
        0x1000 => 1,
        0x1001 => 2,
        0x1002 => 5,
        0x1003 => 3,
        0x1004 => 8,
        0x1005 => 4,
        0x1009 => 9,
        modern => match modern.checked_sub(MODERN) {
            Some(number) => number,
            None => return Some(Err(NotVirtio::Type(modern))),
        },
    };
    Some(DeviceType::try_from(number).map_err(|_| NotVirtio::Type(number)))
}

impl Layout {
    /// The type of `function`, if it is a virtio device.
    ///
    /// # Errors
    ///
    /// [`NotVirtio::Type`].
    pub fn kind(function: &Function) -> Option<Result<DeviceType, NotVirtio>> {
        kind(function)
    }

    /// Finds the structures of `function`, a virtio device. Of several of a
    /// kind the first one counts, as the standard has it.
    ///
    /// # Errors
    ///
    /// [`NotVirtio`].
    pub fn find(
        access: &dyn ConfigRegionAccess,
        function: &Function,
        bars: &Bars,
    ) -> Result<Self, NotVirtio> {
        let kind = kind(function).unwrap_or(Err(NotVirtio::Type(function.device)))?;
        let mut parts = [None; 5];
        let mut stride = None;
        for found in capabilities(access, function.address) {
            let (bytes, number) = (found.control as u8, (found.control >> 8) as u8);
            if found.id != crate::pci::VENDOR || bytes < 16 {
                continue;
            }
            let Some(part @ None) = parts.get_mut(usize::from(number)) else { continue };
            let word = |at| match found.offset + at {
                offset if offset < CONFIG_BYTES => {
                    crate::pci::read(access, function.address, offset)
                }
                _ => 0,
            };
            let bar = word(4) as u8;
            *part = Some(Part { bar, offset: word(8).into(), bytes: word(12).into() });
            if number == NOTIFY {
                stride = (bytes >= 20).then(|| word(16));
            }
        }
        let [_, common, notify, isr, device] = parts;
        if common.is_none() && notify.is_none() && isr.is_none() {
            return Err(NotVirtio::Legacy);
        }
        let check = |part: Option<Part>, number, bytes, align| {
            place(part.ok_or(NotVirtio::Missing(number))?, number, bytes, align, bars)
        };
        Ok(Self {
            kind,
            common: check(common, COMMON, COMMON_BYTES, 4)?,
            notify: check(notify, NOTIFY, 2, 2)?,
            stride: stride.ok_or(NotVirtio::Misplaced(NOTIFY))?,
            isr: check(isr, ISR, 1, 1)?,
            device: device.map(|part| check(Some(part), DEVICE, 1, 4)).transpose()?,
        })
    }

    /// The registers whose ranges hold structures.
    pub fn bars(&self) -> impl Iterator<Item = u8> {
        let parts = [Some(self.common), Some(self.notify), Some(self.isr), self.device];
        let mut seen = 0_u8;
        parts.into_iter().flatten().map(|part| part.bar).filter(move |bar| {
            let new = seen >> bar & 1 == 0;
            seen |= 1 << bar;
            new
        })
    }
}

/// `part`, if it lies in memory that has an address, with at least `bytes` bytes.
fn place(part: Part, number: u8, bytes: u32, align: u64, bars: &Bars) -> Result<Part, NotVirtio> {
    let misplaced = Err(NotVirtio::Misplaced(number));
    let range = match bars.get(usize::from(part.bar)) {
        Some(Some(Ok(Bar::Memory { bytes, .. }))) => *bytes,
        Some(Some(Ok(Bar::Unassigned { bytes }))) => {
            return Err(NotVirtio::Unassigned(part.bar, *bytes));
        }
        Some(Some(Err(error))) => return Err(NotVirtio::Bar(part.bar, *error)),
        Some(Some(Ok(Bar::Io { .. })) | None) | None => return misplaced,
    };
    let inside = part.offset.checked_add(part.bytes).is_some_and(|end| end <= range);
    if !inside || part.bytes < bytes.into() || !part.offset.is_multiple_of(align) {
        return misplaced;
    }
    Ok(part)
}
