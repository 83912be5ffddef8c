//! The device of compressed memory: made, looked at, forgotten; and its files.
//! May call `mm`, `zram`.

use super::files;
use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Subject};
use crate::parse::{Args, number};
use crate::world::World;
use mm::proc::FileError;
use mm::types::PAGE_SIZE;
use zram::{SetUpError, Zram};

/// Where its files are.
const DIRECTORY: &str = "/sys/block/zram0/";
/// All of them, for completion.
pub(crate) const FILES: [&str; 9] = [
    "/sys/block/zram0/comp_algorithm",
    "/sys/block/zram0/compact",
    "/sys/block/zram0/disksize",
    "/sys/block/zram0/initstate",
    "/sys/block/zram0/io_stat",
    "/sys/block/zram0/mem_limit",
    "/sys/block/zram0/mem_used_max",
    "/sys/block/zram0/mm_stat",
    "/sys/block/zram0/reset",
];

/// What can be asked about it: `mm_stat` by its words.
pub(crate) const FACTS: [&str; 10] = [
    "size",
    "orig_data_size",
    "compr_data_size",
    "mem_used_total",
    "mem_limit",
    "mem_used_max",
    "same_pages",
    "pages_compacted",
    "huge_pages",
    "huge_pages_since",
];

impl From<SetUpError> for Error {
    fn from(why: SetUpError) -> Self {
        match why {
            SetUpError::Busy => Self::new(Errno::EBUSY, "it has a size; zram reset"),
            SetUpError::Size => Self::new(Errno::EINVAL, "no such size is possible"),
            SetUpError::NoMemory(_) => Self::new(Errno::ENOMEM, "out of memory"),
            SetUpError::Owners(_) => Self::new(Errno::ENOSPC, "too many drivers of movable pages"),
        }
    }
}

impl<W: World> Lab<W> {
    fn device(&self) -> Result<&'static Zram<W::Machine>, Error> {
        let none = Error::new(Errno::EOPNOTSUPP, "there is no compressed memory here");
        self.world.zram().ok_or(none)
    }

    /// Gives the device a size, has it forget everything, makes its memory dense;
    /// shows it.
    pub(super) fn zram(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let limit = args.option("limit").map(number).transpose()?;
        let what = args.next();
        args.done()?;
        let zram = self.device()?;
        match what {
            None => {}
            Some("compact") => {
                let pages = zram.compact(on.mm);
                self.print(format_args!("-> zram: {pages} pages freed\n"));
            }
            Some("reset") if zram.is_swap(on.mm) => {
                return Err(Error::new(Errno::EBUSY, "it is swapped to").into());
            }
            Some("reset") => zram.reset(on.mm),
            Some(size) => {
                let slots = number(size)?.div_ceil(PAGE_SIZE as u64);
                let slots = u32::try_from(slots).map_err(|_| Error::from(SetUpError::Size))?;
                zram.set_up(on.mm, slots).map_err(Error::from)?;
                self.switched.zram = true;
            }
        }
        if let Some(limit) = limit {
            zram.set_limit(limit);
        }
        let stat = zram.mm_stat(on.mm);
        let mib = (u64::from(zram.slots(on.mm)) * PAGE_SIZE as u64) >> 20;
        let kib = |bytes: u64| bytes >> 10;
        self.print(format_args!(
            "-> zram: {} of {mib} MiB: {} KiB stored, {} KiB compressed, in {} KiB of memory\n",
            zram.name(),
            kib(stat.orig_data_size),
            kib(stat.compr_data_size),
            kib(stat.mem_used_total),
        ));
        Ok(())
    }

    /// Prints a file of the device's; None if it is none.
    pub(super) fn cat_zram(&mut self, on: Subject<W>, path: &str) -> Option<Result<(), FileError>> {
        let name = path.strip_prefix(DIRECTORY)?;
        let zram = self.world.zram()?;
        Some(self.print_text(|out| zram.read_file(on.mm, name, out)))
    }

    /// Writes to a file of the device's; None if it is none.
    pub(super) fn echo_zram(
        &mut self,
        on: Subject<W>,
        path: &str,
        text: &str,
    ) -> Option<Result<(), Error>> {
        let name = path.strip_prefix(DIRECTORY)?;
        let written = self.world.zram()?.write_file(on.mm, name, text);
        Some(written.map_err(|why| files::error(why, path)))
    }

    /// A fact about the device; None where there is none, or for another.
    pub(crate) fn zram_fact(&mut self, asked: &str) -> Option<u64> {
        let mm = self.world.mm()?;
        let zram = self.world.zram()?;
        let stat = zram.mm_stat(mm);
        Some(match asked {
            "size" => u64::from(zram.slots(mm)) * PAGE_SIZE as u64,
            "orig_data_size" => stat.orig_data_size,
            "compr_data_size" => stat.compr_data_size,
            "mem_used_total" => stat.mem_used_total,
            "mem_limit" => stat.mem_limit,
            "mem_used_max" => stat.mem_used_max,
            "same_pages" => stat.same_pages,
            "pages_compacted" => stat.pages_compacted,
            "huge_pages" => stat.huge_pages,
            "huge_pages_since" => stat.huge_pages_since,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn all_files_are_named() {
        let names = FILES.map(|path| path.strip_prefix(DIRECTORY).unwrap_or(""));
        assert_eq!(names, zram::FILES);
    }
}
