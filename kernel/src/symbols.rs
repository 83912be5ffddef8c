//! Which function an address lies in, from text lines `hexaddr name` sorted by
//! address. Pure; works in place, for it runs while the kernel crashes.

/// The symbol that `addr` lies in and how far (bytes) `addr` is past its start.
///
/// `table` is untrusted text. A line that is not `hexaddr name` is as good as
/// no answer, never a fault.
pub fn lookup(table: &[u8], addr: u64) -> Option<(&str, u64)> {
    // Invariant: the line sought begins in `low..high`, at a line start.
    let (mut low, mut high) = (0, table.len());
    let mut found = None;
    while low < high {
        let line_start = start_of_line(table, low + (high - low) / 2).max(low);
        let line = line_from(table, line_start);
        match parse(line) {
            Some((start, name)) if start <= addr => {
                found = Some((name, addr - start));
                low = line_start + line.len() + 1;
            }
            _ => high = line_start,
        }
    }
    found
}

fn start_of_line(table: &[u8], at: usize) -> usize {
    table[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)
}

fn line_from(table: &[u8], start: usize) -> &[u8] {
    let rest = &table[start..];
    &rest[..rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())]
}

fn parse(line: &[u8]) -> Option<(u64, &str)> {
    let line = core::str::from_utf8(line).ok()?;
    let (addr, name) = line.trim_end().split_once(' ')?;
    Some((u64::from_str_radix(addr, 16).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_finds_its_symbol() {
        let starts = [0x1000_u64, 0x1010, 0x1500, 0x1501, 0x9_0000];
        let text: String = starts.iter().map(|s| format!("{s:x} f::{s:x}\n")).collect();
        for addr in (0..0x2000).chain([0x8_ffff, 0x9_0000, u64::MAX]) {
            let want = starts.iter().rev().find(|&&start| start <= addr);
            let want = want.map(|start| (format!("f::{start:x}"), addr - start));
            let found = lookup(text.as_bytes(), addr).map(|(name, at)| (name.to_owned(), at));
            assert_eq!(found, want, "{addr:#x}");
        }
    }

    #[test]
    fn broken_tables_are_harmless() {
        for table in ["", "\n\n\n", "zz top\n", "10", "10 \n", " \n10 a", "10 a\r\n20 b\r\n\n"] {
            for addr in [0, 0x10, 0x18, 0x20, u64::MAX] {
                let _ = lookup(table.as_bytes(), addr);
            }
        }
        assert_eq!(lookup(b"10 a\r\n20 b\r\n", 0x18), Some(("a", 8)));
        assert_eq!(lookup(b"\xff\xff\n10 a", 0x18), Some(("a", 8)));
        assert_eq!(lookup(b"10 core::ptr::drop_in_place<u8, u16>", 0x10).unwrap().1, 0);
    }
}
