//! The System Locality Distance Information Table: a square of bytes, by
//! proximity domain (ACPI 6.5, 5.2.17).

use super::tables::{HEADER, check, u64_at};
use super::{Distances, Domains, Flaw};

/// Where the square begins, after its width.
const SQUARE: usize = HEADER + 8;

/// Enters what the table says of the nodes of `domains`. It may say nothing of
/// some of them, and more of others that are not there. It need not be
/// symmetric: there are machines whose ways there and back differ.
pub(super) fn read(bytes: &[u8], domains: &Domains, into: &mut Distances) -> Result<(), Flaw> {
    let table = check(bytes, b"SLIT", SQUARE)?;
    let width = usize::try_from(u64_at(table, HEADER).unwrap_or(0)).ok();
    let square = width.and_then(|width| width.checked_mul(width));
    let (Some(width), Some(square)) = (width, square) else { return Err(Flaw::Truncated) };
    let square = table[SQUARE..].get(..square).ok_or(Flaw::Truncated)?;
    if width == 0 {
        return Ok(());
    }
    for (from, row) in (0..).zip(square.chunks_exact(width)) {
        for (to, &distance) in (0..).zip(row) {
            let local = from == to;
            if local != (distance == Distances::LOCAL) || distance < Distances::LOCAL {
                return Err(Flaw::Distance { from, to, distance });
            }
            if let (Some(from), Some(to)) = (domains.find(from), domains.find(to)) {
                into.set(from, to, distance);
            }
        }
    }
    Ok(())
}
