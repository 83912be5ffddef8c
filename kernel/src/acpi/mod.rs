//! The firmware's ACPI tables, found once and readable for good: they are mapped
//! (reading only) in the direct map, and no allocator gets their frames. Calls
//! `vm` to reach them; what they mean is `quarry_kernel::sdt`'s and the users'
//! affair.

use crate::vm::{Loader, frame_ptr};
use mm::early::EarlyMem;
use mm::firmware::{Map, RegionKind};
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::sdt::{Header, Located, Memory, Signature, TableList, walk};
use spin::Once;

static TABLES: Once<TableList> = Once::new();

/// Where a BIOS keeps tables without saying so in its map.
const BIOS_AREA: PfnRange = PfnRange::new(Pfn(0x80), Pfn(0x100));

/// Name of the tables' frames in early memory.
const NAME: &str = "ACPI tables";

/// Reads through the boot loader's page tables, mapping what is asked for.
struct Reader<'a> {
    loader: &'a mut Loader,
    map: &'a Map<'a>,
}

/// The frames that hold `len` bytes from `addr` on; None if there are no such
/// addresses.
fn frames(addr: u64, len: u64) -> Option<PfnRange> {
    let end = addr.checked_add(len)?.checked_add(PAGE_SIZE as u64 - 1)?;
    Some(PfnRange::new(Pfn::containing(addr), Pfn::containing(end)))
}

impl Reader<'_> {
    /// Whether the firmware says that there is memory, of whatever kind, for all
    /// of `range`: elsewhere there may be devices, which reading can upset.
    fn is_memory(&self, range: PfnRange) -> bool {
        if range.intersect(BIOS_AREA) == range {
            return true;
        }
        let mut at = range.start.addr();
        for region in self.map.regions() {
            if region.kind != RegionKind::Unusable && (region.start..region.end).contains(&at) {
                at = region.end;
            }
        }
        at >= range.end.addr()
    }
}

impl Memory<'static> for Reader<'_> {
    fn bytes(&mut self, addr: u64, len: usize) -> Option<&'static [u8]> {
        let range = frames(addr, len as u64)?;
        if !self.is_memory(range) || !self.loader.reach(range) {
            return None;
        }
        // SAFETY: mapped now by the loader's tables and, if a table is found
        // there, for good by the kernel's; nobody writes to it.
        Some(unsafe { core::slice::from_raw_parts(bytes_at(addr), len) })
    }
}

/// Where the byte at `addr` lies in the direct map.
fn bytes_at(addr: u64) -> *const u8 {
    frame_ptr(Pfn::containing(addr)).wrapping_add(addr as usize % PAGE_SIZE)
}

/// Finds the tables, from the root pointer that the boot loader passed on, and
/// keeps their frames from being given away. While the loader's page tables are
/// in force.
pub(crate) fn init(
    root: Option<u64>,
    loader: &mut Loader,
    map: &Map<'_>,
    early: &mut EarlyMem<'_>,
) {
    let Some(root) = root else {
        log::warn!("ACPI: the firmware has no tables");
        return;
    };
    log::info!("ACPI: RSDP {root:#018X}");
    let warn = &mut |warning| log::warn!("{warning}");
    let tables = walk(&mut Reader { loader, map }, root, warn);
    for Located { addr, header } in tables.iter() {
        log::info!("ACPI: {} {addr:#018X} {header}", header.signature);
        if let Some(range) = frames(*addr, header.length.into()) {
            early.reserve(range, NAME);
        }
    }
    TABLES.call_once(|| tables);
}

/// The frames that tables lie in, to be mapped for reading.
pub(crate) fn table_frames() -> impl Iterator<Item = PfnRange> {
    let tables = TABLES.get().into_iter().flat_map(TableList::iter);
    tables.filter_map(|found| frames(found.addr, found.header.length.into()))
}

/// What the firmware's description of the machine begins with: the table of what
/// is fixed (FADT), which each has.
pub(crate) fn machine() -> Option<&'static Header> {
    let mut tables = TABLES.get().into_iter().flat_map(TableList::iter);
    tables.find(|found| found.header.signature == Signature::FADT).map(|found| &found.header)
}

/// The first table called `signature`, header and all; its length and checksum
/// are right. From [`init`] on, whichever page tables are in force.
pub(crate) fn find(signature: Signature) -> Option<&'static [u8]> {
    find_all(signature).next()
}

/// All tables called `signature`, as [`find`] has them.
pub(crate) fn find_all(signature: Signature) -> impl Iterator<Item = &'static [u8]> {
    let tables = TABLES.get().into_iter().flat_map(TableList::iter);
    tables.filter(move |found| found.header.signature == signature).map(|found| {
        let len = found.header.length as usize;
        // SAFETY: it was read from there when it was found, it is mapped for
        // good and nobody writes to it.
        unsafe { core::slice::from_raw_parts(bytes_at(found.addr), len) }
    })
}
