//! What lies where in physical address space: the text of `/proc/iomem` (Linux
//! kernel/resource.c). Whoever booted the machine has the ranges. Pure: calls
//! nothing but `firmware`.

use crate::firmware::{Region, RegionKind};
use core::fmt;
use core::iter::Peekable;

/// A range of physical bytes with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoRange<'a> {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What is there, such as `Kernel code`.
    pub name: &'a str,
}

/// Linux's name for what the firmware's map says.
const fn name(kind: RegionKind) -> &'static str {
    match kind {
        RegionKind::Usable | RegionKind::Bootloader => "System RAM",
        RegionKind::AcpiData => "ACPI Tables",
        RegionKind::AcpiNvs => "ACPI Non-volatile Storage",
        RegionKind::SoftReserved => "Soft Reserved",
        RegionKind::PersistentLegacy => "Persistent Memory (legacy)",
        RegionKind::Persistent => "Persistent Memory",
        RegionKind::EfiRuntime | RegionKind::Reserved => "Reserved",
        RegionKind::Unusable => "Unusable memory",
        RegionKind::Unknown(_) => "Unknown E820 type",
    }
}

/// The pieces that Linux makes of a region: the BIOS keeps frame 0, and there is
/// no RAM from the VGA hole to 1 MiB, whatever firmware says.
fn pieces(region: Region) -> impl Iterator<Item = Region> + Clone {
    const CUTS: [(u64, Option<RegionKind>); 4] = [
        (0x1000, Some(RegionKind::Reserved)),
        (0xa_0000, Some(RegionKind::Usable)),
        (0x10_0000, None),
        (u64::MAX, Some(RegionKind::Usable)),
    ];
    let mut from = 0;
    CUTS.into_iter().filter_map(move |(to, ram_is)| {
        let (start, end) = (region.start.max(from), region.end.min(to));
        from = to;
        let kind = if region.kind.is_ram() { ram_is? } else { region.kind };
        (start < end).then_some(Region { start, end, kind })
    })
}

/// The next of some sorted ranges, with those that follow on it under the same
/// name.
fn next_joined<'a>(
    ranges: &mut Peekable<impl Iterator<Item = IoRange<'a>>>,
) -> Option<IoRange<'a>> {
    let mut range = ranges.next()?;
    while let Some(more) = ranges.next_if(|r| r.start == range.end && r.name == range.name) {
        range.end = more.end;
    }
    Some(range)
}

/// The ranges of two sorted lists, sorted.
fn both<'a>(one: &'a [Region], other: &'a [Region]) -> impl Iterator<Item = Region> + 'a {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    core::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(a), Some(b)) if b.start < a.start => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
    .copied()
}

/// Writes `/proc/iomem`: the firmware's map, with the RAM in it that is less than
/// a page (`scraps`), and `named`, sorted by address and disjoint, in their
/// places: inside a range of the map one level deeper. What
/// lies across the border of such a range is left out, as in Linux.
///
/// # Errors
/// What `out` fails with.
pub fn write_iomem(
    map: &[Region],
    scraps: &[Region],
    named: &[IoRange<'_>],
    out: &mut dyn fmt::Write,
) -> fmt::Result {
    let region = |r: Region| IoRange { start: r.start, end: r.end, name: name(r.kind) };
    let mut regions = both(map, scraps).flat_map(pieces).map(region).peekable();
    let mut named = named.iter().copied().filter(|r| r.start < r.end).peekable();
    let mut named = core::iter::from_fn(|| next_joined(&mut named)).peekable();
    let mut below = 0;
    loop {
        let region = next_joined(&mut regions);
        let (start, end) = region.map_or((u64::MAX, u64::MAX), |r| (r.start, r.end));
        while let Some(range) = named.next_if(|r| r.start < start) {
            if range.start >= below && range.end <= start {
                write_range(out, "", range)?;
            }
        }
        let Some(region) = region else { return Ok(()) };
        write_range(out, "", region)?;
        while let Some(range) = named.next_if(|r| r.start < end) {
            if range.end <= end {
                write_range(out, "  ", range)?;
            }
        }
        below = end;
    }
}

fn write_range(out: &mut dyn fmt::Write, indent: &str, range: IoRange<'_>) -> fmt::Result {
    let IoRange { start, end, name } = range;
    writeln!(out, "{indent}{start:08x}-{:08x} : {name}", end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::{RawRegion, sanitize};
    use std::string::String;
    use std::vec::Vec;

    /// The firmware's map and what else there is on the machine with 512 MiB
    /// whose `/proc/iomem` is kept beside the tests, but for a range within a
    /// range within a range, and one in what is no RAM.
    #[test]
    fn the_same_machine_gives_the_same_text() {
        use RegionKind::{Bootloader, Reserved, Usable};
        let region = |start, last: u64, kind| Region { start, end: last + 1, kind };
        let raw = [
            region(0, 0x9_fbff, Usable),
            region(0x9_fc00, 0x9_ffff, Reserved),
            region(0xf_0000, 0xf_ffff, Reserved),
            region(0x10_0000, 0x1ff_ffff, Bootloader),
            region(0x200_0000, 0x1ffd_ffff, Usable),
            region(0x1ffe_0000, 0x1fff_ffff, Reserved),
            region(0xfffc_0000, 0xffff_ffff, Reserved),
            region(0xfd_0000_0000, 0xff_ffff_ffff, Reserved),
        ];
        let mut raw = raw.map(|r| RawRegion::new(r.start, r.end, r.kind));
        let mut clean = [Region::EMPTY; 16];
        let map = sanitize(&mut raw, 40, &mut clean, &mut |warning| panic!("{warning}"));
        let golden = include_str!("../../tests/linux/512m/iomem");
        let deepest = "  fed00000-fed003ff : PNP0103:00\n";
        let mut named: Vec<_> = golden
            .lines()
            .filter(|line| !line.ends_with("Reserved") && !line.ends_with("System RAM"))
            .map(|line| {
                let (range, name) = line.trim().split_once(" : ").expect("a name");
                let (start, last) = range.split_once('-').expect("a range");
                let [start, last] = [start, last].map(|n| u64::from_str_radix(n, 16).expect("hex"));
                IoRange { start, end: last + 1, name }
            })
            .collect();
        named.retain(|range| range.name != "PNP0103:00");
        let mut text = String::new();
        write_iomem(map.regions(), map.scraps(), &named, &mut text).expect("text");
        assert_eq!(text, golden.replace(deepest, ""));
    }

    #[test]
    fn what_crosses_a_border_is_left_out() {
        let map = [Region { start: 0x10_0000, end: 0x20_0000, kind: RegionKind::Usable }];
        let range = |start, end, name| IoRange { start, end, name };
        let named = [
            range(0xf_f000, 0x10_0001, "into"),
            range(0x10_1000, 0x10_1000, "empty"),
            range(0x10_2000, 0x10_2800, "inside"),
            range(0x10_2800, 0x10_3000, "inside"),
            range(0x1f_ffff, 0x20_0001, "out of"),
            range(0x20_1000, 0x20_2000, "after"),
        ];
        let mut text = String::new();
        write_iomem(&map, &[], &named, &mut text).expect("text");
        assert_eq!(
            text,
            "00100000-001fffff : System RAM\n  00102000-00102fff : inside\n00201000-00201fff : after\n"
        );
        let mut text = String::new();
        write_iomem(&[], &[], &[], &mut text).expect("text");
        assert_eq!(text, "");
    }
}
