//! What all ACPI tables have in common: a header with a length and a checksum.

use super::Flaw;

/// Bytes of the header that every table begins with.
pub(super) const HEADER: usize = 36;

/// The table in `bytes`, exactly as long as it says it is, if it is whole, of
/// that name and has at least `least` bytes.
pub(super) fn check<'t>(
    bytes: &'t [u8],
    name: &'static [u8; 4],
    least: usize,
) -> Result<&'t [u8], Flaw> {
    if bytes.first_chunk() != Some(name) {
        return Err(Flaw::WrongName);
    }
    let length = u32_at(bytes, 4).ok_or(Flaw::Truncated)? as usize;
    let table = bytes.get(..length).filter(|_| length >= least).ok_or(Flaw::Truncated)?;
    match table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) {
        0 => Ok(table),
        _ => Err(Flaw::Checksum),
    }
}

/// The `N` bytes from `at` on.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// A little-endian number of 32 bits.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

/// A little-endian number of 64 bits.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
