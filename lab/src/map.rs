//! Shows what Quarry would make of a firmware memory map: reads the
//! `BIOS-e820:` lines of a Linux boot log, prints the cleaned RAM ranges, the
//! zones, the total, and a warning for each thing that is wrong with the map.

use clap::Parser;
use lab::read_input;
use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::{
    LineError, MAX_PFN, MAX_PHYS_BITS, MovableSplit, RawMap, RawRegion, Region, ZoneLayout,
    check_ram, parse_e820_line, populate, report_ram, report_total, report_zones, sanitize,
};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Reads the `BIOS-e820:` lines of a Linux boot log and prints what Quarry would
/// make of that memory map.
///
/// Exit status: 0, or 1 if there is too little RAM to boot, or 2 for wrong usage.
#[derive(Parser, Debug, PartialEq)]
#[command(name = "quarry-map", version)]
struct Request {
    /// Width of the CPU's physical addresses, 12 to 52.
    #[arg(long, value_name = "N", default_value_t = MAX_PHYS_BITS)]
    #[arg(value_parser = clap::value_parser!(u32).range(12..=i64::from(MAX_PHYS_BITS)))]
    phys_bits: u32,
    /// The log; - is standard input.
    file: String,
}

/// The report on a log, and whether the machine could boot.
fn report(log: &[u8], phys_bits: u32) -> (String, bool) {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{args}"); // writing to a String cannot fail
    };

    let lines = log.split(|&b| b == b'\n').map(parse_e820_line);
    let entries: Vec<_> =
        (1..).zip(lines).filter_map(|(number, entry)| Some((number, entry?))).collect();
    // A table of the kernel's is of fixed size; here it is as long as it needs
    // to be.
    let mut slots = vec![RawRegion::EMPTY; entries.len()];
    let mut raw = RawMap::new(&mut slots);
    for (number, entry) in entries {
        match entry {
            Ok(entry) => raw.push(entry),
            Err(error) => {
                line(format_args!("warning: line {number}: {error}"));
                if let LineError::Kind(entry) = error {
                    raw.push(entry);
                }
            }
        }
    }
    let mut out = vec![Region::EMPTY; 2 * raw.entries().len()];
    let raw = raw.finish(&mut |w| line(format_args!("warning: {w}")));
    let map = sanitize(raw, phys_bits, &mut out, &mut |w| line(format_args!("warning: {w}")));

    report_ram(&map, &mut line);
    let mut ram = vec![RamRange::EMPTY; map.regions().len() + 2];
    let mut reserved = [Reservation::EMPTY; 1];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    let too_high = populate(&map, &mut early);
    if too_high > 0 {
        let limit = MAX_PFN.addr();
        line(format_args!("note: {too_high} pages from {limit:#x} up are too high to be managed"));
    }
    report_zones(&ZoneLayout::new(early.ram(), MovableSplit::default()), &mut line);
    let enough = check_ram(map.ram_pages());
    if let Err(error) = enough {
        line(format_args!("error: {error}"));
    }
    report_total(&map, &mut line);
    (text, enough.is_ok())
}

fn main() -> ExitCode {
    let request = Request::parse();
    let log = match read_input(&request.file) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("quarry-map: {}: {error}", request.file);
            return ExitCode::from(2);
        }
    };
    let (text, enough) = report(&log, request.phys_bits);
    // A reader that has gone away does not change the answer.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Request, clap::Error> {
        Request::try_parse_from([&["quarry-map"], args].concat())
    }

    #[test]
    fn command_line() {
        let request = |phys_bits, file: &str| Request { phys_bits, file: file.into() };
        assert_eq!(parse(&["log"]).unwrap(), request(52, "log"));
        assert_eq!(parse(&["-"]).unwrap(), request(52, "-"));
        assert_eq!(parse(&["--phys-bits", "36", "log"]).unwrap(), request(36, "log"));
        assert_eq!(parse(&["log", "--phys-bits=39"]).unwrap(), request(39, "log"));
        assert_eq!(parse(&["--", "--phys-bits"]).unwrap(), request(52, "--phys-bits"));
        for wrong in [
            &[][..],
            &["a", "b"],
            &["-x", "a"],
            &["--phys-bits"],
            &["--phys-bits", "a"],
            &["--phys-bits", "53", "a"],
            &["--phys-bits", "11", "a"],
            &["--phys-bits=", "a"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
