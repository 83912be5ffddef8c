//! An address space's files, under its name where Linux has a process' number:
//! `/proc/NAME/maps`, `smaps`, `smaps_rollup`, `status`, `statm`, `oom_score`,
//! `oom_score_adj` (Linux fs/proc/task_mmu.c, fs/proc/base.c). Of several spaces
//! of a name the oldest is meant. May call: `space`, `oom`.

use super::FileError;
use super::sysctl::parse_numbers;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::space::{Region, RegionFlags, Space, Usage};
use crate::types::{KIB_PER_PAGE, PAGE_SIZE};
use core::fmt;

/// Each space's files.
pub const SPACE_FILES: &[&str] =
    &["maps", "oom_score", "oom_score_adj", "smaps", "smaps_rollup", "statm", "status"];

/// `/proc/NAME/FILE` as name and file.
fn file_of_space(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/proc/")?.split_once('/')
}

impl<P: Platform> Mm<P> {
    /// Runs `f` on the oldest space of that name.
    fn with_space_named<R>(&self, name: &str, f: impl FnOnce(&Space) -> R) -> Option<R> {
        let (mut f, mut result) = (Some(f), None);
        self.each_space(&mut |space| {
            if !space.is_used() || space.name().as_str() != name {
                return true;
            }
            result = f.take().map(|f| f(space));
            false
        });
        result
    }

    /// Reads a file of a space's.
    pub(super) fn space_read(&self, path: &str, out: &mut dyn fmt::Write) -> Result<(), FileError> {
        let (name, file) = file_of_space(path).ok_or(FileError::NotFound)?;
        let read = |space: &Space| self.read_of_space(space, file, out);
        self.with_space_named(name, read).unwrap_or(Err(FileError::NotFound))
    }

    fn read_of_space(
        &self,
        space: &Space,
        file: &str,
        out: &mut dyn fmt::Write,
    ) -> Result<(), FileError> {
        match file {
            "maps" => self.each_region(space, |region, _| write_header(region, out))?,
            "smaps" => self.each_region(space, |region, usage| {
                write_header(region, out)?;
                write_kib(out, "Size", usage.size)?;
                write_kib(out, "KernelPageSize", PAGE_SIZE as u64)?;
                write_kib(out, "MMUPageSize", PAGE_SIZE as u64)?;
                write_usage(usage, false, out)?;
                writeln!(out, "THPeligible:    {:>8}", u8::from(self.may_be_huge(region)))?;
                write_flags(region.flags(), out)
            })?,
            "smaps_rollup" => {
                let (mut all, mut span) = (Usage::default(), None);
                self.each_region(space, |region, usage| {
                    all += *usage;
                    let range = region.range();
                    span = Some((span.map_or(range.start, |(start, _)| start), range.end));
                    Ok::<(), fmt::Error>(())
                })?;
                let (start, end) = span.map_or((0, 0), |(start, end)| (start.0, end.0));
                write_line(out, start, end, "---p", "[rollup]")?;
                write_usage(&all, true, out)?;
            }
            "statm" => {
                let (size, rss) = (self.mapped_size(space), space.rss());
                // Nothing here is of a file, a library or a program's text.
                writeln!(out, "{size} {rss} 0 0 0 {size} 0")?;
            }
            "status" => self.write_status(space, out)?,
            "oom_score" => writeln!(out, "{}", self.oom_score(space))?,
            "oom_score_adj" => writeln!(out, "{}", space.oom_score_adj())?,
            _ => return Err(FileError::NotFound),
        }
        Ok(())
    }

    fn write_status(&self, space: &Space, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut locked = 0;
        self.each_region(space, |region, usage| {
            locked += if region.flags().contains(RegionFlags::LOCKED) { usage.size } else { 0 };
            Ok::<(), fmt::Error>(())
        })?;
        let size = self.mapped_size(space);
        writeln!(out, "Name:\t{}", space.name())?;
        writeln!(out, "State:\t{}", if space.is_killed() { "X (dead)" } else { "S (sleeping)" })?;
        for (key, pages) in [
            ("VmSize", size),
            ("VmLck", locked / PAGE_SIZE as u64),
            ("VmRSS", space.rss()),
            ("RssAnon", space.rss()),
            ("RssFile", 0),
            ("RssShmem", 0),
            ("VmData", size),
            ("VmPTE", space.tables()),
            ("VmSwap", space.swapped()),
        ] {
            writeln!(out, "{key}:\t{:>8} kB", pages * KIB_PER_PAGE)?;
        }
        writeln!(out, "THP_enabled:\t1")
    }

