//! From the root pointer (RSDP) by the table of tables (XSDT, else RSDT) to all
//! the others. Pure but for [`Memory`].

use super::{Flaw, HEADER, Header, Signature, Warning, power, sum, table, u32_at, u64_at};

/// Tables that are kept at most (Linux keeps 128 before it has an allocator).
pub const MAX_TABLES: usize = 128;

/// Bytes of the root pointer before version 2, and of version 2.
const ROOT_V1: usize = 20;
const ROOT_V2: usize = 36;

/// Physical memory to read the tables from.
pub trait Memory<'m> {
    /// `len` bytes at physical address `addr`, if there is memory that may be
    /// read.
    fn bytes(&mut self, addr: u64, len: usize) -> Option<&'m [u8]>;
}

/// A table that was found and is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located {
    /// Its physical address.
    pub addr: u64,
    /// What its header says.
    pub header: Header,
}

/// The tables that were found.
#[derive(Clone, Debug)]
pub struct TableList {
    tables: [Option<Located>; MAX_TABLES],
    len: usize,
}

impl TableList {
    /// An empty list.
    pub const EMPTY: Self = Self { tables: [None; MAX_TABLES], len: 0 };

    /// The tables in the firmware's order, the table of tables first.
    pub fn iter(&self) -> impl Iterator<Item = &Located> {
        self.tables[..self.len].iter().flatten()
    }

    /// The first table called `signature`.
    pub fn find(&self, signature: Signature) -> Option<&Located> {
        self.iter().find(|found| found.header.signature == signature)
    }

    /// False if it is full.
    fn push(&mut self, table: Located) -> bool {
        let Some(slot) = self.tables.get_mut(self.len) else { return false };
        *slot = Some(table);
        self.len += 1;
        true
    }
}

/// The table of tables: where, and the bytes of an address in it.
struct Root {
    addr: u64,
    wide: bool,
}

/// Reads the root pointer at `bytes`.
fn root(bytes: &[u8]) -> Result<[Option<Root>; 2], Flaw> {
    let v1 = bytes.get(..ROOT_V1).ok_or(Flaw::Truncated)?;
    if !v1.starts_with(b"RSD PTR ") {
        return Err(Flaw::Signature(Signature([v1[0], v1[1], v1[2], v1[3]])));
    }
    if sum(v1) != 0 {
        return Err(Flaw::Checksum);
    }
    let rsdt = u64::from(u32_at(v1, 16).ok_or(Flaw::Truncated)?);
    let rsdt = (rsdt != 0).then_some(Root { addr: rsdt, wide: false });
    let revision = v1[15];
    // What version 2 adds counts only if it is whole; version 1's part is.
    let xsdt = bytes.get(..ROOT_V2).filter(|_| revision >= 2).and_then(|v2| {
        let whole = u32_at(v2, 20)? as usize >= ROOT_V2 && sum(v2) == 0;
        let addr = u64_at(v2, 24).filter(|&addr| whole && addr != 0)?;
        Some(Root { addr, wide: true })
    });
    Ok([xsdt, rsdt])
}

/// Reads the table at `addr`, whose length is known only from its header.
fn read<'m>(memory: &mut dyn Memory<'m>, addr: u64) -> Result<(Header, &'m [u8]), Warning> {
    let bytes = memory.bytes(addr, HEADER).ok_or(Warning::Unreachable { addr })?;
    let header = Header::parse(bytes);
    let header = header.map_err(|flaw| Warning::Table { addr, signature: None, flaw })?;
    let flawed = |flaw| Warning::Table { addr, signature: Some(header.signature), flaw };
    let bytes = memory.bytes(addr, header.length as usize);
    table(bytes.ok_or(flawed(Flaw::Truncated))?).map_err(flawed)
}

/// Finds all tables from the root pointer at `pointer` (a physical address) on.
/// Those that are not whole are left out with a warning. A root that is broken
/// leaves the list empty.
pub fn walk<'m>(
    memory: &mut dyn Memory<'m>,
    pointer: u64,
    warn: &mut dyn FnMut(Warning),
) -> TableList {
    let mut tables = TableList::EMPTY;
    let short = memory.bytes(pointer, ROOT_V1);
    let Some(bytes) = memory.bytes(pointer, ROOT_V2).or(short) else {
        warn(Warning::Unreachable { addr: pointer });
        return tables;
    };
    let roots = match root(bytes) {
        Ok(roots) => roots,
        Err(flaw) => {
            warn(Warning::Root(flaw));
            return tables;
        }
    };
    for root in roots.into_iter().flatten() {
        let want = Signature(if root.wide { *b"XSDT" } else { *b"RSDT" });
        match read(memory, root.addr) {
            Ok((header, _)) if header.signature != want => warn(Warning::Table {
                addr: root.addr,
                signature: Some(want),
                flaw: Flaw::Signature(header.signature),
            }),
            Ok((header, bytes)) => {
                tables.push(Located { addr: root.addr, header });
                follow(memory, &bytes[HEADER..], root.wide, &mut tables, warn);
                return tables;
            }
            // Perhaps the older root is whole.
            Err(warning) => warn(warning),
        }
    }
    tables
}

fn follow<'m>(
    memory: &mut dyn Memory<'m>,
    entries: &[u8],
    wide: bool,
    tables: &mut TableList,
    warn: &mut dyn FnMut(Warning),
) {
    let width = if wide { 8 } else { 4 };
    for entry in entries.chunks_exact(width) {
        let addr = if wide { u64_at(entry, 0) } else { u32_at(entry, 0).map(u64::from) };
        // Firmware leaves slots empty.
        let Some(addr) = addr.filter(|&addr| addr != 0) else { continue };
        if !keep(memory, addr, tables, warn) {
            warn(Warning::TooManyTables);
            return;
        }
    }
}

/// Keeps the table at `addr`, and the one to which only this one points: the
/// DSDT. False if there is no room.
fn keep<'m>(
    memory: &mut dyn Memory<'m>,
    addr: u64,
    tables: &mut TableList,
    warn: &mut dyn FnMut(Warning),
) -> bool {
    let (header, bytes) = match read(memory, addr) {
        Ok(found) => found,
        Err(warning) => {
            warn(warning);
            return true;
        }
    };
    let mut fits = tables.push(Located { addr, header });
    if let Some(addr) = power::dsdt(bytes).filter(|_| header.signature == Signature::FADT) {
        match read(memory, addr) {
            Ok((header, _)) => fits &= tables.push(Located { addr, header }),
            Err(warning) => warn(warning),
        }
    }
    fits
}
