//! The kernel's function names for backtraces: lines `hexaddr name`, sorted by
//! address. Pure.
//!
//! Addresses are those of the ELF file as linked; the kernel adds the offset it
//! was loaded at (`BootInfo::kernel_image_offset`). A function reaches to the
//! next line's address.

use object::{Object, ObjectSymbol, SymbolKind};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Names are cut here: generic code can have names of kilobytes.
const NAME_MAX: usize = 160;

/// The table for the ELF file in `elf`.
///
/// # Errors
///
/// The file is not an ELF file or is damaged.
pub fn table(elf: &[u8]) -> Result<String, object::Error> {
    let file = object::File::parse(elf)?;
    let mut names = BTreeMap::new();
    for symbol in file.symbols() {
        if symbol.kind() != SymbolKind::Text || symbol.is_undefined() {
            continue;
        }
        let name = demangle(symbol.name()?);
        // Identical functions share their code: the first name in order stands for all.
        names
            .entry(symbol.address())
            .and_modify(|old: &mut String| *old = name.clone().min(std::mem::take(old)))
            .or_insert_with(|| name.clone());
    }
    let mut text = String::new();
    for (address, name) in names {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address:x} {name}");
    }
    Ok(text)
}

/// The name as written in the source, without its hash, on one line.
fn demangle(mangled: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(mangled));
    name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_hash_and_stay_short() {
        let name = "_ZN6kernel4boot5stage17h0123456789abcdefE";
        assert_eq!(demangle(name), "kernel::boot::stage");
        assert_eq!(demangle("memcpy"), "memcpy");
        assert_eq!(demangle(&"x".repeat(1000)).len(), NAME_MAX);
        assert_eq!(demangle("a\nb"), "ab");
    }

    #[test]
    fn this_test_is_in_its_own_table() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let table = table(&elf).unwrap();
        assert!(table.lines().any(|line| line.ends_with("symbols::demangle")), "{table}");
        let mut last = None;
        for line in table.lines() {
            let (address, name) = line.split_once(' ').unwrap();
            let address = u64::from_str_radix(address, 16).unwrap();
            assert!(last < Some(address), "{line}");
            assert!(!name.is_empty());
            last = Some(address);
        }
    }

    #[test]
    fn what_is_no_elf_is_refused() {
        assert!(table(b"").is_err());
        assert!(table(b"\x7fELF and then nothing").is_err());
    }
}