    /// Points as Linux shows them: 0 for who is never chosen, 666 for who has
    /// nothing, 1333 for who has everything.
    fn oom_score(&self, space: &Space) -> i64 {
        let total = (self.managed_pages() + self.swap_totals().total).max(1) as i64;
        self.oom_points(space).map_or(0, |points| (1000 + points * 1000 / total).max(0) * 2 / 3)
    }

    /// Writes to a file of a space's.
    pub(super) fn space_write(&self, path: &str, text: &str) -> Result<(), FileError> {
        let (name, file) = file_of_space(path).ok_or(FileError::NotFound)?;
        let write = |space: &Space| {
            if file != "oom_score_adj" {
                let known = SPACE_FILES.contains(&file);
                return Err(if known { FileError::NotPermitted } else { FileError::NotFound });
            }
            let mut values = [0];
            parse_numbers(text, &mut values)?;
            if !(-1000..=1000).contains(&values[0]) {
                return Err(FileError::Invalid);
            }
            space.set_oom_score_adj(i64::from(values[0]));
            Ok(())
        };
        self.with_space_named(name, write).unwrap_or(Err(FileError::NotFound))
    }
}

fn write_line(
    out: &mut dyn fmt::Write,
    start: u64,
    end: u64,
    rights: &str,
    name: &str,
) -> fmt::Result {
    let mut line = Counted { out, len: 0 };
    fmt::Write::write_fmt(
        &mut line,
        format_args!("{start:08x}-{end:08x} {rights} 00000000 00:00 0 "),
    )?;
    let width = if name.is_empty() { 0 } else { 73usize.saturating_sub(line.len) };
    writeln!(out, "{:width$}{name}", "")
}

/// Counts what is written.
struct Counted<'a> {
    out: &'a mut dyn fmt::Write,
    len: usize,
}

impl fmt::Write for Counted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.len += text.len();
        self.out.write_str(text)
    }
}

/// The line of a region in `maps`.
fn write_header(region: &Region, out: &mut dyn fmt::Write) -> fmt::Result {
    let (range, flags) = (region.range(), region.flags());
    let rights = match (flags.contains(RegionFlags::READ), flags.contains(RegionFlags::WRITE)) {
        (_, true) => "rw-p",
        (true, false) => "r--p",
        (false, false) => "---p",
    };
    write_line(out, range.start.0, range.end.0, rights, "")
}

fn write_kib(out: &mut dyn fmt::Write, key: &str, bytes: u64) -> fmt::Result {
    let width = 23usize.saturating_sub(key.len());
    writeln!(out, "{key}:{:>width$} kB", bytes >> 10)
}

/// What a region, or all of a space, has of memory.
fn write_usage(usage: &Usage, rollup: bool, out: &mut dyn fmt::Write) -> fmt::Result {
    write_kib(out, "Rss", usage.rss)?;
    write_kib(out, "Pss", usage.proportional())?;
    write_kib(out, "Pss_Dirty", usage.proportional_dirty())?;
    if rollup {
        write_kib(out, "Pss_Anon", usage.proportional())?;
        write_kib(out, "Pss_File", 0)?;
        write_kib(out, "Pss_Shmem", 0)?;
    }
    for (key, bytes) in [
        ("Shared_Clean", usage.shared_clean),
        ("Shared_Dirty", usage.shared_dirty),
        ("Private_Clean", usage.private_clean),
        ("Private_Dirty", usage.private_dirty),
        ("Referenced", usage.referenced),
        ("Anonymous", usage.anonymous),
        ("LazyFree", usage.lazy_free),
        ("AnonHugePages", usage.huge),
        ("Swap", usage.swap),
        ("Locked", usage.locked),
    ] {
        write_kib(out, key, bytes)?;
    }
    Ok(())
}

/// A region's flags by Linux's letters.
fn write_flags(flags: RegionFlags, out: &mut dyn fmt::Write) -> fmt::Result {
    out.write_str("VmFlags:")?;
    for (flag, letters) in [
        (RegionFlags::READ, "rd"),
        (RegionFlags::WRITE, "wr"),
        (RegionFlags::LOCKED, "lo"),
        (RegionFlags::HUGE, "hg"),
        (RegionFlags::NOHUGE, "nh"),
    ] {
        if flags.contains(flag) {
            write!(out, " {letters}")?;
        }
    }
    writeln!(out, " ")
}
