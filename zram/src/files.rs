//! The device's files, those that Linux has in `/sys/block/zram0`
//! (Documentation/admin-guide/blockdev/zram.rst). Calls `device`, `stat`.

use crate::device::{SetUpError, Zram};
use core::fmt::Write;
use mm::Mm;
use mm::platform::Platform;
use mm::proc::FileError;
use mm::types::PAGE_SIZE;

/// The files' names.
pub const FILES: [&str; 9] = [
    "comp_algorithm",
    "compact",
    "disksize",
    "initstate",
    "io_stat",
    "mem_limit",
    "mem_used_max",
    "mm_stat",
    "reset",
];

/// A number of bytes, with a suffix perhaps, as `memparse` of Linux reads it.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let shift = match text.bytes().last()?.to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => 0,
    };
    let digits = if shift > 0 { &text[..text.len() - 1] } else { text };
    let digits = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?;
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl<P: Platform> Zram<P> {
    /// Writes the content of the file `name` to `out`. Interrupts on, no lock
    /// held.
    ///
    /// # Errors
    /// NotFound, NotPermitted for those that are only written, and Stopped when
    /// `out` wants no more.
    pub fn read_file(&self, mm: &Mm<P>, name: &str, out: &mut dyn Write) -> Result<(), FileError> {
        let size = self.slots(mm);
        match name {
            "comp_algorithm" => writeln!(out, "[lz4]"),
            "disksize" => writeln!(out, "{}", u64::from(size) * PAGE_SIZE as u64),
            "initstate" => writeln!(out, "{}", u32::from(size > 0)),
            "io_stat" => writeln!(out, "{}", self.io_stat()),
            "mm_stat" => writeln!(out, "{}", self.mm_stat(mm)),
            "compact" | "mem_limit" | "mem_used_max" | "reset" => {
                return Err(FileError::NotPermitted);
            }
            _ => return Err(FileError::NotFound),
        }
        .map_err(|_| FileError::Stopped)
    }

    /// Does what writing `text` to the file `name` means. Interrupts on, no lock
    /// held; may wait.
    ///
    /// # Errors
    /// Invalid for what makes no sense, Busy for a device that has a size already,
    /// or that is to be reset while it is swapped to; NoMemory; NotFound and
    /// NotPermitted.
    pub fn write_file(&'static self, mm: &Mm<P>, name: &str, text: &str) -> Result<(), FileError> {
        match name {
            "disksize" => {
                let size = bytes(text).ok_or(FileError::Invalid)?;
                let slots = size.div_ceil(PAGE_SIZE as u64);
                let slots = u32::try_from(slots).map_err(|_| FileError::Invalid)?;
                self.set_up(mm, slots).map_err(|why| match why {
                    SetUpError::Busy => FileError::Busy,
                    SetUpError::Size => FileError::Invalid,
                    SetUpError::NoMemory(_) | SetUpError::Owners(_) => FileError::NoMemory,
                })
            }
            "mem_limit" => {
                self.set_limit(bytes(text).ok_or(FileError::Invalid)?);
                Ok(())
            }
            "mem_used_max" if bytes(text) == Some(0) => {
                self.forget_most(mm);
                Ok(())
            }
            "compact" => {
                self.compact(mm);
                Ok(())
            }
            "reset" if bytes(text).is_some_and(|n| n > 0) => {
                if self.is_swap(mm) {
                    return Err(FileError::Busy);
                }
                self.reset(mm);
                Ok(())
            }
            "mem_used_max" | "reset" => Err(FileError::Invalid),
            _ if FILES.contains(&name) => Err(FileError::NotPermitted),
            _ => Err(FileError::NotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_suffixes() {
        for (text, n) in [("0", 0), (" 4096\n", 4096), ("64K", 1 << 16), ("3m", 3 << 20)] {
            assert_eq!(bytes(text), Some(n), "{text}");
        }
        assert_eq!(bytes("2G"), Some(2 << 30));
        for text in ["", "K", "-1", "1KB", "0x10", "99999999999T", "+5"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
