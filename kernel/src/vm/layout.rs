//! Where things lie in the upper half of the address space. Calls nothing.

/// Where the boot loader may map what it passes on; ours only until the kernel
/// has tables of its own.
pub(crate) const LOADER_START: u64 = 0xffff_8000_0000_0000;
/// Last page that the loader may use.
pub(crate) const LOADER_LAST: u64 = 0xffff_87ff_ffff_f000;
/// RAM and ACPI tables, at their physical address plus this (as Linux's
/// direct map without randomisation).
pub(crate) const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Bytes of the direct map: 64 TiB.
pub(crate) const DIRECT_MAP_LEN: u64 = 1 << 46;
/// Device registers, uncached.
pub(crate) const MMIO: u64 = 0xffff_c900_0000_0000;
/// The local APIC's registers, where they are in memory.
pub(crate) const LOCAL_APIC: u64 = MMIO;
/// The I/O APICs' registers, a page for each.
pub(crate) const IO_APICS: u64 = MMIO + 0x1_0000;
/// The page with the registers of the firmware's serial line.
pub(crate) const UART: u64 = MMIO + 0x2_0000;
/// The framebuffer, 4 GiB at most.
pub(crate) const FRAMEBUFFER: u64 = MMIO + (1 << 32);
/// Registers of devices that were found at run time, uncached.
pub(crate) const DEVICES: u64 = 0xffff_ca00_0000_0000;
/// Bytes for them: 1 TiB.
pub(crate) const DEVICES_LEN: u64 = 1 << 40;
/// The manager's virtual arrays.
pub(crate) const MEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Bytes between two arrays' bases: the descriptors of 16 TiB take 128 GiB.
pub(crate) const MEMMAP_SLOT: u64 = 1 << 38;
/// Arrays that there is room for.
pub(crate) const MEMMAP_SLOTS: usize = 16;
/// Stacks made while the kernel runs, each in a slot of its own. The entry of
/// the fourth level is theirs alone, so that all tables below it are the memory
/// manager's.
pub(crate) const THREAD_STACKS: u64 = 0xffff_fd00_0000_0000;
/// Stacks that every boot needs, with their guard pages.
pub(crate) const STACKS: u64 = 0xffff_fe00_0000_0000;
/// The kernel image.
pub(crate) const KERNEL: u64 = 0xffff_ffff_8000_0000;
