//! From the boot loader's memory regions to a memory manager: the firmware's
//! map, cleaned and logged in Linux's words; early memory with everything taken
//! out that is in use; a test of what is free; the manager. Calls `mm`,
//! `platform`.

pub(crate) mod iomem;
mod map;
mod memtest;

pub(crate) use map::{FirmwareMap, InUse, early};
pub(crate) use memtest::memtest;

use crate::image;
use crate::platform::Machine;
use mm::early::EarlyMem;
use mm::firmware::MemoryLine;
use mm::platform::Platform;
use mm::types::PAGE_SIZE;
use mm::zone::Zone;
use mm::{Config, Mm, SetupError};
use spin::Once;

static MM: Once<Mm<Machine>> = Once::new();

/// Starts the memory manager with all that `early` has.
///
/// # Errors
///
/// There is not enough for the manager's own tables.
pub(crate) fn start(
    machine: Machine,
    early: EarlyMem<'_>,
    config: &Config,
) -> Result<&'static Mm<Machine>, SetupError> {
    let mm = Mm::new(machine, early, config)?;
    Ok(MM.call_once(|| mm))
}

/// The memory manager, once it is started.
pub(crate) fn manager() -> Option<&'static Mm<Machine>> {
    MM.get()
}

/// KiB in `pages`.
const fn kib(pages: u64) -> u64 {
    pages * (PAGE_SIZE as u64 / 1024)
}

/// What is there and what is free, as Linux's line says it.
pub(crate) fn line<P: Platform>(mm: &Mm<P>) -> MemoryLine {
    let sum = |f: fn(&Zone) -> u64| mm.zones().iter().map(f).sum::<u64>();
    let present = sum(Zone::present);
    let cma = sum(Zone::cma_pages);
    let mut line = MemoryLine {
        // As in Linux: what is lent to movable requests only does not count.
        available: kib(mm.free_pages_total().saturating_sub(sum(Zone::free_cma_pages))),
        present: kib(present),
        reserved: kib(present.saturating_sub(mm.managed_pages())),
        cma: kib(cma),
        ..MemoryLine::default()
    };
    for part in image::segments() {
        let (bytes, zeroed) = (part.file_len, part.end - part.start - part.file_len);
        if part.executable {
            line.code += bytes / 1024;
        } else if part.writable {
            line.rwdata += bytes / 1024;
        } else {
            line.rodata += bytes / 1024;
        }
        line.bss += zeroed / 1024;
    }
    line
}
