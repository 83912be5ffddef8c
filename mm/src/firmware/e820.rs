//! The `BIOS-e820:` lines of a Linux boot log, read back into entries. Works on
//! bytes: logs are not always text. Calls nothing.

use super::{RawRegion, RegionKind};
use core::fmt;

/// Why a `BIOS-e820:` line could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineError {
    /// It does not give a range of addresses.
    Range,
    /// It gives a range, but a type that nobody knows. The entry should be
    /// taken as reserved, as it is here.
    Kind(RawRegion),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range => f.write_str("no range of addresses, ignored"),
            Self::Kind(entry) => {
                write!(f, "{}: type not understood, taken as reserved", entry.mem())
            }
        }
    }
}

/// The entry that a line of a log shows; `None` for any other line. What stands
/// before `BIOS-e820:` (time stamps, host names) does not matter. Reads
/// `[mem 0xSTART-0xLAST] TYPE` and, from kernels before 3.8,
/// `START - END (TYPE)` with the end exclusive.
///
/// # Errors
///
/// [`LineError`] for a line that has the mark but not the form.
pub fn parse_e820_line(line: &[u8]) -> Option<Result<RawRegion, LineError>> {
    const MARK: &[u8] = b"BIOS-e820:";
    let at = line.windows(MARK.len()).position(|w| w == MARK)?;
    let rest = line[at + MARK.len()..].trim_ascii();
    // Recent kernels also list what lies between entries.
    if rest.starts_with(b"[gap") {
        return None;
    }
    Some(parse_entry(rest))
}

fn parse_entry(text: &[u8]) -> Result<RawRegion, LineError> {
    let (start, end, kind, half_open) = match text.strip_prefix(b"[mem ") {
        Some(text) => {
            let (start, text) = hex(text)?;
            let (last, text) =
                hex(text.trim_ascii_start().strip_prefix(b"-").ok_or(LineError::Range)?)?;
            let kind = text.trim_ascii_start().strip_prefix(b"]").ok_or(LineError::Range)?;
            (start, last, kind, false)
        }
        None => {
            let (start, text) = hex(text)?;
            let (end, text) =
                hex(text.trim_ascii_start().strip_prefix(b"-").ok_or(LineError::Range)?)?;
            (start, end, text, true)
        }
    };
    let parsed = parse_kind(kind.trim_ascii());
    let kind = parsed.unwrap_or(RegionKind::Reserved);
    let entry = if half_open {
        RawRegion::new(start, end, kind)
    } else {
        RawRegion::inclusive(start, end, kind)
    };
    parsed.map(|_| entry).ok_or(LineError::Kind(entry))
}

/// A hexadecimal number, with or without 0x, at the beginning of `text`, and
/// what follows it.
fn hex(text: &[u8]) -> Result<(u64, &[u8]), LineError> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let len = text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let digits = core::str::from_utf8(&text[..len]).map_err(|_| LineError::Range)?;
    let number = u64::from_str_radix(digits, 16).map_err(|_| LineError::Range)?;
    Ok((number, &text[len..]))
}

/// The kind that a log calls `name`: Linux's words of any age, `type N`. None
/// for other words.
pub fn parse_kind(name: &[u8]) -> Option<RegionKind> {
    let name = match name {
        [b'(', inner @ .., b')'] => inner,
        // Recent kernels print the size before the type: `639 KB System RAM`.
        [b'0'..=b'9', ..] => after_size(name)?,
        name => name,
    };
    Some(match name {
        b"usable" | b"System RAM" => RegionKind::Usable,
        b"reserved" | b"device reserved" => RegionKind::Reserved,
        b"soft reserved" => RegionKind::SoftReserved,
        b"ACPI data" => RegionKind::AcpiData,
        b"ACPI NVS" => RegionKind::AcpiNvs,
        b"unusable" => RegionKind::Unusable,
        _ => {
            let inner = name.strip_prefix(b"persistent (").and_then(|n| n.strip_suffix(b")"));
            let number = inner.unwrap_or(name).strip_prefix(b"type ")?;
            let number = core::str::from_utf8(number).ok()?.parse().ok()?;
            RegionKind::from_e820(number)
        }
    })
}

/// What follows a number and a unit.
fn after_size(text: &[u8]) -> Option<&[u8]> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    let unit = text[digits..].trim_ascii_start();
    let word = unit.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    (word > 0).then(|| unit[word..].trim_ascii_start())
}
