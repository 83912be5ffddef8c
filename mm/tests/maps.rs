//! Awkward firmware maps, in Linux's log format, each with a line on what is
//! awkward and, after `>`, what is to be made of it. (The files can be given to
//! `quarry-map` as they are.)

use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::{
    MAX_PHYS_BITS, MovableSplit, RawRegion, Region, ZoneLayout, parse_e820_line, populate,
    report_ram, report_total, report_zones, sanitize,
};
use std::path::Path;

/// What the manager makes of a map, in words.
fn report(log: &[u8], phys_bits: u32) -> Vec<String> {
    let lines = log.split(|&b| b == b'\n').filter_map(parse_e820_line);
    let mut raw: Vec<RawRegion> = lines
        .filter_map(|entry| match entry {
            Ok(entry) | Err(mm::firmware::LineError::Kind(entry)) => Some(entry),
            Err(mm::firmware::LineError::Range) => None,
        })
        .collect();
    let mut text = Vec::new();
    let mut out = vec![Region::EMPTY; 2 * raw.len()];
    let map = sanitize(&mut raw, phys_bits, &mut out, &mut |w| text.push(format!("warning: {w}")));
    report_ram(&map, &mut |line| text.push(line.to_string()));
    let mut ram = vec![RamRange::EMPTY; map.regions().len() + 2];
    let mut reserved = [Reservation::EMPTY; 1];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    populate(&map, &mut early);
    let layout = ZoneLayout::new(early.ram(), MovableSplit::default());
    report_zones(&layout, &mut |line| text.push(line.to_string()));
    report_total(&map, &mut |line| text.push(line.to_string()));
    text
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn awkward_maps() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/maps");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "map") {
            continue;
        }
        seen += 1;
        let log = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&log);
        let mut lines = text.lines();
        let why = lines.next().and_then(|l| l.strip_prefix("# "));
        assert!(why.is_some_and(|why| why.len() > 10), "{path:?} does not say what is awkward");
        let bits = lines.next().and_then(|l| l.strip_prefix("# --phys-bits "));
        let bits = bits.map_or(MAX_PHYS_BITS, |bits| bits.parse().unwrap());
        // Only a program that reads logs speaks of lines and of booting.
        let expected: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("> ")).collect();
        let of_map = |l: &&&str| {
            !["warning: line", "note: ", "error: "].iter().any(|start| l.starts_with(start))
        };
        let expected: Vec<_> = expected.iter().filter(of_map).copied().collect();
        assert_eq!(report(&log, bits), expected, "{path:?}");
    }
    assert!(seen >= 40, "only {seen} maps");
}
