//! What firmware says that a range of addresses is. Calls nothing.

use core::fmt;

/// The kind of an entry in a firmware map. The order is that of rank: where
/// entries disagree about a byte, the greatest kind is believed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RegionKind {
    /// RAM that is ours.
    Usable,
    /// RAM that the boot loader has filled: kernel, page tables, boot info.
    /// Present, but not to be managed.
    Bootloader,
    /// ACPI tables, in RAM that is ours once they have been read.
    AcpiData,
    /// RAM set aside for a purpose, such as high-bandwidth memory.
    SoftReserved,
    /// Persistent memory found by the legacy type number 12.
    PersistentLegacy,
    /// Persistent memory.
    Persistent,
    /// ACPI storage that must outlive sleep.
    AcpiNvs,
    /// Code or data of UEFI's runtime services.
    EfiRuntime,
    /// A type that nobody has defined, kept by number; as good as reserved.
    Unknown(u32),
    /// Not for us.
    Reserved,
    /// Memory in which errors were found.
    Unusable,
}

impl RegionKind {
    /// The kinds that a clean map can have, in order of rank.
    pub const CLEAN: [Self; 10] = [
        Self::Usable,
        Self::Bootloader,
        Self::AcpiData,
        Self::SoftReserved,
        Self::PersistentLegacy,
        Self::Persistent,
        Self::AcpiNvs,
        Self::EfiRuntime,
        Self::Reserved,
        Self::Unusable,
    ];

    /// The kind with type number `number` in an e820 map (ACPI 6.5, 15.1, and
    /// Linux for 12 and soft-reserved).
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            2 => Self::Reserved,
            3 => Self::AcpiData,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            7 => Self::Persistent,
            12 => Self::PersistentLegacy,
            0xefff_ffff => Self::SoftReserved,
            n => Self::Unknown(n),
        }
    }

    /// The kind with type number `number` in a UEFI memory map, as it is after
    /// boot services have ended (UEFI 2.10, 7.2). Unaccepted memory is not RAM
    /// yet.
    pub const fn from_uefi(number: u32) -> Self {
        match number {
            // Loader and boot services, code and data; conventional memory.
            1..=4 | 7 => Self::Usable,
            5 | 6 => Self::EfiRuntime,
            8 => Self::Unusable,
            9 => Self::AcpiData,
            10 => Self::AcpiNvs,
            14 => Self::Persistent,
            // Reserved, MMIO, MMIO ports, PAL code, unaccepted.
            0 | 11..=13 | 15 => Self::Reserved,
            n => Self::Unknown(n),
        }
    }

    /// Whether such a byte is RAM.
    pub const fn is_ram(self) -> bool {
        matches!(self, Self::Usable | Self::Bootloader)
    }

    /// What is made of the kind: unknown ones are reserved.
    #[must_use]
    pub const fn clean(self) -> Self {
        match self {
            Self::Unknown(_) => Self::Reserved,
            kind => kind,
        }
    }
}

/// Linux's word in its `BIOS-e820:` lines.
impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable | Self::Bootloader => "usable",
            Self::AcpiData => "ACPI data",
            Self::SoftReserved => "soft reserved",
            Self::PersistentLegacy => "persistent (type 12)",
            Self::Persistent => "persistent (type 7)",
            Self::AcpiNvs => "ACPI NVS",
            Self::EfiRuntime | Self::Reserved => "reserved",
            Self::Unusable => "unusable",
            Self::Unknown(n) => return write!(f, "type {n}"),
        })
    }
}
