//! The knobs: `/proc/sys/vm/*`. Numbers are read as Linux reads them
//! (kernel/sysctl.c), and what it refuses is refused. Different from Linux: a
//! list with a bad number changes nothing, min_free_kbytes ends at all there is,
//! and compact_memory is not permitted to be read by `EPERM` and not `EACCES`.
//! May call: `setup`, `compact`.

use super::FileError;
use crate::mm::Mm;
use crate::platform::{Platform, Worker};
use crate::reclaim::policy::MAX_SWAPPINESS;
use crate::swap::MOST_CLUSTER;
use crate::sync::Ordering::Relaxed;
use crate::types::{NR_ZONES, PAGE_SIZE};
use core::fmt;

/// The smallest share of a zone that percpu_pagelist_high_fraction grants, as
/// the number by which the zone is divided.
const MIN_HIGH_FRACTION: i32 = 8;

impl<P: Platform> Mm<P> {
    /// Writes the value of the knob at `/proc/sys/vm/NAME`.
    pub(super) fn sysctl_read(
        &self,
        name: &str,
        out: &mut dyn fmt::Write,
    ) -> Result<(), FileError> {
        let t = &self.tunables;
        let dirty = &self.dirty_knobs;
        let value = match name {
            "compact_memory" => return Err(FileError::NotPermitted),
            "compact_unevictable_allowed" => {
                u64::from(self.compaction.unevictable_allowed.load(Relaxed))
            }
            "compaction_proactiveness" => u64::from(self.compaction_proactiveness()),
            "dirty_background_bytes" => dirty.dirty_background_bytes.load(Relaxed),
            "dirty_background_ratio" => u64::from(dirty.dirty_background_ratio.load(Relaxed)),
            "dirty_bytes" => dirty.dirty_bytes.load(Relaxed),
            "dirty_expire_centisecs" => u64::from(dirty.dirty_expire_centisecs.load(Relaxed)),
            "dirty_ratio" => u64::from(dirty.dirty_ratio.load(Relaxed)),
            "dirty_writeback_centisecs" => u64::from(dirty.dirty_writeback_centisecs.load(Relaxed)),
            "drop_caches" => u64::from(self.reclaim.dropped.load(Relaxed)),
            "extfrag_threshold" => u64::from(t.extfrag_threshold.load(Relaxed)),
            "lowmem_reserve_ratio" => {
                let [dma, dma32, normal, movable] = &t.lowmem_ratio;
                let [a, b, c, d] = [dma, dma32, normal, movable].map(|r| r.load(Relaxed));
                return Ok(writeln!(out, "{a}\t{b}\t{c}\t{d}")?);
            }
            "min_free_kbytes" => self.min_free_kbytes(),
            "oom_dump_tasks" => u64::from(self.oom.dump.load(Relaxed)),
            "oom_kill_allocating_task" => u64::from(self.oom.kill_allocating.load(Relaxed)),
            "page-cluster" => u64::from(self.page_cluster()),
            "panic_on_oom" => u64::from(self.oom.panic.load(Relaxed)),
            "percpu_pagelist_high_fraction" => u64::from(t.pcp_high_fraction.load(Relaxed)),
            "swappiness" => u64::from(self.swappiness()),
            "watermark_boost_factor" => u64::from(t.boost_factor.load(Relaxed)),
            "watermark_scale_factor" => u64::from(self.watermark_scale_factor()),
            _ => return Err(FileError::NotFound),
        };
        Ok(writeln!(out, "{value}")?)
    }

