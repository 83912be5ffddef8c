//! The file directory of QEMU's firmware configuration device (QEMU
//! `docs/specs/fw_cfg.rst`): a big-endian count, then entries of 64 bytes.
//! Pure.

/// Bytes of one directory entry.
pub const ENTRY_LEN: usize = 64;

/// Entries to look at before a directory counts as nonsense.
pub const MAX_ENTRIES: u32 = 1024;

/// Where a file's bytes are read from, and how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Key to select before reading.
    pub selector: u16,
    /// Length in bytes, as the device claims.
    pub size: u32,
}

/// The file that `entry` describes, if it is called `name`.
pub fn entry_named(entry: &[u8; ENTRY_LEN], name: &str) -> Option<File> {
    let text = &entry[8..];
    let len = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    if &text[..len] != name.as_bytes() {
        return None;
    }
    Some(File {
        size: u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]),
        selector: u16::from_be_bytes([entry[4], entry[5]]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(size: u32, selector: u16, name: &[u8]) -> [u8; ENTRY_LEN] {
        let mut entry = [0; ENTRY_LEN];
        entry[..4].copy_from_slice(&size.to_be_bytes());
        entry[4..6].copy_from_slice(&selector.to_be_bytes());
        entry[8..8 + name.len()].copy_from_slice(name);
        entry
    }

    #[test]
    fn an_entry_is_matched_whole() {
        let found = entry(0x1234, 0x29, b"opt/quarry/cmdline");
        assert_eq!(
            entry_named(&found, "opt/quarry/cmdline"),
            Some(File { selector: 0x29, size: 0x1234 })
        );
        assert_eq!(entry_named(&found, "opt/quarry/cmd"), None);
        assert_eq!(entry_named(&found, "opt/quarry/cmdline2"), None);
    }

    #[test]
    fn a_name_may_fill_its_field() {
        let name = [b'x'; 56];
        let text = core::str::from_utf8(&name).unwrap();
        assert!(entry_named(&entry(1, 2, &name), text).is_some());
    }
}
