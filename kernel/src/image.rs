//! The kernel image in memory: its base, its segments and their rights, read
//! from the ELF headers that the linker leaves at its start. Calls nothing.

use core::slice;

// The linker puts this at the first byte of the ELF header, and that at the
// base of a position-independent image.
unsafe extern "C" {
    safe static __ehdr_start: ElfHeader;
}

/// The parts of an ELF64 file header that are used here.
#[repr(C)]
struct ElfHeader {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_len: u16,
    program_header_len: u16,
    program_header_count: u16,
}

/// An ELF64 program header.
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_addr: u64,
    physical_addr: u64,
    file_len: u64,
    mem_len: u64,
    align: u64,
}

const LOAD: u32 = 1;
const RELRO: u32 = 0x6474_e552;
const EXECUTABLE: u32 = 1;
const WRITABLE: u32 = 2;

/// A part of the image with rights of its own; addresses are virtual and end
/// where the segment does, not at a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Bytes that come from the file; the rest up to the end began as zero.
    pub(crate) file_len: u64,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

/// Virtual address of the image's first byte.
pub(crate) fn base() -> u64 {
    (&raw const __ehdr_start) as u64
}

fn program_headers() -> &'static [ProgramHeader] {
    let header = &__ehdr_start;
    if usize::from(header.program_header_len) != size_of::<ProgramHeader>() {
        return &[];
    }
    // SAFETY: the linker wrote header and table, and both lie in the first
    // segment, which is loaded.
    unsafe {
        let table = (&raw const *header).byte_add(header.program_headers as usize);
        slice::from_raw_parts(table.cast(), usize::from(header.program_header_count))
    }
}

fn of_kind(kind: u32) -> impl Iterator<Item = Segment> {
    program_headers().iter().filter(move |header| header.kind == kind).map(|header| {
        let start = base() + header.virtual_addr;
        Segment {
            start,
            end: start + header.mem_len,
            file_len: header.file_len,
            writable: header.flags & WRITABLE != 0,
            executable: header.flags & EXECUTABLE != 0,
        }
    })
}

/// The loaded segments, lowest first.
pub(crate) fn segments() -> impl Iterator<Item = Segment> {
    of_kind(LOAD)
}

/// The part that only relocation had to write (whole pages).
pub(crate) fn relro() -> Option<Segment> {
    of_kind(RELRO).next()
}

/// Virtual address past the image's last byte.
pub(crate) fn end() -> u64 {
    segments().map(|segment| segment.end).max().unwrap_or(base())
}

/// Whether code of the kernel lies at `addr`.
pub(crate) fn is_code(addr: u64) -> bool {
    segments().any(|part| part.executable && (part.start..part.end).contains(&addr))
}