    /// Sets the knob at `/proc/sys/vm/NAME`.
    pub(super) fn sysctl_write(&self, name: &str, text: &str) -> Result<(), FileError> {
        let number = |least, most| {
            let mut values = [0];
            parse_numbers(text, &mut values)?;
            let fits = (least..=most).contains(&values[0]);
            if fits { Ok(values[0] as u32) } else { Err(FileError::Invalid) }
        };
        let bytes = |least| {
            let mut values = [0u64];
            parse_numbers(text, &mut values)?;
            if values[0] >= least { Ok(values[0]) } else { Err(FileError::Invalid) }
        };
        let dirty = &self.dirty_knobs;
        match name {
            "compact_memory" => {
                number(1, 1)?;
                self.compact_memory(None);
            }
            "compact_unevictable_allowed" => {
                self.compaction.unevictable_allowed.store(number(0, 1)? != 0, Relaxed);
            }
            "compaction_proactiveness" => self.set_compaction_proactiveness(number(0, 100)?),
            // Of a ratio and a number of bytes the one that was set last counts, and
            // the other one reads as 0.
            "dirty_background_bytes" => {
                dirty.dirty_background_bytes.store(bytes(1)?, Relaxed);
                dirty.dirty_background_ratio.store(0, Relaxed);
            }
            "dirty_background_ratio" => {
                dirty.dirty_background_ratio.store(number(0, 100)?, Relaxed);
                dirty.dirty_background_bytes.store(0, Relaxed);
            }
            "dirty_bytes" => {
                // Less would let nobody write.
                dirty.dirty_bytes.store(bytes(2 * PAGE_SIZE as u64)?, Relaxed);
                dirty.dirty_ratio.store(0, Relaxed);
            }
            "dirty_expire_centisecs" => {
                dirty.dirty_expire_centisecs.store(number(0, i32::MAX)?, Relaxed);
            }
            "dirty_ratio" => {
                dirty.dirty_ratio.store(number(0, 100)?, Relaxed);
                dirty.dirty_bytes.store(0, Relaxed);
            }
            "dirty_writeback_centisecs" => {
                dirty.dirty_writeback_centisecs.store(number(0, i32::MAX)?, Relaxed);
                // Its next round is at another time now.
                self.platform.wake(Worker::Flusher);
            }
            "drop_caches" => self.drop_caches(number(1, 4)? as u8),
            "extfrag_threshold" => self.set_extfrag_threshold(number(0, 1000)?),
            "lowmem_reserve_ratio" => {
                let mut ratio = [0; NR_ZONES];
                for (value, knob) in ratio.iter_mut().zip(&self.tunables.lowmem_ratio) {
                    *value = knob.load(Relaxed) as i32;
                }
                // Those that are not given stay.
                parse_numbers(text, &mut ratio)?;
                self.set_lowmem_reserve_ratio(ratio.map(|r| r.max(0) as u32));
            }
            "min_free_kbytes" => self.force_min_free_kbytes(u64::from(number(0, i32::MAX)?)),
            "oom_dump_tasks" => self.oom.dump.store(number(0, i32::MAX)? != 0, Relaxed),
            "oom_kill_allocating_task" => {
                self.oom.kill_allocating.store(number(0, i32::MAX)? != 0, Relaxed);
            }
            "page-cluster" => self.set_page_cluster(number(0, MOST_CLUSTER as i32)?),
            "panic_on_oom" => self.oom.panic.store(number(0, 2)? as u8, Relaxed),
            "percpu_pagelist_high_fraction" => {
                let fraction = number(0, i32::MAX)?;
                if (1..MIN_HIGH_FRACTION as u32).contains(&fraction) {
                    return Err(FileError::Invalid);
                }
                self.set_pcp_high_fraction(fraction);
            }
            "swappiness" => self.set_swappiness(number(0, MAX_SWAPPINESS as i32)?),
            "watermark_boost_factor" => self.set_watermark_boost_factor(number(0, i32::MAX)?),
            "watermark_scale_factor" => self.set_watermark_scale_factor(number(1, 3000)?),
            _ => return Err(FileError::NotFound),
        }
        Ok(())
    }
}

/// Reads numbers divided by white space into as many of `values` as there are;
/// what comes after them is not looked at. Decimal, 0x for hexadecimal, a
/// leading 0 for octal, each no larger than the values' type.
///
/// # Errors
/// [`FileError::Invalid`] if there is none, or one of them is not such a number.
pub(super) fn parse_numbers<T: TryFrom<i128>>(
    text: &str,
    values: &mut [T],
) -> Result<(), FileError> {
    // What C calls white space.
    let is_space = |c: char| matches!(c, ' ' | '\t'..='\r');
    let mut rest = text.trim_start_matches(is_space);
    if rest.is_empty() {
        return Err(FileError::Invalid);
    }
    // All or nothing: the caller's values change only if all are numbers.
    for value in values {
        if rest.is_empty() {
            break;
        }
        // Only these may follow a number.
        let end = rest.find([' ', '\t', '\n']).unwrap_or(rest.len());
        let number = parse_number(&rest[..end]).and_then(|number| T::try_from(number).ok());
        *value = number.ok_or(FileError::Invalid)?;
        rest = rest[end..].trim_start_matches(is_space);
    }
    Ok(())
}

/// One number, as C's `strtol` with base 0 reads it.
fn parse_number(word: &str) -> Option<i128> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match hex {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    // A second sign would be taken for one by the parser.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_linux_reads_them() {
        for (text, value) in [
            ("1", 1),
            ("1\n", 1),
            (" \t\n\r 77 ", 77),
            ("0", 0),
            ("0x10", 16),
            ("0X1f\n", 31),
            ("010", 8),
            ("-5", -5),
            ("-0x10", -16),
            ("00", 0),
            ("2147483647", i32::MAX),
            ("-2147483648", i32::MIN),
            ("5 what comes after it", 5),
            ("0x7fffffff", i32::MAX),
        ] {
            let mut values = [i32::MIN];
            assert_eq!(parse_numbers(text, &mut values), Ok(()), "{text:?}");
            assert_eq!(values, [value], "{text:?}");
        }
        for text in [
            "",
            " ",
            "\n",
            "one",
            "+1",
            "1a",
            "0x",
            "0xg",
            "08",
            "--1",
            "-",
            "- 1",
            "1.5",
            "1,2",
            "2147483648",
            "-2147483649",
            "99999999999999999999999999",
            "0x80000000",
            "1\r",
            "0x-1",
            "é",
            "１",
        ] {
            assert_eq!(parse_numbers(text, &mut [0i32]), Err(FileError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn bytes_may_be_more_than_an_int_holds() {
        let mut values = [0u64];
        assert_eq!(parse_numbers("0x200000000", &mut values), Ok(()));
        assert_eq!(values, [8 << 30]);
        assert_eq!(parse_numbers("18446744073709551615", &mut values), Ok(()));
        assert_eq!(values, [u64::MAX]);
        for text in ["-1", "18446744073709551616", "0x"] {
            assert_eq!(parse_numbers(text, &mut values), Err(FileError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn numbers_that_are_not_given_stay() {
        let mut values = [9i32; 4];
        assert_eq!(parse_numbers("1\t2\n", &mut values), Ok(()));
        assert_eq!(values, [1, 2, 9, 9]);
        assert_eq!(parse_numbers("5 6 7 8 nine", &mut values), Ok(()));
        assert_eq!(values, [5, 6, 7, 8]);
        assert_eq!(parse_numbers("1 2 x", &mut values), Err(FileError::Invalid));
    }
}
