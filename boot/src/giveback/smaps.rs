//! What a process has of the host's memory, mapping by mapping, as Linux tells in
//! `/proc/PID/smaps`. Pure.

use super::Kib;
use std::ops::Range;

/// A part of a process' addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    /// From which address to which.
    pub at: Range<u64>,
    /// What of it is in memory.
    pub resident: Kib,
    /// What of that is in huge pages, which come and go as a whole.
    pub huge: Kib,
}

/// All mappings of a file's text.
pub(super) fn mappings(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(at) = addresses(line) {
            mappings.push(Mapping { at, resident: Kib(0), huge: Kib(0) });
        } else if let (Some(mapping), Some((key, size))) = (mappings.last_mut(), field(line)) {
            match key {
                "Rss" => mapping.resident = size,
                // Of memory of one's own, and of a file in memory.
                "AnonHugePages" | "ShmemPmdMapped" => mapping.huge.0 += size.0,
                _ => {}
            }
        }
    }
    mappings
}

/// What the mappings that any of `ranges` touches have together: resident, and
/// in huge pages. One that several touch counts once.
pub(super) fn sum(mappings: &[Mapping], ranges: &[Range<u64>]) -> (Kib, Kib) {
    let touched = |mapping: &&Mapping| {
        ranges.iter().any(|range| range.start < mapping.at.end && mapping.at.start < range.end)
    };
    mappings.iter().filter(touched).fold((Kib(0), Kib(0)), |sum, mapping| {
        (Kib(sum.0.0 + mapping.resident.0), Kib(sum.1.0 + mapping.huge.0))
    })
}

/// The addresses that a mapping's first line begins with.
fn addresses(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// Name and size of a line that has them.
fn field(line: &str) -> Option<(&str, Kib)> {
    let (key, size) = line.split_once(':')?;
    Some((key, Kib(size.trim().strip_suffix("kB")?.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7f15bfe00000-7f15ffe00000 rw-p 00000000 00:00 0 
Size:            1048576 kB
KernelPageSize:        4 kB
Rss:              811008 kB
AnonHugePages:    20480 kB
ShmemPmdMapped:        0 kB
VmFlags: rd wr mr mw me ac sd hg 
7f1608000000-7f1647fff000 rwxp 00000000 00:00 0 
Rss:                8192 kB
7f1650000000-7f1690000000 rw-s 00000000 00:01 7 /memfd:memory-backend-memfd (deleted)
Rss:                   4 kB
ShmemPmdMapped:     2048 kB
";

    #[test]
    fn mappings_are_read() {
        let all = mappings(TEXT);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].at, 0x7f15_bfe0_0000..0x7f15_ffe0_0000);
        assert_eq!((all[0].resident, all[0].huge), (Kib(811_008), Kib(20_480)));
        assert_eq!(all[2].huge, Kib(2048));
        assert!(mappings("").is_empty() && mappings("Rss: 4 kB\nx-y\n").is_empty());
    }

    #[test]
    fn what_several_ranges_touch_counts_once() {
        let all = mappings(TEXT);
        let first = 0x7f15_bfe0_0000..0x7f15_c000_0000;
        let second = 0x7f15_c000_0000..0x7f15_d000_0000;
        assert_eq!(sum(&all, &[first.clone(), second]).0, Kib(811_008));
        let third = 0x7f16_5000_0000..0x7f16_5000_0001;
        assert_eq!(sum(&all, &[first, third]).0, Kib(811_012));
        // Ends are no part of it.
        let between = 0x7f15_ffe0_0000..0x7f16_0800_0000;
        assert_eq!(sum(&all, std::slice::from_ref(&between)).0, Kib(0));
    }

    #[test]
    fn this_process_has_its_stack() {
        let here = 0_u8;
        let at = std::ptr::from_ref(&here).addr() as u64;
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let byte = at..at + 1;
        assert!(sum(&mappings(&text), std::slice::from_ref(&byte)).0 >= Kib(4));
    }
}
